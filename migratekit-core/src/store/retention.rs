//! What is kept for how long. Logs, events, finished jobs, the history of passes and old points are removed when they are old or too many:
//! every table that grows by itself is bounded. (The marks of transactions are swept by the transactions themselves.)
//!
//! | rows | go when they are older than | and when there are more than |
//! |---|---|---|
//! | `log_events`, `job_execution_log`, `events` | [`Retention::log_events`], [`job_log`](Retention::job_log), [`events`](Retention::events) | [`Retention::rows`] each |
//! | `job_tracking` at rest, with steps, intents, `replication_jobs` | [`Retention::jobs`] | [`Retention::most_jobs`] |
//! | `cbt_history`, superseded `replica_points` with their disks | [`Retention::history`] | [`Retention::rows`] (`cbt_history`) |
//! | `runners` that give no sign and hold no job | [`Retention::runners`] | |
//!
//! Rows go in batches of [`BATCH`], each in a transaction of its own, so nobody waits for a sweep, and a cluster certifies small write
//! sets. What is never removed here: a job that is not at rest, or needs attention; one whose intents may still have something outside; a
//! context's last successful one; the point that the volumes hold; disks, their change ids; the audit. A VM that is managed no more has nobody
//! who could bring its jobs to rest or close their intents: these are history, and go as the others do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Store, Tx};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{JobStatus, PointStatus};
use crate::task::CancellationToken;

/// Rows of one transaction: some milliseconds of work.
pub const BATCH: u32 = 500;

/// Jobs of one transaction: steps, logs and the rows of their domain go with each.
const JOB_BATCH: u32 = 100;

/// One day.
const DAY: Duration = Duration::from_secs(86_400);

/// The shortest time that anything is kept, and the smallest number of rows: who follows a job must find what it tells.
const SHORTEST: Duration = Duration::from_secs(3600);
const FEWEST: u64 = 1000;

/// What is kept. It is a fact of the catalog, so all its processes keep the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// How long lines of the program's log are kept.
    pub log_events: Duration,
    /// How long lines that jobs wrote about themselves are kept.
    pub job_log: Duration,
    /// How long events are kept.
    pub events: Duration,
    /// How long jobs are kept after they came to rest.
    pub jobs: Duration,
    /// How long the history of passes is kept, and points whose place a later one took.
    pub history: Duration,
    /// How long a process that ran jobs is remembered after its last sign of life.
    pub runners: Duration,
    /// The most rows of each log, of events and of the history; the oldest go.
    pub rows: u64,
    /// The most jobs; of those at rest the oldest go.
    pub most_jobs: u64,
}

impl Default for Retention {
    /// Logs of the program and events 30 days, logs of jobs 90; jobs and history 400 days (a year can be looked back on); processes 30
    /// days; 20 million rows of each log, 2 million jobs.
    fn default() -> Self {
        Retention {
            log_events: 30 * DAY,
            job_log: 90 * DAY,
            events: 30 * DAY,
            jobs: 400 * DAY,
            history: 400 * DAY,
            runners: 30 * DAY,
            rows: 20_000_000,
            most_jobs: 2_000_000,
        }
    }
}

impl Retention {
    /// Itself, when it leaves enough for who follows a job: every age an hour or more, every number 1000 or more.
    pub fn checked(self) -> Result<Self> {
        let short = |name: &'static str, age: Duration| {
            let error = || Error::new(ErrorKind::InvalidInput, "set what is kept", "nothing is kept for less than an hour");
            if age < SHORTEST { Err(error().with("setting", name).with("seconds", age.as_secs())) } else { Ok(()) }
        };
        short("log_events", self.log_events)?;
        short("job_log", self.job_log)?;
        short("events", self.events)?;
        short("jobs", self.jobs)?;
        short("history", self.history)?;
        short("runners", self.runners)?;
        for (name, rows) in [("rows", self.rows), ("most_jobs", self.most_jobs)] {
            if rows < FEWEST {
                let error = Error::new(ErrorKind::InvalidInput, "set what is kept", "no fewer than 1000 rows of a table are kept");
                return Err(error.with("setting", name).with("rows", rows));
            }
        }
        Ok(self)
    }
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Swept {
    /// Lines of the program's log.
    pub log_events: u64,
    /// Lines that jobs wrote about themselves.
    pub job_log: u64,
    /// Events.
    pub events: u64,
    /// Jobs, with their steps and intents.
    pub jobs: u64,
    /// Passes in the history.
    pub history: u64,
    /// Points whose place a later one took.
    pub points: u64,
    /// Processes that ran jobs.
    pub runners: u64,
    /// Whether the bound of the call was reached before everything was removed.
    pub more: bool,
}

/// A table whose rows have a rising number and a time.
#[derive(Debug, Clone, Copy)]
struct Growing {
    table: &'static str,
    time: &'static str,
}

const LOG_EVENTS: Growing = Growing { table: "log_events", time: "ts" };
const JOB_LOG: Growing = Growing { table: "job_execution_log", time: "created_at" };
const EVENTS: Growing = Growing { table: "events", time: "at" };

/// One call's work.
#[derive(Debug)]
struct Sweep<'a> {
    store: &'a Store,
    stop: &'a CancellationToken,
    /// Transactions that each kind of row may take.
    most: u32,
    more: bool,
}

impl Store {
    /// Removes what need not be kept any more, in at most `most` transactions for each kind of row; [`Swept::more`] says whether something
    /// is left. Ends between two of them when `stop` is cancelled ([`ErrorKind::Cancelled`]).
    pub async fn sweep(&self, keep: &Retention, most: u32, stop: &CancellationToken) -> Result<Swept> {
        let mut sweep = Sweep { store: self, stop, most, more: false };
        let jobs_before = self.read("find the oldest job that is kept", |tx| async move { kept_since(&tx, keep).await }).await?;
        let done = Swept {
            log_events: sweep.growing(LOG_EVENTS, keep.log_events, keep.rows).await?,
            job_log: sweep.growing(JOB_LOG, keep.job_log, keep.rows).await?,
            events: sweep.growing(EVENTS, keep.events, keep.rows).await?,
            jobs: sweep.batches(JOB_BATCH, |tx| async move { old_jobs(&tx, jobs_before).await }).await?,
            history: sweep.batches(BATCH, |tx| async move { old_history(&tx, keep.history).await }).await?
                + sweep.batches(BATCH, |tx| async move { too_many(&tx, "cbt_history", keep.rows).await }).await?,
            points: sweep.batches(BATCH, |tx| async move { old_points(&tx, keep.history).await }).await?,
            runners: sweep.batches(BATCH, |tx| async move { tx.runners().sweep(keep.runners, BATCH).await }).await?,
            more: false,
        };
        Ok(Swept { more: sweep.more, ..done })
    }

    /// What this catalog keeps: what was set, or the default.
    pub async fn retention(&self) -> Result<Retention> {
        let set = self.read("read what is kept", |tx| async move { tx.facts().get(FACT).await }).await?;
        let Some(text) = set else { return Ok(Retention::default()) };
        serde_json::from_str(&text).map_err(|source| {
            Error::new(ErrorKind::Mismatch, "read what is kept", "the catalog's setting is not of a known form").with_source(source)
        })
    }

    /// Sets what this catalog keeps, from the next housekeeping of any of its processes on. [`ErrorKind::InvalidInput`] for less than an
    /// hour or 1000 rows of anything.
    pub async fn set_retention(&self, keep: Retention) -> Result<()> {
        let text = &serde_json::to_string(&keep.checked()?)
            .map_err(|source| Error::new(ErrorKind::Internal, "set what is kept", "it cannot be written").with_source(source))?;
        self.write("set what is kept", |tx| async move { tx.facts().set(FACT, text).await }).await
    }
}

/// The catalog's fact that says what is kept.
const FACT: &str = "retention";

impl Sweep<'_> {
    async fn growing(&mut self, from: Growing, age: Duration, rows: u64) -> Result<u64> {
        let old = self.batches(BATCH, |tx| async move { too_old(&tx, from, age).await }).await?;
        let many = self.batches(BATCH, |tx| async move { too_many(&tx, from.table, rows).await }).await?;
        Ok(old + many)
    }

    /// Batches, each in a transaction, until one finds less than a whole batch or there were enough.
    async fn batches<F, Fut>(&mut self, whole: u32, batch: F) -> Result<u64>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<u64>>,
    {
        let mut removed = 0;
        for _ in 0..self.most {
            if self.stop.is_cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "remove old rows", "the caller asked for the end"));
            }
            let found = self.store.write("remove old rows", &batch).await?;
            removed += found;
            if found < u64::from(whole) {
                return Ok(removed);
            }
        }
        self.more = true;
        Ok(removed)
    }
}

async fn too_old(tx: &Tx, from: Growing, age: Duration) -> Result<u64> {
    let Growing { table, time } = from;
    let before = tx.now().await?.minus(age);
    let text = format!("SELECT id FROM {table} WHERE {time} < ? ORDER BY {time}, id LIMIT {BATCH}");
    let ids = tx.sql("find old rows", text).bind(before).all(|row| row.int("id")).await?;
    remove(tx, table, "id", ids).await
}

/// The history has no index by time: of its oldest rows those go that are old, and nothing behind them is read.
async fn old_history(tx: &Tx, age: Duration) -> Result<u64> {
    let before = tx.now().await?.minus(age);
    let text = format!("SELECT id, created_at FROM cbt_history ORDER BY id LIMIT {BATCH}");
    let rows = tx.sql("find old rows", text).all(|row| Ok((row.int("id")?, row.time("created_at")?))).await?;
    let ids = rows.into_iter().filter(|(_, time)| *time < before).map(|(id, _)| id).collect();
    remove(tx, "cbt_history", "id", ids).await
}

async fn too_many(tx: &Tx, table: &'static str, rows: u64) -> Result<u64> {
    let newest = tx.sql("find the newest row", format!("SELECT MAX(id) AS id FROM {table}")).first(|row| row.int_or_none("id")).await?;
    let last = newest.flatten().unwrap_or(0).saturating_sub(i64::try_from(rows).unwrap_or(i64::MAX));
    let text = format!("SELECT id FROM {table} WHERE id <= ? ORDER BY id LIMIT {BATCH}");
    let ids = tx.sql("find rows above the bound", text).bind(last).all(|row| row.int("id")).await?;
    remove(tx, table, "id", ids).await
}

/// Jobs that were asked for before this moment may go: they are too old, or as many as are kept came after them.
async fn kept_since(tx: &Tx, keep: &Retention) -> Result<Timestamp> {
    let old = tx.now().await?.minus(keep.jobs);
    let text = "SELECT created_at FROM job_tracking ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET ?";
    let skip = i64::try_from(keep.most_jobs.saturating_sub(1)).unwrap_or(i64::MAX);
    let many = tx.sql("find the oldest job that is kept", text).bind(skip).first(|row| row.time("created_at")).await?;
    Ok(many.map_or(old, |many| many.max(old)))
}

async fn old_jobs(tx: &Tx, before: Timestamp) -> Result<u64> {
    let at_rest: Vec<String> = JobStatus::ALL.iter().filter(|status| status.is_final()).map(|status| format!("'{status}'")).collect();
    let at_rest = at_rest.join(", ");
    // Its context was emptied when the VM was taken out of management; a job that never had one has no name of it either.
    let vm_gone = "j.context_id IS NULL AND j.context_name IS NOT NULL";
    // Children go before their parents, so that no cascade removes a child that is not old.
    let text = format!(
        "SELECT j.id FROM job_tracking j WHERE j.created_at < ? AND COALESCE(j.completed_at, j.updated_at) < ? \
           AND (j.status IN ({at_rest}) OR (j.status = 'needs_attention' AND {vm_gone})) \
           AND (({vm_gone}) OR NOT EXISTS \
             (SELECT 1 FROM job_intents i WHERE i.job_id = j.id AND i.status IN ('intended', 'left_over'))) \
           AND NOT EXISTS (SELECT 1 FROM job_tracking c WHERE c.parent_job_id = j.id) \
           AND NOT EXISTS (SELECT 1 FROM vm_replication_contexts v WHERE v.last_successful_job_id = j.id) \
         ORDER BY j.created_at, j.id LIMIT {JOB_BATCH}"
    );
    let ids = tx.sql("find old jobs", text).bind(before).bind(before).all(|row| row.text("id")).await?;
    remove(tx, "job_intents", "job_id", ids.clone()).await?;
    remove(tx, "job_tracking", "id", ids).await
}

/// The newest point of a VM is never superseded, so every VM keeps its own.
async fn old_points(tx: &Tx, age: Duration) -> Result<u64> {
    let before = tx.now().await?.minus(age);
    let text = format!("SELECT id FROM replica_points WHERE status = ? AND committed_at < ? ORDER BY committed_at, id LIMIT {BATCH}");
    let statement = tx.sql("find old points", text).bind(PointStatus::Superseded.code()).bind(before);
    let ids = statement.all(|row| row.text("id")).await?;
    remove(tx, "replica_points", "id", ids).await
}

/// Removes the rows whose `key` is one of `values`; tells how many.
async fn remove(tx: &Tx, table: &'static str, key: &'static str, values: Vec<impl Into<super::value::Value>>) -> Result<u64> {
    if values.is_empty() {
        return Ok(0);
    }
    let marks = vec!["?"; values.len()].join(", ");
    let mut statement = tx.sql("remove old rows", format!("DELETE FROM {table} WHERE {key} IN ({marks})"));
    for value in values {
        statement = statement.bind(value);
    }
    statement.run().await
}

#[cfg(test)]
mod tests;
