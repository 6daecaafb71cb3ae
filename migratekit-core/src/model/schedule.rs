//! When things run, and for whom: schedules, machine groups, memberships, executions.

use serde::{Deserialize, Serialize};

use super::{ExecutionStatus, ReplicationMode};
use crate::clock::Timestamp;
use crate::id::{ContextId, ExecutionId, GroupId, MembershipId, ScheduleId};

codes! {
    /// What sets a schedule off.
    ScheduleType ("type of schedule") {
        /// A time.
        Cron => "cron",
        /// The end of another.
        Chain => "chain",
    }
}

/// What a schedule begins: the same modes as by hand.
pub type ScheduleMode = ReplicationMode;

/// A schedule (`replication_schedules`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its id.
    pub id: ScheduleId,
    /// Its name, unique.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What sets it off.
    pub kind: ScheduleType,
    /// The time, with seconds; for the type `cron`.
    pub cron_expression: Option<String>,
    /// The time zone that the expression is meant in.
    pub timezone: String,
    /// The schedule whose end sets it off; for the type `chain`.
    pub chain_parent: Option<ScheduleId>,
    /// How long after that end, in minutes.
    pub chain_delay_minutes: u32,
    /// What it begins.
    pub mode: ScheduleMode,
    /// How many of its jobs run at once.
    pub max_concurrent_jobs: u32,
    /// How often a failed VM is tried again.
    pub retry_attempts: u32,
    /// How long before it is, in minutes.
    pub retry_delay_minutes: u32,
    /// Whether it is on.
    pub enabled: bool,
    /// Whether a VM that is busy is left out, instead of waited for.
    pub skip_if_running: bool,
    /// Who made it.
    pub created_by: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A machine group (`vm_machine_groups`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its name, unique.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its schedule.
    pub schedule: Option<ScheduleId>,
    /// How many of its VMs run at once.
    pub max_concurrent_vms: u32,
    /// Its turn; lower comes first.
    pub priority: i32,
    /// Who made it.
    pub created_by: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A VM's place in a group (`vm_group_memberships`). A VM may be in several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its id.
    pub id: MembershipId,
    /// The group.
    pub group: GroupId,
    /// The VM.
    pub context: ContextId,
    /// Whether the group's schedule counts for it.
    pub enabled: bool,
    /// Its turn in the group; lower comes first.
    pub priority: i32,
    /// A schedule of its own instead of the group's.
    pub schedule_override: Option<ScheduleId>,
    /// When it joined.
    pub added_at: Timestamp,
}

/// One run of a schedule (`schedule_executions`); unique by schedule and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// The schedule.
    pub schedule: ScheduleId,
    /// The group it ran for.
    pub group: Option<GroupId>,
    /// When it was due.
    pub scheduled_at: Timestamp,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When the last of its jobs ended.
    pub completed_at: Option<Timestamp>,
    /// Where it is.
    pub status: ExecutionStatus,
    /// VMs that it was for.
    pub vms_eligible: u32,
    /// Jobs it began.
    pub jobs_created: u32,
    /// Jobs of it that completed.
    pub jobs_completed: u32,
    /// Jobs of it that failed.
    pub jobs_failed: u32,
    /// VMs left out, with a reason in the details.
    pub jobs_skipped: u32,
    /// What happened, VM by VM.
    pub details: Option<serde_json::Value>,
    /// What went wrong, VM by VM.
    pub errors: Option<serde_json::Value>,
    /// Who or what set it off.
    pub triggered_by: String,
    /// When the row was made.
    pub created_at: Timestamp,
}
