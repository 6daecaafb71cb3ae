//! Events: what changed, told in the order of the changes. A row is written in the transaction of the change.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::messages::step_words;
use crate::clock::Timestamp;
use crate::id::{ContextId, EventId, JobId};
use crate::units::ByteSize;

codes! {
    /// What an event tells.
    EventKind ("kind of event") {
        /// A job was asked for.
        JobCreated => "job_created",
        /// A job's status changed.
        JobStatus => "job_status",
        /// A job came further; at most one a second.
        JobProgress => "job_progress",
        /// A step's status changed.
        StepStatus => "step_status",
        /// A context came under management, or left it.
        ContextAdded => "context_added",
        /// A context left management.
        ContextRemoved => "context_removed",
        /// A context's status changed.
        ContextStatus => "context_status",
        /// A point was committed.
        PointCommitted => "point_committed",
        /// A point is in the volumes.
        PointApplied => "point_applied",
        /// A runner began.
        RunnerStarted => "runner_started",
        /// A runner ended.
        RunnerStopped => "runner_stopped",
        /// What recovery found and did.
        Recovery => "recovery",
        /// Something is wrong that nobody's job is.
        Warning => "warning",
    }
}

/// One event (`events`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; rising in the order of the changes.
    pub id: EventId,
    /// What it tells.
    pub kind: EventKind,
    /// The VM.
    pub context: Option<ContextId>,
    /// The job.
    pub job: Option<JobId>,
    /// What belongs to it: codes and numbers, no technical text that people must not see.
    pub data: serde_json::Value,
    /// When.
    pub at: Timestamp,
}

impl Event {
    /// What it tells a person who follows a job; `None` for one that tells people nothing.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        let text = |key: &str| self.data.get(key).and_then(serde_json::Value::as_str);
        let number = |key: &str| self.data.get(key).and_then(serde_json::Value::as_u64);
        let step = text("step").map(|step| step_words(step).friendly);
        Some(match self.kind {
            EventKind::JobCreated => "begun".to_owned(),
            EventKind::JobStatus => text("to")?.replace('_', " "),
            EventKind::StepStatus => match (text("to")?, step?) {
                ("running", title) => title.to_owned(),
                (to, title) => format!("{title}: {}", to.replace('_', " ")),
            },
            EventKind::JobProgress => {
                let bytes = match (number("bytes_done"), number("bytes_total")) {
                    (Some(done), Some(total)) if total > 0 => format!(", {} of {}", ByteSize(done), ByteSize(total)),
                    _ => String::new(),
                };
                format!("{}%  {}{bytes}", number("percent")?, step?)
            }
            EventKind::PointCommitted => "a new complete point is safe".to_owned(),
            EventKind::PointApplied => "the new point is in the volumes".to_owned(),
            _ => return None,
        })
    }
}

impl fmt::Display for Event {
    /// When, and what it tells; the kind alone when that is nothing for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some(words) => write!(f, "{}  {words}", self.at),
            None => write!(f, "{}  {}", self.at, self.kind),
        }
    }
}
