//! Jobs that need a person: their VM is not blocked, the next replication mends what they left, and sending them on or back later harms
//! nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migratekit_core::block::BoxFuture;
use migratekit_core::id::{ContextId, JobId};
use migratekit_core::jobs::{Failpoints, Hook, Pace, RunnerConfig};
use migratekit_core::model::{ContextStatus, JobStatus, JobTrigger, ReplicationMode};
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::platform::FaultySource;
use migratekit_core::testing::replication::{Disks, ReplicationWorld, keys};
use migratekit_core::{Error, ErrorKind, Result};

use crate::rig::{Rig, SIZES, config};

fn away() -> Error {
    Error::new(ErrorKind::Denied, "ask the other side", "it is away")
}

/// Everything at the source fails from the n-th call on: reaching it, removing a snapshot, all.
struct Outage {
    calls: AtomicU32,
    from: AtomicU32,
}

impl Outage {
    fn new() -> Arc<Self> {
        Arc::new(Outage { calls: AtomicU32::new(0), from: AtomicU32::new(u32::MAX) })
    }

    fn call(&self) -> Option<Error> {
        (self.calls.fetch_add(1, Ordering::SeqCst) >= self.from.load(Ordering::SeqCst)).then(away)
    }

    fn begin(&self, after: u32) {
        self.from.store(self.calls.load(Ordering::SeqCst).saturating_add(after), Ordering::SeqCst);
    }

    fn end(&self) {
        self.from.store(u32::MAX, Ordering::SeqCst);
    }

    fn befall(self: &Arc<Self>, world: ReplicationWorld) -> ReplicationWorld {
        let (source, way) = (Arc::clone(self), Arc::clone(self));
        let inner = Arc::new(world.site.clone());
        world
            .through(Arc::new(FaultySource::new(inner, move |_| source.call())))
            .by_way_of(move |side| (side == "source").then(|| way.call()).flatten())
    }
}

impl Rig {
    async fn end_of(&self, vm: &ContextId) -> (JobId, JobStatus) {
        let job = self.ask(vm, ReplicationMode::Auto).await.unwrap();
        let status = self.wait(&job).await.status;
        (job, status)
    }

    /// Sends a job that needs attention on, or back, and waits for its end; one that pauses first goes on.
    async fn send(&self, job: &JobId, how: JobTrigger) -> JobStatus {
        let jobs = self.runner.jobs();
        jobs.retry(job, how, Some("a person")).await.unwrap();
        let forever = CancellationToken::new();
        let now = jobs.wait_until(job, &forever, |job| !job.status.is_busy() || job.status == JobStatus::Paused).await.unwrap();
        if now.status == JobStatus::Paused {
            jobs.resume(job).await.unwrap();
        }
        self.wait(job).await.status
    }

    /// What a reader sees, once who had the volumes open let go of them.
    async fn read(&self, vm: &ContextId) -> Disks {
        loop {
            match self.world.replica_disks(vm).await {
                Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                seen => return seen.unwrap(),
            }
        }
    }
}

#[tokio::test]
async fn a_first_pass_whose_source_goes_away_at_any_call_can_be_repeated() {
    let outage = Outage::new();
    let rig = Rig::of(|world| outage.befall(world), config()).await;
    let mut hands = 0;
    for after in 0.. {
        let name = format!("web-{after}");
        let vm = rig.world.add(&name, &SIZES, 1).await;
        outage.begin(after);
        let (_, status) = rig.end_of(&vm).await;
        outage.end();
        if status == JobStatus::Completed {
            assert!(after > 10, "the source was asked {after} times only");
            break;
        }
        let stands = rig.context(&vm).await.status;
        match status {
            JobStatus::Failed => assert_eq!(stands, ContextStatus::Failed, "{after}"),
            JobStatus::NeedsAttention => assert!(matches!(stands, ContextStatus::CleanupRequired | ContextStatus::ReadyForFailover)),
            status => panic!("{after}: {status}"),
        }
        hands += u32::from(status == JobStatus::NeedsAttention);
        rig.world.change(&name, 2);
        rig.replicate(&name, &vm, ReplicationMode::Auto).await;
    }
    assert!(hands > 3, "only {hands} needed attention");
}

/// Fires once, when the journal passes a place; or keeps who comes by until it is let go.
struct At {
    place: &'static str,
    armed: AtomicBool,
    passed: Arc<AtomicBool>,
    keeps: bool,
    kept: CancellationToken,
    go: Mutex<CancellationToken>,
}

impl At {
    fn new(place: &'static str, keeps: bool) -> Arc<Self> {
        let (passed, kept, go) = (Arc::default(), CancellationToken::new(), Mutex::default());
        Arc::new(At { place, armed: AtomicBool::new(false), passed, keeps, kept, go })
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn config(self: &Arc<Self>) -> RunnerConfig {
        let pace = Pace { grace: Duration::from_millis(50), ..config().pace };
        RunnerConfig { failpoints: Failpoints::new(Arc::clone(self) as _), pace, ..config() }
    }
}

impl Hook for At {
    fn reached<'a>(&'a self, place: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if place == self.place && self.armed.swap(false, Ordering::SeqCst) {
                self.passed.store(true, Ordering::SeqCst);
                if self.keeps {
                    let go = self.go.lock().unwrap().clone();
                    self.kept.cancel();
                    go.cancelled().await;
                }
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn a_point_that_could_not_be_put_into_its_volumes_is_there_all_the_same() {
    let at = At::new("committing/pivot/after", false);
    let gone = Arc::clone(&at.passed);
    let through = |world: ReplicationWorld| world.by_way_of(move |side| (side == "target" && gone.load(Ordering::SeqCst)).then(away));
    let rig = Rig::of(through, at.config()).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    at.arm();
    let (job, status) = rig.end_of(&vm).await;
    assert_eq!(status, JobStatus::NeedsAttention);
    assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover);
    assert!(rig.read(&vm).await == rig.world.source_disks("web"), "the new point is not what a reader sees");
    at.passed.store(false, Ordering::SeqCst);
    rig.world.change("web", 3);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    // The old job is sent on: a later one has done what was left of it, and its VM is ready already.
    assert_eq!(rig.send(&job, JobTrigger::RetryForward).await, JobStatus::Completed);
    assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover);
    rig.demand_equal("web", &vm).await;
}

#[tokio::test]
async fn a_job_sent_back_leaves_the_volumes_in_which_a_later_one_made_a_point() {
    let outage = Outage::new();
    let rig = Rig::of(|world| outage.befall(world), config()).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    // What of the source is asked for once its snapshot is made.
    outage.begin(7);
    let (old, status) = rig.end_of(&vm).await;
    outage.end();
    assert_eq!((status, rig.world.volume_files(&vm).len()), (JobStatus::NeedsAttention, 3), "the outage is at the wrong moment");
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let volumes = rig.world.volume_files(&vm);
    assert_eq!(rig.send(&old, JobTrigger::RetryUndo).await, JobStatus::RolledBack);
    assert_eq!(rig.world.volume_files(&vm), volumes);
    rig.demand_equal("web", &vm).await;
    assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover);
}

/// A job that comes to rest in need of a person right before its pivot: all is copied, nothing is undone.
async fn stopped_before_the_pivot(rig: &Rig, at: &At, vm: &ContextId) -> JobId {
    at.arm();
    let job = rig.ask(vm, ReplicationMode::Auto).await.unwrap();
    at.kept.cancelled().await;
    rig.runner.jobs().pause(&job).await.unwrap();
    assert_eq!(rig.wait(&job).await.status, JobStatus::NeedsAttention);
    at.go.lock().unwrap().cancel();
    job
}

#[tokio::test]
async fn a_job_sent_on_does_not_commit_over_a_later_point() {
    let at = At::new("committing/commit/before", true);
    let rig = Rig::of(|world| world, at.config()).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    let old = stopped_before_the_pivot(&rig, &at, &vm).await;
    rig.world.change("web", 3);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert_eq!(rig.send(&old, JobTrigger::RetryForward).await, JobStatus::Failed);
    rig.demand_equal("web", &vm).await;
    assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover);
    rig.world.change("web", 4);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

#[tokio::test]
async fn a_job_sent_on_does_not_commit_a_spool_that_a_later_job_removed() {
    let at = At::new("committing/commit/before", true);
    let denied = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&denied);
    let through = |world: ReplicationWorld| {
        let fail = move |call: &'static str| (call == "create_snapshot" && fails.load(Ordering::SeqCst)).then(away);
        let inner = Arc::new(world.site.clone());
        world.through(Arc::new(FaultySource::new(inner, fail)))
    };
    let rig = Rig::of(through, at.config()).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let before = rig.read(&vm).await;
    rig.world.change("web", 2);
    let old = stopped_before_the_pivot(&rig, &at, &vm).await;
    denied.store(true, Ordering::SeqCst);
    assert_eq!(rig.end_of(&vm).await.1, JobStatus::Failed);
    denied.store(false, Ordering::SeqCst);
    assert_eq!(rig.send(&old, JobTrigger::RetryForward).await, JobStatus::Failed);
    assert!(rig.read(&vm).await == before, "the point that was is no longer there");
    assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

/// Nothing was made at the source, so nothing is to be removed there.
#[tokio::test]
async fn a_source_that_goes_away_before_its_snapshot_is_not_needed_to_undo() {
    let outage = Outage::new();
    let rig = Rig::of(|world| outage.befall(world), config()).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    // To reach it, to describe the machine, to list snapshots.
    outage.begin(3);
    let (_, status) = rig.end_of(&vm).await;
    assert_eq!(status, JobStatus::Failed);
    assert!(rig.world.volume_files(&vm).is_empty());
    assert_eq!(rig.context(&vm).await.status, ContextStatus::Failed);
}

/// A disk that the source has since the last point is not in it; that is no fault of the point.
#[tokio::test]
async fn a_point_stays_whole_when_a_pass_that_would_bring_a_new_disk_fails() {
    let denied = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&denied);
    let fail = move |call: &'static str| (call == "create_snapshot" && fails.load(Ordering::SeqCst)).then(away);
    let rig = Rig::with(|source| Arc::new(FaultySource::new(source, fail))).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.world.describe("web", &keys(2).collect::<Vec<_>>());
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.describe("web", &keys(3).collect::<Vec<_>>());
    denied.store(true, Ordering::SeqCst);
    rig.fail("web", &vm, ReplicationMode::Auto).await;
    denied.store(false, Ordering::SeqCst);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}
