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
    /// Appends lines, at most some hundred at once. Those of a job that are not of the lowest level go to its own log too. A job or step that is gone is no error: its
    /// lines are kept without the link.
    pub async fn append(&self, lines: &[NewLogLine]) -> Result<()> {
        if !lines.is_empty() {
            self.append_all(lines).await?;
        }
        let told: Vec<_> =
            lines.iter().filter_map(|line| Some((line, line.job.as_ref()?))).filter(|(line, _)| line.level > LogLevel::Debug).collect();
        if told.is_empty() {
            return Ok(());
        }
        let row = "SELECT id, ?, ?, ?, ?, ? FROM job_tracking WHERE id = ?";
        let rows = vec![row; told.len()].join(" UNION ALL ");
        let text = format!("INSERT INTO job_execution_log (job_id, log_level, message, details, operation_phase, created_at) {rows}");
        let mut statement = self.0.sql("store log lines", text);
        for (line, job) in told {
            statement = statement.bind(line.level.code()).bind(line.message.as_str()).bind(line.attrs.as_ref());
            statement = statement.bind(line.phase.as_deref()).bind(line.at).bind(job);
        }
        statement.run().await.map(|_| ())
    }

    async fn append_all(&self, lines: &[NewLogLine]) -> Result<()> {
        let row = "((SELECT id FROM job_tracking WHERE id = ?), (SELECT id FROM job_steps WHERE id = ?), ?, ?, ?, ?)";
        let rows = vec![row; lines.len()].join(", ");
        let text = format!("INSERT INTO log_events (job_id, step_id, level, message, attrs, ts) VALUES {rows}");
        let mut statement = self.0.sql("store log lines", text);
        for line in lines {
            statement = statement.bind(line.job.as_ref()).bind(line.step).bind(line.level.code());
            statement = statement.bind(line.message.as_str()).bind(line.attrs.as_ref()).bind(line.at);
        }
        statement.run().await.map(|_| ())
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
