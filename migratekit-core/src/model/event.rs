//! Events: what changed, told in the order of the changes. A row is written in the transaction of the change.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{ContextId, EventId, JobId};

codes! {
    /// What an event tells.
    EventKind ("kind of event") {
        /// A job was asked for.
        JobCreated => "job_created",
        /// A job's status changed.
        JobStatus => "job_status",
        /// A job came further; at most one a second.
        JobProgress => "job_progress",
        /// A step's status changed.
        StepStatus => "step_status",
        /// A context came under management, or left it.
        ContextAdded => "context_added",
        /// A context left management.
        ContextRemoved => "context_removed",
        /// A context's status changed.
        ContextStatus => "context_status",
        /// A point was committed.
        PointCommitted => "point_committed",
        /// A point is in the volumes.
        PointApplied => "point_applied",
        /// A runner began.
        RunnerStarted => "runner_started",
        /// A runner ended.
        RunnerStopped => "runner_stopped",
        /// What recovery found and did.
        Recovery => "recovery",
        /// Something is wrong that nobody's job is.
        Warning => "warning",
    }
}

/// One event (`events`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; rising in the order of the changes.
    pub id: EventId,
    /// What it tells.
    pub kind: EventKind,
    /// The VM.
    pub context: Option<ContextId>,
    /// The job.
    pub job: Option<JobId>,
    /// What belongs to it: codes and numbers, no technical text that people must not see.
    pub data: serde_json::Value,
    /// When.
    pub at: Timestamp,
}
