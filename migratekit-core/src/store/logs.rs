//! The program's log (`log_events`), and what jobs tell their readers (`job_execution_log`): written in batches, read by the job.

use super::Tx;
use super::row::Row;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{JobId, LogId, StepId};
use crate::model::{JobLogLine, LogEvent, LogLevel};

/// The most lines in one answer.
const PAGE: u32 = 500;

/// The logs, in one transaction.
#[derive(Debug)]
pub struct Logs<'t>(&'t Tx);

/// A line before it is stored.
#[derive(Debug, Clone)]
pub struct NewLogLine {
    /// When it was said.
    pub at: Timestamp,
    /// How loud.
    pub level: LogLevel,
    /// What is said, in technical words.
    pub message: String,
    /// Its fields.
    pub attrs: Option<serde_json::Value>,
    /// The job it was said in.
    pub job: Option<JobId>,
    /// The step it was said in.
    pub step: Option<StepId>,
    /// That step's name.
    pub phase: Option<String>,
}

impl Tx {
    /// The logs.
    #[must_use]
    pub fn logs(&self) -> Logs<'_> {
        Logs(self)
    }
}

impl Logs<'_> {
    /// Appends lines. Those of a job that are not of the lowest level go to its own log too. A job or step that is gone is no error: its
    /// lines are kept without the link.
    pub async fn append(&self, lines: &[NewLogLine]) -> Result<()> {
        for line in lines {
            let text = "INSERT INTO log_events (job_id, step_id, level, message, attrs, ts) VALUES \
                        ((SELECT id FROM job_tracking WHERE id = ?), (SELECT id FROM job_steps WHERE id = ?), ?, ?, ?, ?)";
            let statement = self.0.sql("store log lines", text).bind(line.job.as_ref()).bind(line.step).bind(line.level.code());
            statement.bind(line.message.as_str()).bind(line.attrs.as_ref()).bind(line.at).run().await?;
            if let Some(job) = line.job.as_ref().filter(|_| line.level > LogLevel::Debug) {
                let text = "INSERT INTO job_execution_log (job_id, log_level, message, details, operation_phase, created_at) \
                            SELECT id, ?, ?, ?, ?, ? FROM job_tracking WHERE id = ?";
                let statement = self.0.sql("store log lines", text).bind(line.level.code()).bind(line.message.as_str());
                statement.bind(line.attrs.as_ref()).bind(line.phase.as_deref()).bind(line.at).bind(job).run().await?;
            }
        }
        Ok(())
    }

    /// What a job said of itself, above `after`, in order; at most 500.
    pub async fn of_job(&self, job: &JobId, after: Option<LogId>) -> Result<Vec<JobLogLine>> {
        let text = format!(
            "SELECT id, job_id, log_level, message, details, operation_phase, created_at FROM job_execution_log \
             WHERE job_id = ? AND id > ? ORDER BY id LIMIT {PAGE}"
        );
        let read = |row: &Row| {
            Ok(JobLogLine {
                id: row.number("id")?,
                job: row.parse("job_id")?,
                level: row.parse("log_level")?,
                message: row.text("message")?,
                details: row.json_or_none("details")?,
                phase: row.text_or_none("operation_phase")?,
                created_at: row.time("created_at")?,
            })
        };
        self.0.sql("read a job's log", text).bind(job).bind(after.map_or(0, LogId::get)).all(read).await
    }

    /// The program's log above `after`, in order; at most 500.
    pub async fn after(&self, after: Option<LogId>) -> Result<Vec<LogEvent>> {
        let text = format!("SELECT id, job_id, step_id, level, message, attrs, ts FROM log_events WHERE id > ? ORDER BY id LIMIT {PAGE}");
        let read = |row: &Row| {
            Ok(LogEvent {
                id: row.number("id")?,
                job: row.parse_or_none("job_id")?,
                step: row.number_or_none("step_id")?,
                level: row.parse("level")?,
                message: row.text("message")?,
                attrs: row.json_or_none("attrs")?,
                at: row.time("ts")?,
            })
        };
        self.0.sql("read the log", text).bind(after.map_or(0, LogId::get)).all(read).await
    }
}
