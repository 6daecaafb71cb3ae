//! What becomes of a job whose runner is gone, by what its other side says. The decisions are the model's; here they are carried out.

use std::fs;
use std::time::Duration;

use migratekit_core::id::{DiskKey, JobId};
use migratekit_core::jobs::{Jobs, Runner};
use migratekit_core::model::{FinalReport, Job, JobStatus, OtherSide, Percent, UNREACHABLE_LIMIT};
use migratekit_core::testing::catalog::{change, on_sqlite};
use migratekit_core::testing::jobs::{MarkerInput, context};
use migratekit_core::{CancellationToken, Store, StoreOptions, on_both_catalogs};

use super::rig::{Rig, config};

on_both_catalogs! {
    what_the_other_side_lost_fails_and_frees_its_vm,
    what_cannot_be_reached_is_left_and_then_given_to_a_person,
    what_runs_or_is_proven_goes_on,
    what_a_crash_left_is_counted_at_the_next_start,
    what_this_program_cannot_read_is_given_to_a_person_all_the_same,
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

/// The other side is out of reach for too long, and the job's input is another version's.
async fn what_this_program_cannot_read_is_given_to_a_person_all_the_same(store: Store) {
    let (rig, id) = orphan(store).await;
    rig.world.other_side_says(OtherSide::Unreachable { since: UNREACHABLE_LIMIT });
    change(&rig.store, &format!("UPDATE job_tracking SET metadata = '[1]' WHERE id = '{id}'")).await.unwrap();
    let rig = next_runner(rig).await;
    let job = rig.rest(&id).await;
    assert_eq!((job.status, job.error_kind.as_deref()), (JobStatus::NeedsAttention, Some("unreachable")), "{job:?}");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new(), "its VM is free");
    rig.runner.stop().await.unwrap();
}

/// Of the oldest job's owner nothing can be known: its lock file cannot be opened.
#[test]
fn a_job_that_cannot_be_judged_stands_in_nobody_s_way() {
    on_sqlite(|store| async move {
        let (rig, id) = orphan(store).await;
        let Rig { store, world, context: vm, runner, folder } = rig;
        let lock = format!("{}.runner-{}", store.url().file().unwrap().canonicalize().unwrap().display(), runner.id());
        runner.crash().await;
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&lock, &lock).unwrap();
        let behind = world.start(&Jobs::new(store.clone(), world.sagas()), &context(&store).await, &MarkerInput::default()).await.unwrap();

        let runner = Runner::start(store.clone(), world.sagas(), config()).await.unwrap();
        assert_eq!((runner.recovered().held, runner.recovered().waiting), (1, 1), "{:?}", runner.recovered());
        let rig = Rig { store, world, context: vm, runner, folder };
        assert_eq!(rig.rest(&behind).await.status, JobStatus::Completed);
        assert_eq!(rig.runner.jobs().get(&id).await.unwrap().status, JobStatus::Running, "nothing is known of it, and nothing is done");
        fs::remove_file(&lock).unwrap();
        fs::write(rig.gate(), "").unwrap();
        assert_eq!(rig.rest(&id).await.status, JobStatus::Completed);
        rig.runner.stop().await.unwrap();
    });
}

/// A living owner is not robbed because its lock file was tidied away, nor because the catalog is called by another name.
#[test]
fn a_lock_that_is_not_found_is_no_proof_of_death() {
    on_sqlite(|store| async move {
        let (rig, id) = orphan(store).await;
        let file = rig.store.url().file().unwrap().to_path_buf();
        let link = file.with_file_name("link.db");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let by_link = Store::open(&format!("sqlite://{}", link.display()), StoreOptions::new()).await.unwrap();
        let other = Runner::start(by_link.clone(), rig.world.sagas(), config()).await.unwrap();
        assert_eq!((other.recovered().held, other.recovered().taken_over), (1, 0), "by a link");
        other.stop().await.unwrap();
        by_link.close().await;

        let lock = format!("{}.runner-{}", file.canonicalize().unwrap().display(), rig.runner.id());
        fs::remove_file(&lock).unwrap();
        let other = Runner::start(rig.store.clone(), rig.world.sagas(), config()).await.unwrap();
        assert_eq!((other.recovered().held, other.recovered().taken_over), (1, 0), "without its file");
        // Its owner really dies: the lease runs out, and nothing moves any more.
        let Rig { store, world, context, runner, folder } = rig;
        runner.crash().await;
        let rig = Rig { store, world, context, runner: other, folder };
        fs::write(rig.gate(), "").unwrap();
        let job = rig.rest(&id).await;
        assert_eq!(job.status, JobStatus::Completed);
        assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
        rig.runner.stop().await.unwrap();
    });
}

/// A command line lives too short to see that a counter stands still.
#[test]
fn an_owner_without_lock_and_process_is_known_dead_at_once() {
    on_sqlite(|store| async move {
        let (rig, id) = orphan(store).await;
        let Rig { store, world, context, runner, folder } = rig;
        let (lock, owner) =
            (format!("{}.runner-{}", store.url().file().unwrap().canonicalize().unwrap().display(), runner.id()), runner.id().clone());
        runner.crash().await;
        fs::remove_file(&lock).unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        change(&store, &format!("UPDATE runners SET pid = {} WHERE id = '{owner}'", gone.id())).await.unwrap();
        change(&store, &format!("UPDATE job_tracking SET lease_until = 1 WHERE id = '{id}'")).await.unwrap();
        let runner = Runner::start(store.clone(), world.sagas(), config()).await.unwrap();
        assert_eq!((runner.recovered().held, runner.recovered().taken_over), (0, 1));
        let rig = Rig { store, world, context, runner, folder };
        fs::write(rig.gate(), "").unwrap();
        assert_eq!(rig.rest(&id).await.status, JobStatus::Completed);
        rig.runner.stop().await.unwrap();
    });
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
