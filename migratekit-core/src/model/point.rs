//! Points: complete states of all disks of a VM at one moment, and what each disk was then.

use serde::{Deserialize, Serialize};

use super::{PointStatus, SyncType};
use crate::clock::Timestamp;
use crate::id::{ContextId, DiskId, DiskKey, JobId, PointId, VolumeId};

/// A complete state of all disks of a VM at one moment (`replica_points`). A row is written when the point is whole, never before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// Its VM.
    pub context: ContextId,
    /// The job that made it.
    pub job: JobId,
    /// Where it is.
    pub status: PointStatus,
    /// When the source's snapshot was taken.
    pub taken_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// When the last volume held it.
    pub applied_at: Option<Timestamp>,
    /// Whether the guest's file systems were at rest when it was taken.
    pub quiesced: bool,
    /// How many disks it has; as many rows of [`PointDisk`] belong to it.
    pub disk_count: u32,
}

/// One disk of a point (`replica_point_disks`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// The point.
    pub point: PointId,
    /// The disk's row.
    pub disk: DiskId,
    /// The disk's key.
    pub key: DiskKey,
    /// The volume that holds it.
    pub volume: VolumeId,
    /// Its size, in bytes.
    pub capacity_bytes: u64,
    /// The source's mark of this state; the next pass asks for what changed since.
    pub change_id: Option<String>,
    /// BLAKE3 of the first MiB, in lower-case hex: how a foreign volume is known.
    pub first_digest: String,
    /// BLAKE3 of the last MiB, in lower-case hex.
    pub last_digest: String,
    /// The pass, as the volume's ledger names it.
    pub pass: String,
    /// Where its spool lies until it is applied; none when the bytes went straight into the volume.
    pub spool: Option<String>,
    /// Whether the volume holds it.
    pub applied: bool,
}

/// One disk of one pass, kept for the record (`cbt_history`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CbtEntry {
    /// The VM.
    pub context: ContextId,
    /// The job; none once that was deleted.
    pub job: Option<JobId>,
    /// The disk.
    pub disk: DiskKey,
    /// The mark after the pass.
    pub change_id: Option<String>,
    /// The mark before it.
    pub previous_change_id: Option<String>,
    /// What kind of pass.
    pub sync_type: SyncType,
    /// Changed areas that the source named.
    pub blocks_changed: u64,
    /// Bytes written, zeros among them.
    pub bytes_transferred: u64,
    /// How long it took, in seconds.
    pub duration_seconds: u64,
    /// Whether it came to a point.
    pub success: bool,
    /// When it ended.
    pub created_at: Timestamp,
}
