//! Steps that last longer than they may be quiet (600 s by default), on a clock that passes only as the test lets it: with a sign of progress
//! now and then a step lasts as long as it lasts, and its lease is renewed all the time; without one it ends when its time is over.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::block::BoxFuture;
use migratekit_core::clock::{self, Instant};
use migratekit_core::jobs::{
    LeaseTimes, NewJob, Outcome, Progress, QUIET, Runner, RunnerConfig, Saga, SagaDefinition, SagaFactory, Sagas, StepContext, StepEnd,
    StepSpec,
};
use migratekit_core::model::messages::Action;
use migratekit_core::model::{Job, JobKind, JobStatus};
use migratekit_core::testing::jobs::context;
use migratekit_core::{Result, Store, StoreOptions, Tx};

/// How long a step lasts that says how far it is.
const LONG: Duration = QUIET.saturating_mul(4);
/// How often it says so: shortly before it would be late.
const SIGN: Duration = Duration::from_secs(540);

const DEFINITION: SagaDefinition =
    SagaDefinition { kind: JobKind::Verify, steps: &[StepSpec::new("compare", 1)], next_action: Action::ShowJob };

/// A job of one long step; its input says whether it gives signs.
struct Long;

impl SagaFactory for Long {
    fn definition(&self) -> &'static SagaDefinition {
        &DEFINITION
    }

    fn load(&self, _job: &Job) -> Result<Arc<dyn Saga>> {
        Ok(Arc::new(Long))
    }
}

impl Saga for Long {
    fn run<'a>(&'a self, _step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<StepEnd>> {
        Box::pin(async move {
            let (began, signs) = (clock::now(), cx.row().input == true);
            while began.elapsed() < LONG {
                let _ = cx.token().run_until_cancelled(clock::sleep(SIGN)).await;
                cx.check()?;
                if signs {
                    cx.progress(Progress::bytes(began.elapsed().as_secs(), LONG.as_secs()));
                }
            }
            Ok(StepEnd::Done)
        })
    }

    fn undo<'a>(&'a self, _step: &'static StepSpec, _cx: &'a StepContext) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn settle<'a>(&'a self, _outcome: &'a Outcome<'a>, _job: &'a Job, _tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// What became of a job, how long that took, and how often its lease was renewed.
struct Ended {
    job: Job,
    took: Duration,
    renewals: u64,
}

/// Runs one job until it rests.
async fn run(signs: bool) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("sqlite://{}/catalog.db", folder.path().display()), StoreOptions::new()).await.unwrap();
    let vm = context(&store).await;
    // The clock stands; and while this thread is there, it does not go on by itself when everybody waits for the catalog.
    tokio::time::pause();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let guard = tokio::task::spawn_blocking(move || ended.recv().is_err());
    let runner = Runner::start(store.clone(), Sagas::new([Arc::new(Long) as _]).unwrap(), RunnerConfig::default()).await.unwrap();
    let jobs = runner.jobs();
    let id = jobs.start(NewJob::of(JobKind::Verify, vm, signs.into()), |_, _| async { Ok(()) }).await.unwrap();

    let (mut began, mut renewals) = (None::<Instant>, 0);
    let step = LeaseTimes::default().renew / 2;
    let job = loop {
        tokio::time::advance(step).await;
        // Writes go one after another: when this one is there, what the clock has called for before is too.
        store.write("wait for others", |tx| async move { tx.facts().set("test", "here").await }).await.unwrap();
        let job = jobs.get(&id).await.unwrap();
        if let Some(lease) = &job.lease {
            began.get_or_insert_with(clock::now);
            assert!(lease.renewals >= renewals, "the lease was taken anew");
            renewals = lease.renewals;
        }
        if !job.status.is_busy() && job.status != JobStatus::Pending {
            break job;
        }
    };
    let took = began.unwrap().elapsed();
    drop(end);
    assert!(guard.await.unwrap());
    tokio::time::resume();
    runner.stop().await.unwrap();
    store.close().await;
    Ended { job, took, renewals }
}

#[tokio::test]
async fn a_step_that_says_how_far_it_is_is_never_given_up_and_keeps_its_lease() {
    let Ended { job, took, renewals } = run(true).await;
    assert_eq!(job.status, JobStatus::Completed, "{job:?}");
    assert!(took >= LONG, "{took:?}");
    // Each within the time of a lease; the catalog may be slow at times.
    let least = LONG.as_secs() / LeaseTimes::default().lease.as_secs();
    assert!(renewals > least, "{renewals} renewals in {took:?}");
}

#[tokio::test]
async fn a_step_that_says_nothing_ends_when_its_time_is_over() {
    let Ended { job, took, renewals } = run(false).await;
    assert_eq!((job.status, job.error_kind.as_deref(), job.failed_step.as_deref()), (JobStatus::Failed, Some("timeout"), Some("compare")));
    assert!(took >= QUIET && took < QUIET + Duration::from_secs(60), "{took:?}");
    assert!(renewals > QUIET.as_secs() / LeaseTimes::default().lease.as_secs(), "{renewals} renewals in {took:?}");
}
