//! What jobs make outside (`job_intents`): written down before, completed after.

use super::row::Row;
use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, JobId};
use crate::model::{Intent, IntentStatus};

const COLUMNS: &str = "id, job_id, step_name, kind, name, status, effect_id, epoch, created_at, updated_at";

/// The most intents of one job that are read: a saga makes a few for each disk.
const LIST: u32 = 10_000;

/// The intents, in one transaction.
#[derive(Debug)]
pub struct Intents<'t>(&'t Tx);

/// An intent before the thing is made.
#[derive(Debug, Clone, Copy)]
pub struct NewIntent<'a> {
    /// The job.
    pub job: &'a JobId,
    /// The step's name.
    pub step: &'a str,
    /// What kind of thing.
    pub kind: &'a str,
    /// Its name; unique among the job's things of this kind.
    pub name: &'a str,
    /// The epoch that it is made in.
    pub epoch: Epoch,
}

impl Tx {
    /// What jobs make outside.
    #[must_use]
    pub fn intents(&self) -> Intents<'_> {
        Intents(self)
    }
}

impl Intents<'_> {
    /// Writes an intent down; one that was there (undone, or of an earlier attempt) is open again.
    pub async fn intend(&self, intent: &NewIntent<'_>) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let text = format!(
            "UPDATE job_intents SET step_name = ?, status = ?, effect_id = NULL, epoch = ?, updated_at = {now} \
             WHERE job_id = ? AND kind = ? AND name = ?"
        );
        let statement = self.0.sql("write an intent down", text).bind(intent.step).bind(IntentStatus::Intended.code()).bind(intent.epoch);
        if statement.bind(intent.job).bind(intent.kind).bind(intent.name).run().await? > 0 {
            return Ok(());
        }
        let text = format!(
            "INSERT INTO job_intents (job_id, step_name, kind, name, status, epoch, created_at, updated_at) \
             VALUES (?, ?, ?, ?, ?, ?, {now}, {now})"
        );
        let statement = self.0.sql("write an intent down", text).bind(intent.job).bind(intent.step).bind(intent.kind).bind(intent.name);
        statement.bind(IntentStatus::Intended.code()).bind(intent.epoch).run().await.map(|_| ())
    }

    /// Writes down what became of a thing, with its id if that is known now. [`ErrorKind::NotFound`] when it was never intended,
    /// [`ErrorKind::Changed`] when it is not `from`.
    pub async fn mark(&self, intent: &Intent, to: IntentStatus, effect: Option<&str>) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let text = format!(
            "UPDATE job_intents SET status = ?, effect_id = COALESCE(?, effect_id), updated_at = {now} WHERE id = ? AND status = ?"
        );
        let statement = self.0.sql("write down what became of a thing", text).bind(to.code()).bind(effect);
        match statement.bind(intent.id).bind(intent.status.code()).run().await? {
            0 => Err(Error::new(ErrorKind::Changed, "write down what became of a thing", "its intent is not what it was")
                .with("kind", &intent.kind)
                .with("name", &intent.name)),
            _ => Ok(()),
        }
    }

    /// The intent of this name.
    pub async fn find(&self, job: &JobId, kind: &str, name: &str) -> Result<Option<Intent>> {
        let text = format!("SELECT {COLUMNS} FROM job_intents WHERE job_id = ? AND kind = ? AND name = ?");
        self.0.sql("look for an intent", text).bind(job).bind(kind).bind(name).first(intent).await
    }

    /// The intents of a job, in the order of writing.
    pub async fn of_job(&self, job: &JobId) -> Result<Vec<Intent>> {
        let text = format!("SELECT {COLUMNS} FROM job_intents WHERE job_id = ? ORDER BY id LIMIT {LIST}");
        self.0.sql("read a job's intents", text).bind(job).all(intent).await
    }

    /// The intents of all jobs that are in this state, oldest first, one page.
    pub async fn in_state(&self, status: IntentStatus) -> Result<Vec<Intent>> {
        let text = format!("SELECT {COLUMNS} FROM job_intents WHERE status = ? ORDER BY id LIMIT {LIST}");
        self.0.sql("list intents", text).bind(status.code()).all(intent).await
    }
}

fn intent(row: &Row) -> Result<Intent> {
    Ok(Intent {
        id: row.number("id")?,
        job: row.parse("job_id")?,
        step: row.text("step_name")?,
        kind: row.text("kind")?,
        name: row.text("name")?,
        status: row.parse("status")?,
        effect: row.text_or_none("effect_id")?,
        epoch: row.number("epoch")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
