//! Jobs (`job_tracking`): begun, taken, held, renewed, changed. What follows what is the model's to say; here the row is only written if it
//! is still as it was seen.

use std::time::Duration;

use super::row::Row;
use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, Epoch, JobId, RunnerId};
use crate::model::{Job, JobKind, JobStatus, Lease, Percent};

/// The longest technical text that is kept of a failure, in bytes.
const MAX_ERROR: usize = 64 * 1024;

/// The most jobs that one look for work reads: more than a runner can take before its next look.
const LOOK: u32 = 256;

/// The most rows of a list without pages.
const LIST: u32 = 10_000;

const COLUMNS: &str = "id, parent_job_id, operation, context_id, status, percent_complete, metadata, outcome, error_message, error_kind, \
     failed_step, next_action, cancel_requested, pause_requested, undo_requested, pivot_crossed, lease_owner, epoch, lease_until, \
     lease_renewals, external_job_id, owner, unreachable_since, created_at, started_at, updated_at, completed_at";

/// The jobs, in one transaction.
#[derive(Debug)]
pub struct Jobs<'t>(&'t Tx);

/// A job's row as it begins.
#[derive(Debug, Clone, Copy)]
pub struct NewJob<'a> {
    /// Its id.
    pub id: &'a JobId,
    /// What it does.
    pub kind: JobKind,
    /// Its VM.
    pub context: Option<&'a ContextId>,
    /// The job that began it.
    pub parent: Option<&'a JobId>,
    /// Its saga's input.
    pub input: &'a serde_json::Value,
    /// Who asked.
    pub by: Option<&'a str>,
}

/// A failure, for a job's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// The step.
    pub step: String,
    /// The code of the error's kind.
    pub kind: String,
    /// The error in technical words.
    pub message: String,
}

/// What is written beside a job's new status.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobNote<'a> {
    /// Who asked for it.
    pub by: Option<&'a str>,
    /// Why it failed.
    pub failure: Option<&'a JobFailure>,
    /// What a person has to do.
    pub next_action: Option<&'a str>,
}

impl Tx {
    /// The jobs.
    #[must_use]
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs(self)
    }
}

impl Jobs<'_> {
    /// Writes a new job down, pending. [`ErrorKind::AlreadyExists`] when its VM has an active one.
    pub async fn insert(&self, job: &NewJob<'_>) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let text = format!(
            "INSERT INTO job_tracking (id, parent_job_id, operation, job_category, status, metadata, owner, context_id, \
             context_name, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, \
             (SELECT vm_name FROM vm_replication_contexts WHERE context_id = ?), {now}, {now})"
        );
        let category = job.kind.category().code();
        let statement = self.0.sql("begin a job", text).bind(job.id).bind(job.parent).bind(job.kind.code()).bind(category);
        let statement = statement.bind(JobStatus::Pending.code()).bind(job.input).bind(job.by).bind(job.context).bind(job.context);
        statement.run().await.map(|_| ())
    }

    /// The job. [`ErrorKind::NotFound`] when there is none of this id.
    pub async fn get(&self, id: &JobId) -> Result<Job> {
        let text = format!("SELECT {COLUMNS} FROM job_tracking WHERE id = ?");
        self.0.sql("read a job", text).bind(id).one("there is no such job", job).await.map_err(|e| e.with("job", id))
    }

    /// The job, which no other transaction can change until this one ends.
    pub async fn lock(&self, id: &JobId) -> Result<Job> {
        let text = format!("SELECT {COLUMNS} FROM job_tracking WHERE id = ?{}", dialect::for_update(self.0.backend()));
        self.0.sql("read a job", text).bind(id).one("there is no such job", job).await.map_err(|e| e.with("job", id))
    }

    /// The active job of a VM.
    pub async fn active_of(&self, context: &ContextId) -> Result<Option<JobId>> {
        let text = "SELECT id FROM job_tracking WHERE active_context_id = ?";
        self.0.sql("look for an active job", text).bind(context).first(|row| row.parse("id")).await
    }

    /// The newest job of a VM that needs a person before anything else is begun: see [`JobKind::holds_back`].
    pub async fn holding_back(&self, context: &ContextId) -> Result<Option<JobId>> {
        let text = format!(
            "SELECT id, operation FROM job_tracking WHERE context_id = ? AND status = 'needs_attention' ORDER BY created_at DESC, id DESC LIMIT {LIST}"
        );
        let found = self.0.sql("look for a job that needs attention", text).bind(context);
        let found: Vec<(JobId, JobKind)> = found.all(|row| Ok((row.parse("id")?, row.parse("operation")?))).await?;
        Ok(found.into_iter().find(|(_, kind)| kind.holds_back()).map(|(id, _)| id))
    }

    /// All busy jobs, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<Job>> {
        let text = format!(
            "SELECT {COLUMNS} FROM job_tracking WHERE status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back') \
             ORDER BY created_at, id LIMIT {LIST}"
        );
        self.0.sql("list active jobs", text).all(job).await
    }

    /// The busy children of a job.
    pub async fn unfinished_children(&self, parent: &JobId) -> Result<Vec<JobId>> {
        let text = format!(
            "SELECT id FROM job_tracking WHERE parent_job_id = ? \
             AND status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back') ORDER BY id LIMIT {LIST}"
        );
        self.0.sql("list a job's children", text).bind(parent).all(|row| row.parse("id")).await
    }

    /// Jobs to be driven: nobody holds them, or `runner` itself does, or their lease is over within `soon`. Oldest first.
    pub async fn to_drive(&self, runner: &RunnerId, soon: Duration) -> Result<Vec<Job>> {
        let text = format!(
            "SELECT {COLUMNS} FROM job_tracking WHERE status IN ('pending', 'running', 'cancelling', 'rolling_back') \
             AND (lease_owner IS NULL OR lease_owner = ? OR lease_until < {} + ?) ORDER BY created_at, id LIMIT {LOOK}",
            dialect::now(self.0.backend())
        );
        self.0.sql("look for work", text).bind(runner).bind(micros(soon)).all(job).await
    }

    /// The jobs that a runner holds.
    pub async fn held_by(&self, runner: &RunnerId) -> Result<Vec<Job>> {
        let text = format!("SELECT {COLUMNS} FROM job_tracking WHERE lease_owner = ?");
        self.0.sql("look at the jobs held", text).bind(runner).all(job).await
    }

    /// Gives a job to a runner, provided it still is as `seen`: with `status` and a lease of this length. The epoch is that of its VM, raised
    /// by one; none when somebody else was faster.
    pub async fn claim(&self, seen: &Job, status: JobStatus, runner: &RunnerId, lease: Duration) -> Result<Option<Epoch>> {
        let epoch = match &seen.context {
            Some(context) => self.raise_epoch(context).await?,
            None => self.epoch(&seen.id).await?.next()?,
        };
        let now = dialect::now(self.0.backend());
        let text = format!(
            "UPDATE job_tracking SET status = ?, lease_owner = ?, lease_until = {now} + ?, lease_renewals = 0, epoch = ?, attempt = attempt + 1, \
             started_at = COALESCE(started_at, {now}), updated_at = {now}, unreachable_since = NULL \
             WHERE id = ? AND status = ? AND COALESCE(lease_owner, '') = ? AND (lease_owner IS NULL OR (epoch = ? AND lease_renewals = ?))"
        );
        let (owner, seen_epoch, renewals) = match &seen.lease {
            Some(lease) => (lease.owner.as_str(), lease.epoch, lease.renewals),
            None => ("", Epoch::NONE, 0),
        };
        let statement = self.0.sql("take a job", text).bind(status.code()).bind(runner).bind(micros(lease)).bind(epoch);
        let statement = statement.bind(&seen.id).bind(seen.status.code()).bind(owner).bind(seen_epoch).bind(renewals);
        Ok((statement.run().await? == 1).then_some(epoch))
    }

    async fn raise_epoch(&self, context: &ContextId) -> Result<Epoch> {
        let text = "UPDATE vm_replication_contexts SET epoch = epoch + 1 WHERE context_id = ?";
        self.0.sql("raise a VM's epoch", text).bind(context).run_found("there is no such VM under management").await?;
        let text = "SELECT epoch FROM vm_replication_contexts WHERE context_id = ?";
        self.0.sql("raise a VM's epoch", text).bind(context).one("there is no such VM under management", |row| row.number("epoch")).await
    }

    async fn epoch(&self, id: &JobId) -> Result<Epoch> {
        let text = format!("SELECT epoch FROM job_tracking WHERE id = ?{}", dialect::for_update(self.0.backend()));
        self.0.sql("raise a job's epoch", text).bind(id).one("there is no such job", |row| row.number("epoch")).await
    }

    /// Whether this runner holds the job in this epoch; until the transaction ends nobody can take it.
    pub async fn hold(&self, id: &JobId, runner: &RunnerId, epoch: Epoch) -> Result<bool> {
        let text = format!(
            "UPDATE job_tracking SET updated_at = {} WHERE id = ? AND lease_owner = ? AND epoch = ?",
            dialect::now(self.0.backend())
        );
        Ok(self.0.sql("check the right to write", text).bind(id).bind(runner).bind(epoch).run().await? == 1)
    }

    /// Raises the epoch of a job that is held: its child wrote with a higher one, and has come to rest.
    pub async fn raise(&self, id: &JobId, context: &ContextId) -> Result<Epoch> {
        let epoch = self.raise_epoch(context).await?;
        let text = "UPDATE job_tracking SET epoch = ? WHERE id = ?";
        self.0.sql("raise a job's epoch", text).bind(epoch).bind(id).run_found("there is no such job").await?;
        Ok(epoch)
    }

    /// Renews the leases that a runner has on these jobs. Gives those it still had.
    pub async fn renew(&self, runner: &RunnerId, jobs: &[JobId], lease: Duration) -> Result<Vec<JobId>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let marks = vec!["?"; jobs.len()].join(", ");
        let text = format!(
            "UPDATE job_tracking SET lease_until = {} + ?, lease_renewals = lease_renewals + 1 WHERE lease_owner = ? AND id IN ({marks})",
            dialect::now(self.0.backend())
        );
        let statement = self.0.sql("renew leases", text).bind(micros(lease)).bind(runner);
        jobs.iter().fold(statement, |statement, job| statement.bind(job)).run().await?;
        let text = "SELECT id FROM job_tracking WHERE lease_owner = ?";
        self.0.sql("renew leases", text).bind(runner).all(|row| row.parse("id")).await
    }

    /// Ends the lease.
    pub async fn release(&self, id: &JobId) -> Result<()> {
        let text = "UPDATE job_tracking SET lease_owner = NULL, lease_until = NULL, lease_renewals = 0 WHERE id = ?";
        self.0.sql("give a lease back", text).bind(id).run_found("there is no such job").await
    }

    /// Changes the status, provided it is `from` ([`ErrorKind::Changed`] if not), and what follows from it.
    pub async fn change(&self, id: &JobId, from: JobStatus, to: JobStatus, note: &JobNote<'_>) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let mut sets = format!("status = ?, updated_at = {now}, next_action = ?");
        if !to.is_busy() {
            sets.push_str(&format!(", completed_at = {now}"));
        } else if !from.is_busy() {
            sets.push_str(", completed_at = NULL");
        }
        if to == JobStatus::Completed {
            sets.push_str(", percent_complete = 100, error_message = NULL, error_kind = NULL, failed_step = NULL");
        }
        if to == JobStatus::Cancelling || (to == JobStatus::Cancelled && from == JobStatus::Pending) {
            sets.push_str(", cancel_requested = 1");
        }
        let text = format!("UPDATE job_tracking SET {sets} WHERE id = ? AND status = ?");
        let statement = self.0.sql("change a job's status", text).bind(to.code()).bind(note.next_action);
        if statement.bind(id).bind(from.code()).run().await? == 0 {
            return Err(Error::new(ErrorKind::Changed, "change a job's status", "it is not what it was")
                .with("job", id)
                .with("from", from));
        }
        match note.failure {
            Some(failure) => self.fail(id, failure).await,
            None => Ok(()),
        }
    }

    /// Writes down why the job fails, if it does.
    pub async fn fail(&self, id: &JobId, failure: &JobFailure) -> Result<()> {
        let text = "UPDATE job_tracking SET error_message = ?, error_kind = ?, failed_step = ? WHERE id = ?";
        let message = failure.message.get(..failure.message.floor_char_boundary(MAX_ERROR)).unwrap_or_default();
        let statement = self.0.sql("write a failure down", text).bind(message).bind(failure.kind.as_str());
        statement.bind((!failure.step.is_empty()).then_some(failure.step.as_str())).bind(id).run_found("there is no such job").await
    }

    /// From here the job goes only forward.
    pub async fn cross(&self, id: &JobId) -> Result<()> {
        let text = "UPDATE job_tracking SET pivot_crossed = 1 WHERE id = ?";
        self.0.sql("cross a job's pivot", text).bind(id).run_found("there is no such job").await
    }

    /// Writes down that a pause is wanted, or no more.
    pub async fn ask_pause(&self, id: &JobId, wanted: bool) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let text = format!("UPDATE job_tracking SET pause_requested = ?, updated_at = {now} WHERE id = ?");
        self.0.sql("ask a job to pause", text).bind(wanted).bind(id).run_found("there is no such job").await
    }

    /// A person wants it undone; its result says so.
    pub async fn ask_undo(&self, id: &JobId) -> Result<()> {
        let text = "UPDATE job_tracking SET undo_requested = 1 WHERE id = ?";
        self.0.sql("ask a job to be undone", text).bind(id).run_found("there is no such job").await
    }

    /// Writes down since when the other side is unreachable, unless that is known.
    pub async fn mark_unreachable(&self, id: &JobId) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let text = format!("UPDATE job_tracking SET unreachable_since = COALESCE(unreachable_since, {now}) WHERE id = ?");
        self.0.sql("mark a job as out of reach", text).bind(id).run_found("there is no such job").await
    }

    /// Raises the percent; a lower one is ignored.
    pub async fn show(&self, id: &JobId, percent: Percent) -> Result<()> {
        let text =
            "UPDATE job_tracking SET percent_complete = CASE WHEN percent_complete < ? THEN ? ELSE percent_complete END WHERE id = ?";
        self.0.sql("write progress down", text).bind(percent).bind(percent).bind(id).run_found("there is no such job").await
    }

    /// Writes down what came of the job, as its saga says it.
    pub async fn set_outcome(&self, id: &JobId, outcome: &serde_json::Value) -> Result<()> {
        let text = "UPDATE job_tracking SET outcome = ? WHERE id = ?";
        self.0.sql("write a job's outcome down", text).bind(outcome).bind(id).run_found("there is no such job").await
    }
}

/// Microseconds, as the columns have them.
pub(super) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

fn job(row: &Row) -> Result<Job> {
    let kind: JobKind = row.parse("operation")?;
    let lease = match row.parse_or_none::<RunnerId>("lease_owner")? {
        None => None,
        Some(owner) => {
            Some(Lease { owner, epoch: row.number("epoch")?, until: row.time("lease_until")?, renewals: row.number("lease_renewals")? })
        }
    };
    let percent: u8 = row.number("percent_complete")?;
    Ok(Job {
        id: row.parse("id")?,
        parent: row.parse_or_none("parent_job_id")?,
        kind,
        category: kind.category(),
        context: row.parse_or_none("context_id")?,
        status: row.parse("status")?,
        percent: Percent::capped(percent),
        input: row.json("metadata")?,
        outcome: row.json_or_none("outcome")?,
        error_message: row.text_or_none("error_message")?,
        error_kind: row.text_or_none("error_kind")?,
        failed_step: row.text_or_none("failed_step")?,
        next_action: row.text_or_none("next_action")?,
        cancel_requested: row.flag("cancel_requested")?,
        pause_requested: row.flag("pause_requested")?,
        undo_requested: row.flag("undo_requested")?,
        pivot_crossed: row.flag("pivot_crossed")?,
        lease,
        external_id: row.text_or_none("external_job_id")?,
        created_by: row.text_or_none("owner")?,
        unreachable_since: row.time_or_none("unreachable_since")?,
        created_at: row.time("created_at")?,
        started_at: row.time_or_none("started_at")?,
        updated_at: row.time("updated_at")?,
        completed_at: row.time_or_none("completed_at")?,
    })
}
