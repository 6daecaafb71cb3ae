//! The nouns of the domain, and what may become of them: plain data with serde, no I/O, no async.
//!
//! A noun has the fields of its row in the catalog, typed: ids are newtypes, sizes are bytes, times are [`Timestamp`](crate::clock::Timestamp)s,
//! states are enums with one text code each. Text that is no known code is refused where it is read, so a damaged or newer catalog is found
//! at once and nothing is guessed.
//!
//! What this does not do: it reads no clock (but for what a caller hands in), knows no SQL, and holds no secret in the clear
//! ([`SealedText`] is ciphertext).
//!
//! Three functions decide what others act upon: [`Journal::next_move`] (what a runner does next), [`decide`] (what a job's state means after
//! a crash or a silence), [`standing`](standing()) (where a VM stands). No other place decides these.

#[macro_use]
mod code;

#[cfg(test)]
pub(crate) mod crash;

mod access;
mod cloud;
mod context;
mod credential;
mod disk;
mod enrollment;
mod event;
mod export;
mod failover;
mod feed;
mod job;
mod journal;
pub mod messages;
mod network;
mod percent;
mod point;
mod recovery;
mod replication;
mod runner;
mod schedule;
mod site;
mod standing;
mod state;
mod summary;
mod volume;

// One VM and what is known of it.
pub use context::{Context, JobCounts, OsFamily, PowerState};
pub use disk::{Disk, DiskSpec, Provisioning};
pub use network::{MappingType, MappingValidation, NetworkMapping};
pub use point::{CbtEntry, Point, PointDisk};
pub use standing::{FailoverMark, LastJob, Standing, StandingFacts, StandingWarning, hold_one_point, ready_for_failover, standing};

// Where its replica lives.
pub use export::{Export, ExportMapping};
pub use volume::{DeviceMapping, LedgerPlace, OperationChange, Volume, VolumeMetrics, VolumeMount, VolumeOperation, VolumeRole};

// What is done with it.
pub use event::{Event, EventKind};
pub use failover::{FailoverJob, FailoverKind};
pub use job::{Intent, Job, JobCategory, JobKind, JobLogLine, Lease, LogEvent, LogLevel, Step};
pub use percent::Percent;
pub use replication::{ReplicationJob, ReplicationMode, SyncType};
pub use runner::Runner;
pub use schedule::{Execution, Group, Membership, Schedule, ScheduleMode, ScheduleType};

// The states of all these, and what changes them.
pub use state::{
    ConnectionStatus, ConnectionTrigger, ContextStatus, ContextTrigger, DiskProgress, EnrollmentStatus, EnrollmentTrigger, ExecutionStatus,
    ExecutionTrigger, ExportStatus, ExportTrigger, FailoverStatus, FailoverTrigger, IntentStatus, IntentTrigger, JobStatus, JobTrigger,
    MappingStatus, OperationKind, OperationMode, OperationStatus, OperationTrigger, PointStatus, PointTrigger, Refused, ReplicationStatus,
    ReplicationTrigger, SnapshotStatus, SnapshotTrigger, StepStatus, StepTrigger, TransferStage, TransferStatus, TransferTrigger,
    VolumeStatus, VolumeTrigger,
};

// What is done next, and what a crash means.
pub use journal::{EffectMove, Journal, JournalStep, Move, RemovalMove, effect_move, removal_move};
pub use recovery::{ASKS, Decision, FinalReport, Leave, Lost, OtherSide, Owner, Proof, RecoveryFacts, UNREACHABLE_LIMIT, decide};

// What people see of it.
pub use feed::{ActiveJob, ContextCursor, ContextItem, ContextPage, FEED_PAGE, FEED_VERSION, FeedCursor, FeedItem, FeedPage, FeedRow};
pub use summary::OperationSummary;

// The world outside, and who may come in.
pub use access::{ApiToken, AuditEntry, Role, User};
pub use cloud::CloudConfig;
pub use credential::{SealedText, VmwareCredential};
pub use enrollment::{Connection, ConnectionAudit, ConnectionEvent, Enrollment, PairingCode};
pub use site::LocalSite;
