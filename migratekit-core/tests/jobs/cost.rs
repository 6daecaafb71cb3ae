//! What a running job costs the catalog.

use std::fs;
use std::time::Duration;

use migratekit_core::clock;
use migratekit_core::jobs::{Pace, RunnerConfig};
use migratekit_core::model::JobStatus;
use migratekit_core::testing::catalog::{ask, on_mariadb};
use migratekit_core::testing::jobs::MarkerInput;

use super::rig::Rig;

/// The most transactions that a running job may cost in a second.
const ALLOWED: u128 = 5;

#[test]
fn a_running_job_costs_a_few_transactions_a_second() {
    on_mariadb(|store| async move {
        let config = RunnerConfig { pace: Pace::default(), ..RunnerConfig::default() };
        let rig = Rig::with(store.clone(), config).await;
        // It reports a thousand times a second, and its steps are over in an instant.
        let id = rig.start(&MarkerInput { pieces: 1_000_000, ..MarkerInput::default() }).await;
        let marks = async || -> u128 {
            ask(&store, "SELECT CAST(COUNT(*) AS CHAR) AS value FROM transaction_marks").await.unwrap()[0]
                .as_deref()
                .unwrap()
                .parse()
                .unwrap()
        };
        rig.until(&id, |job| job.percent.get() > 15).await;
        let (began, before) = (clock::now(), marks().await);
        clock::sleep(Duration::from_millis(2500)).await;
        let (made, passed) = (marks().await - before, clock::now().duration_since(began));
        assert!(made >= 2, "progress is stored at all");
        assert!(made * 1000 <= ALLOWED * passed.as_millis(), "{made} transactions in {passed:?}");
        rig.runner.jobs().cancel(&id, None).await.unwrap();
        fs::write(rig.gate(), "").unwrap();
        assert_eq!(rig.rest(&id).await.status, JobStatus::Cancelled);
        rig.runner.stop().await.unwrap();
    });
}
