//! The VMs under management (`vm_replication_contexts`): taken in, found, looked at, changed, let go. The list that people see is
//! [`Feed::contexts`](super::Feed::contexts).

use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CloudConfigId, ContextId, CredentialId, EnrollmentId, JobId};
use crate::model::{Context, ContextStatus, ContextTrigger, JobCounts, OsFamily, PowerState};

/// The most rows of one page.
pub(super) const MAX_PAGE: u32 = 1000;

const COLUMNS: &str = "context_id, vm_name, vmware_vm_id, vmware_instance_uuid, vm_path, vcenter_host, datacenter, \
     current_status, last_successful_job_id, total_jobs_run, successful_jobs, failed_jobs, cpu_count, memory_bytes, os_type, \
     power_state, vm_tools_version, created_at, updated_at, first_job_at, last_job_at, last_status_change, auto_added, \
     last_scheduled_job_id, next_scheduled_at, scheduler_enabled, credential_id, ossea_config_id, enrollment_id, \
     local_site_id, epoch";

/// The VMs under management, in one transaction.
#[derive(Debug)]
pub struct Contexts<'t>(&'t Tx);

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

/// A VM as its source describes it now.
#[derive(Debug, Clone, Copy)]
pub struct VmLook<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its instance uuid.
    pub instance_uuid: &'a str,
    /// Where it lies.
    pub path: &'a str,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The system in it.
    pub os: OsFamily,
    /// Whether it runs.
    pub power: PowerState,
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

    /// The VM. [`ErrorKind::NotFound`] when it is not under management.
    pub async fn get(&self, id: &ContextId) -> Result<Context> {
        let text = format!("SELECT {COLUMNS} FROM vm_replication_contexts WHERE context_id = ?");
        self.0.sql("read a VM", text).bind(id).one(NO_VM, read).await.map_err(|e| e.with("context", id))
    }

    /// The VM that its source knows by this id.
    pub async fn by_source(&self, source_host: &str, source_vm_id: &str) -> Result<Option<Context>> {
        let text = format!("SELECT {COLUMNS} FROM vm_replication_contexts WHERE vmware_vm_id = ? AND vcenter_host = ?");
        self.0.sql("look for a VM", text).bind(source_vm_id).bind(source_host).first(read).await
    }

    /// The VMs of this name, at most 1000: several may have it.
    pub async fn by_name(&self, name: &str) -> Result<Vec<Context>> {
        let text = format!("SELECT {COLUMNS} FROM vm_replication_contexts WHERE vm_name = ? ORDER BY context_id LIMIT {MAX_PAGE}");
        self.0.sql("look for a VM", text).bind(name).all(read).await
    }

    /// Writes down how the source describes the VM.
    pub async fn look(&self, id: &ContextId, look: &VmLook<'_>) -> Result<()> {
        let text = format!(
            "UPDATE vm_replication_contexts SET vm_name = ?, vmware_instance_uuid = ?, vm_path = ?, cpu_count = ?, memory_bytes = ?, os_type = ?, \
             power_state = ?, updated_at = {} WHERE context_id = ?",
            dialect::now(self.0.backend())
        );
        let statement = self.0.sql("write a VM down", text).bind(look.name).bind(look.instance_uuid).bind(look.path).bind(look.cpus);
        let statement = statement.bind(look.memory_bytes).bind(look.os.code()).bind(look.power.code()).bind(id);
        statement.run_found(NO_VM).await
    }

    /// Changes the status of a VM, as far as `on` changes it, provided it is as it was read.
    pub async fn change(&self, seen: &Context, on: ContextTrigger) -> Result<ContextStatus> {
        let to = seen.status.next(on)?;
        let text = format!(
            "UPDATE vm_replication_contexts SET current_status = ?, last_status_change = {0}, updated_at = {0} WHERE context_id = ? AND current_status = ?",
            dialect::now(self.0.backend())
        );
        let statement = self.0.sql("change the status of a VM", text).bind(to.code()).bind(&seen.id).bind(seen.status.code());
        match statement.run().await? {
            0 => Err(Error::new(ErrorKind::Changed, "change the status of a VM", "it is not what it was").with("context", &seen.id)),
            _ => Ok(to),
        }
    }

    /// Counts a replication that ended; one that completed becomes the last successful one.
    pub async fn count(&self, id: &ContextId, job: &JobId, counts: JobCounts, completed: bool) -> Result<()> {
        let text = format!(
            "UPDATE vm_replication_contexts SET total_jobs_run = ?, successful_jobs = ?, failed_jobs = ?, \
             last_successful_job_id = CASE WHEN ? THEN ? ELSE last_successful_job_id END, updated_at = {} WHERE context_id = ?",
            dialect::now(self.0.backend())
        );
        let statement = self.0.sql("count a replication", text).bind(counts.total).bind(counts.successful).bind(counts.failed);
        statement.bind(completed).bind(job).bind(id).run_found(NO_VM).await
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

    /// The VM, with its row held: until this transaction ends nobody else changes it or begins a job of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`], naming the job, while one of it is active.
    pub async fn hold(&self, id: &ContextId) -> Result<Context> {
        const HOLD: &str = "hold a VM";
        // A write, so that a cluster too sees that it and the begin of a job, which writes this row, cannot both be.
        let text = format!("UPDATE vm_replication_contexts SET updated_at = {} WHERE context_id = ?", dialect::now(self.0.backend()));
        self.0.sql(HOLD, text).bind(id).run_found(NO_VM).await.map_err(|error| error.with("context", id))?;
        let vm = self.get(id).await?;
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
        // Its jobs are history from now on, and as old as that.
        let text = "UPDATE job_tracking SET context_id = NULL, updated_at = ? WHERE context_id = ?";
        self.0.sql(REMOVE, text).bind(self.0.now().await?).bind(id).run().await?;
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
