//! The normal course: full, incremental, compared; change ids, history, counters.

use std::time::Duration;

use migratekit_core::block::ExtentKind;
use migratekit_core::jobs::Runner;
use migratekit_core::model::{CbtEntry, EventKind, ReplicationMode, SyncType};
use migratekit_core::units::{KIB, MIB};

use crate::rig::{Rig, SIZES, config};

impl Rig {
    async fn history(&self, context: &migratekit_core::id::ContextId) -> Vec<CbtEntry> {
        self.world.store.read("look", |tx| async move { tx.replicas().history(context, 100).await }).await.unwrap()
    }
}

#[tokio::test]
async fn a_full_pass_and_increments_end_equal_and_move_only_what_changed() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let full = rig.history(&vm).await;
    assert_eq!(full.len(), 3);
    assert!(full.iter().all(|e| e.sync_type == SyncType::Full && e.previous_change_id.is_none() && e.change_id.is_some()));

    for pass in 2..5 {
        rig.world.change("web", pass);
        rig.replicate("web", &vm, ReplicationMode::Auto).await;
        let history = rig.history(&vm).await;
        for entry in &history[..3] {
            assert_eq!(entry.sync_type, SyncType::Incremental);
            let before = history[3..].iter().find(|e| e.disk == entry.disk).unwrap();
            assert_eq!(entry.previous_change_id, before.change_id, "a pass asks from what the one before stored");
            // Four writes of at most 9000 bytes touch at most eight blocks of 64 KiB.
            assert!(entry.bytes_transferred <= 8 * 64 * KIB, "{entry:?}");
        }
    }
    let context = rig.context(&vm).await;
    assert_eq!((context.jobs.total, context.jobs.successful, context.jobs.failed), (4, 4, 0));
    assert_eq!((context.cpu_count, context.memory_bytes), (2, 2 << 30));

    // Nothing changed: nothing is moved.
    rig.replicate("web", &vm, ReplicationMode::Incremental).await;
    assert!(rig.history(&vm).await[..3].iter().all(|e| e.bytes_transferred == 0 && e.blocks_changed == 0));
}

#[tokio::test]
async fn a_full_pass_over_a_point_is_a_comparison() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Full).await;
    rig.world.change("web", 2);
    let job = &rig.replicate("web", &vm, ReplicationMode::Full).await.id;
    let row = rig.world.store.read("look", |tx| async move { tx.job_lists().replication(job).await }).await.unwrap();
    assert!(row.bytes_transferred > 0 && row.bytes_transferred <= 3 * 8 * 64 * KIB, "what was only compared was not moved: {row:?}");
    let history = rig.history(&vm).await;
    assert!(history[..3].iter().all(|e| e.sync_type == SyncType::Compare && e.bytes_transferred <= 8 * 64 * KIB), "{history:?}");
}

#[tokio::test]
async fn a_change_id_that_is_not_believed_costs_a_comparison_of_its_disk_only() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    std::fs::remove_dir_all(rig.world.folder("web").join(".migratekit/changes/disk-2001")).unwrap();
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let kinds: Vec<_> = rig.history(&vm).await[..3].iter().map(|e| (e.disk.device_key(), e.sync_type)).collect();
    assert_eq!(kinds, [(2002, SyncType::Incremental), (2001, SyncType::Compare), (2000, SyncType::Incremental)]);
    rig.world.change("web", 3);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert!(rig.history(&vm).await[..3].iter().all(|e| e.sync_type == SyncType::Incremental));
}

#[tokio::test]
async fn holes_stay_holes() {
    use migratekit_core::block::{BlockRead, FileDisk, OpenOptions};
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &[64 << 20], 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let (_, volume) = rig.world.volume_files(&vm).pop_first().unwrap();
    let disk = FileDisk::open(&volume, OpenOptions::read_only()).await.unwrap();
    let whole = migratekit_core::ByteRange::whole(disk.info().size).unwrap();
    let data: u64 = disk.extents(whole).await.unwrap().iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.range.length()).sum();
    assert!(data <= 12 * 64 * KIB, "{data} bytes of 64 MiB are allocated");
}

/// Where a step reads or writes all of a disk, it says so while it does: silence is what a step that hangs is known by.
#[tokio::test]
async fn steps_that_take_long_tell_how_far_they_are() {
    const SIZE: u64 = 64 * MIB;
    let Rig { folder, world, runner } = Rig::new().await;
    runner.stop().await.unwrap();
    let mut config = config();
    config.pace.progress = Duration::from_millis(1);
    let runner = Runner::start(world.store.clone(), world.sagas(), config).await.unwrap();
    let rig = Rig { folder, world, runner };
    let vm = rig.world.add("web", &[SIZE], 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let image = rig.world.image("web", "disk-2000".parse().unwrap());
    std::fs::write(image, vec![7; SIZE as usize]).unwrap();
    let job = rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let id = &job.id;
    let events = rig.world.store.read("look", |tx| async move { tx.events().of_job_after(id, None).await }).await.unwrap();
    for step in ["snapshotting", "applying"] {
        let of_step: Vec<_> = events.iter().filter(|event| event.data["step"] == step).collect();
        let ends: Vec<_> = of_step.iter().filter(|e| e.kind == EventKind::StepStatus).map(|e| e.data["percent"].as_u64()).collect();
        let between = |percent| Some(percent) > ends[0] && Some(percent) < ends[1];
        let told = of_step.iter().filter(|e| e.kind == EventKind::JobProgress && between(e.data["percent"].as_u64().unwrap())).count();
        assert!(told > 0, "{step}: {of_step:?}");
    }
}
