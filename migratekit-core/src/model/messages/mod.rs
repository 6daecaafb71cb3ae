//! What people read about their operations: clean words, a category, a severity, and what to do next.
//!
//! A message is made from a *cause* (a code) and a *step* (a name), never from technical text, so technical text cannot show. Technical text
//! helps only to find the cause when no code is known ([`Cause::of`]). It stays in the job's log, for who looks there.
//!
//! - No two causes share a text: [`Message::text`] is different for every pair of cause and step (a test walks all of them).
//! - Every message names at least one [`Action`], and every action has a target: a setting, a command, a page.
//! - Text from outside that must show all the same (an id that a cloud gave) goes through [`scrub`].

mod action;
mod cause;
mod scrub;
mod step;

pub use action::{Action, Target};
pub use cause::{Category, Cause, Severity};
pub use scrub::{is_clean, scrub};
pub use step::{StepClass, StepWords, step_words};

use serde::{Deserialize, Serialize};

use super::{Job, JobStatus};
use crate::error::ErrorKind;

/// What people read about a failure, or about an end by request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// One sentence: what stopped, and why.
    pub text: String,
    /// The step in friendly words.
    pub step: String,
    /// What it has to do with.
    pub category: Category,
    /// How bad it is.
    pub severity: Severity,
    /// What to do next, the likeliest first; never empty.
    pub actions: Vec<Action>,
}

impl Message {
    /// The kind of error that a job's end is for who waited for it; none for one that runs or completed.
    #[must_use]
    pub fn kind_of(job: &Job) -> Option<ErrorKind> {
        cause_of(job.status, job.error_kind.as_deref(), job.error_message.as_deref()).map(Cause::kind)
    }

    /// What people read of a job: none for one that runs or completed.
    #[must_use]
    pub fn of(job: &Job) -> Option<Message> {
        told(job.status, job.error_kind.as_deref(), job.error_message.as_deref(), job.failed_step.as_deref(), job.next_action.as_deref())
    }
}

/// What is said of a job with this status, code and technical text of its failure, step and next action. None for one that runs or
/// completed.
pub(super) fn told(
    status: JobStatus,
    code: Option<&str>,
    technical: Option<&str>,
    step: Option<&str>,
    next_action: Option<&str>,
) -> Option<Message> {
    let cause = cause_of(status, code, technical)?;
    let mut said = message(cause, step);
    // What a job that cannot go on by itself names comes first.
    if let Some(first) = next_action.and_then(|action| action.parse::<Action>().ok()) {
        said.actions.retain(|action| *action != first);
        said.actions.insert(0, first);
    }
    Some(said)
}

/// Why a job with this status does not run and did not complete.
fn cause_of(status: JobStatus, code: Option<&str>, technical: Option<&str>) -> Option<Cause> {
    match status {
        JobStatus::Failed | JobStatus::NeedsAttention | JobStatus::RolledBack => Some(Cause::of(code, technical)),
        JobStatus::Cancelled => Some(Cause::Cancelled),
        JobStatus::RollingBack if code.is_some() || technical.is_some() => Some(Cause::of(code, technical)),
        JobStatus::Pending
        | JobStatus::Running
        | JobStatus::Paused
        | JobStatus::Cancelling
        | JobStatus::RollingBack
        | JobStatus::Completed => None,
    }
}

/// The message for a failure in the step called `step` (a saga's name; any text is safe), by its cause.
#[must_use]
pub fn message(cause: Cause, step: Option<&str>) -> Message {
    let words = step_words(step.unwrap_or_default());
    Message {
        text: format!("{} stopped: {}.", words.friendly, cause.words()),
        step: words.friendly.to_owned(),
        category: words.category.filter(|_| cause.yields_to_step()).unwrap_or(cause.category()),
        severity: cause.severity(),
        actions: cause.actions().to_vec(),
    }
}

#[cfg(test)]
mod tests;
