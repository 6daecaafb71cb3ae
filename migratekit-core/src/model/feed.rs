//! The feed: all jobs of a context, or of all contexts, newest first, in clean words, a page at a time.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use super::messages::{Action, Category, Severity, scrub, step_words, told};
use super::{ContextStatus, JobKind, JobStatus, OsFamily, Percent, PowerState};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, JobId};

/// The largest page, in items.
pub const FEED_PAGE: u32 = 500;

/// The version of the form in which pages and jobs leave the program; it rises when a field changes its meaning or goes.
pub const FEED_VERSION: u32 = 1;

/// Where a page ended: the next one begins with what is older. Its text is opaque to callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FeedCursor {
    /// When the last item's job was asked for.
    pub created_at: Timestamp,
    /// Its id, which decides among those of one moment.
    pub id: JobId,
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.created_at.as_micros(), self.id)
    }
}

impl FromStr for FeedCursor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parts = || {
            let (micros, id) = text.split_once('~')?;
            Some(FeedCursor { created_at: Timestamp::from_micros(micros.parse().ok()?).ok()?, id: id.parse().ok()? })
        };
        parts().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "read a page's cursor", "it was not given by an earlier page"))
    }
}

impl TryFrom<String> for FeedCursor {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<FeedCursor> for String {
    fn from(cursor: FeedCursor) -> String {
        cursor.to_string()
    }
}

/// What the catalog gives for one item: technical, and not to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedRow {
    /// The job.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Its VM, and that one's name.
    pub context: Option<ContextId>,
    /// The VM's name when the job was asked for.
    pub vm_name: Option<String>,
    /// Where it is.
    pub status: JobStatus,
    /// How far.
    pub percent: Percent,
    /// A foreign id of it.
    pub external_id: Option<String>,
    /// The step that runs, or is undone.
    pub running_step: Option<String>,
    /// The step that failed.
    pub failed_step: Option<String>,
    /// The code of the failure.
    pub error_kind: Option<String>,
    /// Its technical text.
    pub error_message: Option<String>,
    /// The code of the next action.
    pub next_action: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a runner took it first.
    pub started_at: Option<Timestamp>,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When it came to rest.
    pub completed_at: Option<Timestamp>,
}

/// One job as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedItem {
    /// The job.
    pub job_id: JobId,
    /// The other side's or the cloud's id of it.
    pub external_job_id: Option<String>,
    /// What it does.
    pub job_type: JobKind,
    /// Its VM.
    pub context_id: Option<ContextId>,
    /// The VM's name, its owner's own words.
    pub vm_name: Option<String>,
    /// What it is, with the VM's name.
    pub display_name: String,
    /// Where it is.
    pub status: JobStatus,
    /// How far.
    pub progress: Percent,
    /// What it does now, in friendly words.
    pub current_step: Option<String>,
    /// What stopped it, and why.
    pub error_message: Option<String>,
    /// What that has to do with.
    pub error_category: Option<Category>,
    /// How bad it is.
    pub error_severity: Option<Severity>,
    /// What to do next.
    pub actionable_steps: Vec<Action>,
    /// Where the item comes from; always the jobs' table, since an operation has one id.
    pub data_source: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a runner took it first.
    pub started_at: Option<Timestamp>,
    /// When it came to rest.
    pub completed_at: Option<Timestamp>,
    /// How long it has run, or ran, in seconds, up to its last change.
    pub duration_seconds: u64,
}

/// A page of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedPage {
    /// The version of this form.
    pub version: u32,
    /// The items, newest first.
    pub items: Vec<FeedItem>,
    /// Where the next page begins; none when this is the last.
    pub next: Option<FeedCursor>,
}

/// What a kind of job is called.
fn title(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Replication => "Replication",
        JobKind::LiveFailover => "Live failover",
        JobKind::TestFailover => "Test failover",
        JobKind::TestCleanup => "End of a test failover",
        JobKind::Rollback => "Rollback",
        JobKind::Commit => "Completion of a failover",
        JobKind::FailedCleanup => "Mending after a failed failover",
        JobKind::Discovery => "Discovery",
        JobKind::Verify => "Verification",
        JobKind::ScheduleRun => "Scheduled run",
        JobKind::Bulk => "Operation on several machines",
        JobKind::Removal => "Removal",
    }
}

impl FeedItem {
    /// The item that people see for a row.
    #[must_use]
    pub fn of(row: &FeedRow) -> Self {
        let said = told(
            row.status,
            row.error_kind.as_deref(),
            row.error_message.as_deref(),
            row.failed_step.as_deref(),
            row.next_action.as_deref(),
        );
        let vm_name = row.vm_name.as_deref().map(one_line);
        let running = row.running_step.as_deref().filter(|_| row.status.is_busy());
        FeedItem {
            job_id: row.id.clone(),
            external_job_id: row.external_id.as_deref().map(scrub),
            job_type: row.kind,
            context_id: row.context.clone(),
            display_name: match &vm_name {
                Some(name) => format!("{} of {name}", title(row.kind)),
                None => title(row.kind).to_owned(),
            },
            vm_name,
            status: row.status,
            progress: row.percent,
            current_step: running.map(|step| step_words(step).friendly.to_owned()),
            error_message: said.as_ref().map(|said| said.text.clone()),
            error_category: said.as_ref().map(|said| said.category),
            error_severity: said.as_ref().map(|said| said.severity),
            actionable_steps: said.map(|said| said.actions).unwrap_or_default(),
            data_source: "job_tracking".to_owned(),
            created_at: row.created_at,
            started_at: row.started_at,
            completed_at: row.completed_at,
            duration_seconds: row.started_at.map_or(0, |from| row.completed_at.unwrap_or(row.updated_at).since(from).as_secs()),
        }
    }
}

/// A VM's name is its owner's own words and shows as it is, but on one line and without signs that steer a terminal.
fn one_line(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(255).collect()
}

impl FeedPage {
    /// A page of at most `limit` items from rows that were asked for with one more: whether there is a next page shows by it.
    #[must_use]
    pub fn of(rows: &[FeedRow], limit: usize) -> Self {
        let next = rows.get(limit).and_then(|_| rows.get(limit.checked_sub(1)?));
        FeedPage {
            version: FEED_VERSION,
            items: rows.iter().take(limit).map(FeedItem::of).collect(),
            next: next.map(|row| FeedCursor { created_at: row.created_at, id: row.id.clone() }),
        }
    }
}

/// Where a page of contexts ended. Its text is opaque to callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContextCursor {
    /// The last VM's name.
    pub vm_name: String,
    /// Its context, which decides among those of one name.
    pub id: ContextId,
}

impl fmt::Display for ContextCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // So that no name has to be quoted on a command line or in a URL.
        write!(f, "{}~{}", self.id, BASE64.encode(&self.vm_name))
    }
}

impl FromStr for ContextCursor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        text.split_once('~')
            .and_then(|(id, name)| {
                Some(ContextCursor { vm_name: String::from_utf8(BASE64.decode(name).ok()?).ok()?, id: id.parse().ok()? })
            })
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "read a page's cursor", "it was not given by an earlier page of machines"))
    }
}

impl TryFrom<String> for ContextCursor {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ContextCursor> for String {
    fn from(cursor: ContextCursor) -> String {
        cursor.to_string()
    }
}

/// One VM in a list: what a person wants to see of it at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextItem {
    /// Its id.
    pub context: ContextId,
    /// The VM's name.
    pub vm_name: String,
    /// Its source: a vCenter's host name, or a local site's name.
    pub source_host: String,
    /// Where it stands.
    pub status: ContextStatus,
    /// Its operating system.
    pub os: OsFamily,
    /// Whether the source ran when it was last looked at.
    pub power: PowerState,
    /// How many disks its source has.
    pub disk_count: u64,
    /// Their sizes together, in bytes.
    pub capacity_bytes: u64,
    /// When its newest complete point was taken.
    pub last_point_at: Option<Timestamp>,
    /// The job that holds it.
    pub active_job: Option<ActiveJob>,
    /// Its newest job.
    pub last_job: Option<FeedItem>,
}

/// The job that holds a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveJob {
    /// Its id.
    pub id: JobId,
    /// Where it is.
    pub status: JobStatus,
    /// How far it is.
    pub percent: Percent,
}

/// A page of VMs, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextPage {
    /// The VMs.
    pub items: Vec<ContextItem>,
    /// Where the next page begins; none when this is the last.
    pub next: Option<ContextCursor>,
}

#[cfg(test)]
mod tests;
