//! The steps of jobs (`job_steps`), and what each keeps for its next attempt and its undo.

use super::row::Row;
use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, StepId};
use crate::model::{Step, StepStatus};

const COLUMNS: &str = "id, job_id, seq, name, status, attempt, started_at, completed_at, error_message, metadata";

/// The steps, in one transaction.
#[derive(Debug)]
pub struct Steps<'t>(&'t Tx);

/// What is written beside a step's new status.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepNote<'a> {
    /// The attempt that begins.
    pub attempt: Option<u32>,
    /// Why it failed, in technical words.
    pub error: Option<&'a str>,
}

impl Tx {
    /// The steps of jobs.
    #[must_use]
    pub fn steps(&self) -> Steps<'_> {
        Steps(self)
    }
}

impl Steps<'_> {
    /// Writes the steps of a new job down by their names, in their order.
    pub async fn insert(&self, job: &JobId, names: &[&str]) -> Result<()> {
        let rows = vec!["(?, ?, ?, ?)"; names.len()].join(", ");
        let mut statement =
            self.0.sql("write a job's steps down", format!("INSERT INTO job_steps (job_id, name, seq, status) VALUES {rows}"));
        for (sequence, name) in names.iter().enumerate() {
            statement = statement.bind(job).bind(*name).bind(sequence).bind(StepStatus::Pending.code());
        }
        statement.run().await.map(|_| ())
    }

    /// The steps of a job, in their order.
    pub async fn of_job(&self, job: &JobId) -> Result<Vec<Step>> {
        let text = format!("SELECT {COLUMNS} FROM job_steps WHERE job_id = ? ORDER BY seq");
        self.0.sql("read a job's steps", text).bind(job).all(step).await
    }

    /// Changes the status, provided it is `from` ([`ErrorKind::Changed`] if not).
    pub async fn change(&self, id: StepId, from: StepStatus, to: StepStatus, note: &StepNote<'_>) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let times = if to.is_busy() { format!("started_at = {now}, completed_at = NULL") } else { format!("completed_at = {now}") };
        let text = format!(
            "UPDATE job_steps SET status = ?, attempt = COALESCE(?, attempt), error_message = ?, {times} WHERE id = ? AND status = ?"
        );
        let statement = self.0.sql("change a step's status", text).bind(to.code()).bind(note.attempt).bind(note.error);
        match statement.bind(id).bind(from.code()).run().await? {
            0 => Err(Error::new(ErrorKind::Changed, "change a step's status", "it is not what it was").with("step", id)),
            _ => Ok(()),
        }
    }

    /// The last attempt was ended by request, and does not count.
    pub async fn uncount(&self, id: StepId) -> Result<()> {
        let text = "UPDATE job_steps SET attempt = attempt - 1 WHERE id = ? AND attempt > 0";
        self.0.sql("take back a step's attempt", text).bind(id).run().await.map(|_| ())
    }

    /// A person sends the job on: its steps count their attempts anew.
    pub async fn count_anew(&self, job: &JobId) -> Result<()> {
        let text = "UPDATE job_steps SET attempt = 0 WHERE job_id = ?";
        self.0.sql("count a job's attempts anew", text).bind(job).run().await.map(|_| ())
    }

    /// Keeps a value under a key, for this step's next attempt, its undo, and the steps after it.
    pub async fn remember(&self, id: StepId, key: &str, value: &serde_json::Value) -> Result<()> {
        const KEEP: &str = "keep a value of a step";
        let text = "SELECT metadata FROM job_steps WHERE id = ?";
        let kept = self.0.sql(KEEP, text).bind(id).one("there is no such step", |row| row.json_or_none("metadata")).await?;
        let mut kept = match kept {
            Some(serde_json::Value::Object(kept)) => kept,
            _ => serde_json::Map::new(),
        };
        kept.insert(key.to_owned(), value.clone());
        let text = "UPDATE job_steps SET metadata = ? WHERE id = ?";
        self.0.sql(KEEP, text).bind(&serde_json::Value::Object(kept)).bind(id).run_found("there is no such step").await
    }

    /// The value that a step of this job kept under a key.
    pub async fn recall(&self, job: &JobId, key: &str) -> Result<Option<serde_json::Value>> {
        let steps = self.of_job(job).await?;
        Ok(steps.into_iter().filter_map(|step| step.output).find_map(|kept| kept.get(key).cloned()))
    }
}

fn step(row: &Row) -> Result<Step> {
    Ok(Step {
        id: row.number("id")?,
        job: row.parse("job_id")?,
        sequence: row.number("seq")?,
        name: row.text("name")?,
        status: row.parse("status")?,
        attempt: row.number("attempt")?,
        started_at: row.time_or_none("started_at")?,
        completed_at: row.time_or_none("completed_at")?,
        error_message: row.text_or_none("error_message")?,
        output: row.json_or_none("metadata")?,
    })
}
