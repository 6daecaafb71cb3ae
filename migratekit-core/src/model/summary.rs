//! The summary of a context's last operation: what a person asks first, kept with the context until the next operation.

use serde::{Deserialize, Serialize};

use super::messages::{Action, Category, Message, Severity, is_clean, scrub, step_words};
use super::{Job, JobKind, JobStatus, Percent, Step, StepStatus};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;

/// The version of this form, in each record: a newer one is refused, not guessed at.
const VERSION: u32 = 1;

/// How the last operation of a VM went, in clean words (`last_operation_summary`, as JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// The version of this form.
    pub version: u32,
    /// The job.
    pub job_id: JobId,
    /// The other side's or the cloud's id of it.
    pub external_job_id: Option<String>,
    /// What it did.
    pub operation_type: JobKind,
    /// How it stands.
    pub status: JobStatus,
    /// How far it came.
    pub progress: Percent,
    /// The step that failed, in friendly words.
    pub failed_step: Option<String>,
    /// What stopped it, and why.
    pub error_message: Option<String>,
    /// What that has to do with.
    pub error_category: Option<Category>,
    /// How bad it is.
    pub error_severity: Option<Severity>,
    /// What to do next; for one that needs attention its next action comes first.
    pub actionable_steps: Vec<Action>,
    /// When this was written: the job's last change.
    pub timestamp: Timestamp,
    /// How long it ran, in seconds.
    pub duration_seconds: u64,
    /// Steps that are done, or were not needed.
    pub steps_completed: u32,
    /// All its steps.
    pub steps_total: u32,
}

impl OperationSummary {
    /// The summary of `job` with its steps.
    #[must_use]
    pub fn of(job: &Job, steps: &[Step]) -> Self {
        let said = Message::of(job);
        let done = steps.iter().filter(|step| matches!(step.status, StepStatus::Completed | StepStatus::Skipped)).count();
        OperationSummary {
            version: VERSION,
            job_id: job.id.clone(),
            external_job_id: job.external_id.as_deref().map(scrub),
            operation_type: job.kind,
            status: job.status,
            progress: job.percent,
            failed_step: said.as_ref().and(job.failed_step.as_deref()).map(|step| step_words(step).friendly.to_owned()),
            error_message: said.as_ref().map(|said| said.text.clone()),
            error_category: said.as_ref().map(|said| said.category),
            error_severity: said.as_ref().map(|said| said.severity),
            actionable_steps: said.map(|said| said.actions).unwrap_or_default(),
            timestamp: job.updated_at,
            duration_seconds: job.started_at.map_or(0, |from| job.completed_at.unwrap_or(job.updated_at).since(from).as_secs()),
            steps_completed: u32::try_from(done).unwrap_or(u32::MAX),
            steps_total: u32::try_from(steps.len()).unwrap_or(u32::MAX),
        }
    }

    /// Reads one from the catalog's JSON. [`ErrorKind::Mismatch`] for one that is damaged or of a newer version.
    pub fn from_json(json: &serde_json::Value) -> Result<Self> {
        let damaged = |why: &'static str| Error::new(ErrorKind::Mismatch, "read the summary of an operation", why);
        let summary: OperationSummary =
            serde_json::from_value(json.clone()).map_err(|source| damaged("it is not of the known form").with_source(source))?;
        if summary.version > VERSION {
            return Err(damaged("a newer version of this program wrote it").with("version", summary.version));
        }
        // What shows was clean when it was written; who changed it since does not make it show.
        let texts = [&summary.external_job_id, &summary.failed_step, &summary.error_message];
        if texts.into_iter().flatten().any(|text| !is_clean(text)) {
            return Err(damaged("it holds words that were never written by this program"));
        }
        Ok(summary)
    }

    /// As the catalog keeps it.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|source| {
            Error::new(ErrorKind::Internal, "write the summary of an operation", "it cannot be put into JSON").with_source(source)
        })
    }
}
