//! What becomes of a job whose runner is gone, by what its other side says. The decisions are the model's; here they are carried out.

use std::fs;
use std::time::Duration;

use migratekit_core::id::{DiskKey, JobId};
use migratekit_core::jobs::Runner;
use migratekit_core::model::{FinalReport, Job, JobStatus, OtherSide, Percent, UNREACHABLE_LIMIT};
use migratekit_core::testing::jobs::MarkerInput;
use migratekit_core::{CancellationToken, Store, on_both_catalogs};

use super::rig::{Rig, config};

on_both_catalogs! {
    what_the_other_side_lost_fails_and_frees_its_vm,
    what_cannot_be_reached_is_left_and_then_given_to_a_person,
    what_runs_or_is_proven_goes_on,
    what_a_crash_left_is_counted_at_the_next_start,
}

/// A job in the middle of its work, whose runner crashed.
async fn orphan(store: Store) -> (Rig, JobId) {
    let rig = Rig::new(store).await;
    let id = rig.start(&MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() }).await;
    rig.until(&id, |job| job.percent.get() > 15).await;
    (rig, id)
}

/// Crashes the rig's runner and starts another one.
async fn next_runner(rig: Rig) -> Rig {
    let Rig { store, world, context, runner, folder } = rig;
    runner.crash().await;
    let runner = Runner::start(store.clone(), world.sagas(), config()).await.unwrap();
    Rig { store, world, context, runner, folder }
}

async fn until(rig: &Rig, id: &JobId, ready: impl Fn(&Job) -> bool) -> Job {
    rig.runner.jobs().wait_until(id, &CancellationToken::new(), ready).await.unwrap()
}

async fn what_the_other_side_lost_fails_and_frees_its_vm(store: Store) {
    let report = FinalReport::default();
    for (says, word) in
        [(OtherSide::NotFound, "job_lost"), (OtherSide::Failed { message: "disk full there".to_owned() }, "disk full there")]
    {
        let (rig, id) = orphan(store.clone()).await;
        rig.world.other_side_says(says);
        let rig = next_runner(rig).await;
        let job = rig.rest(&id).await;
        assert_eq!(job.status, JobStatus::Failed, "{job:?}");
        assert!(job.error_message.as_deref().unwrap().contains(word), "{job:?}");
        assert_eq!(rig.complaints(&job).await, Vec::<String>::new(), "undone, and its VM is free");
        rig.runner.stop().await.unwrap();
    }
    // Completed without a proof is asked again, and is neither complete nor failed meanwhile.
    let (rig, id) = orphan(store).await;
    rig.world.other_side_says(OtherSide::Completed(Some(report)));
    let rig = next_runner(rig).await;
    rig.runner.stop().await.unwrap();
    let jobs = migratekit_core::jobs::Jobs::new(rig.store.clone(), rig.world.sagas());
    assert_eq!(jobs.get(&id).await.unwrap().status, JobStatus::Running);
}

async fn what_cannot_be_reached_is_left_and_then_given_to_a_person(store: Store) {
    let (rig, id) = orphan(store).await;
    rig.world.other_side_says(OtherSide::Unreachable { since: Duration::ZERO });
    let rig = next_runner(rig).await;
    let job = until(&rig, &id, |job| job.unreachable_since.is_some()).await;
    assert_eq!(job.status, JobStatus::Running, "out of reach is not failed");
    rig.world.other_side_says(OtherSide::Unreachable { since: UNREACHABLE_LIMIT });
    let job = rig.rest(&id).await;
    assert_eq!((job.status, job.error_kind.as_deref()), (JobStatus::NeedsAttention, Some("unreachable")), "{job:?}");
    assert_eq!(job.next_action.as_deref(), Some("show_job"));
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new(), "its VM is free, and whoever still writes is fenced");
    rig.runner.stop().await.unwrap();
}

async fn what_runs_or_is_proven_goes_on(store: Store) {
    let proof = FinalReport { disks: [(DiskKey::new(2000), Some("52 e1/9".to_owned()))].into() };
    for says in [OtherSide::None, OtherSide::Running { percent: Percent::capped(40) }, OtherSide::Completed(Some(proof))] {
        let (rig, id) = orphan(store.clone()).await;
        rig.world.other_side_says(says);
        fs::write(rig.gate(), "").unwrap();
        let rig = next_runner(rig).await;
        let job = rig.rest(&id).await;
        assert_eq!(job.status, JobStatus::Completed, "{job:?}");
        assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
        rig.runner.stop().await.unwrap();
    }
}

async fn what_a_crash_left_is_counted_at_the_next_start(store: Store) {
    let (rig, id) = orphan(store).await;
    let rig = next_runner(rig).await;
    let found = *rig.runner.recovered();
    assert_eq!((found.unfinished, found.taken_over + found.held), (1, 1), "{found:?}: with MariaDB it may still live");
    fs::write(rig.gate(), "").unwrap();
    assert_eq!(rig.rest(&id).await.status, JobStatus::Completed);
    // Its recovery is told to those who follow.
    let told = rig.store.read("look at events", |tx| async move { tx.events().after(None).await }).await.unwrap();
    assert_eq!(told.iter().filter(|event| event.kind == migratekit_core::model::EventKind::Recovery).count(), 2);
    rig.runner.stop().await.unwrap();
}
