//! A failover: the replica put to work, live or as a test.

use serde::{Deserialize, Serialize};

use super::FailoverStatus;
use crate::clock::Timestamp;
use crate::id::{ContextId, FailoverRow, JobId, PointId};

codes! {
    /// Which kind of failover.
    FailoverKind ("kind of failover") {
        /// The VM moves for good (until a rollback).
        Live => "live",
        /// A copy runs beside the source, on a network of its own.
        Test => "test",
    }
}

/// What the catalog knows of one failover (`failover_jobs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverJob {
    /// Its row.
    pub row: FailoverRow,
    /// Its job, the same in `job_tracking`.
    pub id: JobId,
    /// Its VM.
    pub context: ContextId,
    /// Which kind.
    pub kind: FailoverKind,
    /// Where it is.
    pub status: FailoverStatus,
    /// The point that was put to work.
    pub point: Option<PointId>,
    /// The source VM's name.
    pub source_vm_name: String,
    /// The source VM's specification when it began, as JSON.
    pub source_vm_spec: Option<serde_json::Value>,
    /// The VM that was made.
    pub destination_vm_id: Option<String>,
    /// The networks that were used, as JSON.
    pub network_mappings: Option<serde_json::Value>,
    /// Why it failed, in technical words.
    pub error_message: Option<String>,
    /// When a test ends by itself.
    pub cleanup_at: Option<Timestamp>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When a runner took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}
