//! MariaDB killed and started again while jobs run: no job lies, work goes on.

use std::fs;

use migratekit_core::jobs::Runner;
use migratekit_core::model::JobStatus;
use migratekit_core::testing::jobs::{CrashHarness, MarkerInput, MarkerTrial, MarkerWorld, context};
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::{CancellationToken, Store, StoreOptions, clock};

use super::rig::config;

#[test]
fn the_database_is_killed_while_twenty_jobs_run() {
    let mut server = MariaDb::start();
    server.create_database("jobs");
    let url = server.url("jobs");
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
        let store = Store::open(&url, StoreOptions::new()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let world = MarkerWorld::in_folder(folder.path());
        let mut config = config();
        config.jobs_at_once = 20;
        let runner = Runner::start(store.clone(), world.sagas(), config.clone()).await.unwrap();
        let token = CancellationToken::new();
        // Once shorter than a lease, once longer: then every lease is lost and taken again.
        for (round, outage) in [config.leases.renew / 4, config.leases.lease * 2].into_iter().enumerate() {
            let gate = folder.path().join(format!("gate-{round}"));
            let mut ids = Vec::new();
            for number in 0..20 {
                let context = context(&store).await;
                // Some wait, some work; half of them will fail and go back.
                let fail = (number % 2 == 1).then(|| "fill".to_owned());
                let input = MarkerInput { gate: Some(gate.clone()), fail, fails: 9, pieces: number * 20, ..MarkerInput::default() };
                ids.push((world.start(runner.jobs(), &context, &input).await.unwrap(), context, number));
            }
            for (id, ..) in &ids {
                runner.jobs().wait_until(id, &token, |job| job.percent.get() > 8).await.unwrap();
            }
            server.kill();
            fs::write(&gate, "").unwrap();
            clock::sleep(outage).await;
            server.restart();
            for (id, context, number) in ids {
                let job = runner.jobs().wait(&id, &token).await.unwrap();
                let want = if number % 2 == 1 { JobStatus::Failed } else { JobStatus::Completed };
                assert_eq!(job.status, want, "{job:?}");
                let trial = MarkerTrial { world: world.clone(), context, input: MarkerInput::default() };
                let harness = CrashHarness::new(store.clone(), world.sagas());
                assert_eq!(harness.judge(&trial, &job).await.unwrap(), Vec::<String>::new());
            }
        }
        runner.stop().await.unwrap();
        store.close().await;
    });
}
