//! What is kept for how long. Logs, events and finished jobs are removed when they are old, the logs and events also when they are too
//! many: every table that grows by itself is bounded. (The marks of transactions are swept by the transactions themselves.)
//!
//! Rows go in batches of [`BATCH`], each in a transaction of its own, so nobody waits for a sweep. What is never removed here: a job that is
//! not at rest, or needs attention; one whose intents may still have something outside; a context's last successful one; points, disks,
//! change ids, the audit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Store, Tx};
use crate::error::{Error, ErrorKind, Result};
use crate::model::JobStatus;
use crate::task::CancellationToken;

/// Rows of one transaction: some milliseconds of work.
pub const BATCH: u32 = 500;

/// One day.
const DAY: Duration = Duration::from_secs(86_400);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How long lines of the program's log are kept.
    pub log_events: Duration,
    /// How long lines that jobs wrote about themselves are kept.
    pub job_log: Duration,
    /// How long events are kept.
    pub events: Duration,
    /// How long jobs are kept after they came to rest.
    pub jobs: Duration,
    /// The most rows of each of log and events; the oldest go.
    pub rows: u64,
}

impl Default for Retention {
    /// Logs 30 days, events 30 days, jobs 400 days (a year can be looked back on), 20 million rows of each log.
    fn default() -> Self {
        Retention { log_events: 30 * DAY, job_log: 90 * DAY, events: 30 * DAY, jobs: 400 * DAY, rows: 20_000_000 }
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

impl Store {
    /// Removes what need not be kept any more, until nothing is left to remove or `stop` is cancelled (between two batches).
    pub async fn sweep(&self, keep: &Retention, stop: &CancellationToken) -> Result<Swept> {
        Ok(Swept {
            log_events: self.sweep_growing(LOG_EVENTS, keep.log_events, keep.rows, stop).await?,
            job_log: self.sweep_growing(JOB_LOG, keep.job_log, keep.rows, stop).await?,
            events: self.sweep_growing(EVENTS, keep.events, keep.rows, stop).await?,
            jobs: self.batches(stop, |tx| async move { old_jobs(&tx, keep.jobs).await }).await?,
        })
    }

    async fn sweep_growing(&self, from: Growing, age: Duration, rows: u64, stop: &CancellationToken) -> Result<u64> {
        let old = self.batches(stop, |tx| async move { too_old(&tx, from, age).await }).await?;
        let many = self.batches(stop, |tx| async move { too_many(&tx, from, rows).await }).await?;
        Ok(old + many)
    }

    /// Batches, each in a transaction, until one finds less than a whole batch.
    async fn batches<F, Fut>(&self, stop: &CancellationToken, batch: F) -> Result<u64>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<u64>>,
    {
        let mut removed = 0;
        loop {
            if stop.is_cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "remove old rows", "the caller asked for the end"));
            }
            let found = self.write("remove old rows", &batch).await?;
            removed += found;
            if found < u64::from(BATCH) {
                return Ok(removed);
            }
        }
    }
}

async fn too_old(tx: &Tx, from: Growing, age: Duration) -> Result<u64> {
    let Growing { table, time } = from;
    let before = tx.now().await?.minus(age);
    let text = format!("SELECT id FROM {table} WHERE {time} < ? ORDER BY {time}, id LIMIT {BATCH}");
    let ids = tx.sql("find old rows", text).bind(before).all(|row| row.int("id")).await?;
    remove(tx, table, "id", ids).await
}

async fn too_many(tx: &Tx, from: Growing, rows: u64) -> Result<u64> {
    let table = from.table;
    let newest = tx.sql("find the newest row", format!("SELECT MAX(id) AS id FROM {table}")).first(|row| row.int_or_none("id")).await?;
    let last = newest.flatten().unwrap_or(0).saturating_sub(i64::try_from(rows).unwrap_or(i64::MAX));
    let text = format!("SELECT id FROM {table} WHERE id <= ? ORDER BY id LIMIT {BATCH}");
    let ids = tx.sql("find rows above the bound", text).bind(last).all(|row| row.int("id")).await?;
    remove(tx, table, "id", ids).await
}

async fn old_jobs(tx: &Tx, age: Duration) -> Result<u64> {
    let before = tx.now().await?.minus(age);
    let at_rest: Vec<String> = JobStatus::ALL.iter().filter(|status| status.is_final()).map(|status| format!("'{status}'")).collect();
    let at_rest = at_rest.join(", ");
    // Children go before their parents, so that no cascade removes a child that is not old.
    let text = format!(
        "SELECT j.id FROM job_tracking j WHERE j.created_at < ? AND j.completed_at < ? AND j.status IN ({at_rest}) \
           AND NOT EXISTS (SELECT 1 FROM job_intents i WHERE i.job_id = j.id AND i.status IN ('intended', 'left_over')) \
           AND NOT EXISTS (SELECT 1 FROM job_tracking c WHERE c.parent_job_id = j.id) \
           AND NOT EXISTS (SELECT 1 FROM vm_replication_contexts v WHERE v.last_successful_job_id = j.id) \
         ORDER BY j.created_at, j.id LIMIT {BATCH}"
    );
    let ids = tx.sql("find old jobs", text).bind(before).bind(before).all(|row| row.text("id")).await?;
    remove(tx, "job_intents", "job_id", ids.clone()).await?;
    remove(tx, "job_tracking", "id", ids).await
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
