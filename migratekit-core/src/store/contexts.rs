//! The VMs under management as lists show them: found by name or place, paged with their last job, and taken out of management.

use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CloudConfigId, ContextId, CredentialId, EnrollmentId, JobId};
use crate::model::{Context, ContextStatus, JobCounts, JobKind, JobStatus, Percent};

/// The most rows of one page.
pub(super) const MAX_PAGE: u32 = 1000;

const COLUMNS: &str = "c.context_id, c.vm_name, c.vmware_vm_id, c.vmware_instance_uuid, c.vm_path, c.vcenter_host, c.datacenter, \
     c.current_status, c.last_successful_job_id, c.total_jobs_run, c.successful_jobs, c.failed_jobs, c.cpu_count, c.memory_bytes, c.os_type, \
     c.power_state, c.vm_tools_version, c.created_at, c.updated_at, c.first_job_at, c.last_job_at, c.last_status_change, c.auto_added, \
     c.last_scheduled_job_id, c.next_scheduled_at, c.scheduler_enabled, c.credential_id, c.ossea_config_id, c.enrollment_id, \
     c.local_site_id, c.epoch";

/// The VMs under management, in one transaction.
#[derive(Debug)]
pub struct Contexts<'t>(&'t Tx);

/// A job as a list of VMs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobBrief {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where it is.
    pub status: JobStatus,
    /// How far it is.
    pub percent: Percent,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// A VM with the job asked for last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextWithJob {
    /// The VM.
    pub context: Context,
    /// Its last job, if it ever had one that is still known.
    pub last_job: Option<JobBrief>,
}

/// What a VM is reached through and where its replica goes; `None` clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways<'a> {
    /// The credential of its vCenter.
    pub credential: Option<CredentialId>,
    /// The VMA.
    pub enrollment: Option<&'a EnrollmentId>,
    /// The cloud.
    pub cloud_config: Option<CloudConfigId>,
}

impl Tx {
    /// The VMs under management.
    #[must_use]
    pub fn contexts(&self) -> Contexts<'_> {
        Contexts(self)
    }
}

impl Contexts<'_> {
    /// Writes down a VM that comes under management, with all it is given here. [`ErrorKind::AlreadyExists`] when this machine of this
    /// source is; its name may be there already.
    pub async fn add(&self, vm: &Context) -> Result<()> {
        let text = "INSERT INTO vm_replication_contexts (context_id, vm_name, vmware_vm_id, vmware_instance_uuid, vm_path, vcenter_host, datacenter, \
             current_status, cpu_count, memory_bytes, os_type, power_state, vm_tools_version, created_at, updated_at, last_status_change, \
             auto_added, scheduler_enabled, credential_id, ossea_config_id, enrollment_id, local_site_id, epoch) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let statement = self.0.sql("take a VM under management", text).bind(&vm.id).bind(&vm.vm_name).bind(&vm.source_vm_id);
        let statement = statement.bind(vm.instance_uuid.as_ref()).bind(&vm.vm_path).bind(&vm.source_host).bind(&vm.datacenter);
        let statement = statement.bind(vm.status.code()).bind(vm.cpu_count).bind(vm.memory_bytes).bind(vm.os.code()).bind(vm.power.code());
        let statement = statement.bind(vm.tools_version.as_ref()).bind(vm.created_at).bind(vm.updated_at).bind(vm.last_status_change);
        let statement = statement.bind(vm.auto_added).bind(vm.scheduler_enabled).bind(vm.credential).bind(vm.cloud_config);
        statement.bind(vm.enrollment.as_ref()).bind(vm.site).bind(vm.epoch).run().await.map(|_| ())
    }

    /// The VM of this id, if it is under management.
    pub async fn get(&self, id: &ContextId) -> Result<Option<Context>> {
        let text = format!("SELECT {COLUMNS} FROM vm_replication_contexts c WHERE c.context_id = ?");
        self.0.sql("read a VM", text).bind(id).first(read).await
    }

    /// The VM that its source knows by this id.
    pub async fn by_source(&self, source_host: &str, source_vm_id: &str) -> Result<Option<Context>> {
        let text = format!("SELECT {COLUMNS} FROM vm_replication_contexts c WHERE c.vmware_vm_id = ? AND c.vcenter_host = ?");
        self.0.sql("look for a VM", text).bind(source_vm_id).bind(source_host).first(read).await
    }

    /// The VMs of this name, at most 1000: several may have it.
    pub async fn by_name(&self, name: &str) -> Result<Vec<Context>> {
        let text = format!("SELECT {COLUMNS} FROM vm_replication_contexts c WHERE c.vm_name = ? ORDER BY c.context_id LIMIT {MAX_PAGE}");
        self.0.sql("look for a VM", text).bind(name).all(read).await
    }

    /// A page of at most `limit` (up to 1000) VMs by name, each with its last job, behind the VM `after` of the page before.
    pub async fn page(&self, after: Option<(&str, &ContextId)>, limit: u32) -> Result<Vec<ContextWithJob>> {
        let behind = if after.is_some() { "WHERE c.vm_name > ? OR (c.vm_name = ? AND c.context_id > ?)" } else { "" };
        let text = format!(
            "SELECT {COLUMNS}, j.id AS job_id, j.operation AS job_kind, j.status AS job_status, j.percent_complete AS job_percent, \
             j.created_at AS job_created_at \
             FROM (SELECT context_id AS id FROM vm_replication_contexts c {behind} ORDER BY c.vm_name, c.context_id LIMIT {limit}) AS page \
             JOIN vm_replication_contexts c ON c.context_id = page.id \
             LEFT JOIN job_tracking j ON j.id = \
             (SELECT l.id FROM job_tracking l WHERE l.context_id = c.context_id ORDER BY l.created_at DESC, l.id DESC LIMIT 1) \
             ORDER BY c.vm_name, c.context_id",
            limit = limit.clamp(1, MAX_PAGE)
        );
        let mut statement = self.0.sql("list the VMs", text);
        if let Some((name, id)) = after {
            statement = statement.bind(name).bind(name).bind(id);
        }
        statement.all(|row| Ok(ContextWithJob { context: read(row)?, last_job: brief(row)? })).await
    }

    /// How many VMs are under management.
    pub async fn count(&self) -> Result<u64> {
        let counted = self.0.sql("count the VMs", "SELECT COUNT(*) AS n FROM vm_replication_contexts");
        counted.one("nothing was counted", |row| row.number("n")).await
    }

    /// Changes what a VM is reached through and where its replica goes.
    pub async fn set_ways(&self, id: &ContextId, ways: Ways<'_>) -> Result<()> {
        let text = format!(
            "UPDATE vm_replication_contexts SET credential_id = ?, enrollment_id = ?, ossea_config_id = ?, updated_at = {} WHERE context_id = ?",
            dialect::now(self.0.backend())
        );
        let statement = self.0.sql("change the ways of a VM", text).bind(ways.credential).bind(ways.enrollment).bind(ways.cloud_config);
        statement.bind(id).run_found(NO_VM).await
    }

    /// Whether schedules may begin jobs of a VM, and when the next will.
    pub async fn set_scheduling(&self, id: &ContextId, enabled: bool, next: Option<Timestamp>) -> Result<()> {
        let text = format!(
            "UPDATE vm_replication_contexts SET scheduler_enabled = ?, next_scheduled_at = ?, updated_at = {} WHERE context_id = ?",
            dialect::now(self.0.backend())
        );
        self.0.sql("change the scheduling of a VM", text).bind(enabled).bind(next).bind(id).run_found(NO_VM).await
    }

    /// Writes down what the last operation on a VM did.
    pub async fn set_summary(&self, id: &ContextId, summary: &serde_json::Value) -> Result<()> {
        let text = format!(
            "UPDATE vm_replication_contexts SET last_operation_summary = ?, updated_at = {} WHERE context_id = ?",
            dialect::now(self.0.backend())
        );
        self.0.sql("write the summary of an operation", text).bind(summary).bind(id).run_found(NO_VM).await
    }

    /// What the last operation on a VM did.
    pub async fn summary(&self, id: &ContextId) -> Result<Option<serde_json::Value>> {
        let text = "SELECT last_operation_summary FROM vm_replication_contexts WHERE context_id = ?";
        self.0.sql("read the summary of an operation", text).bind(id).one(NO_VM, |row| row.json_or_none("last_operation_summary")).await
    }

    /// The VM, with its row held: until this transaction ends nobody else changes it or begins a job of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`], naming the job, while one of it is active.
    pub async fn hold(&self, id: &ContextId) -> Result<Context> {
        const HOLD: &str = "hold a VM";
        let text =
            format!("SELECT {COLUMNS} FROM vm_replication_contexts c WHERE c.context_id = ?{}", dialect::for_update(self.0.backend()));
        let vm = self.0.sql(HOLD, text).bind(id).one(NO_VM, read).await.map_err(|error| error.with("context", id))?;
        match self.0.jobs().active_of(id).await? {
            Some(job) => Err(Error::new(ErrorKind::Busy, HOLD, "a job of it is active; cancel it or wait for it")
                .with("VM", vm.vm_name)
                .with("job", job)),
            None => Ok(vm),
        }
    }

    /// Takes a VM out of management, and all that is known of it; its jobs stay in the history, with its name.
    ///
    /// # Errors
    /// Those of [`Contexts::hold`]; [`ErrorKind::Busy`] while something outside is known by it alone: volumes, exports, a failover's machine.
    pub async fn remove(&self, id: &ContextId) -> Result<()> {
        const REMOVE: &str = "take a VM out of management";
        let vm = self.hold(id).await?;
        let stays = |why: &'static str| Error::new(ErrorKind::Busy, REMOVE, why).with("VM", &vm.vm_name);
        if matches!(vm.status, ContextStatus::FailedOverTest | ContextStatus::FailedOverLive) {
            return Err(stays("it is failed over, and the machine in the cloud is known by it alone; end the failover first"));
        }
        for (table, why) in [
            (
                "ossea_volumes",
                "volumes that hold its replica are known by it alone; `migratekit vm remove --with-volumes` removes them first",
            ),
            ("nbd_exports", "exports of its volumes are known by it alone; end them first"),
        ] {
            let text = format!("SELECT COUNT(*) AS n FROM {table} WHERE vm_context_id = ?");
            let left: u64 = self.0.sql(REMOVE, text).bind(id).one("nothing was counted", |row| row.number("n")).await?;
            if left > 0 {
                return Err(stays(why).with("count", left));
            }
        }
        self.0.sql(REMOVE, "UPDATE job_tracking SET context_id = NULL WHERE context_id = ?").bind(id).run().await?;
        self.0.sql(REMOVE, "DELETE FROM vm_replication_contexts WHERE context_id = ?").bind(id).run_found(NO_VM).await
    }
}

const NO_VM: &str = "no VM under management has this id";

fn read(row: &Row) -> Result<Context> {
    Ok(Context {
        id: row.parse("context_id")?,
        vm_name: row.text("vm_name")?,
        source_vm_id: row.text("vmware_vm_id")?,
        instance_uuid: row.text_or_none("vmware_instance_uuid")?,
        vm_path: row.text("vm_path")?,
        source_host: row.text("vcenter_host")?,
        datacenter: row.text("datacenter")?,
        status: row.parse("current_status")?,
        last_successful_job: row.parse_or_none("last_successful_job_id")?,
        jobs: JobCounts {
            total: row.number("total_jobs_run")?,
            successful: row.number("successful_jobs")?,
            failed: row.number("failed_jobs")?,
        },
        cpu_count: row.number("cpu_count")?,
        memory_bytes: row.number("memory_bytes")?,
        os: row.parse("os_type")?,
        power: row.parse("power_state")?,
        tools_version: row.text_or_none("vm_tools_version")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        first_job_at: row.time_or_none("first_job_at")?,
        last_job_at: row.time_or_none("last_job_at")?,
        last_status_change: row.time("last_status_change")?,
        auto_added: row.flag("auto_added")?,
        last_scheduled_job: row.parse_or_none("last_scheduled_job_id")?,
        next_scheduled_at: row.time_or_none("next_scheduled_at")?,
        scheduler_enabled: row.flag("scheduler_enabled")?,
        credential: row.number_or_none("credential_id")?,
        cloud_config: row.number_or_none("ossea_config_id")?,
        enrollment: row.parse_or_none("enrollment_id")?,
        site: row.number_or_none("local_site_id")?,
        epoch: row.number("epoch")?,
    })
}

fn brief(row: &Row) -> Result<Option<JobBrief>> {
    let Some(id) = row.parse_or_none("job_id")? else { return Ok(None) };
    let percent: u8 = row.number("job_percent")?;
    Ok(Some(JobBrief {
        id,
        kind: row.parse("job_kind")?,
        status: row.parse("job_status")?,
        percent: Percent::capped(percent),
        created_at: row.time("job_created_at")?,
    }))
}
