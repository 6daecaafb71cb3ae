//! What people look at most: the feed of jobs, the active jobs, the VMs with their last job; and the summary of a VM's last operation.
//!
//! Each page is asked for by where the last one ended, so a page costs the same however deep it lies: the database goes down one index and
//! stops. No query here reads a table whole; a test asks both databases for their plans.

use super::row::Row;
use super::{Statement, Tx};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ContextId, JobId};
use crate::model::{
    ActiveJob, ContextCursor, ContextItem, ContextPage, FEED_PAGE, FeedCursor, FeedItem, FeedPage, FeedRow, JobStatus, OperationSummary,
};

/// The most active jobs that a page of them is chosen from: twice as many VMs as one catalog is measured with.
const MOST_ACTIVE: u32 = 20_000;

/// An id that sorts behind every id.
const LAST_ID: &str = "~";

const JOB: &str = "j.id, j.operation, j.context_id, j.context_name, j.status, j.percent_complete, j.external_job_id, j.failed_step, j.error_kind, \
                   j.error_message, j.next_action, j.created_at, j.started_at, j.updated_at, j.completed_at";

/// The step that runs or is undone, of the job `p`.
const STEP: &str =
    "(SELECT s.name FROM job_steps s WHERE s.job_id = p.id AND s.status IN ('running', 'undoing') ORDER BY s.seq DESC LIMIT 1)";

/// Which jobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct FeedSearch<'a> {
    /// Those of this VM.
    pub context: Option<&'a ContextId>,
    /// Those with this status.
    pub status: Option<JobStatus>,
    /// Those that hold their VM.
    pub active: bool,
}

/// What people look at, in one transaction.
#[derive(Debug)]
pub struct Feed<'t>(&'t Tx);

impl Tx {
    /// The feed of jobs, the list of VMs, the summaries.
    #[must_use]
    pub fn feed(&self) -> Feed<'_> {
        Feed(self)
    }
}

impl Feed<'_> {
    /// Jobs that fit, newest first: at most `limit` (1 to [`FEED_PAGE`]) of them, older than `after`.
    pub async fn jobs(&self, search: &FeedSearch<'_>, after: Option<&FeedCursor>, limit: u32) -> Result<FeedPage> {
        let (limit, more) = bounds(limit);
        let (at, id) = after.map_or((Timestamp::MAX, LAST_ID), |cursor| (cursor.created_at, cursor.id.as_str()));
        let statement = search.bound(self.0.sql("read the feed of jobs", search.text()));
        let rows = statement.bind(at).bind(at).bind(id).bind(more).all(feed_row).await?;
        Ok(FeedPage::of(&rows, limit))
    }

    /// One job. [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is none of this id.
    pub async fn job(&self, id: &JobId) -> Result<FeedItem> {
        let statement = self.0.sql("read a job of the feed", jobs_by_id(1)).bind(id);
        let row = statement.one("there is no such job", feed_row).await.map_err(|e| e.with("job", id))?;
        Ok(FeedItem::of(&row))
    }

    /// VMs by name, each with the job that holds it and its newest one: at most `limit` (1 to [`FEED_PAGE`]) of them, behind `after`.
    pub async fn contexts(&self, after: Option<&ContextCursor>, limit: u32) -> Result<ContextPage> {
        let (limit, more) = bounds(limit);
        let (name, id) = after.map_or(("", ""), |cursor| (cursor.vm_name.as_str(), cursor.id.as_str()));
        let rows = self.0.sql("read the list of machines", contexts()).bind(name).bind(name).bind(id).bind(more).rows().await?;
        let mut items = Vec::with_capacity(limit);
        let mut last_jobs = Vec::with_capacity(limit);
        for row in rows.iter().take(limit) {
            items.push(context_item(row)?);
            last_jobs.push(row.parse_or_none::<JobId>("last_job")?);
        }
        let jobs = self.by_id(&last_jobs).await?;
        for (item, last) in items.iter_mut().zip(last_jobs) {
            item.last_job = last.and_then(|id| jobs.iter().find(|row| row.id == id)).map(FeedItem::of);
        }
        let last = items.last().filter(|_| rows.len() > limit);
        let next = last.map(|item| ContextCursor { vm_name: item.vm_name.clone(), id: item.context.clone() });
        Ok(ContextPage { items, next })
    }

    /// Jobs by their ids: one statement of at most [`FEED_PAGE`] values.
    async fn by_id(&self, ids: &[Option<JobId>]) -> Result<Vec<FeedRow>> {
        let known: Vec<&JobId> = ids.iter().flatten().collect();
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement = self.0.sql("read the last jobs", jobs_by_id(known.len()));
        for id in known {
            statement = statement.bind(id);
        }
        statement.all(feed_row).await
    }

    /// The summary of the last operation of `context`, if there was one.
    pub async fn summary(&self, context: &ContextId) -> Result<Option<OperationSummary>> {
        let text = "SELECT last_operation_summary FROM vm_replication_contexts WHERE context_id = ?";
        let json = self.0.sql("read the summary of an operation", text).bind(context);
        let json = json.one("there is no such context", |row| row.json_or_none("last_operation_summary")).await?;
        json.as_ref().map(OperationSummary::from_json).transpose()
    }

    /// Keeps the summary of the last operation of `context`, instead of the one before.
    pub async fn keep_summary(&self, context: &ContextId, summary: &OperationSummary) -> Result<()> {
        let text = "UPDATE vm_replication_contexts SET last_operation_summary = ? WHERE context_id = ?";
        let statement = self.0.sql("keep the summary of an operation", text).bind(&summary.to_json()?).bind(context);
        statement.run_found("there is no such context").await
    }
}

/// Items of a page, and rows to ask for: one more, to know whether there is a next page.
fn bounds(limit: u32) -> (usize, u32) {
    let limit = limit.clamp(1, FEED_PAGE);
    (usize::try_from(limit).unwrap_or(1), limit + 1)
}

/// The ids of the jobs of `from` that are older than the cursor. The first condition is what the index is entered by.
fn older(from: &str, conditions: &str) -> String {
    format!(
        "SELECT b.id FROM {from} b WHERE {conditions}b.created_at <= ? AND (b.created_at < ? OR b.id < ?) ORDER BY b.created_at DESC, b.id DESC LIMIT ?"
    )
}

fn page(inner: &str) -> String {
    format!(
        "SELECT p.*, {STEP} AS running_step FROM (SELECT {JOB} FROM ({inner}) a JOIN job_tracking j ON j.id = a.id) p \
         ORDER BY p.created_at DESC, p.id DESC"
    )
}

impl FeedSearch<'_> {
    /// The innermost query needs nothing but its index and is entered at the cursor. One that asked for the columns as well would be gone
    /// by the status alone on MariaDB, over every newer job of that status, before it came to the page.
    fn text(&self) -> String {
        let busy: Vec<String> = JobStatus::ALL.iter().filter(|status| status.is_busy()).map(|status| format!("'{status}'")).collect();
        let busy = format!("status IN ({})", busy.join(", "));
        let mut conditions = String::new();
        match self {
            // The inner query goes by the index on the status; its bound keeps the databases from going through all jobs by time instead.
            FeedSearch { context: None, status: None, active: true } => {
                let busy = format!("(SELECT i.id, i.created_at FROM job_tracking i WHERE i.{busy} LIMIT {MOST_ACTIVE})");
                return page(&older(&busy, ""));
            }
            FeedSearch { context, status, active } => {
                conditions.push_str(if context.is_some() { "b.context_id = ? AND " } else { "" });
                conditions.push_str(if status.is_some() { "b.status = ? AND " } else { "" });
                if *active {
                    conditions.push_str(&format!("b.{busy} AND "));
                }
            }
        }
        page(&older("job_tracking", &conditions))
    }

    fn bound<'t>(&self, statement: Statement<'t>) -> Statement<'t> {
        let statement = match self.context {
            Some(context) => statement.bind(context),
            None => statement,
        };
        match self.status {
            Some(status) => statement.bind(status.code()),
            None => statement,
        }
    }
}

fn jobs_by_id(count: usize) -> String {
    let values = vec!["?"; count].join(", ");
    format!("SELECT p.*, {STEP} AS running_step FROM (SELECT {JOB} FROM job_tracking j WHERE j.id IN ({values})) p")
}

/// The inner query needs nothing but its index, so it is gone by even where the table is small.
fn contexts() -> String {
    "SELECT v.context_id, v.vm_name, v.vcenter_host, v.current_status, v.os_type, v.power_state, \
            h.id AS active_job, h.status AS active_status, h.percent_complete AS active_percent, \
            (SELECT COUNT(*) FROM vm_disks d WHERE d.vm_context_id = v.context_id AND d.removed_at IS NULL) AS disks, \
            (SELECT CAST(COALESCE(SUM(d.capacity_bytes), 0) AS SIGNED) FROM vm_disks d \
              WHERE d.vm_context_id = v.context_id AND d.removed_at IS NULL) AS capacity_bytes, \
            (SELECT o.taken_at FROM replica_points o WHERE o.vm_context_id = v.context_id ORDER BY o.seq DESC LIMIT 1) AS taken_at, \
            (SELECT j.id FROM job_tracking j WHERE j.context_id = v.context_id ORDER BY j.created_at DESC, j.id DESC LIMIT 1) AS last_job \
     FROM (SELECT n.vm_name, n.context_id FROM vm_replication_contexts n \
           WHERE n.vm_name >= ? AND (n.vm_name > ? OR n.context_id > ?) ORDER BY n.vm_name, n.context_id LIMIT ?) c \
     JOIN vm_replication_contexts v ON v.context_id = c.context_id \
     LEFT JOIN job_tracking h ON h.active_context_id = v.context_id \
     ORDER BY v.vm_name, v.context_id"
        .to_owned()
}

fn context_item(row: &Row) -> Result<ContextItem> {
    let active_job = match row.parse_or_none("active_job")? {
        Some(id) => Some(ActiveJob { id, status: row.parse("active_status")?, percent: row.number::<u8>("active_percent")?.try_into()? }),
        None => None,
    };
    Ok(ContextItem {
        context: row.parse("context_id")?,
        vm_name: row.text("vm_name")?,
        source_host: row.text("vcenter_host")?,
        status: row.parse("current_status")?,
        os: row.parse("os_type")?,
        power: row.parse("power_state")?,
        disk_count: row.number("disks")?,
        capacity_bytes: row.number("capacity_bytes")?,
        last_point_at: row.time_or_none("taken_at")?,
        active_job,
        last_job: None,
    })
}

fn feed_row(row: &Row) -> Result<FeedRow> {
    Ok(FeedRow {
        id: row.parse("id")?,
        kind: row.parse("operation")?,
        context: row.parse_or_none("context_id")?,
        vm_name: row.text_or_none("context_name")?,
        status: row.parse("status")?,
        percent: row.number::<u8>("percent_complete")?.try_into()?,
        external_id: row.text_or_none("external_job_id")?,
        running_step: row.text_or_none("running_step")?,
        failed_step: row.text_or_none("failed_step")?,
        error_kind: row.text_or_none("error_kind")?,
        error_message: row.text_or_none("error_message")?,
        next_action: row.text_or_none("next_action")?,
        created_at: row.time("created_at")?,
        started_at: row.time_or_none("started_at")?,
        updated_at: row.time("updated_at")?,
        completed_at: row.time_or_none("completed_at")?,
    })
}

/// The plans that the database has for the queries above, as lines; the queries get values that reach far.
#[cfg(test)]
async fn plans(tx: &Tx, context: &ContextId) -> Result<Vec<(&'static str, String)>> {
    let (none, mut lines) = (FeedSearch::default(), Vec::new());
    for (name, search) in [
        ("all", none),
        ("context", FeedSearch { context: Some(context), ..none }),
        ("status", FeedSearch { status: Some(JobStatus::Failed), ..none }),
        ("status of a context", FeedSearch { context: Some(context), status: Some(JobStatus::Failed), ..none }),
        ("active", FeedSearch { active: true, ..none }),
    ] {
        let statement = search.bound(tx.sql("explain a query", explained(tx, &search.text())));
        let statement = statement.bind(Timestamp::MAX).bind(Timestamp::MAX).bind(LAST_ID).bind(51);
        lines.extend(explain(tx, statement).await?.into_iter().map(|line| (name, line)));
    }
    let statement = tx.sql("explain a query", explained(tx, &contexts())).bind("").bind("").bind("").bind(51);
    lines.extend(explain(tx, statement).await?.into_iter().map(|line| ("contexts", line)));
    Ok(lines)
}

#[cfg(test)]
fn explained(tx: &Tx, text: &str) -> String {
    match tx.backend() {
        super::Backend::Sqlite => format!("EXPLAIN QUERY PLAN {text}"),
        super::Backend::MariaDb => format!("EXPLAIN {text}"),
    }
}

/// SQLite's words, or MariaDB's table, type, key and rows.
#[cfg(test)]
async fn explain(tx: &Tx, statement: Statement<'_>) -> Result<Vec<String>> {
    let rows = statement.rows().await?;
    let mariadb = |row: &Row| -> Result<String> {
        let word = |column| row.text_or_none(column).map(Option::unwrap_or_default);
        Ok(format!("{} {} {} {}", word("table")?, word("type")?, word("key")?, word("rows")?))
    };
    rows.iter()
        .map(|row| match tx.backend() {
            super::Backend::Sqlite => row.text("detail"),
            super::Backend::MariaDb => mariadb(row),
        })
        .collect()
}

#[cfg(test)]
mod tests;
