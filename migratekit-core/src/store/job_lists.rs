//! Replications as lists show them, newest first, page by page; jobs of all kinds are in the feed.

use super::row::Row;
use super::{Statement, Tx};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ContextId, JobId, PointId};
use crate::model::{CbtEntry, Percent, ReplicationMode, ReplicationStatus};

/// Replications in lists, in one transaction.
#[derive(Debug)]
pub struct JobLists<'t>(&'t Tx);

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
    /// Bytes written, zeros among them.
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
    /// Replications in lists.
    #[must_use]
    pub fn job_lists(&self) -> JobLists<'_> {
        JobLists(self)
    }
}

impl JobLists<'_> {
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
