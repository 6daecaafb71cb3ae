//! Jobs as the front door shows and follows them.

use super::*;
use crate::credentials::{Key, Keys, Vault};
use crate::jobs::Jobs;
use crate::testing::catalog::{change, on_sqlite};
use crate::testing::jobs::{MarkerInput, MarkerWorld, context};

/// Who follows a job whose process was killed learns that nobody runs it; who follows one that waits, or is renewed, goes on waiting.
#[test]
fn a_job_that_nobody_runs_is_not_waited_for() {
    on_sqlite(|store| async move {
        let folder = tempfile::tempdir().unwrap();
        let world = MarkerWorld::in_folder(folder.path());
        let job = world.start(&Jobs::new(store.clone(), world.sagas()), &context(&store).await, &MarkerInput::default()).await.unwrap();
        let engine = Engine::builder().store(store.clone()).vault(Vault::new(Keys::new(Key::generate().unwrap()))).build().await.unwrap();
        let mut events = engine.jobs().follow(&job).await.unwrap();
        (events.every, events.patience) = (Duration::from_millis(5), Duration::ZERO);
        assert_eq!(events.next().await.unwrap().unwrap().kind, EventKind::JobCreated);
        assert!(!events.is_left().await.unwrap() && !events.is_left().await.unwrap(), "it waits for its turn");

        let owner = RunnerId::generate();
        let runner = format!("INSERT INTO runners (id, host, pid, version, started_at, seen_at) VALUES ('{owner}', 'there', 1, '0', 1, 1)");
        change(&store, &runner).await.unwrap();
        let held = |until: &str| {
            format!("UPDATE job_tracking SET status = 'running', lease_owner = '{owner}', lease_until = {until} WHERE id = '{job}'")
        };
        change(&store, &held("9000000000000000")).await.unwrap();
        assert!(!events.is_left().await.unwrap() && !events.is_left().await.unwrap(), "its lease is good");
        change(&store, &held("1")).await.unwrap();
        change(&store, "UPDATE job_tracking SET lease_renewals = lease_renewals + 1").await.unwrap();
        assert!(!events.is_left().await.unwrap(), "it was renewed since the last look");
        events.patience = Duration::from_secs(3600);
        assert!(!events.is_left().await.unwrap(), "another one may still take it");
        let given_back = format!("UPDATE job_tracking SET lease_owner = NULL, lease_until = NULL WHERE id = '{job}'");
        change(&store, &given_back).await.unwrap();
        assert!(!events.is_left().await.unwrap(), "it may be taken at once");
        assert!(events.is_left().await.unwrap(), "it was given back, and nobody took it");
        change(&store, &held("1")).await.unwrap();
        events.patience = Duration::ZERO;
        assert_eq!(events.next().await.unwrap(), None, "it was not renewed, and is over");
    });
}
