//! The context: one VM under management, the root of everything known of it.

use serde::{Deserialize, Serialize};

use super::ContextStatus;
use crate::clock::Timestamp;
use crate::id::{CloudConfigId, ContextId, CredentialId, EnrollmentId, Epoch, JobId, SiteId};

codes! {
    /// What runs in the VM, as far as it is known.
    OsFamily ("family of operating systems") {
        /// Windows.
        Windows => "windows",
        /// Linux.
        Linux => "linux",
        /// Known, and neither.
        Other => "other",
        /// Nobody could tell (a VM that is off, without guest tools).
        Unknown => "unknown",
    }

    /// Whether the source VM runs.
    PowerState ("power state") {
        /// It runs.
        On => "on",
        /// It does not.
        Off => "off",
        /// It is suspended to disk.
        Suspended => "suspended",
        /// The source did not say.
        Unknown => "unknown",
    }
}

/// How many jobs a context had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobCounts {
    /// All that ended or run.
    pub total: u64,
    /// Those that completed.
    pub successful: u64,
    /// Those that failed.
    pub failed: u64,
}

/// One VM under management (`vm_replication_contexts`). Whether it is busy is not here: that follows from its jobs. The summary of its
/// last operation is read by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its id.
    pub id: ContextId,
    /// The VM's name at its source; names may repeat.
    pub vm_name: String,
    /// The source's own id of the VM, unique there (`vmware_vm_id`).
    pub source_vm_id: String,
    /// The instance uuid, when the source has one: another one means another VM.
    pub instance_uuid: Option<String>,
    /// Where the VM lies in the source's inventory.
    pub vm_path: String,
    /// The source's host name (a vCenter), or the name of a local site.
    pub source_host: String,
    /// The datacenter there; empty for a source that has none.
    pub datacenter: String,
    /// The derived status.
    pub status: ContextStatus,
    /// The last job that completed.
    pub last_successful_job: Option<JobId>,
    /// How many jobs there were.
    pub jobs: JobCounts,
    /// Virtual processors.
    pub cpu_count: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The operating system.
    pub os: OsFamily,
    /// Whether the source ran when it was last looked at.
    pub power: PowerState,
    /// The version of the guest tools.
    pub tools_version: Option<String>,
    /// When it came under management.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When its first job began.
    pub first_job_at: Option<Timestamp>,
    /// When its last job began.
    pub last_job_at: Option<Timestamp>,
    /// When its status last changed.
    pub last_status_change: Timestamp,
    /// Whether discovery added it, not a first replication.
    pub auto_added: bool,
    /// The last job that a schedule began.
    pub last_scheduled_job: Option<JobId>,
    /// When a schedule will begin the next.
    pub next_scheduled_at: Option<Timestamp>,
    /// Whether schedules may begin jobs of it.
    pub scheduler_enabled: bool,
    /// The credential with which its source is reached.
    pub credential: Option<CredentialId>,
    /// The cloud that holds its replica.
    pub cloud_config: Option<CloudConfigId>,
    /// The VMA that reaches its source.
    pub enrollment: Option<EnrollmentId>,
    /// The local site it lives on, when its source is one.
    pub site: Option<SiteId>,
    /// The highest epoch that was ever given to a job of it.
    pub epoch: Epoch,
}

impl Context {
    /// A VM as it comes under management at this time: known by its name and its source's id of it, never replicated.
    #[must_use]
    pub fn discovered(vm_name: &str, source_host: &str, source_vm_id: &str, at: Timestamp) -> Self {
        Context {
            id: ContextId::generate(),
            vm_name: vm_name.to_owned(),
            source_vm_id: source_vm_id.to_owned(),
            instance_uuid: None,
            vm_path: String::new(),
            source_host: source_host.to_owned(),
            datacenter: String::new(),
            status: ContextStatus::Discovered,
            last_successful_job: None,
            jobs: JobCounts::default(),
            cpu_count: 0,
            memory_bytes: 0,
            os: OsFamily::Unknown,
            power: PowerState::Unknown,
            tools_version: None,
            created_at: at,
            updated_at: at,
            first_job_at: None,
            last_job_at: None,
            last_status_change: at,
            auto_added: false,
            last_scheduled_job: None,
            next_scheduled_at: None,
            scheduler_enabled: true,
            credential: None,
            cloud_config: None,
            enrollment: None,
            site: None,
            epoch: Epoch::NONE,
        }
    }
}
