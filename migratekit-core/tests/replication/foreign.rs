//! Somebody else writes the volume, where no end shows it.

use std::os::unix::fs::FileExt;

use migratekit_core::ErrorKind;
use migratekit_core::id::ContextId;
use migratekit_core::model::{ReplicationMode, SyncType};
use migratekit_core::units::MIB;

use crate::rig::{Rig, SIZES};

impl Rig {
    /// One byte in the middle of the first volume.
    fn write_past_us(&self, vm: &ContextId) {
        let (_, volume) = self.world.volume_files(vm).pop_first().unwrap();
        std::fs::OpenOptions::new().write(true).open(volume).unwrap().write_all_at(b"?", MIB + MIB / 2).unwrap();
    }

    async fn last_kinds(&self, vm: &ContextId) -> Vec<(u32, SyncType)> {
        let history = self.world.store.read("look", |tx| async move { tx.replicas().history(vm, 3).await }).await.unwrap();
        history.iter().rev().map(|entry| (entry.disk.device_key(), entry.sync_type)).collect()
    }
}

const COMPARED: [(u32, SyncType); 3] = [(2000, SyncType::Compare), (2001, SyncType::Incremental), (2002, SyncType::Incremental)];

#[tokio::test]
async fn an_increment_is_not_added_to_a_volume_that_somebody_wrote() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.write_past_us(&vm);
    rig.world.change("web", 2);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert_eq!(rig.last_kinds(&vm).await, COMPARED);
    rig.world.change("web", 3);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert!(rig.last_kinds(&vm).await.iter().all(|(_, kind)| *kind == SyncType::Incremental));
}

/// Reading does not take the seal away, and does not pass another's bytes off as the point's.
#[tokio::test]
async fn a_reader_is_refused_what_somebody_wrote_and_the_next_pass_still_sees_it() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    for _ in 0..2 {
        rig.world.replica_disks(&vm).await.unwrap();
    }
    rig.write_past_us(&vm);
    for _ in 0..2 {
        let error = rig.world.replica_disks(&vm).await.unwrap_err();
        assert_eq!((error.kind(), error.context_value("disk")), (ErrorKind::ForeignContent, Some("disk-2000")), "{error}");
    }
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert_eq!(rig.last_kinds(&vm).await, COMPARED);
}

/// A volume that grows is another file to the seal: who wrote it before is seen before it grows.
#[tokio::test]
async fn a_disk_that_grew_after_somebody_wrote_its_volume_is_compared() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.write_past_us(&vm);
    let image = std::fs::OpenOptions::new().write(true).open(rig.world.image("web", "disk-2000".parse().unwrap())).unwrap();
    image.set_len(SIZES[0] + MIB).unwrap();
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert_eq!(rig.last_kinds(&vm).await, COMPARED);
}
