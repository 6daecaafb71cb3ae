//! The states of everything that has one, and how each may change: one enum and one transition function for each machine.
//!
//! A state changes by a *trigger*: what happened. `next` says what becomes of the state, or refuses; nothing else decides it. The catalog's
//! UPDATE names the state it comes from, so two who saw the same state cannot both change it.
//!
//! `is_final`: nothing happens any more. `is_busy`: something is under way, and whoever does it must bring it out of this state; that
//! recovery always does so is shown by the search in `crash`.

use std::fmt;

use crate::error::{Error, ErrorKind};

mod context;
mod enrollment;
mod execution;
mod failover;
mod job;
mod point;
mod replication;
mod transfer;
mod volume;

#[cfg(test)]
mod tests;

pub use context::{ContextStatus, ContextTrigger};
pub use enrollment::{ConnectionStatus, ConnectionTrigger, EnrollmentStatus, EnrollmentTrigger};
pub use execution::{ExecutionStatus, ExecutionTrigger};
pub use failover::{FailoverStatus, FailoverTrigger};
pub use job::{IntentStatus, IntentTrigger, JobStatus, JobTrigger, StepStatus, StepTrigger};
pub use point::{PointStatus, PointTrigger};
pub use replication::{ReplicationStatus, ReplicationTrigger};
pub use transfer::{DiskProgress, TransferStage, TransferStatus, TransferTrigger};
pub use volume::{
    ExportStatus, ExportTrigger, MappingStatus, OperationKind, OperationMode, OperationStatus, OperationTrigger, SnapshotStatus,
    SnapshotTrigger, VolumeStatus, VolumeTrigger,
};

/// A change of state that its machine does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What has the state.
    pub machine: &'static str,
    /// The code of the state it is in.
    pub from: &'static str,
    /// The code of what happened.
    pub on: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} that is {} does not take {}", self.machine, self.from, self.on)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        Error::new(ErrorKind::InvalidInput, "change a state", refused.to_string())
    }
}
