//! Jobs of every kind, as rows: listed, looked at, followed, ended. It works from any process, also from one that runs nothing.

use std::time::Duration;

use serde::Serialize;

use super::Engine;
use super::page;
use crate::clock::{self, Instant, Timestamp};
use crate::error::{Error, Result};
use crate::id::{ContextId, Epoch, JobId, RunnerId};
use crate::jobs::{Follow, MONITOR};
use crate::model::messages::{StepClass, step_words};
use crate::model::{
    Event, EventKind, FEED_VERSION, FeedCursor, FeedItem, FeedPage, Job, JobLogLine, JobStatus, OperationSummary, Step, StepStatus,
};
use crate::store::{FeedSearch, Tx};
use crate::task::CancellationToken;

/// The jobs of an engine's catalog.
#[derive(Debug, Clone)]
pub struct JobRows {
    engine: Engine,
}

/// Which jobs.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Those of the VM of this name or id.
    pub vm: Option<String>,
    /// Those that hold their VM.
    pub active: bool,
    /// Those with this status.
    pub status: Option<JobStatus>,
}

/// A job with its steps, in clean words; and beside them what it says in technical ones, for who looks there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobDetail {
    /// The version of this form.
    pub version: u32,
    /// The job.
    pub job: FeedItem,
    /// Its steps, in order.
    pub steps: Vec<StepLine>,
    /// The technical detail.
    pub technical: TechnicalDetail,
}

/// A step of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepLine {
    /// What people read.
    pub title: &'static str,
    /// What kind of work it is.
    pub class: StepClass,
    /// Where it is.
    pub status: StepStatus,
    /// How often it was begun.
    pub attempt: u32,
    /// When it was begun last.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

/// What the catalog has of a job and its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TechnicalDetail {
    /// The job's row.
    pub job: Job,
    /// The steps' rows, in order.
    pub steps: Vec<Step>,
}

/// The most log lines in one answer.
const LOG: usize = 10_000;

impl JobRows {
    pub(super) fn of(engine: &Engine) -> Self {
        JobRows { engine: engine.clone() }
    }

    /// Jobs of every kind in clean words, newest first: at most `limit` (1 to 500) behind the cursor `after`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a limit or a cursor that is none; those of finding the VM.
    pub async fn feed(&self, filter: &JobFilter, limit: u32, after: Option<&str>) -> Result<FeedPage> {
        let limit = page::size(limit)?;
        let after = &after.map(|text| text.parse::<FeedCursor>().map_err(|e| page::wrong_cursor().with_source(e))).transpose()?;
        let context = match &filter.vm {
            Some(vm) => Some(self.engine.contexts().find(vm).await?.id),
            None => None,
        };
        let search = FeedSearch { context: context.as_ref(), status: filter.status, active: filter.active };
        self.engine.store().read("list jobs", |tx| async move { tx.feed().jobs(&search, after.as_ref(), limit).await }).await
    }

    /// How the last operation of the VM of this id or name went, or how the present one stands; none when there was none.
    ///
    /// # Errors
    /// Those of finding the VM; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a record that is damaged.
    pub async fn summary(&self, vm: &str) -> Result<Option<OperationSummary>> {
        let context = &self.engine.contexts().find(vm).await?.id;
        self.engine.store().read("read the summary of a VM", |tx| async move { summary(&tx, context).await }).await
    }

    /// The job.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    pub async fn get(&self, id: &JobId) -> Result<Job> {
        self.engine.desk().get(id).await
    }

    /// The job with its steps.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    pub async fn detail(&self, id: &JobId) -> Result<JobDetail> {
        let read = self.engine.store().read("read a job", |tx| async move {
            let (item, job, steps) = (tx.feed().job(id).await?, tx.jobs().get(id).await?, tx.steps().of_job(id).await?);
            let lines = steps.iter().map(StepLine::from).collect();
            Ok(JobDetail { version: FEED_VERSION, job: item, steps: lines, technical: TechnicalDetail { job, steps } })
        });
        read.await
    }

    /// Asks a job to end; what it made is undone by whoever runs it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound); [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a job that is
    /// behind its point of return and will be finished.
    pub async fn cancel(&self, id: &JobId) -> Result<Job> {
        self.engine.desk().cancel(id, None).await?;
        self.get(id).await
    }

    /// What it wrote about itself: the last `lines` lines.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    pub async fn log(&self, id: &JobId, lines: u32) -> Result<Vec<JobLogLine>> {
        self.get(id).await?;
        let keep = usize::try_from(lines).unwrap_or(LOG).min(LOG);
        let mut kept: Vec<JobLogLine> = Vec::new();
        loop {
            let last = kept.last().map(|line| line.id);
            let page = self.engine.store().read("read a job's log", |tx| async move { tx.logs().of_job(id, last).await }).await?;
            if page.is_empty() {
                return Ok(kept);
            }
            kept.extend(page);
            kept.drain(..kept.len().saturating_sub(keep.max(1)));
        }
    }

    /// Waits until the job has come to rest, or is laid down, or nobody runs it any more: until [`JobRows::follow`] ends.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    pub async fn wait(&self, id: &JobId) -> Result<Job> {
        let mut events = self.follow(id).await?;
        while events.next().await?.is_some() {}
        self.get(id).await
    }

    /// Follows a job's events from its first to the one that ends it; also those of a job that another process runs. It ends too where nothing
    /// more will come: when the job is paused, when its process gave it back (seen within ten seconds), and when its process is gone (within four
    /// minutes).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    pub async fn follow(&self, id: &JobId) -> Result<JobEvents> {
        self.get(id).await?;
        Ok(JobEvents {
            events: self.engine.desk().follow_job(id, None),
            over: false,
            engine: self.engine.clone(),
            job: id.clone(),
            every: LOOK,
            patience: MONITOR,
            seen: None,
        })
    }
}

/// The summary of a VM: of the job that holds it, else of the last one that did.
pub(super) async fn summary(tx: &Tx, context: &ContextId) -> Result<Option<OperationSummary>> {
    match tx.jobs().active_of(context).await? {
        Some(id) => Ok(Some(OperationSummary::of(&tx.jobs().get(&id).await?, &tx.steps().of_job(&id).await?))),
        None => tx.feed().summary(context).await,
    }
}

impl From<&Step> for StepLine {
    fn from(step: &Step) -> Self {
        let words = step_words(&step.name);
        StepLine {
            title: words.friendly,
            class: words.class,
            status: step.status,
            attempt: step.attempt,
            started_at: step.started_at,
            completed_at: step.completed_at,
        }
    }
}

/// The events of one job, in order.
#[derive(Debug)]
pub struct JobEvents {
    events: Follow,
    over: bool,
    engine: Engine,
    job: JobId,
    /// How often its owner is looked at.
    every: Duration,
    /// For how long an owner whose lease is over may be silent: another one may still take the job.
    patience: Duration,
    /// Who held it at the last look, and since when it is the same.
    seen: Option<(Holder, Instant)>,
}

/// How often who follows a job looks who runs it: as long as a job that was given back waits at most for the next runner that is there.
const LOOK: Duration = Duration::from_secs(5);

/// Who holds a job, and how often that was renewed; none: nobody.
type Holder = Option<(RunnerId, Epoch, u64)>;

impl JobEvents {
    /// The next event; waits for it. `None` behind the one by which the job came to rest or was laid down, and when nobody runs it any more.
    /// May be dropped while it waits.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let forever = CancellationToken::new();
        while !self.over {
            let event = tokio::select! {
                event = self.events.next(&forever) => event?,
                () = clock::sleep(self.every) => {
                    self.over = self.is_left().await?;
                    continue;
                }
            };
            self.over = self.ends(&event).await?;
            return Ok(Some(event));
        }
        Ok(None)
    }

    /// Whether nothing more comes behind this event.
    async fn ends(&self, event: &Event) -> Result<bool> {
        let to = event.data.get("to").and_then(serde_json::Value::as_str);
        let (EventKind::JobStatus, Some(to)) = (event.kind, to) else { return Ok(false) };
        match to.parse().map_err(|e: Error| e.with("event", event.id))? {
            // It may be an old pause, of a job that goes on.
            JobStatus::Paused => Ok(self.engine.desk().get(&self.job).await?.status == JobStatus::Paused),
            to => Ok(!to.is_busy()),
        }
    }

    /// Whether nobody runs the job: nobody holds it, as at the last look, or its lease is over and was not renewed for long.
    async fn is_left(&mut self) -> Result<bool> {
        let id = &self.job;
        let read = self.engine.store().read("look who runs a job", |tx| async move { Ok((tx.now().await?, tx.jobs().get(id).await?)) });
        let (now_there, job) = read.await?;
        let over = job.lease.as_ref().is_none_or(|lease| now_there > lease.until);
        let holder: Holder = job.lease.map(|lease| (lease.owner, lease.epoch, lease.renewals));
        let now = clock::now();
        let since = self.seen.take().and_then(|(before, since)| (before == holder).then_some(since));
        let patience = if holder.is_none() { Duration::ZERO } else { self.patience };
        let still = since.is_some_and(|since| now.saturating_duration_since(since) >= patience);
        self.seen = Some((holder, since.unwrap_or(now)));
        // One that waits for its turn is not left; one that came to rest has an event that says so.
        Ok(still && over && job.status.is_busy() && job.status != JobStatus::Pending)
    }
}

#[cfg(test)]
mod tests;
