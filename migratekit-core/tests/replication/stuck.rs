//! A source that answers no more: the job ends by its silence; and what was complete before an interruption is told as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migratekit_core::block::{BlockRead, BoxFuture};
use migratekit_core::id::DiskKey;
use migratekit_core::jobs::{Failpoints, RunnerConfig, Saga, SagaDefinition, SagaFactory, Sagas, StepSpec};
use migratekit_core::model::{ContextStatus, Job, JobStatus, ReplicationMode, SyncType};
use migratekit_core::platform::{
    ChangeId, Changes, Machine, MachineRef, Snapshot, SnapshotListed, SnapshotName, Source, SourceCapabilities,
};
use migratekit_core::replication::{DEFINITION, Replications, STEPS};
use migratekit_core::task::{CancellationToken, Passed};
use migratekit_core::testing::jobs::Points;
use migratekit_core::testing::replication::ReplicationWorld;
use migratekit_core::{Error, ErrorKind, Result};

use crate::rig::{Rig, SIZES, config};

/// A source that does not say what changed on the last disk, as long as it is stuck.
struct Stuck {
    inner: Arc<dyn Source>,
    stuck: Arc<AtomicBool>,
}

impl Stuck {
    fn world(stuck: &Arc<AtomicBool>) -> impl FnOnce(ReplicationWorld) -> ReplicationWorld {
        let stuck = Arc::clone(stuck);
        move |world| {
            let inner = Arc::new(world.site.clone());
            world.through(Arc::new(Stuck { inner, stuck }))
        }
    }
}

impl Source for Stuck {
    fn capabilities(&self) -> SourceCapabilities {
        self.inner.capabilities()
    }

    fn describe<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Machine>> {
        self.inner.describe(machine)
    }

    fn snapshots<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Vec<SnapshotListed>>> {
        self.inner.snapshots(machine)
    }

    fn create_snapshot<'a>(
        &'a self,
        machine: &'a MachineRef,
        name: &'a SnapshotName,
        passed: &'a Passed,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        self.inner.create_snapshot(machine, name, passed, cancel)
    }

    fn find_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        self.inner.find_snapshot(machine, name)
    }

    fn remove_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<bool>> {
        self.inner.remove_snapshot(machine, name)
    }

    fn open_disk<'a>(&'a self, snapshot: &'a Snapshot, disk: DiskKey) -> BoxFuture<'a, Result<Arc<dyn BlockRead>>> {
        self.inner.open_disk(snapshot, disk)
    }

    fn changes<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        disk: DiskKey,
        since: &'a ChangeId,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Changes>> {
        if disk != DiskKey::new(2002) || !self.stuck.load(Ordering::SeqCst) {
            return self.inner.changes(snapshot, disk, since, cancel);
        }
        Box::pin(async move {
            cancel.cancelled().await;
            Err(Error::new(ErrorKind::Cancelled, "ask what changed", "it was cancelled"))
        })
    }
}

/// The saga, whose copying may be quiet for a second only.
struct Impatient {
    inner: Replications,
    definition: &'static SagaDefinition,
}

impl Impatient {
    fn sagas(world: &ReplicationWorld) -> Sagas {
        let quiet = |step: &StepSpec| if step.name == "replicating" { step.quiet(Duration::from_secs(1)) } else { *step };
        let steps = Box::leak(STEPS.iter().map(quiet).collect::<Vec<_>>().into_boxed_slice());
        let definition = Box::leak(Box::new(SagaDefinition { steps, ..DEFINITION }));
        Sagas::new([Arc::new(Impatient { inner: world.replications(), definition }) as Arc<dyn SagaFactory>]).unwrap()
    }
}

impl SagaFactory for Impatient {
    fn definition(&self) -> &'static SagaDefinition {
        self.definition
    }

    fn load(&self, job: &Job) -> Result<Arc<dyn Saga>> {
        self.inner.load(job)
    }
}

#[tokio::test]
async fn a_source_that_answers_no_more_ends_the_job_by_its_silence() {
    let stuck = Arc::new(AtomicBool::new(false));
    let rig = Rig::with_sagas(Stuck::world(&stuck), config(), Impatient::sagas).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    stuck.store(true, Ordering::SeqCst);
    rig.world.change("web", 2);
    let job = rig.ask(&vm, ReplicationMode::Auto).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(60), rig.wait(&job)).await.expect("a job that hangs runs for ever");
    assert_eq!((end.status, end.error_kind.as_deref()), (JobStatus::Failed, Some(ErrorKind::Timeout.code())));
    assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover);
    stuck.store(false, Ordering::SeqCst);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

/// Two disks are complete, one of them compared, when the job is laid down during the third.
#[tokio::test]
async fn a_job_that_goes_on_tells_of_the_disks_that_were_complete_what_they_came_to() {
    let (stuck, points) = (Arc::new(AtomicBool::new(false)), Points::watching());
    let with_points = RunnerConfig { failpoints: Failpoints::new(Arc::clone(&points) as _), ..config() };
    let rig = Rig::of(Stuck::world(&stuck), with_points).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    std::fs::remove_dir_all(rig.world.folder("web").join(".migratekit/changes/disk-2001")).unwrap();
    stuck.store(true, Ordering::SeqCst);
    let before = points.seen().len();
    let job = rig.ask(&vm, ReplicationMode::Auto).await.unwrap();
    let kept = || points.seen()[before..].iter().filter(|place| place.starts_with("replicating/once/after")).count();
    let both = async {
        while kept() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("nothing is kept of the disks that are complete");

    rig.runner.jobs().pause(&job).await.unwrap();
    let forever = CancellationToken::new();
    rig.runner.jobs().wait_until(&job, &forever, |job| job.status == JobStatus::Paused).await.unwrap();
    stuck.store(false, Ordering::SeqCst);
    rig.runner.jobs().resume(&job).await.unwrap();
    assert_eq!(rig.wait(&job).await.status, JobStatus::Completed);
    rig.demand_equal("web", &vm).await;
    let history = rig.world.store.read("look", |tx| {
        let vm = vm.clone();
        async move { tx.replicas().history(&vm, 3).await }
    });
    let mut told: Vec<_> =
        history.await.unwrap().into_iter().map(|e| (e.disk.device_key(), e.sync_type, e.bytes_transferred > 0)).collect();
    told.sort_by_key(|line| line.0);
    assert_eq!(told, [(2000, SyncType::Incremental, true), (2001, SyncType::Compare, true), (2002, SyncType::Incremental, true)]);
}
