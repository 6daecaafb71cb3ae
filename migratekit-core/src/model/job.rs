//! Jobs, their steps, their intents and what they say: how anything long runs.

use serde::{Deserialize, Serialize};

use super::{IntentStatus, JobStatus, Percent, StepStatus};
use crate::clock::Timestamp;
use crate::id::{ContextId, Epoch, IntentId, JobId, LogId, RunnerId, StepId};

codes! {
    /// What a job does (`job_tracking.operation`): the saga that runs it.
    JobKind ("kind of job") {
        /// Brings a replica up to date.
        Replication => "replication",
        /// Puts the replica to work for good.
        LiveFailover => "live_failover",
        /// Puts a copy of the replica to work beside the source.
        TestFailover => "test_failover",
        /// Ends a test failover.
        TestCleanup => "test_cleanup",
        /// Undoes a live failover.
        Rollback => "rollback",
        /// Makes a live failover final.
        Commit => "commit",
        /// Mends what a failed failover left.
        FailedCleanup => "failed_cleanup",
        /// Looks at a source's VMs.
        Discovery => "discovery",
        /// Compares a replica with its source.
        Verify => "verify",
        /// One run of a schedule.
        ScheduleRun => "schedule_run",
        /// Several VMs at once.
        Bulk => "bulk",
        /// Takes a VM and its replica out of management.
        Removal => "removal",
    }

    /// The class that lists and filters go by (`job_tracking.job_category`).
    JobCategory ("category of jobs") {
        /// The product's own upkeep.
        System => "system",
        /// Failovers, and what undoes them.
        Failover => "failover",
        /// Replications and their proofs.
        Replication => "replication",
        /// Runs of schedules.
        Scheduler => "scheduler",
        /// Looks at sources.
        Discovery => "discovery",
        /// Several VMs at once.
        Bulk => "bulk",
    }

    /// How loud a log line is.
    LogLevel ("log level") {
        /// For who looks for a fault.
        Debug => "DEBUG",
        /// The normal course.
        Info => "INFO",
        /// Odd, and survived.
        Warn => "WARN",
        /// Something failed.
        Error => "ERROR",
    }
}

impl JobKind {
    /// The class of lists it belongs to.
    #[must_use]
    pub fn category(self) -> JobCategory {
        match self {
            JobKind::Replication | JobKind::Verify => JobCategory::Replication,
            JobKind::LiveFailover | JobKind::TestFailover | JobKind::TestCleanup | JobKind::Rollback | JobKind::Commit => {
                JobCategory::Failover
            }
            JobKind::FailedCleanup => JobCategory::Failover,
            JobKind::Discovery => JobCategory::Discovery,
            JobKind::ScheduleRun => JobCategory::Scheduler,
            JobKind::Bulk => JobCategory::Bulk,
            JobKind::Removal => JobCategory::System,
        }
    }

    /// Whether such a job works on the VM's machines or takes its volumes away, so that, where it cannot go on, only a person can: nothing
    /// else is begun before. A replication is none: the next one mends what it left.
    #[must_use]
    pub fn holds_back(self) -> bool {
        match self {
            JobKind::LiveFailover | JobKind::TestFailover | JobKind::TestCleanup | JobKind::Rollback => true,
            JobKind::Commit | JobKind::FailedCleanup | JobKind::Removal => true,
            JobKind::Replication | JobKind::Discovery | JobKind::Verify | JobKind::ScheduleRun | JobKind::Bulk => false,
        }
    }
}

/// Who may run a job, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The runner that holds it.
    pub owner: RunnerId,
    /// What its writes carry; a later owner has a higher one.
    pub epoch: Epoch,
    /// When it ends unless it is renewed, by the database's clock.
    pub until: Timestamp,
    /// How often it was renewed: an observer watches this stand still by its own monotonic clock.
    pub renewals: u64,
}

/// One operation (`job_tracking`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id, the same in every table.
    pub id: JobId,
    /// The job that began it.
    pub parent: Option<JobId>,
    /// What it does.
    pub kind: JobKind,
    /// The class of lists.
    pub category: JobCategory,
    /// Its VM, for jobs of one.
    pub context: Option<ContextId>,
    /// Where it is.
    pub status: JobStatus,
    /// How far it is; it never goes back.
    pub percent: Percent,
    /// Its input, as its saga reads it; versioned by the saga.
    pub input: serde_json::Value,
    /// What came of it, as its saga wrote it.
    pub outcome: Option<serde_json::Value>,
    /// Why it failed, in technical words.
    pub error_message: Option<String>,
    /// The kind of that failure: the code of an [`ErrorKind`](crate::error::ErrorKind).
    pub error_kind: Option<String>,
    /// The step that failed.
    pub failed_step: Option<String>,
    /// What has to be done next, when it needs attention: the code of an action.
    pub next_action: Option<String>,
    /// Whether somebody asked it to end.
    pub cancel_requested: bool,
    /// Whether somebody asked it to pause.
    pub pause_requested: bool,
    /// Whether a person had it undone after it needed attention.
    pub undo_requested: bool,
    /// Whether its pivot was committed: from there it is only ever finished.
    pub pivot_crossed: bool,
    /// Who may run it.
    pub lease: Option<Lease>,
    /// A job of the cloud or of a VMA that stands behind it.
    pub external_id: Option<String>,
    /// Who asked for it.
    pub created_by: Option<String>,
    /// Since when the other side cannot be reached.
    pub unreachable_since: Option<Timestamp>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a runner took it first.
    pub started_at: Option<Timestamp>,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When it came to rest.
    pub completed_at: Option<Timestamp>,
}

/// One step of a job (`job_steps`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its row.
    pub id: StepId,
    /// Its job.
    pub job: JobId,
    /// Its place, from 0; unique in the job.
    pub sequence: u32,
    /// Its name, as the saga has it.
    pub name: String,
    /// Where it is.
    pub status: StepStatus,
    /// How often it was begun in its present direction (done, or undone).
    pub attempt: u32,
    /// When it was begun last.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Why it failed, in technical words.
    pub error_message: Option<String>,
    /// What it left for the steps after it and for its undo.
    pub output: Option<serde_json::Value>,
}

/// Something that a job makes outside (`job_intents`): written down before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its row.
    pub id: IntentId,
    /// The job.
    pub job: JobId,
    /// The step's name.
    pub step: String,
    /// What kind of thing: `snapshot`, `volume`, `export`, `spool`, `process`.
    pub kind: String,
    /// The name by which the world is asked for it; unique in the job.
    pub name: String,
    /// Where it is.
    pub status: IntentStatus,
    /// The thing's id, once it exists.
    pub effect: Option<String>,
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// When it was written down.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A line that a job wrote about itself (`job_execution_log`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLogLine {
    /// Its row.
    pub id: LogId,
    /// The job.
    pub job: JobId,
    /// How loud.
    pub level: LogLevel,
    /// What is said, in technical words.
    pub message: String,
    /// What belongs to it.
    pub details: Option<serde_json::Value>,
    /// The step's name.
    pub phase: Option<String>,
    /// When.
    pub created_at: Timestamp,
}

/// A line of the program's log (`log_events`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEvent {
    /// Its row.
    pub id: LogId,
    /// The job it was said in; none once that was deleted.
    pub job: Option<JobId>,
    /// The step it was said in.
    pub step: Option<StepId>,
    /// How loud.
    pub level: LogLevel,
    /// What is said, in technical words.
    pub message: String,
    /// The fields.
    pub attrs: Option<serde_json::Value>,
    /// When.
    pub at: Timestamp,
}
