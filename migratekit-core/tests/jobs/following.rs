//! Events and the log: every change is told once and in order, every line is linked or counted.

use std::collections::BTreeSet;
use std::time::Duration;

use migratekit_core::id::EventId;
use migratekit_core::jobs::{Jobs, catalog_log};
use migratekit_core::model::{EventKind, LogLevel};
use migratekit_core::store::NewEvent;
use migratekit_core::task::Scope;
use migratekit_core::testing::catalog::ask;
use migratekit_core::testing::jobs::MarkerInput;
use migratekit_core::{CancellationToken, Store, clock, on_both_catalogs};
use tracing_subscriber::layer::SubscriberExt as _;

use super::rig::Rig;

on_both_catalogs! {
    a_reader_misses_nothing_whatever_the_order_of_the_commits,
    lines_are_linked_to_their_job_and_step,
    lines_that_do_not_fit_are_counted,
}

const WRITERS: u64 = 8;
const EACH: u64 = 40;

/// Many write at once, with transactions that stay open for different times; a reader that only remembers the last number sees all.
async fn a_reader_misses_nothing_whatever_the_order_of_the_commits(store: Store) {
    let rig = Rig::new(store.clone()).await;
    let jobs = Jobs::new(store.clone(), rig.world.sagas());
    let from = jobs.last_event().await.unwrap();
    let mut scope = Scope::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        scope.spawn(async move {
            for number in 0..EACH {
                let data = &serde_json::json!({ "writer": writer, "number": number });
                let append = |tx: migratekit_core::Tx| async move {
                    let event = NewEvent { kind: EventKind::Warning, job: None, context: None, data: data.clone() };
                    tx.events().append(&event).await?;
                    // Its number is taken, its commit is not made yet.
                    for _ in 0..(writer * number) % 5 {
                        tx.now().await?;
                    }
                    Ok(())
                };
                store.write("append an event of a test", append).await.unwrap();
            }
        });
    }
    let (mut events, mut seen, mut last) = (jobs.follow(from), BTreeSet::new(), None::<EventId>);
    let token = CancellationToken::new();
    while seen.len() < usize::try_from(WRITERS * EACH).unwrap() {
        let event = events.next(&token).await.unwrap();
        assert!(Some(event.id) > last, "numbers rise");
        last = Some(event.id);
        if event.kind == EventKind::Warning {
            assert!(seen.insert((event.data["writer"].as_u64(), event.data["number"].as_u64())), "told twice");
        }
        // Another reader, another process maybe, goes on from any number.
        if seen.len() % 50 == 0 {
            events = jobs.follow(last);
        }
    }
    scope.join().await.unwrap();
    rig.runner.stop().await.unwrap();
}

async fn lines_are_linked_to_their_job_and_step(store: Store) {
    let rig = Rig::new(store.clone()).await;
    let job = rig.run(&MarkerInput::default()).await;
    let step = rig.runner.jobs().steps(&job.id).await.unwrap()[2].id;
    let (layer, writer) = catalog_log(LogLevel::Debug);
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        let of_job = tracing::info_span!("job", job = %job.id);
        let _job = of_job.enter();
        tracing::info!("between the steps");
        let of_step = tracing::info_span!("step", step = step.get(), step_name = "fill");
        let _step = of_step.enter();
        tracing::debug!(bytes = 7, "in the step");
        tracing::warn!(path = "/x", "odd");
        tracing::debug!(target: "sqlx::query", "an echo");
    });
    writer.run(store.clone(), ended()).await;
    let id = &job.id;
    let own = store.read("read logs", |tx| async move { Ok((tx.logs().after(None).await?, tx.logs().of_job(id, None).await?)) });
    let (all, told) = own.await.unwrap();
    let lines: Vec<_> = all.iter().map(|line| (line.level, line.message.as_str(), line.job.is_some(), line.step)).collect();
    assert_eq!(
        lines,
        [
            (LogLevel::Info, "between the steps", true, None),
            (LogLevel::Debug, "in the step", true, Some(step)),
            (LogLevel::Warn, "odd", true, Some(step)),
        ]
    );
    assert_eq!(all[1].attrs.as_ref().unwrap()["bytes"], 7);
    let told: Vec<_> = told.iter().map(|line| (line.message.as_str(), line.phase.as_deref())).collect();
    assert_eq!(told, [("between the steps", None), ("odd", Some("fill"))]);
    rig.runner.stop().await.unwrap();
}

/// A writer that does not run while more lines come than its queue holds; no line waits.
async fn lines_that_do_not_fit_are_counted(store: Store) {
    let (layer, writer) = catalog_log(LogLevel::Info);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for number in 0..9000 {
            tracing::info!(number, "a line");
        }
        tracing::debug!("not loud enough");
    });
    let mut scope = Scope::new();
    let running = writer.run(store.clone(), scope.token().clone());
    scope.spawn(running);
    let count = |what: &'static str| {
        let store = store.clone();
        async move { ask(&store, what).await.unwrap()[0].clone().unwrap() }
    };
    let lines = "SELECT CAST(COUNT(*) AS CHAR) AS value FROM log_events WHERE level = 'INFO'";
    while count(lines).await != "8192" {
        clock::sleep(Duration::from_millis(20)).await;
    }
    let missing = count("SELECT message AS value FROM log_events WHERE level = 'WARN'").await;
    assert!(missing.starts_with("808 log lines are missing here"), "{missing}");
    scope.close().await.unwrap();
    assert_eq!(count(lines).await, "8192");
}

fn ended() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}
