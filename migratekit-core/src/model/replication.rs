//! A replication: one run that brings the replica of a VM up to date.

use serde::{Deserialize, Serialize};

use super::{Percent, ReplicationStatus};
use crate::clock::Timestamp;
use crate::id::{CloudConfigId, ContextId, ExecutionId, GroupId, JobId, PointId};

codes! {
    /// What was asked for.
    ReplicationMode ("mode of replication") {
        /// Every block.
        Full => "full",
        /// What changed since the last point.
        Incremental => "incremental",
        /// Incremental where that is possible, disk by disk.
        Auto => "auto",
    }

    /// What a pass did.
    SyncType ("type of pass") {
        /// Every block, into a volume that held nothing.
        Full => "full",
        /// The changes that the source named.
        Incremental => "incremental",
        /// Both sides' digests, and the blocks that differ.
        Compare => "compare",
    }
}

/// What the catalog knows of one replication (`replication_jobs`); its id is that of its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationJob {
    /// Its id, the same in `job_tracking`.
    pub id: JobId,
    /// Its VM.
    pub context: ContextId,
    /// The VM's name when it began.
    pub vm_name: String,
    /// What was asked for.
    pub mode: ReplicationMode,
    /// Where it is.
    pub status: ReplicationStatus,
    /// How far it is; it never goes back.
    pub progress: Percent,
    /// How far its setup is, 0 to 85.
    pub setup_progress: Percent,
    /// What it does now, in technical words.
    pub current_operation: Option<String>,
    /// Bytes written, all disks, zeros among them.
    pub bytes_transferred: u64,
    /// Bytes to move, all disks; 0 while nobody knows.
    pub total_bytes: u64,
    /// Bytes a second, over the last seconds.
    pub transfer_speed_bps: u64,
    /// Why it failed, in technical words.
    pub error_message: Option<String>,
    /// The class of that failure.
    pub error_classification: Option<String>,
    /// The name of our snapshot at the source.
    pub snapshot_id: Option<String>,
    /// The point it made.
    pub point: Option<PointId>,
    /// The cloud it wrote to.
    pub cloud_config: Option<CloudConfigId>,
    /// The schedule's run that began it.
    pub execution: Option<ExecutionId>,
    /// Who or what began it.
    pub scheduled_by: Option<String>,
    /// The machine group it was begun for.
    pub group: Option<GroupId>,
    /// When the mover last said something.
    pub last_poll_at: Option<Timestamp>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When a runner took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}
