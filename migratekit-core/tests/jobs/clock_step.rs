//! A wall clock that steps: it is told and audited, and no job changes hands for it.

use std::fs;
use std::time::Duration;

use migratekit_core::jobs::{Runner, catalog_log};
use migratekit_core::model::{EventKind, JobStatus, LogLevel};
use migratekit_core::task::Scope;
use migratekit_core::testing::catalog::{ask, change};
use migratekit_core::testing::jobs::MarkerInput;
use migratekit_core::{Store, clock, on_both_catalogs};
use tracing_subscriber::layer::SubscriberExt as _;

use super::rig::{Rig, config};

on_both_catalogs! {
    a_step_is_told_and_audited_and_steals_nothing,
}

const HOUR: i64 = 3600;
const POLL: Duration = Duration::from_millis(10);

/// The seconds of every step that was audited.
async fn audited(store: &Store) -> Vec<i64> {
    let rows = ask(store, "SELECT details AS value FROM audit_log WHERE action = 'clock.step' ORDER BY id").await.unwrap();
    rows.iter().flatten().map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap()["seconds"].as_i64().unwrap()).collect()
}

async fn renewals(rig: &Rig, id: &migratekit_core::id::JobId) -> u64 {
    rig.runner.jobs().get(id).await.unwrap().lease.map_or(0, |lease| lease.renewals)
}

/// Two runners on one catalog. The clocks step by hours, that of one runner's host and that of the database, ahead and back; the other runner
/// looks all the time, and the job stays where it is.
async fn a_step_is_told_and_audited_and_steals_nothing(store: Store) {
    let config_here = config();
    let wall = config_here.wall.clone();
    let rig = Rig::with(store.clone(), config_here).await;
    let id = rig.start(&MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() }).await;
    while renewals(&rig, &id).await == 0 {
        clock::sleep(POLL).await;
    }
    let before = rig.runner.jobs().get(&id).await.unwrap().lease.unwrap();
    let other = Runner::start(store.clone(), rig.world.sagas(), config()).await.unwrap();
    assert_eq!((other.recovered().held, other.recovered().taken_over), (1, 0), "{:?}", other.recovered());
    for (number, seconds) in [HOUR, -2 * HOUR].into_iter().enumerate() {
        wall.step(seconds);
        // The database's clock steps as leases see it: every `until` lies an hour behind, or an hour ahead.
        let shift = format!("UPDATE job_tracking SET lease_until = lease_until - ({seconds} * 1000000) WHERE lease_until IS NOT NULL");
        // Long enough for the other one to find it dead, if the clock had a say in it: more than a lease and its stillness.
        let enough = renewals(&rig, &id).await + 9;
        while renewals(&rig, &id).await < enough || audited(&store).await.len() <= number {
            change(&store, &shift).await.unwrap();
            clock::sleep(POLL).await;
        }
        let now = rig.runner.jobs().get(&id).await.unwrap();
        let lease = now.lease.unwrap();
        assert_eq!((now.status, &lease.owner, lease.epoch), (JobStatus::Running, &before.owner, before.epoch), "after {seconds} s");
    }
    let steps = audited(&store).await;
    assert_eq!(steps.len(), 2, "each step once: {steps:?}");
    assert!((steps[0] - HOUR).abs() <= 1 && (steps[1] + 2 * HOUR).abs() <= 1, "{steps:?}");
    let events = store.read("look at events", |tx| async move { tx.events().after(None).await }).await.unwrap();
    let told: Vec<_> = events.iter().filter(|e| e.kind == EventKind::Warning && e.data["code"] == "clock_step").collect();
    assert_eq!(told.len(), 2, "{told:?}");
    fs::write(rig.gate(), "").unwrap();
    let job = rig.rest(&id).await;
    assert_eq!(job.status, JobStatus::Completed);
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    other.stop().await.unwrap();
    rig.runner.stop().await.unwrap();
}

/// On one thread, so that the log of every task goes where this test looks.
#[test]
fn a_step_has_a_line_in_the_log() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("catalog.db").display());
    let (layer, writer) = catalog_log(LogLevel::Info);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        runtime.block_on(async {
            let store = Store::open(&url, migratekit_core::StoreOptions::new()).await.unwrap();
            let config = config();
            let wall = config.wall.clone();
            let rig = Rig::with(store.clone(), config).await;
            let mut scope = Scope::new();
            let writing = writer.run(store.clone(), scope.token().clone());
            scope.spawn(writing);
            let id = rig.start(&MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() }).await;
            while renewals(&rig, &id).await == 0 {
                clock::sleep(POLL).await;
            }
            wall.step(-HOUR);
            let line = "SELECT attrs AS value FROM log_events WHERE level = 'WARN' AND message LIKE 'the wall clock stepped%'";
            let found = loop {
                match ask(&store, line).await.unwrap().into_iter().flatten().next() {
                    Some(found) => break found,
                    None => clock::sleep(POLL).await,
                }
            };
            assert!(found.contains("-36") || found.contains("-3599"), "{found}");
            fs::write(rig.gate(), "").unwrap();
            rig.rest(&id).await;
            rig.runner.stop().await.unwrap();
            scope.close().await.unwrap();
            store.close().await;
        });
    });
}
