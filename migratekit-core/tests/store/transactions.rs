//! Transactions: what they keep, what they undo, what stands between two at once.

use std::sync::atomic::{AtomicU32, Ordering};

use migratekit_core::testing::catalog::ask;
use migratekit_core::{Error, ErrorKind, Retry, Store, on_both_catalogs};

on_both_catalogs! {
    facts_are_kept_and_replaced,
    an_error_undoes_all,
    reading_cannot_write,
    one_snapshot_stays_as_it_was,
    increments_at_once_are_all_kept,
    a_dropped_transaction_leaves_nothing,
    an_abandoned_statement_ends_the_transaction,
    the_schema_goes_down_and_up_again,
    the_clock_is_the_databases,
}

async fn facts_are_kept_and_replaced(store: Store) {
    store
        .write("test", |tx| async move {
            tx.facts().set("a", "1").await?;
            tx.facts().set("a", "2").await?;
            assert_eq!(tx.facts().get("a").await?.as_deref(), Some("2"));
            assert!(!tx.facts().set_once("a", "3").await?);
            assert!(tx.facts().set_once("b", "ß𝄞").await?);
            tx.facts().replace("a", "2", "4").await?;
            assert_eq!(tx.facts().replace("a", "2", "5").await.unwrap_err().kind(), ErrorKind::Changed);
            tx.facts().set("c", "1").await?;
            tx.facts().remove("c").await?;
            Ok(())
        })
        .await
        .unwrap();
    let (a, b, c) = store
        .read("test", |tx| async move { Ok((tx.facts().get("a").await?, tx.facts().get("b").await?, tx.facts().get("c").await?)) })
        .await
        .unwrap();
    assert_eq!((a.as_deref(), b.as_deref(), c), (Some("4"), Some("ß𝄞"), None));
}

async fn an_error_undoes_all(store: Store) {
    let failed = store
        .write("test", |tx| async move {
            tx.facts().set("a", "1").await?;
            Err::<(), _>(Error::new(ErrorKind::Cancelled, "test", "changed my mind"))
        })
        .await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(fact(&store, "a").await, None);
}

async fn reading_cannot_write(store: Store) {
    let runs = &AtomicU32::new(0);
    let failed = store
        .read("test", |tx| async move {
            runs.fetch_add(1, Ordering::Relaxed);
            tx.facts().set("a", "1").await
        })
        .await
        .unwrap_err();
    assert_eq!((failed.kind(), failed.message()), (ErrorKind::ReadOnly, "the transaction is one that only reads"), "{failed}");
    assert_eq!((failed.retry(), runs.load(Ordering::Relaxed)), (Retry::Never, 1), "it is run once, and is not to be run again");
    // The connection is as good as before, and what the closure makes of the failure is its own affair.
    let read = store
        .read("test", |tx| async move {
            assert_eq!(tx.facts().set("a", "1").await.unwrap_err().kind(), ErrorKind::ReadOnly);
            tx.facts().get("a").await
        })
        .await;
    assert_eq!(read.unwrap(), None);
    assert_eq!(fact(&store, "a").await, None);
}

async fn one_snapshot_stays_as_it_was(store: Store) {
    let store = &store;
    let seen = store
        .read("test", |tx| async move {
            let before = tx.facts().get("a").await?;
            store.write("test", |tx| async move { tx.facts().set("a", "1").await }).await?;
            Ok((before, tx.facts().get("a").await?))
        })
        .await
        .unwrap();
    assert_eq!(seen, (None, None));
    assert_eq!(fact(store, "a").await.as_deref(), Some("1"));
}

/// Read, add one, write: lost updates would show in the sum.
async fn increments_at_once_are_all_kept(store: Store) {
    store.write("test", |tx| async move { tx.facts().set("n", "0").await }).await.unwrap();
    let runs = AtomicU32::new(0);
    let (store, runs) = (&store, &runs);
    let one = || async move {
        for _ in 0..10 {
            store
                .write("test", |tx| async move {
                    runs.fetch_add(1, Ordering::Relaxed);
                    let n: u32 = tx.facts().get("n").await?.unwrap().parse().unwrap();
                    tx.facts().set("n", &(n + 1).to_string()).await
                })
                .await
                .unwrap();
        }
    };
    tokio::join!(one(), one(), one(), one());
    assert_eq!(fact(store, "n").await.as_deref(), Some("40"), "after {} runs", runs.load(Ordering::Relaxed));
}

async fn a_dropped_transaction_leaves_nothing(store: Store) {
    let store = &store;
    let reached = tokio::sync::Notify::new();
    let never = store.write("test", |tx| {
        let reached = &reached;
        async move {
            tx.facts().set("a", "1").await?;
            reached.notify_one();
            std::future::pending::<()>().await;
            Ok(())
        }
    });
    tokio::select! {
        _ = never => unreachable!(),
        () = reached.notified() => {}
    }
    store.write("test", |tx| async move { tx.facts().set("b", "1").await }).await.unwrap();
    assert_eq!((fact(store, "a").await, fact(store, "b").await.as_deref()), (None, Some("1")));
}

async fn an_abandoned_statement_ends_the_transaction(store: Store) {
    let failed = store
        .write("test", |tx| async move {
            tx.facts().set("a", "1").await?;
            // A statement may be over before it is waited for; some are not.
            let abandoned = (0..10_000).any(|_| {
                let facts = tx.facts();
                let mut statement = Box::pin(facts.set("b", "1"));
                statement.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending()
            });
            assert!(abandoned);
            tx.facts().set("c", "1").await
        })
        .await
        .unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Internal, "{failed}");
    assert_eq!((fact(&store, "a").await, fact(&store, "b").await), (None, None));
}

async fn the_schema_goes_down_and_up_again(store: Store) {
    let all = Store::migrations();
    assert!(store.schema_status().await.unwrap().pending.is_empty());
    assert!(store.migrate().await.unwrap().is_empty(), "a second run does nothing");
    assert_eq!(store.migrate_down(all[0].version).await.unwrap().len(), all.len() - 1);
    assert_eq!(store.schema_status().await.unwrap().applied.len(), 1);
    assert_eq!(store.migrate_down("").await.unwrap().len(), 1);
    let left = "SELECT name AS value FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'";
    let left = if store.backend() == migratekit_core::store::Backend::Sqlite {
        left
    } else {
        "SELECT table_name AS value FROM information_schema.tables WHERE table_schema = DATABASE()"
    };
    assert_eq!(ask(&store, left).await.unwrap(), [Some("schema_migrations".to_owned())]);
    assert_eq!(store.migrate().await.unwrap().len(), all.len());
    // What was interrupted half-way is run again: the version is missing, the tables are there.
    migratekit_core::testing::catalog::change(&store, "DELETE FROM schema_migrations WHERE version > '20261121000002'").await.unwrap();
    assert_eq!(store.migrate().await.unwrap().len(), all.len() - 2);
}

async fn the_clock_is_the_databases(store: Store) {
    let before = migratekit_core::clock::Timestamp::now();
    let now = store.read("test", |tx| async move { tx.now().await }).await.unwrap();
    // One machine, one clock; SQLite's has milliseconds.
    assert!(now.as_micros() + 1000 >= before.as_micros() && now.since(before).as_secs() < 600, "{now} {before}");
}

async fn fact(store: &Store, name: &str) -> Option<String> {
    store.read("test", |tx| async move { tx.facts().get(name).await }).await.unwrap()
}
