//! What the tests of jobs share.

use migratekit_core::Store;
use migratekit_core::id::{ContextId, JobId};
use migratekit_core::jobs::{Runner, RunnerConfig};
use migratekit_core::model::{Event, Job, StepStatus};
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::jobs::{CrashHarness, MarkerInput, MarkerTrial, MarkerWorld, Points, context};
use tempfile::TempDir;

/// A world, a VM and a runner.
pub(crate) struct Rig {
    pub store: Store,
    pub world: MarkerWorld,
    pub context: ContextId,
    pub runner: Runner,
    pub folder: TempDir,
}

/// The configuration of the harness, and points that only watch.
pub(crate) fn config() -> RunnerConfig {
    CrashHarness::config(&Points::watching())
}

impl Rig {
    pub(crate) async fn new(store: Store) -> Rig {
        Rig::with(store, config()).await
    }

    pub(crate) async fn with(store: Store, config: RunnerConfig) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let world = MarkerWorld::in_folder(folder.path());
        let context = context(&store).await;
        let runner = Runner::start(store.clone(), world.sagas(), config).await.unwrap();
        Rig { store, world, context, runner, folder }
    }

    pub(crate) async fn start(&self, input: &MarkerInput) -> JobId {
        self.world.start(self.runner.jobs(), &self.context, input).await.unwrap()
    }

    /// Runs a job until it rests.
    pub(crate) async fn run(&self, input: &MarkerInput) -> Job {
        let id = self.start(input).await;
        self.rest(&id).await
    }

    pub(crate) async fn rest(&self, id: &JobId) -> Job {
        self.runner.jobs().wait(id, &CancellationToken::new()).await.unwrap()
    }

    /// Waits until the job is as `ready` wants it.
    pub(crate) async fn until(&self, id: &JobId, ready: impl Fn(&Job) -> bool) -> Job {
        self.runner.jobs().wait_until(id, &CancellationToken::new(), ready).await.unwrap()
    }

    /// Waits until so many jobs are busy, none of them pending.
    pub(crate) async fn until_active(&self, number: usize) -> Vec<Job> {
        let mut events = self.runner.jobs().follow(None);
        loop {
            let jobs = self.runner.jobs().active().await.unwrap();
            if jobs.len() == number && jobs.iter().all(|job| job.lease.is_some()) {
                return jobs;
            }
            events.next(&CancellationToken::new()).await.unwrap();
        }
    }

    /// The status of each step.
    pub(crate) async fn steps(&self, id: &JobId) -> Vec<StepStatus> {
        self.runner.jobs().steps(id).await.unwrap().into_iter().map(|step| step.status).collect()
    }

    /// The events of a job so far.
    pub(crate) async fn events(&self, id: &JobId) -> Vec<Event> {
        self.store.read("look at events", |tx| async move { tx.events().of_job_after(id, None).await }).await.unwrap()
    }

    /// What is wrong with a job that came to rest.
    pub(crate) async fn complaints(&self, job: &Job) -> Vec<String> {
        let harness = CrashHarness::new(self.store.clone(), self.world.sagas());
        let trial = MarkerTrial { world: self.world.clone(), context: self.context.clone(), input: MarkerInput::default() };
        harness.judge(&trial, job).await.unwrap()
    }

    pub(crate) fn gate(&self) -> std::path::PathBuf {
        self.folder.path().join("gate")
    }
}
