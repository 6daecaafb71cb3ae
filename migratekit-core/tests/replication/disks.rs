//! The disk set changes between passes.

use migratekit_core::id::DiskKey;
use migratekit_core::model::ReplicationMode;
use migratekit_core::testing::jobs::Blow;
use migratekit_core::testing::replication::keys;
use migratekit_core::units::MIB;

use crate::rig::{Rig, SIZES};
use crate::struck;

#[tokio::test]
async fn a_new_disk_is_copied_in_full_in_the_same_pass() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES[..2], 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    std::fs::write(rig.world.image("web", DiskKey::new(2002)), vec![9; 1_500_000]).unwrap();
    rig.world.describe("web", &keys(3).collect::<Vec<_>>());
    rig.replicate("web", &vm, ReplicationMode::Incremental).await;
    assert_eq!(rig.world.volume_files(&vm).len(), 3);
    rig.world.change("web", 3);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

#[tokio::test]
async fn a_disk_that_grew_grows_its_volume_and_is_asked_from_its_change_id() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    for (key, more) in [(2000, 5 * MIB + 512), (2001, 1)] {
        let file = std::fs::OpenOptions::new().write(true).open(rig.world.image("web", DiskKey::new(key))).unwrap();
        file.set_len(file.metadata().unwrap().len() + more).unwrap();
    }
    rig.world.change("web", 3);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 4);
    rig.replicate("web", &vm, ReplicationMode::Full).await;
}

#[tokio::test]
async fn a_disk_that_is_gone_keeps_its_volume_and_one_that_comes_back_is_compared() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.describe("web", &[DiskKey::new(2000), DiskKey::new(2002)]);
    rig.world.change("web", 2);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert_eq!(rig.world.volume_files(&vm).len(), 3, "the volume of a disk that is gone is kept");
    let disks = rig.world.store.read("look", |tx| {
        let vm = vm.clone();
        async move { tx.replicas().disks(&vm).await }
    });
    let gone: Vec<_> = disks.await.unwrap().into_iter().filter(|d| d.removed_at.is_some()).map(|d| d.spec.key.device_key()).collect();
    assert_eq!(gone, [2001]);
    assert_eq!(rig.world.replica_disks(&vm).await.unwrap().len(), 2, "the new point does not have it");

    rig.world.describe("web", &keys(3).collect::<Vec<_>>());
    rig.world.change("web", 3);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert_eq!(rig.world.volume_files(&vm).len(), 3);
}

/// What a reader sees is the point as it was, or that of all disks as they are now; never some grown and some not.
#[tokio::test]
async fn a_crash_while_disks_grow_leaves_a_whole_point_that_can_be_read() {
    let seen = struck::everywhere(Blow::Stand, &["initializing", "analyzing", "provisioning", "configuring", "snapshotting"], true).await;
    println!("{seen:?}");
    assert_eq!(seen.struck, seen.places, "not every place was reached");
    assert!(seen.old > 10 && seen.grown > 5 && seen.completed == seen.places, "{seen:?}");
}

#[tokio::test]
async fn a_failure_while_disks_grow_leaves_a_whole_point_that_can_be_read() {
    let seen = struck::everywhere(Blow::Fail, &["provisioning"], true).await;
    println!("{seen:?}");
    assert!(seen.struck == seen.places && seen.failed == seen.places && seen.places > 4, "{seen:?}");
}
