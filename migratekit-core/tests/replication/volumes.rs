//! Volumes that are not as a first pass would want them: used before, of another size, unknown, held.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use migratekit_core::block::BoxFuture;
use migratekit_core::id::{ContextId, DiskKey};
use migratekit_core::jobs::{Failpoints, Hook, RunnerConfig};
use migratekit_core::model::{JobStatus, ReplicationMode};
use migratekit_core::platform::{Target, VolumeTag};
use migratekit_core::testing::platform::{FaultySource, FaultyTarget};
use migratekit_core::testing::replication::keys;
use migratekit_core::units::MIB;
use migratekit_core::{Error, ErrorKind, Result};

use crate::rig::{Rig, SIZES, config};

const DISK: DiskKey = DiskKey::new(2001);

/// A source whose snapshots fail while the flag is set.
async fn rig() -> (Rig, Arc<AtomicBool>) {
    let denied = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&denied);
    let fail = move |call: &'static str| {
        let fails = call == "create_snapshot" && fails.load(Ordering::SeqCst);
        fails.then(|| Error::new(ErrorKind::Denied, "take a snapshot", "not now"))
    };
    (Rig::with(|source| Arc::new(FaultySource::new(source, fail))).await, denied)
}

impl Rig {
    /// A replicated VM whose second disk was removed at the source, for one pass.
    async fn without_a_disk(&self) -> ContextId {
        let vm = self.world.add("web", &SIZES, 1).await;
        self.replicate("web", &vm, ReplicationMode::Auto).await;
        self.world.describe("web", &[DiskKey::new(2000), DiskKey::new(2002)]);
        self.replicate("web", &vm, ReplicationMode::Auto).await;
        vm
    }

    fn resize_disk(&self, size: u64) {
        let image = std::fs::OpenOptions::new().write(true).open(self.world.image("web", DISK)).unwrap();
        image.set_len(size).unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_comes_back_is_taken_also_after_an_interruption_before_its_first_byte() {
    let (rig, denied) = rig().await;
    let vm = rig.without_a_disk().await;
    rig.world.describe("web", &keys(3).collect::<Vec<_>>());
    denied.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert!(rig.fail("web", &vm, ReplicationMode::Auto).await.contains("not now"));
    }
    denied.store(false, Ordering::SeqCst);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

#[tokio::test]
async fn a_disk_that_comes_back_may_have_another_size() {
    for size in [SIZES[1] + MIB + 3, SIZES[1] - 700, 5] {
        let (rig, _) = rig().await;
        let vm = rig.without_a_disk().await;
        rig.resize_disk(size);
        rig.world.describe("web", &keys(3).collect::<Vec<_>>());
        let job = rig.ask(&vm, ReplicationMode::Auto).await.unwrap();
        let job = rig.wait(&job).await;
        assert_eq!((job.status, job.error_message.as_deref()), (JobStatus::Completed, None), "{size}");
        for pass in 2..4 {
            let (seen, source) = (rig.world.replica_disks(&vm).await.unwrap(), rig.world.source_disks("web"));
            assert!(seen == source, "{size}: the replica is not the source");
            let volume = std::fs::read(&rig.world.volume_files(&vm)[&DISK]).unwrap();
            assert!(volume[size as usize..].iter().all(|byte| *byte == 0), "{size}: something of the old disk lies behind the new one");
            rig.world.change("web", pass);
            let job = rig.ask(&vm, ReplicationMode::Auto).await.unwrap();
            assert_eq!(rig.wait(&job).await.status, JobStatus::Completed);
        }
    }
}

#[tokio::test]
async fn a_volume_that_was_made_and_not_written_down_is_taken_over() {
    let (rig, _) = rig().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    for (key, size) in [(2000, SIZES[0]), (2001, SIZES[1] - 9)] {
        let tag = VolumeTag { context: vm.clone(), disk: DiskKey::new(key) };
        rig.world.site.create_volume(&tag, size).await.unwrap();
    }
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert_eq!(rig.world.volume_files(&vm).len(), 3);
}

/// It may be the replica that a restored catalog no longer knows: neither written nor removed.
#[tokio::test]
async fn a_volume_that_is_unknown_and_holds_data_is_left_alone() {
    let (rig, _) = rig().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.world.site.create_volume(&VolumeTag { context: vm.clone(), disk: DISK }, SIZES[1]).await.unwrap();
    let volume = rig.world.volume_files(&vm).remove(&DISK).unwrap();
    std::fs::OpenOptions::new().write(true).open(&volume).unwrap().write_all_at(b"data", 77).unwrap();
    for _ in 0..2 {
        let text = rig.fail("web", &vm, ReplicationMode::Auto).await;
        assert!(text.contains("the catalog does not know"), "{text}");
        assert_eq!(std::fs::read(&volume).unwrap()[77..81], *b"data");
        assert_eq!(rig.world.volume_files(&vm).len(), 1, "what the job itself made is removed");
    }
}

/// Fails the n-th commit of the step that makes volumes larger, once.
#[derive(Default)]
struct Fails(AtomicU32);

impl Hook for Fails {
    fn reached<'a>(&'a self, place: &'a str) -> BoxFuture<'a, Result<()>> {
        let falls =
            place == "provisioning/commit/before" && self.0.load(Ordering::SeqCst) > 0 && self.0.fetch_sub(1, Ordering::SeqCst) == 1;
        let error = || Error::new(ErrorKind::Io, "pass a failpoint", "it fails here");
        Box::pin(async move { if falls { Err(error()) } else { Ok(()) } })
    }
}

/// While the disk becomes larger, step by step, the point is there to be read: its source may be gone for ever.
#[tokio::test]
async fn a_point_is_read_wherever_its_growth_broke_off() {
    let fails = Arc::new(Fails::default());
    let config = RunnerConfig { failpoints: Failpoints::new(Arc::clone(&fails) as _), ..config() };
    let rig = Rig::of(|world| world, config).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let (mut size, mut sizes) = (SIZES[1], Vec::new());
    // The step's own, that the volume grew, that the point did.
    for place in 1..=3 {
        size += MIB + 11;
        rig.resize_disk(size);
        fails.0.store(place, Ordering::SeqCst);
        assert!(rig.fail("web", &vm, ReplicationMode::Auto).await.contains("fails here"));
        sizes.push(std::fs::metadata(&rig.world.volume_files(&vm)[&DISK]).unwrap().len() - SIZES[1]);
    }
    assert_eq!(sizes, [0, 2 * (MIB + 11), 3 * (MIB + 11)], "the growth broke off elsewhere");
    rig.world.change("web", 2);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

/// A volume that somebody holds while it is to be removed delays the undo; it is no reason to call a person.
#[tokio::test]
async fn a_volume_that_is_held_for_a_while_is_removed_later() {
    let denied = || Some(Error::new(ErrorKind::Denied, "take a snapshot", "not now"));
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    // More often than an undo is tried.
    let held = move |call: &'static str| {
        let busy = call == "remove_volume" && count.fetch_add(1, Ordering::SeqCst) < 5;
        busy.then(|| Error::new(ErrorKind::Busy, "remove a volume", "it is open for writing"))
    };
    let rig = Rig::of(
        |world| {
            let inner = Arc::new(world.site.clone());
            let target = Arc::new(FaultyTarget::new(Arc::clone(&inner) as _, held));
            let source = FaultySource::new(inner, move |call| if call == "create_snapshot" { denied() } else { None });
            world.through(Arc::new(source)).onto(target)
        },
        config(),
    )
    .await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.fail("web", &vm, ReplicationMode::Auto).await;
    assert!(rig.world.volume_files(&vm).is_empty() && asked.load(Ordering::SeqCst) >= 8);
}
