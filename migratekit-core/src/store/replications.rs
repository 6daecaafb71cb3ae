//! Replications (`replication_jobs`): begun, followed, ended.

use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DiskKey, JobId, PointId};
use crate::model::{Context, Percent, ReplicationMode, ReplicationStatus, ReplicationTrigger, VolumeStatus};

/// Replications, in one transaction.
#[derive(Debug)]
pub struct Replications<'t>(&'t Tx);

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
    /// Replications.
    #[must_use]
    pub fn replications(&self) -> Replications<'_> {
        Replications(self)
    }
}

impl Replications<'_> {
    fn now(&self) -> &'static str {
        dialect::now(self.0.backend())
    }

    /// Writes a replication down as it is asked for; its job's row is there.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: the VM's replica was given up, and is being removed.
    pub async fn begin(&self, job: &JobId, of: &Context, mode: ReplicationMode) -> Result<()> {
        // As it is now, not as this transaction's snapshot has it: the removal may have begun since.
        let text = format!(
            "SELECT volume_id FROM ossea_volumes WHERE vm_context_id = ? AND status = ? LIMIT 1{}",
            dialect::for_update(self.0.backend())
        );
        let going = self.0.sql("begin a replication", text).bind(&of.id).bind(VolumeStatus::Destroy.code());
        if going.first(|row| row.text("volume_id")).await?.is_some() {
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

    /// How far it is; bytes that were written, zeros among them; bytes to deal with.
    pub async fn progress(&self, job: &JobId, percent: Percent, bytes_written: u64, bytes_total: u64) -> Result<()> {
        let text = format!(
            "UPDATE replication_jobs SET progress_percent = CASE WHEN progress_percent > ? THEN progress_percent ELSE ? END, \
             bytes_transferred = CASE WHEN ? > 0 THEN ? ELSE bytes_transferred END, total_bytes = CASE WHEN ? > 0 THEN ? ELSE total_bytes END, \
             updated_at = {} WHERE id = ?",
            self.now()
        );
        let statement =
            self.0.sql("store how far a replication is", text).bind(percent).bind(percent).bind(bytes_written).bind(bytes_written);
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
