//! Schedules and their executions: `replication_schedules`, `schedule_executions`.

use super::contexts::MAX_PAGE;
use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecutionId, ScheduleId};
use crate::model::{Execution, ExecutionStatus, Schedule};

/// Schedules, in one transaction.
#[derive(Debug)]
pub struct Schedules<'t>(&'t Tx);

impl Tx {
    /// Schedules and their executions.
    #[must_use]
    pub fn schedules(&self) -> Schedules<'_> {
        Schedules(self)
    }
}

const SCHEDULE: &str = "id, name, description, schedule_type, cron_expression, timezone, chain_parent_schedule_id, chain_delay_minutes, \
     replication_type, max_concurrent_jobs, retry_attempts, retry_delay_minutes, enabled, skip_if_running, created_by, created_at, updated_at";
const EXECUTION: &str = "id, schedule_id, group_id, scheduled_at, started_at, completed_at, status, vms_eligible, jobs_created, \
     jobs_completed, jobs_failed, jobs_skipped, execution_details, error_details, triggered_by, created_at";

impl Schedules<'_> {
    /// Writes a new schedule down. [`ErrorKind::AlreadyExists`] when the name is taken.
    pub async fn add(&self, new: &Schedule) -> Result<()> {
        let text = format!("INSERT INTO replication_schedules ({SCHEDULE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        let statement = self.0.sql("add a schedule", text).bind(&new.id).bind(&new.name).bind(new.description.as_ref());
        let statement =
            statement.bind(new.kind.code()).bind(new.cron_expression.as_ref()).bind(&new.timezone).bind(new.chain_parent.as_ref());
        let statement =
            statement.bind(new.chain_delay_minutes).bind(new.mode.code()).bind(new.max_concurrent_jobs).bind(new.retry_attempts);
        let statement = statement.bind(new.retry_delay_minutes).bind(new.enabled).bind(new.skip_if_running).bind(new.created_by.as_ref());
        statement.bind(new.created_at).bind(new.updated_at).run().await.map(|_| ())
    }

    /// The schedule of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<Schedule>> {
        let text = format!("SELECT {SCHEDULE} FROM replication_schedules WHERE name = ?");
        self.0.sql("look for a schedule", text).bind(name).first(schedule).await
    }

    /// All schedules by name, at most 1000.
    pub async fn all(&self) -> Result<Vec<Schedule>> {
        let text = format!("SELECT {SCHEDULE} FROM replication_schedules ORDER BY name LIMIT {MAX_PAGE}");
        self.0.sql("list the schedules", text).all(schedule).await
    }

    /// Turns a schedule on or off, with the time it will next be due, if any.
    pub async fn enable(&self, id: &ScheduleId, enabled: bool, next: Option<Timestamp>) -> Result<()> {
        let text = format!(
            "UPDATE replication_schedules SET enabled = ?, next_execution_at = ?, updated_at = {} WHERE id = ?",
            dialect::now(self.0.backend())
        );
        self.0.sql("change a schedule", text).bind(enabled).bind(next).bind(id).run_found(NONE).await
    }

    /// Removes a schedule and its executions; groups and schedules that follow it lose the reference.
    pub async fn remove(&self, id: &ScheduleId) -> Result<()> {
        self.0.sql("remove a schedule", "DELETE FROM replication_schedules WHERE id = ?").bind(id).run_found(NONE).await
    }

    /// Writes a new execution down. [`ErrorKind::AlreadyExists`] when there is one for this schedule and time: somebody else began it.
    pub async fn begin(&self, new: &Execution) -> Result<()> {
        let text = format!("INSERT INTO schedule_executions ({EXECUTION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        let statement = self.0.sql("begin a schedule's execution", text).bind(&new.id).bind(&new.schedule).bind(new.group.as_ref());
        let statement = statement.bind(new.scheduled_at).bind(new.started_at).bind(new.completed_at).bind(new.status.code());
        let statement = statement.bind(new.vms_eligible).bind(new.jobs_created).bind(new.jobs_completed).bind(new.jobs_failed);
        let statement = statement.bind(new.jobs_skipped).bind(new.details.as_ref()).bind(new.errors.as_ref()).bind(&new.triggered_by);
        statement.bind(new.created_at).run().await.map(|_| ())
    }

    /// Writes an execution as it is now, provided its status is still `from`; [`ErrorKind::Changed`] otherwise.
    pub async fn advance(&self, now: &Execution, from: ExecutionStatus) -> Result<()> {
        const ADVANCE: &str = "change a schedule's execution";
        let text = "UPDATE schedule_executions SET started_at = ?, completed_at = ?, status = ?, vms_eligible = ?, jobs_created = ?, \
             jobs_completed = ?, jobs_failed = ?, jobs_skipped = ?, execution_details = ?, error_details = ? WHERE id = ? AND status = ?";
        let statement = self.0.sql(ADVANCE, text).bind(now.started_at).bind(now.completed_at).bind(now.status.code());
        let statement = statement.bind(now.vms_eligible).bind(now.jobs_created).bind(now.jobs_completed).bind(now.jobs_failed);
        let statement = statement.bind(now.jobs_skipped).bind(now.details.as_ref()).bind(now.errors.as_ref()).bind(&now.id);
        match statement.bind(from.code()).run().await? {
            0 => Err(Error::new(ErrorKind::Changed, ADVANCE, "it is not what it was").with("execution", &now.id)),
            _ => Ok(()),
        }
    }

    /// An execution.
    pub async fn execution(&self, id: &ExecutionId) -> Result<Option<Execution>> {
        let text = format!("SELECT {EXECUTION} FROM schedule_executions WHERE id = ?");
        self.0.sql("read a schedule's execution", text).bind(id).first(execution).await
    }

    /// At most `limit` (up to 1000) executions of a schedule, the latest first, of before `before`.
    pub async fn executions(&self, id: &ScheduleId, before: Option<Timestamp>, limit: u32) -> Result<Vec<Execution>> {
        let text = format!(
            "SELECT {EXECUTION} FROM schedule_executions WHERE schedule_id = ? AND scheduled_at < ? ORDER BY scheduled_at DESC LIMIT {}",
            limit.clamp(1, MAX_PAGE)
        );
        let before = before.map_or(i64::MAX, Timestamp::as_micros);
        self.0.sql("list a schedule's executions", text).bind(id).bind(before).all(execution).await
    }
}

const NONE: &str = "there is no such schedule";

fn schedule(row: &Row) -> Result<Schedule> {
    Ok(Schedule {
        id: row.parse("id")?,
        name: row.text("name")?,
        description: row.text_or_none("description")?,
        kind: row.parse("schedule_type")?,
        cron_expression: row.text_or_none("cron_expression")?,
        timezone: row.text("timezone")?,
        chain_parent: row.parse_or_none("chain_parent_schedule_id")?,
        chain_delay_minutes: row.number("chain_delay_minutes")?,
        mode: row.parse("replication_type")?,
        max_concurrent_jobs: row.number("max_concurrent_jobs")?,
        retry_attempts: row.number("retry_attempts")?,
        retry_delay_minutes: row.number("retry_delay_minutes")?,
        enabled: row.flag("enabled")?,
        skip_if_running: row.flag("skip_if_running")?,
        created_by: row.text_or_none("created_by")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn execution(row: &Row) -> Result<Execution> {
    Ok(Execution {
        id: row.parse("id")?,
        schedule: row.parse("schedule_id")?,
        group: row.parse_or_none("group_id")?,
        scheduled_at: row.time("scheduled_at")?,
        started_at: row.time_or_none("started_at")?,
        completed_at: row.time_or_none("completed_at")?,
        status: row.parse("status")?,
        vms_eligible: row.number("vms_eligible")?,
        jobs_created: row.number("jobs_created")?,
        jobs_completed: row.number("jobs_completed")?,
        jobs_failed: row.number("jobs_failed")?,
        jobs_skipped: row.number("jobs_skipped")?,
        details: row.json_or_none("execution_details")?,
        errors: row.json_or_none("error_details")?,
        triggered_by: row.text("triggered_by")?,
        created_at: row.time("created_at")?,
    })
}
