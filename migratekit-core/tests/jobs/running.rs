//! How a job goes when nothing crashes: forward, back, cancelled, paused, stalled.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use migratekit_core::block::BoxFuture;
use migratekit_core::jobs::{Failpoints, Hook, Jobs, NewJob, Orphans, Runner, Wanted};
use migratekit_core::model::{EventKind, JobKind, JobStatus, JobTrigger, StepStatus as S};
use migratekit_core::testing::jobs::{MarkerInput, context};
use migratekit_core::{CancellationToken, Error, ErrorKind, Result, Store, on_both_catalogs};

use super::rig::{Rig, config};

on_both_catalogs! {
    a_job_runs_through,
    a_failure_before_the_pivot_undoes_everything,
    a_failure_behind_the_pivot_is_repeated_forward,
    a_failed_undo_is_a_state,
    a_cancelled_job_is_undone,
    a_paused_job_goes_on_where_it_was,
    a_step_without_progress_is_ended,
    a_panic_is_the_step_s_failure,
    a_deaf_step_keeps_nobody_waiting,
    a_deaf_step_is_waited_for_though_nothing_can_be_written,
    of_two_starts_one_wins,
    a_stop_lays_jobs_down,
    a_child_is_part_of_its_parent,
    a_runner_that_is_there_for_one_job_takes_its_parts,
    a_vm_keeps_the_summary_of_its_last_job,
}

fn failing(step: &str, fails: u32) -> MarkerInput {
    MarkerInput { fail: Some(step.to_owned()), fails, ..MarkerInput::default() }
}

async fn a_job_runs_through(store: Store) {
    let rig = Rig::new(store).await;
    let job = rig.run(&MarkerInput { pieces: 50, ..MarkerInput::default() }).await;
    assert_eq!((job.status, job.percent.get()), (JobStatus::Completed, 100), "{job:?}");
    assert_eq!(job.outcome.clone().unwrap()["marker"], "completed");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    assert_eq!(rig.steps(&job.id).await, [S::Completed; 6]);
    let events = rig.events(&job.id).await;
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    let percents: Vec<u64> = events.iter().filter_map(|event| event.data["percent"].as_u64()).collect();
    assert!(percents.windows(2).all(|pair| pair[0] <= pair[1]), "{percents:?}");
    let told: Vec<&str> = events.iter().filter(|e| e.kind == EventKind::JobStatus).filter_map(|e| e.data["to"].as_str()).collect();
    assert_eq!(told, ["running", "completed"]);
    rig.runner.stop().await.unwrap();
}

async fn a_failure_before_the_pivot_undoes_everything(store: Store) {
    let rig = Rig::new(store).await;
    for step in ["draft", "lock", "fill"] {
        let job = rig.run(&failing(step, 99)).await;
        assert_eq!(job.status, JobStatus::Failed, "{step}: {job:?}");
        assert_eq!((job.failed_step.as_deref(), job.error_kind.as_deref()), (Some(step), Some("io")));
        assert_eq!(job.outcome.clone().unwrap()["marker"], format!("failed in {step}"));
        assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    }
    rig.runner.stop().await.unwrap();
}

async fn a_failure_behind_the_pivot_is_repeated_forward(store: Store) {
    let rig = Rig::new(store).await;
    // The pivot's own failure after its commit, one repetition, and one too few.
    for (step, fails) in [("commit", 99), ("publish", 2), ("tidy", 1)] {
        let job = rig.run(&failing(step, fails)).await;
        assert_eq!((job.status, job.error_kind.as_deref()), (JobStatus::Completed, None), "{step}: {job:?}");
        assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    }
    let job = rig.run(&failing("publish", 3)).await;
    assert_eq!((job.status, job.next_action.as_deref()), (JobStatus::NeedsAttention, Some("show_job")), "{job:?}");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new(), "its VM is free all the same");
    // A person sends it on: it counts anew, and fails three times again; there is no way back.
    let jobs = rig.runner.jobs();
    assert_eq!(jobs.retries(&job.id).await.unwrap(), [JobTrigger::RetryForward, JobTrigger::Dismiss]);
    assert_eq!(jobs.retry(&job.id, JobTrigger::RetryUndo, None).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    jobs.retry(&job.id, JobTrigger::RetryForward, None).await.unwrap();
    let job = rig.rest(&job.id).await;
    assert_eq!(job.status, JobStatus::NeedsAttention);
    jobs.retry(&job.id, JobTrigger::Dismiss, Some("me")).await.unwrap();
    assert_eq!(jobs.get(&job.id).await.unwrap().status, JobStatus::Failed);
    rig.runner.stop().await.unwrap();
}

async fn a_failed_undo_is_a_state(store: Store) {
    let rig = Rig::new(store).await;
    let job = rig.run(&MarkerInput { undo_fails: Some("lock".to_owned()), ..failing("fill", 9) }).await;
    assert_eq!(job.status, JobStatus::NeedsAttention, "{job:?}");
    assert_eq!(job.next_action.as_deref(), Some("show_job"));
    assert_eq!(rig.steps(&job.id).await[..3], [S::Completed, S::UndoFailed, S::Undone]);
    assert_eq!(rig.world.things().len(), 2, "nothing before the failed undo was touched");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new(), "its VM is free all the same");
    rig.runner.stop().await.unwrap();
}

async fn a_cancelled_job_is_undone(store: Store) {
    let rig = Rig::new(store).await;
    let jobs = rig.runner.jobs();
    let id = rig.start(&MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() }).await;
    rig.until(&id, |job| job.percent.get() > 15).await;
    assert_eq!(jobs.cancel(&id, Some("me")).await.unwrap(), JobStatus::Cancelling);
    let job = rig.rest(&id).await;
    assert_eq!((job.status, job.error_kind.as_deref()), (JobStatus::Cancelled, None), "{job:?}");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    assert_eq!(jobs.cancel(&id, None).await.unwrap(), JobStatus::Cancelled, "again changes nothing");
    // One that is complete is left as it is.
    let job = rig.run(&MarkerInput::default()).await;
    assert_eq!(jobs.cancel(&job.id, None).await.unwrap(), JobStatus::Completed);
    rig.runner.stop().await.unwrap();
}

async fn a_paused_job_goes_on_where_it_was(store: Store) {
    let rig = Rig::new(store).await;
    let jobs = rig.runner.jobs();
    let id = rig.start(&MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() }).await;
    for _ in 0..7 {
        rig.until(&id, |job| job.status == JobStatus::Running && job.percent.get() > 15).await;
        jobs.pause(&id).await.unwrap();
        let job = rig.until(&id, |job| job.status == JobStatus::Paused).await;
        assert!(job.lease.is_none());
        assert_eq!(jobs.start(new_job(&rig), |_, _| async { Ok(()) }).await.unwrap_err().kind(), ErrorKind::Busy, "it holds its VM");
        jobs.resume(&id).await.unwrap();
    }
    fs::write(rig.gate(), "").unwrap();
    let job = rig.rest(&id).await;
    assert_eq!(job.status, JobStatus::Completed, "more pauses than a step has attempts: {job:?}");
    assert_eq!(rig.world.times_made(&format!("draft-{id}")), 1, "what was done is not done again");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    assert_eq!(jobs.pause(&id).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    rig.runner.stop().await.unwrap();
}

fn new_job(rig: &Rig) -> NewJob {
    let input = serde_json::to_value(MarkerInput::default()).unwrap();
    NewJob::of(JobKind::Verify, rig.context.clone(), input)
}

async fn a_step_without_progress_is_ended(store: Store) {
    let rig = Rig::new(store).await;
    let job = rig.run(&MarkerInput { quiet: true, ..MarkerInput::default() }).await;
    assert_eq!((job.status, job.error_kind.as_deref()), (JobStatus::Failed, Some("timeout")), "{job:?}");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    rig.runner.stop().await.unwrap();
}

async fn a_panic_is_the_step_s_failure(store: Store) {
    let rig = Rig::new(store).await;
    let job = rig.run(&MarkerInput { panic: Some("lock".to_owned()), ..MarkerInput::default() }).await;
    assert_eq!((job.status, job.error_kind.as_deref()), (JobStatus::Failed, Some("internal")), "{job:?}");
    assert!(job.error_message.as_deref().unwrap().contains("the test wants a panic"));
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    rig.runner.stop().await.unwrap();
}

async fn a_deaf_step_keeps_nobody_waiting(store: Store) {
    let mut config = config();
    config.pace.grace = Duration::from_millis(50);
    let rig = Rig::with(store, config).await;
    let id = rig.start(&MarkerInput { gate: Some(rig.gate()), deaf: true, ..MarkerInput::default() }).await;
    let job = rig.rest(&id).await;
    assert_eq!((job.status, job.failed_step.as_deref()), (JobStatus::NeedsAttention, Some("fill")), "{job:?}");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new(), "its VM is free");
    // The step ends at last; it writes nothing any more.
    fs::write(rig.gate(), "").unwrap();
    rig.runner.stop().await.unwrap();
    assert_eq!(rig.world.times_made(&format!("published-{id}")), 0);
}

/// Refuses the end of a job twice, with its domain's rows and without; and tells when it did.
#[derive(Debug)]
struct NoEnd {
    times: AtomicU32,
    refused: CancellationToken,
}

impl Hook for NoEnd {
    fn reached<'a>(&'a self, place: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if place != "job/settle/before" {
                return Ok(());
            }
            match self.times.fetch_add(1, Ordering::SeqCst) {
                0 => {}
                1 => self.refused.cancel(),
                _ => return Ok(()),
            }
            Err(Error::new(ErrorKind::Io, "write the end of a job", "the test wants it so"))
        })
    }
}

async fn a_deaf_step_is_waited_for_though_nothing_can_be_written(store: Store) {
    let folder = tempfile::tempdir().unwrap();
    let (gate, refused) = (folder.path().join("gate"), CancellationToken::new());
    let mut config = config();
    config.pace.grace = Duration::from_millis(50);
    config.failpoints = Failpoints::new(Arc::new(NoEnd { times: AtomicU32::new(0), refused: refused.clone() }));
    let rig = Rig::with(store, config).await;
    let id = rig.start(&MarkerInput { gate: Some(gate.clone()), deaf: true, ..MarkerInput::default() }).await;
    refused.cancelled().await;
    fs::write(gate, "").unwrap();
    let job = rig.rest(&id).await;
    assert_eq!(job.status, JobStatus::Completed, "the runner takes it up again: {job:?}");
    assert_eq!(rig.world.times_made(&format!("filled-{id}")), 2, "the step that was deaf came to its own end, and then the one after it");
    assert_eq!(rig.complaints(&job).await, Vec::<String>::new());
    rig.runner.stop().await.unwrap();
}

/// What a command line does: its runner takes nothing but what it was called for.
async fn a_runner_that_is_there_for_one_job_takes_its_parts(store: Store) {
    let (mut config, wanted) = (config(), Wanted::default());
    config.wanted = Some(wanted.clone());
    config.orphans = Orphans::LayDown;
    let rig = Rig::with(store, config).await;
    let with = |child: MarkerInput| MarkerInput { child: Some(Box::new(child)), ..MarkerInput::default() };
    let other = context(&rig.store).await;
    let other = rig.world.start(rig.runner.jobs(), &other, &MarkerInput::default()).await.unwrap();
    let id = rig.start(&with(with(MarkerInput::default()))).await;
    wanted.add(&id, rig.runner.jobs());
    let job = rig.rest(&id).await;
    assert_eq!((job.status, rig.world.things().len()), (JobStatus::Completed, 3), "{job:?}");
    assert_eq!(rig.runner.jobs().get(&other).await.unwrap().status, JobStatus::Pending, "what somebody else asked for is not taken");
    rig.runner.stop().await.unwrap();
}

async fn of_two_starts_one_wins(store: Store) {
    let rig = Rig::new(store).await;
    let jobs = rig.runner.jobs();
    for _ in 0..10 {
        let context = context(&rig.store).await;
        let input = MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() };
        let starts = [0, 1, 2].map(|_| rig.world.start(jobs, &context, &input));
        let [a, b, c] = starts;
        let ended = tokio::join!(a, b, c);
        let ended = [ended.0, ended.1, ended.2];
        let won: Vec<_> = ended.iter().filter_map(|end| end.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{ended:?}");
        for lost in ended.iter().filter_map(|end| end.as_ref().err()) {
            assert_eq!((lost.kind(), lost.context_value("job")), (ErrorKind::Busy, Some(won[0].as_str())));
        }
        jobs.cancel(won[0], None).await.unwrap();
    }
    rig.runner.stop().await.unwrap();
}

async fn a_stop_lays_jobs_down(store: Store) {
    let mut config = config();
    config.orphans = Orphans::LayDown;
    let rig = Rig::with(store, config.clone()).await;
    let id = rig.start(&MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() }).await;
    rig.until(&id, |job| job.percent.get() > 15).await;
    let Rig { store, world, runner, folder, .. } = rig;
    runner.stop().await.unwrap();
    // The next call of any verb finds it paused, and `resume` goes on.
    let runner = Runner::start(store, world.sagas(), config).await.unwrap();
    assert_eq!((runner.recovered().unfinished, runner.recovered().paused), (1, 1));
    let jobs = runner.jobs();
    let job = jobs.get(&id).await.unwrap();
    assert_eq!((job.status, job.lease), (JobStatus::Paused, None));
    fs::write(folder.path().join("gate"), "").unwrap();
    jobs.resume(&id).await.unwrap();
    let job = jobs.wait(&id, &CancellationToken::new()).await.unwrap();
    assert_eq!(job.status, JobStatus::Completed);
    assert_eq!(world.complaints(&job), Vec::<String>::new());
    runner.stop().await.unwrap();
}

async fn a_child_is_part_of_its_parent(store: Store) {
    let mut config = config();
    config.jobs_at_once = 1;
    let rig = Rig::with(store, config).await;
    let with = |child: MarkerInput| MarkerInput { child: Some(Box::new(child)), ..MarkerInput::default() };
    // A grandchild too: one place is enough, since parents wait in it.
    let job = rig.run(&with(with(MarkerInput::default()))).await;
    assert_eq!(job.status, JobStatus::Completed, "{job:?}");
    assert_eq!(rig.world.things().len(), 3);
    let job = rig.run(&with(failing("draft", 9))).await;
    assert_eq!((job.status, job.failed_step.as_deref()), (JobStatus::Failed, Some("fill")), "{job:?}");
    // Cancelling the parent cancels the child, and the parent is undone after it.
    let id = rig.start(&with(MarkerInput { gate: Some(rig.gate()), ..MarkerInput::default() })).await;
    let jobs = rig.runner.jobs();
    let all = rig.until_active(2).await;
    let child = all.iter().find(|job| job.parent.as_ref() == Some(&id)).unwrap().id.clone();
    jobs.cancel(&id, None).await.unwrap();
    assert_eq!(rig.rest(&id).await.status, JobStatus::Cancelled);
    assert_eq!(jobs.get(&child).await.unwrap().status, JobStatus::Cancelled);
    assert_eq!(rig.world.things().len(), 3, "nothing of either is left");
    rig.runner.stop().await.unwrap();
}

async fn a_vm_keeps_the_summary_of_its_last_job(store: Store) {
    let rig = Rig::new(store.clone()).await;
    let vm = &rig.context;
    let kept = async |store: &Store| store.read("read it", |tx| async move { tx.feed().summary(vm).await }).await.unwrap();
    assert_eq!(kept(&store).await, None, "nothing was done yet");
    let failed = rig.run(&failing("fill", 99)).await;
    let summary = kept(&store).await.unwrap();
    assert_eq!((&summary.job_id, summary.status), (&failed.id, JobStatus::Failed));
    assert_eq!((summary.steps_completed, summary.steps_total, summary.progress), (0, 6, failed.percent));
    let said = summary.error_message.unwrap();
    assert!(said.ends_with("stopped: a disk reported an error."), "{said}");
    // A child's end is none of its VM's; its parent's is.
    let parent = rig.run(&MarkerInput { child: Some(Box::default()), ..MarkerInput::default() }).await;
    let summary = kept(&store).await.unwrap();
    assert_eq!((&summary.job_id, summary.status, summary.error_message), (&parent.id, JobStatus::Completed, None));
    assert_eq!((summary.steps_completed, summary.progress.get()), (6, 100));
    // What needs a person says what to do first; when somebody has sent it on, that it runs.
    let stuck = rig.run(&failing("publish", 99)).await;
    let summary = kept(&store).await.unwrap();
    assert_eq!(
        (summary.status, summary.actionable_steps.first().map(|action| action.code())),
        (JobStatus::NeedsAttention, Some("show_job"))
    );
    rig.runner.stop().await.unwrap();
    Jobs::new(store.clone(), rig.world.sagas()).retry(&stuck.id, JobTrigger::RetryForward, None).await.unwrap();
    let summary = kept(&store).await.unwrap();
    assert_eq!((&summary.job_id, summary.status, summary.error_message), (&stuck.id, JobStatus::Running, None));
}
