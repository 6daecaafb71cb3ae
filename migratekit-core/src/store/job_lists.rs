//! Jobs and replications as lists show them, newest first, page by page.

use super::row::Row;
use super::{Statement, Tx};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ContextId, JobId, PointId};
use crate::model::{CbtEntry, JobKind, JobStatus, Percent, ReplicationMode, ReplicationStatus};

/// Jobs in lists, in one transaction.
#[derive(Debug)]
pub struct JobLists<'t>(&'t Tx);

/// Which jobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobSearch<'a> {
    /// Those of this VM.
    pub context: Option<&'a ContextId>,
    /// Those that hold their VM.
    pub active: bool,
    /// Those with this status.
    pub status: Option<JobStatus>,
    /// Those behind this one: its time and id.
    pub after: Option<(Timestamp, &'a JobId)>,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where it is.
    pub status: JobStatus,
    /// How far it is.
    pub percent: Percent,
    /// Its VM, while that is managed.
    pub context: Option<ContextId>,
    /// Its VM's name.
    pub vm_name: Option<String>,
    /// The step that failed.
    pub failed_step: Option<String>,
    /// The kind of that failure.
    pub error_kind: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a runner took it first.
    pub started_at: Option<Timestamp>,
    /// When it came to rest.
    pub completed_at: Option<Timestamp>,
}

/// A replication in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationRow {
    /// Its id, that of its job.
    pub id: JobId,
    /// Its VM.
    pub context: ContextId,
    /// Its VM's name when it began.
    pub vm_name: String,
    /// What was asked for.
    pub mode: ReplicationMode,
    /// Where it is.
    pub status: ReplicationStatus,
    /// How far it is.
    pub percent: Percent,
    /// Bytes moved.
    pub bytes_transferred: u64,
    /// The point it made.
    pub point: Option<PointId>,
    /// Why it failed, in technical words.
    pub error_message: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a runner took it first.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

const REPLICATION: &str = "SELECT id, vm_context_id, source_vm_name, replication_type, status, CAST(progress_percent AS SIGNED) AS percent, \
                           bytes_transferred, point_id, error_message, created_at, started_at, completed_at, \
                           (SELECT CAST(COALESCE(SUM(h.bytes_transferred), 0) AS SIGNED) FROM cbt_history h \
                           WHERE h.job_id = replication_jobs.id) AS bytes_kept FROM replication_jobs";

impl Tx {
    /// Jobs and replications in lists.
    #[must_use]
    pub fn job_lists(&self) -> JobLists<'_> {
        JobLists(self)
    }
}

impl JobLists<'_> {
    /// Jobs, newest first; at most `limit`.
    pub async fn jobs(&self, search: &JobSearch<'_>, limit: u32) -> Result<Vec<JobRow>> {
        let mut conditions = Vec::new();
        if search.context.is_some() {
            conditions.push("context_id = ?");
        }
        if search.active {
            conditions.push("status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back')");
        }
        if search.status.is_some() {
            conditions.push("status = ?");
        }
        let text = "SELECT id, operation, status, percent_complete, context_id, context_name, failed_step, error_kind, created_at, started_at, \
                    completed_at FROM job_tracking";
        let mut query = self.0.sql("list jobs", paged(text, conditions, search.after.is_some()));
        if let Some(context) = search.context {
            query = query.bind(context);
        }
        if let Some(status) = search.status {
            query = query.bind(status.code());
        }
        behind(query, search.after).bind(limit).all(job).await
    }

    /// Replications, of one VM or of all, newest first; at most `limit`.
    pub async fn replications(
        &self,
        context: Option<&ContextId>,
        after: Option<(Timestamp, &JobId)>,
        limit: u32,
    ) -> Result<Vec<ReplicationRow>> {
        let conditions = context.map(|_| "vm_context_id = ?").into_iter().collect();
        let mut query = self.0.sql("list replications", paged(REPLICATION, conditions, after.is_some()));
        if let Some(context) = context {
            query = query.bind(context);
        }
        behind(query, after).bind(limit).all(replication).await
    }

    /// One replication. [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is none of this id.
    pub async fn replication(&self, id: &JobId) -> Result<ReplicationRow> {
        let query = self.0.sql("read a replication", format!("{REPLICATION} WHERE id = ?")).bind(id);
        query.one("there is no such replication", replication).await.map_err(|e| e.with("job", id))
    }

    /// What a replication did to each disk, by disk.
    pub async fn disks_of(&self, id: &JobId) -> Result<Vec<CbtEntry>> {
        let text = "SELECT vm_context_id, job_id, disk_id, change_id, previous_change_id, sync_type, blocks_changed, bytes_transferred, \
             sync_duration_seconds, sync_success, created_at FROM cbt_history WHERE job_id = ? ORDER BY id";
        self.0.sql("read what a replication did", text).bind(id).all(super::replicas::entry).await
    }
}

fn paged(text: &str, mut conditions: Vec<&str>, after: bool) -> String {
    if after {
        conditions.push("(created_at < ? OR (created_at = ? AND id < ?))");
    }
    let condition = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!("{text}{condition} ORDER BY created_at DESC, id DESC LIMIT ?")
}

fn behind<'t>(query: Statement<'t>, after: Option<(Timestamp, &JobId)>) -> Statement<'t> {
    match after {
        Some((time, id)) => query.bind(time).bind(time).bind(id),
        None => query,
    }
}

fn job(row: &Row) -> Result<JobRow> {
    Ok(JobRow {
        id: row.parse("id")?,
        kind: row.parse("operation")?,
        status: row.parse("status")?,
        percent: Percent::capped(row.number("percent_complete")?),
        context: row.parse_or_none("context_id")?,
        vm_name: row.text_or_none("context_name")?,
        failed_step: row.text_or_none("failed_step")?,
        error_kind: row.text_or_none("error_kind")?,
        created_at: row.time("created_at")?,
        started_at: row.time_or_none("started_at")?,
        completed_at: row.time_or_none("completed_at")?,
    })
}

fn replication(row: &Row) -> Result<ReplicationRow> {
    Ok(ReplicationRow {
        id: row.parse("id")?,
        context: row.parse("vm_context_id")?,
        vm_name: row.text("source_vm_name")?,
        mode: row.parse("replication_type")?,
        status: row.parse("status")?,
        percent: Percent::capped(row.number("percent")?),
        // Progress is written once a second at most; what the point says is exact.
        bytes_transferred: row.number::<u64>("bytes_transferred")?.max(row.number("bytes_kept")?),
        point: row.parse_or_none("point_id")?,
        error_message: row.text_or_none("error_message")?,
        created_at: row.time("created_at")?,
        started_at: row.time_or_none("started_at")?,
        completed_at: row.time_or_none("completed_at")?,
    })
}
