//! Failovers (`failover_jobs`): begun, followed, ended. One has the id of its job.

use super::contexts::MAX_PAGE;
use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, FailoverRow, JobId, PointId};
use crate::model::{Context, FailoverJob, FailoverKind, FailoverStatus, FailoverTrigger};

/// Failovers, in one transaction.
#[derive(Debug)]
pub struct Failovers<'t>(&'t Tx);

/// A failover as it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct NewFailover<'a> {
    /// Its job, whose row is there.
    pub job: &'a JobId,
    /// Its VM.
    pub of: &'a Context,
    /// Which kind.
    pub kind: FailoverKind,
    /// The point it stands on.
    pub point: Option<&'a PointId>,
    /// The source VM as it is now.
    pub source_vm_spec: Option<&'a serde_json::Value>,
    /// The networks it will use.
    pub network_mappings: Option<&'a serde_json::Value>,
    /// When a test ends by itself.
    pub cleanup_at: Option<Timestamp>,
}

/// Which failovers.
#[derive(Debug, Clone, Copy, Default)]
pub struct FailoverSearch<'a> {
    /// Those of this VM.
    pub context: Option<&'a ContextId>,
    /// Those of this kind.
    pub kind: Option<FailoverKind>,
    /// Those with this status.
    pub status: Option<FailoverStatus>,
    /// Those asked for before this one.
    pub before: Option<FailoverRow>,
}

impl Tx {
    /// Failovers.
    #[must_use]
    pub fn failovers(&self) -> Failovers<'_> {
        Failovers(self)
    }
}

const COLUMNS: &str = "id, job_id, vm_context_id, job_type, status, point_id, source_vm_name, source_vm_spec, destination_vm_id, \
     network_mappings, error_message, cleanup_at, created_at, updated_at, started_at, completed_at";
const NONE: &str = "there is no such failover";

impl Failovers<'_> {
    fn now(&self) -> &'static str {
        dialect::now(self.0.backend())
    }

    /// Writes a failover down as it is asked for. [`ErrorKind::AlreadyExists`] when its job has one.
    pub async fn begin(&self, new: &NewFailover<'_>) -> Result<()> {
        let text = format!(
            "INSERT INTO failover_jobs (job_id, vm_context_id, replication_job_id, point_id, job_type, status, source_vm_name, source_vm_spec, \
             network_mappings, cleanup_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {now}, {now})",
            now = self.now()
        );
        let statement = self.0.sql("begin a failover", text).bind(new.job).bind(&new.of.id).bind(new.of.last_successful_job.as_ref());
        let statement = statement.bind(new.point).bind(new.kind.code()).bind(FailoverStatus::Pending.code()).bind(&new.of.vm_name);
        statement.bind(new.source_vm_spec).bind(new.network_mappings).bind(new.cleanup_at).run().await.map(|_| ())
    }

    /// The failover of this job. [`ErrorKind::NotFound`] when it has none.
    pub async fn get(&self, job: &JobId) -> Result<FailoverJob> {
        let text = format!("SELECT {COLUMNS} FROM failover_jobs WHERE job_id = ?");
        self.0.sql("read a failover", text).bind(job).one(NONE, failover).await.map_err(|e| e.with("job", job))
    }

    /// Changes the status of a failover, provided it is as it was read; [`ErrorKind::Changed`] otherwise. `error` is kept when it is said.
    pub async fn change(&self, seen: &FailoverJob, on: FailoverTrigger, error: Option<&str>) -> Result<FailoverStatus> {
        let to = seen.status.next(on)?;
        let completed = if to.is_busy() { "NULL" } else { self.now() };
        let text = format!(
            "UPDATE failover_jobs SET status = ?, error_message = COALESCE(?, error_message), started_at = COALESCE(started_at, {now}), \
             completed_at = {completed}, updated_at = {now} WHERE id = ? AND status = ?",
            now = self.now()
        );
        let statement = self.0.sql("change a failover", text).bind(to.code()).bind(error).bind(seen.row).bind(seen.status.code());
        match statement.run().await? {
            0 => Err(Error::new(ErrorKind::Changed, "change a failover", "it is not what it was").with("job", &seen.id)),
            _ => Ok(to),
        }
    }

    /// The machine in the cloud was made, or is gone again.
    pub async fn set_machine(&self, job: &JobId, destination_vm_id: Option<&str>) -> Result<()> {
        let text = format!("UPDATE failover_jobs SET destination_vm_id = ?, updated_at = {} WHERE job_id = ?", self.now());
        self.0.sql("keep a failover's machine", text).bind(destination_vm_id).bind(job).run_found(NONE).await
    }

    /// When a test ends by itself; none: not by itself.
    pub async fn set_cleanup(&self, job: &JobId, at: Option<Timestamp>) -> Result<()> {
        let text = format!("UPDATE failover_jobs SET cleanup_at = ?, updated_at = {} WHERE job_id = ?", self.now());
        self.0.sql("change the end of a test", text).bind(at).bind(job).run_found(NONE).await
    }

    /// Failovers, the newest first; at most `limit` (up to 1000).
    pub async fn page(&self, search: &FailoverSearch<'_>, limit: u32) -> Result<Vec<FailoverJob>> {
        let asked = [("vm_context_id", search.context.is_some()), ("job_type", search.kind.is_some()), ("status", search.status.is_some())];
        let conditions: String = asked.iter().filter(|(_, asked)| *asked).map(|(column, _)| format!("{column} = ? AND ")).collect();
        let text =
            format!("SELECT {COLUMNS} FROM failover_jobs WHERE {conditions}id < ? ORDER BY id DESC LIMIT {}", limit.clamp(1, MAX_PAGE));
        let mut statement = self.0.sql("list failovers", text);
        if let Some(context) = search.context {
            statement = statement.bind(context);
        }
        for code in [search.kind.map(FailoverKind::code), search.status.map(FailoverStatus::code)].into_iter().flatten() {
            statement = statement.bind(code);
        }
        statement.bind(search.before.map_or(i64::MAX, FailoverRow::get)).all(failover).await
    }

    /// Tests that run and whose time is over at `at`, the oldest first, at most 1000. The time is a row's, so no restart forgets it.
    pub async fn due(&self, at: Timestamp) -> Result<Vec<FailoverJob>> {
        let text = format!(
            "SELECT {COLUMNS} FROM failover_jobs WHERE job_type = ? AND status = ? AND cleanup_at <= ? ORDER BY cleanup_at, id LIMIT {MAX_PAGE}"
        );
        let statement = self.0.sql("look for tests that are over", text).bind(FailoverKind::Test.code());
        statement.bind(FailoverStatus::Completed.code()).bind(at).all(failover).await
    }
}

fn failover(row: &Row) -> Result<FailoverJob> {
    Ok(FailoverJob {
        row: row.number("id")?,
        id: row.parse("job_id")?,
        context: row.parse("vm_context_id")?,
        kind: row.parse("job_type")?,
        status: row.parse("status")?,
        point: row.parse_or_none("point_id")?,
        source_vm_name: row.text("source_vm_name")?,
        source_vm_spec: row.json_or_none("source_vm_spec")?,
        destination_vm_id: row.text_or_none("destination_vm_id")?,
        network_mappings: row.json_or_none("network_mappings")?,
        error_message: row.text_or_none("error_message")?,
        cleanup_at: row.time_or_none("cleanup_at")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        started_at: row.time_or_none("started_at")?,
        completed_at: row.time_or_none("completed_at")?,
    })
}
