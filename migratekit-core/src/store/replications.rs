//! Replications (`replication_jobs`), and the VMs they are of (`vm_replication_contexts`).

use super::row::Row;
use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, JobId, PointId, SiteId};
use crate::model::{
    Context, ContextStatus, ContextTrigger, JobCounts, OsFamily, Percent, PowerState, ReplicationMode, ReplicationStatus,
    ReplicationTrigger, VolumeStatus,
};

const CONTEXT: &str = "context_id, vm_name, vmware_vm_id, vmware_instance_uuid, vm_path, vcenter_host, datacenter, current_status, \
     last_successful_job_id, total_jobs_run, successful_jobs, failed_jobs, cpu_count, memory_bytes, os_type, power_state, vm_tools_version, \
     created_at, updated_at, first_job_at, last_job_at, last_status_change, auto_added, last_scheduled_job_id, next_scheduled_at, \
     scheduler_enabled, credential_id, ossea_config_id, enrollment_id, local_site_id, epoch";

/// Replications, in one transaction.
#[derive(Debug)]
pub struct Replications<'t>(&'t Tx);

/// A VM that comes under management.
#[derive(Debug, Clone)]
pub struct NewContext<'a> {
    /// Its id.
    pub id: &'a ContextId,
    /// Its name at the source.
    pub vm_name: &'a str,
    /// The source's id of it.
    pub source_vm_id: &'a str,
    /// Its instance uuid.
    pub instance_uuid: Option<&'a str>,
    /// Where it lies in the source's inventory.
    pub vm_path: &'a str,
    /// The source's host, or the name of the local site.
    pub source_host: &'a str,
    /// The local site, if its source is one.
    pub site: Option<SiteId>,
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

/// How a replication ended, for its row.
#[derive(Debug, Clone, Copy)]
pub struct ReplicationEnd<'a> {
    /// What happened to it.
    pub trigger: ReplicationTrigger,
    /// Why it failed, in technical words.
    pub error: Option<&'a str>,
    /// The kind of that error.
    pub error_kind: Option<&'a str>,
    /// The point it made.
    pub point: Option<&'a PointId>,
}

impl Tx {
    /// Replications, and the VMs they are of.
    #[must_use]
    pub fn replications(&self) -> Replications<'_> {
        Replications(self)
    }
}

impl Replications<'_> {
    fn now(&self) -> &'static str {
        dialect::now(self.0.backend())
    }

    /// Takes a VM under management. [`ErrorKind::AlreadyExists`] when it is.
    pub async fn add_context(&self, new: &NewContext<'_>) -> Result<()> {
        let text = format!(
            "INSERT INTO vm_replication_contexts (context_id, vm_name, vmware_vm_id, vmware_instance_uuid, vm_path, vcenter_host, datacenter, \
             current_status, local_site_id, created_at, updated_at, last_status_change) VALUES (?, ?, ?, ?, ?, ?, '', ?, ?, {now}, {now}, {now})",
            now = self.now()
        );
        let statement = self.0.sql("take a VM under management", text).bind(new.id).bind(new.vm_name).bind(new.source_vm_id);
        let statement = statement.bind(new.instance_uuid).bind(new.vm_path).bind(new.source_host).bind(ContextStatus::Discovered.code());
        statement.bind(new.site).run().await.map(|_| ())
    }

    /// The VM. [`ErrorKind::NotFound`] when it is not under management.
    pub async fn context(&self, id: &ContextId) -> Result<Context> {
        let text = format!("SELECT {CONTEXT} FROM vm_replication_contexts WHERE context_id = ?");
        let read = self.0.sql("read a VM", text).bind(id).one("no VM under management has this id", context);
        read.await.map_err(|e| e.with("context", id))
    }

    /// Writes down how the source describes the VM.
    pub async fn look(&self, id: &ContextId, look: &VmLook<'_>) -> Result<()> {
        let text = format!(
            "UPDATE vm_replication_contexts SET vm_name = ?, vmware_instance_uuid = ?, vm_path = ?, cpu_count = ?, memory_bytes = ?, os_type = ?, \
             power_state = ?, updated_at = {} WHERE context_id = ?",
            self.now()
        );
        let statement = self.0.sql("write a VM down", text).bind(look.name).bind(look.instance_uuid).bind(look.path).bind(look.cpus);
        let statement = statement.bind(look.memory_bytes).bind(look.os.code()).bind(look.power.code()).bind(id);
        statement.run_found("no VM under management has this id").await
    }

    /// Changes the status of a VM, as far as `on` changes it, provided it is as it was read.
    pub async fn change_context(&self, seen: &Context, on: ContextTrigger) -> Result<ContextStatus> {
        let to = seen.status.next(on)?;
        let text = format!(
            "UPDATE vm_replication_contexts SET current_status = ?, last_status_change = {0}, updated_at = {0} WHERE context_id = ? AND current_status = ?",
            self.now()
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
            self.now()
        );
        let statement = self.0.sql("count a replication", text).bind(counts.total).bind(counts.successful).bind(counts.failed);
        statement.bind(completed).bind(job).bind(id).run_found("no VM under management has this id").await
    }

    /// Writes a replication down as it is asked for; its job's row is there.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: the VM's replica was given up, and is being removed.
    pub async fn begin(&self, job: &JobId, of: &Context, mode: ReplicationMode) -> Result<()> {
        let text = "SELECT COUNT(*) AS n FROM ossea_volumes WHERE vm_context_id = ? AND status = ?";
        let going = self.0.sql("begin a replication", text).bind(&of.id).bind(VolumeStatus::Destroy.code());
        if going.one("nothing was counted", |row| row.number::<u64>("n")).await? > 0 {
            let text = "its replica was given up; finish that with `migratekit vm remove --with-volumes`, then add it again";
            return Err(Error::new(ErrorKind::Busy, "begin a replication", text).with("VM", &of.vm_name));
        }
        let text = format!(
            "INSERT INTO replication_jobs (id, vm_context_id, source_vm_id, source_vm_name, source_vm_path, v_center_host, datacenter, \
             replication_type, status, ossea_config_id, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {now}, {now})",
            now = self.now()
        );
        let statement = self.0.sql("begin a replication", text).bind(job).bind(&of.id).bind(&of.source_vm_id).bind(&of.vm_name);
        let statement = statement.bind(&of.vm_path).bind(&of.source_host).bind(&of.datacenter).bind(mode.code());
        statement.bind(ReplicationStatus::Pending.code()).bind(of.cloud_config).run().await?;
        let text = format!(
            "UPDATE vm_replication_contexts SET first_job_at = COALESCE(first_job_at, {0}), last_job_at = {0} WHERE context_id = ?",
            self.now()
        );
        self.0.sql("begin a replication", text).bind(&of.id).run_found("no VM under management has this id").await
    }

    /// Where a replication is.
    pub async fn status(&self, job: &JobId) -> Result<ReplicationStatus> {
        let text = "SELECT status FROM replication_jobs WHERE id = ?";
        self.0.sql("read a replication", text).bind(job).one("there is no such replication", |row| row.parse("status")).await
    }

    /// Its step begins; `operation` is what it does, in technical words.
    pub async fn enter(&self, job: &JobId, on: ReplicationTrigger, operation: &str) -> Result<()> {
        let from = self.status(job).await?;
        let text = format!(
            "UPDATE replication_jobs SET status = ?, current_operation = ?, started_at = COALESCE(started_at, {0}), updated_at = {0} \
             WHERE id = ? AND status = ?",
            self.now()
        );
        let statement = self.0.sql("change a replication", text).bind(from.next(on)?.code()).bind(operation).bind(job).bind(from.code());
        changed(statement.run().await?, job)
    }

    /// How far it is, in all and in bytes.
    pub async fn progress(&self, job: &JobId, percent: Percent, bytes_done: u64, bytes_total: u64) -> Result<()> {
        let text = format!(
            "UPDATE replication_jobs SET progress_percent = CASE WHEN progress_percent > ? THEN progress_percent ELSE ? END, \
             bytes_transferred = CASE WHEN ? > 0 THEN ? ELSE bytes_transferred END, total_bytes = CASE WHEN ? > 0 THEN ? ELSE total_bytes END, \
             updated_at = {} WHERE id = ?",
            self.now()
        );
        let statement = self.0.sql("store how far a replication is", text).bind(percent).bind(percent).bind(bytes_done).bind(bytes_done);
        statement.bind(bytes_total).bind(bytes_total).bind(job).run_found("there is no such replication").await
    }

    /// The snapshot of a replication at the source, and the change ids of its first disk.
    pub async fn marks(&self, job: &JobId, snapshot: &str, first: Option<(DiskKey, &str, Option<&str>)>) -> Result<()> {
        let text = "UPDATE replication_jobs SET snapshot_id = ?, change_id = ?, previous_change_id = ? WHERE id = ?";
        let statement =
            self.0.sql("store a replication's marks", text).bind(snapshot).bind(first.map(|f| f.1)).bind(first.and_then(|f| f.2));
        statement.bind(job).run_found("there is no such replication").await
    }

    /// It ended.
    pub async fn end(&self, job: &JobId, end: &ReplicationEnd<'_>) -> Result<()> {
        let from = self.status(job).await?;
        let to = from.next(end.trigger)?;
        let text = format!(
            "UPDATE replication_jobs SET status = ?, error_message = ?, vma_error_classification = ?, point_id = ?, current_operation = NULL, \
             progress_percent = CASE WHEN ? THEN 100 ELSE progress_percent END, completed_at = {0}, updated_at = {0} WHERE id = ? AND status = ?",
            self.now()
        );
        let statement = self.0.sql("end a replication", text).bind(to.code()).bind(end.error).bind(end.error_kind).bind(end.point);
        let statement = statement.bind(to == ReplicationStatus::Completed).bind(job).bind(from.code());
        changed(statement.run().await?, job)
    }
}

fn changed(rows: u64, job: &JobId) -> Result<()> {
    if rows > 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Changed, "change a replication", "its status is not what it was").with("job", job))
}

fn context(row: &Row) -> Result<Context> {
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
