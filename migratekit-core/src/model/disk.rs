//! A disk of a VM: as its source describes it, and what the catalog knows besides.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{ContextId, DiskId, DiskKey, VolumeId};

codes! {
    /// How the source allots the disk's space.
    Provisioning ("kind of provisioning") {
        /// On demand.
        Thin => "thin",
        /// At once.
        Thick => "thick",
        /// At once, and zeroed.
        EagerZeroed => "eager_zeroed",
        /// The source did not say.
        Unknown => "unknown",
    }
}

/// A disk as its source describes it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Its key, which stays with it for its life.
    pub key: DiskKey,
    /// The source's path of the disk's file.
    pub path: String,
    /// Its size, in bytes.
    pub capacity_bytes: u64,
    /// The datastore it lies on; empty for a source that has none.
    pub datastore: String,
    /// Its place on its controller.
    pub unit_number: Option<u32>,
    /// What the source calls it ("Hard disk 1").
    pub label: String,
    /// How its space is allotted.
    pub provisioning: Provisioning,
    /// The disk's own uuid, when the source has one.
    pub uuid: Option<String>,
}

/// A disk under management (`vm_disks`). Its row stays the same over all passes and outlives every job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its row.
    pub id: DiskId,
    /// Its VM.
    pub context: ContextId,
    /// As its source described it last.
    pub spec: DiskSpec,
    /// The volume that holds its replica.
    pub volume: Option<VolumeId>,
    /// The source's mark of the state that the last complete point holds.
    pub change_id: Option<String>,
    /// Bytes the last pass wrote, zeros among them.
    pub bytes_synced: u64,
    /// When the source was found to have no such disk any more; its replica is kept.
    pub removed_at: Option<Timestamp>,
    /// When it was first seen.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
}
