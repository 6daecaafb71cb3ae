//! The states of everything that has one.

mod context;
mod enrollment;
mod execution;
mod failover;
mod job;
mod replication;
mod transfer;
mod volume;

pub use context::ContextStatus;
pub use enrollment::{ConnectionStatus, EnrollmentStatus};
pub use execution::ExecutionStatus;
pub use failover::FailoverStatus;
pub use job::{JobStatus, StepStatus};
pub use replication::ReplicationStatus;
pub use transfer::{DiskProgress, TransferStage, TransferStatus};
pub use volume::{ExportStatus, MappingStatus, OperationKind, OperationMode, OperationStatus, SnapshotStatus, VolumeStatus};
