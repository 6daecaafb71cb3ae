//! Servers that die: nothing that was said to be committed is lost, nothing is done twice, and work goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migratekit_core::testing::catalog::ask;
use migratekit_core::testing::galera::Cluster;
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::{Store, StoreOptions};

/// Writers at once; each adds its own numbers 0, 1, 2 .. as rows, and adds one to a counter that all share.
const WRITERS: u64 = 4;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// One transaction: a row that must not be there yet, and one more in the counter.
async fn write(store: &Store, writer: u64, n: u64) {
    let name = &format!("row {writer} {n}");
    store
        .write("count", |tx| async move {
            assert!(tx.facts().set_once(name, "1").await?, "done twice");
            let counted: u64 = tx.facts().get("counter").await?.unwrap().parse().unwrap();
            tx.facts().replace("counter", &counted.to_string(), &(counted + 1).to_string()).await
        })
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// Writes from all sides while `disturb` does its worst, until each writer committed `each` more after it.
async fn through<Fut: std::future::Future<Output = ()>>(store: &Store, each: u64, disturb: impl FnOnce() -> Fut) {
    store.write("begin", |tx| async move { tx.facts().set("counter", "0").await }).await.unwrap();
    let (done, disturbed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let (done, disturbed) = (&done, &disturbed);
    let one = |writer: u64| async move {
        let mut n = 0;
        while done.load(Ordering::Relaxed) < disturbed.load(Ordering::Relaxed).saturating_add(each) {
            write(store, writer, n).await;
            done.fetch_add(1, Ordering::Relaxed);
            n += 1;
        }
        n
    };
    let trouble = async {
        while done.load(Ordering::Relaxed) < each {
            tokio::task::yield_now().await;
        }
        disturb().await;
        disturbed.store(done.load(Ordering::Relaxed), Ordering::Relaxed);
    };
    let (a, b, c, d, ()) = tokio::join!(one(0), one(1), one(2), one(3), trouble);
    let all = a + b + c + d;
    let counter = ask(store, "SELECT value FROM store_facts WHERE name = 'counter'").await.unwrap();
    let rows = ask(store, "SELECT CAST(COUNT(*) AS CHAR) AS value FROM store_facts WHERE name LIKE 'row %'").await.unwrap();
    assert_eq!((counter[0].clone(), rows[0].clone()), (Some(all.to_string()), Some(all.to_string())), "of {WRITERS} writers");
    let left = ask(store, "SELECT CAST(COUNT(*) AS CHAR) AS value FROM transaction_marks").await.unwrap();
    assert!(left[0].as_ref().unwrap().parse::<u64>().unwrap() > all, "each left its mark");
}

#[test]
fn a_server_killed_in_the_middle_of_writes_loses_nothing_and_does_nothing_twice() {
    let mut server = MariaDb::start();
    server.create_database("catalog");
    runtime().block_on(async {
        let store = Store::open(&server.url("catalog"), StoreOptions::new().patience(Duration::from_secs(60))).await.unwrap();
        through(&store, 100, || async {
            for _ in 0..3 {
                server.kill();
                tokio::task::block_in_place(|| server.restart());
            }
        })
        .await;
        store.close().await;
    });
}

#[test]
fn a_lost_commit_is_found_by_its_mark() {
    let server = MariaDb::start();
    server.create_database("catalog");
    runtime().block_on(async {
        // A relay that cuts each connection once: right after a COMMIT went to the server, before its answer comes back.
        let relay = migratekit_core::testing::relay::CommitCutter::start(server.port()).await;
        let url = format!("mysql://root@127.0.0.1:{}/catalog?tls=off", relay.port());
        let store = Store::open(&url, StoreOptions::new()).await.unwrap();
        store.write("begin", |tx| async move { tx.facts().set("counter", "0").await }).await.unwrap();
        relay.cut_next_commits(10);
        for n in 0..10 {
            write(&store, 0, n).await;
        }
        assert_eq!(relay.cuts(), 10, "each commit's answer was lost");
        let counter = store.read("test", |tx| async move { tx.facts().get("counter").await }).await.unwrap();
        assert_eq!(counter.as_deref(), Some("10"));
        store.close().await;
        relay.close().await;
    });
}

#[test]
fn the_next_host_is_taken_when_one_is_gone() {
    let mut first = MariaDb::start();
    let second = MariaDb::start();
    for server in [&first, &second] {
        server.create_database("catalog");
    }
    let url = format!("mysql://root@127.0.0.1:{},127.0.0.1:{}/catalog?tls=off", first.port(), second.port());
    runtime().block_on(async {
        let store = Store::open(&url, StoreOptions::new()).await.unwrap();
        store.write("test", |tx| async move { tx.facts().set("where", "first").await }).await.unwrap();
        store.close().await;
        // Two servers that know nothing of each other, so that it shows which one answered.
        let store = Store::open(&second.url("catalog"), StoreOptions::new()).await.unwrap();
        store.write("test", |tx| async move { tx.facts().set("where", "second").await }).await.unwrap();
        let both = Store::open(&url, StoreOptions::new()).await.unwrap();
        let answer = || both.read("test", |tx| async move { tx.facts().get("where").await });
        assert_eq!(answer().await.unwrap().as_deref(), Some("first"));
        first.kill();
        assert_eq!(answer().await.unwrap().as_deref(), Some("second"));
        assert_eq!(server_of(&second), "second");
    });
}

fn server_of(server: &MariaDb) -> String {
    server.sql("SELECT value FROM catalog.store_facts WHERE name = 'where'").trim().to_owned()
}

#[test]
fn a_node_of_three_killed_in_the_middle_of_writes_loses_nothing() {
    let mut cluster = Cluster::start();
    cluster.node(0).create_database("catalog");
    runtime().block_on(async {
        let store = Store::open(&cluster.url("catalog"), StoreOptions::new().patience(Duration::from_secs(120))).await.unwrap();
        through(&store, 60, || async { cluster.kill(0) }).await;
        store.close().await;
        // Both others have the same.
        let counted: Vec<_> = [1, 2]
            .iter()
            .map(|&i| cluster.node(i).sql("SET SESSION wsrep_sync_wait = 1; SELECT COUNT(*) FROM catalog.store_facts"))
            .collect();
        assert_eq!(counted[0], counted[1]);
    });
}
