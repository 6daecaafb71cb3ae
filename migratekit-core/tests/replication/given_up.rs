//! Replications that this program cannot run, or that were left without a job: their VM is free all the same, and says where it stands.

use migratekit_core::Store;
use migratekit_core::id::JobId;
use migratekit_core::jobs::{Jobs, Runner};
use migratekit_core::model::{ContextStatus, JobStatus, ReplicationMode, ReplicationStatus};
use migratekit_core::replication::start;
use migratekit_core::testing::catalog::change;

use crate::rig::{Rig, SIZES, config};

async fn status(store: &Store, job: &JobId) -> ReplicationStatus {
    store.read("look", |tx| async move { tx.job_lists().replication(job).await }).await.unwrap().status
}

/// Another version's: its steps have other names, or its input has a newer form.
#[tokio::test]
async fn a_job_of_another_version_is_left_to_a_person_and_its_vm_goes_on() {
    for sql in [
        "UPDATE job_steps SET name = 'thinking' WHERE seq = 3 AND job_id = 'JOB'",
        "UPDATE job_tracking SET metadata = '{\"version\":2,\"mode\":\"auto\"}' WHERE id = 'JOB'",
    ] {
        let rig = Rig::new().await;
        let vm = rig.world.add("web", &SIZES, 1).await;
        rig.replicate("web", &vm, ReplicationMode::Auto).await;
        rig.world.change("web", 2);
        let Rig { folder, world, runner } = rig;
        runner.stop().await.unwrap();
        let job = start(&Jobs::new(world.store.clone(), world.sagas()), &vm, ReplicationMode::Auto, None).await.unwrap();
        assert_eq!(change(&world.store, &sql.replace("JOB", job.as_str())).await.unwrap(), 1, "{sql}");

        let runner = Runner::start(world.store.clone(), world.sagas(), config()).await.unwrap();
        let rig = Rig { folder, world, runner };
        let end = rig.wait(&job).await;
        assert_eq!(end.status, JobStatus::NeedsAttention, "{end:?}");
        assert_eq!(status(&rig.world.store, &job).await, ReplicationStatus::NeedsAttention, "{sql}");
        assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover, "the point is as it was");
        rig.replicate("web", &vm, ReplicationMode::Auto).await;
    }
}

/// What an earlier version left behind so: the column says that a replication runs, and there is none.
#[tokio::test]
async fn a_vm_that_says_it_replicates_and_has_no_job_is_replicated() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let sql = format!("UPDATE vm_replication_contexts SET current_status = 'replicating' WHERE context_id = '{vm}'");
    assert_eq!(change(&rig.world.store, &sql).await.unwrap(), 1);
    rig.world.change("web", 2);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}
