//! Jobs as those see them who ask for them: begin, cancel, pause, continue, wait, list.
//!
//! All of it is rows. So it works from any process: the runner that has the job looks for requests at least once a second.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::book::{self, Domain, Page};
use super::desk::{Desk, Pulse, unreachable};
use super::failpoint::Failpoints;
use super::{Outcome, Pace, Sagas};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, JobId};
use crate::model::{EventKind, Job, JobKind, JobStatus, JobTrigger, Step};
use crate::store::{JobNote, NewEvent, NewJob as NewRow, Store, Tx};
use crate::task::CancellationToken;

/// How long who waits for a job sleeps between two looks, when the change was made by another process.
const LOOK: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The saga.
    pub kind: JobKind,
    /// The VM it is of: one job at a time of each.
    pub context: Option<ContextId>,
    /// The job that begins it; a job with a parent does not hold its VM, its parent does.
    pub parent: Option<JobId>,
    /// Its input, as its saga reads it.
    pub input: serde_json::Value,
    /// Who asks.
    pub by: Option<String>,
}

impl NewJob {
    /// A job of a VM.
    #[must_use]
    pub fn of(kind: JobKind, context: ContextId, input: serde_json::Value) -> Self {
        NewJob { kind, context: Some(context), parent: None, input, by: None }
    }
}

/// The jobs of a catalog. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs {
    pub(super) desk: Arc<Desk>,
}

impl Jobs {
    /// The jobs of this catalog, for a program that knows these sagas. To run them takes a [`Runner`](super::Runner).
    #[must_use]
    pub fn new(store: Store, sagas: Sagas) -> Self {
        Jobs::with(store, sagas, Failpoints::default(), Pace::default())
    }

    pub(super) fn with(store: Store, sagas: Sagas, points: Failpoints, pace: Pace) -> Self {
        Jobs { desk: Arc::new(Desk { store, sagas, points, pace, pulse: Pulse::new() }) }
    }

    /// Writes down that a job is wanted; a runner takes it. `beside` writes the domain's rows of the job in the same transaction.
    ///
    /// [`ErrorKind::Busy`], naming the job, when one of the same VM is active: of two that come at once exactly one is begun, the
    /// database sees to it.
    pub async fn start<F, Fut>(&self, job: NewJob, beside: F) -> Result<JobId>
    where
        F: Fn(Tx, JobId) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        self.start_as(JobId::generate(), job, beside).await
    }

    pub(super) async fn start_as<F, Fut>(&self, id: JobId, job: NewJob, beside: F) -> Result<JobId>
    where
        F: Fn(Tx, JobId) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let definition = self.desk.sagas.get(job.kind)?.definition();
        let (id, job, beside) = (&id, &job, &beside);
        let steps: &Vec<&str> = &definition.steps.iter().map(|step| step.name).collect();
        let made = self.desk.store.write("start a job", |tx| async move {
            if let (Some(context), None) = (&job.context, &job.parent)
                && let Some(active) = tx.jobs().active_of(context).await?
            {
                return Err(busy(context, Some(&active)));
            }
            let (context, parent, by) = (job.context.as_ref(), job.parent.as_ref(), job.by.as_deref());
            tx.jobs().insert(&NewRow { id, kind: job.kind, context, parent, input: &job.input, by }).await?;
            tx.steps().insert(id, steps).await?;
            beside(tx.clone(), id.clone()).await?;
            let data = json!({ "kind": job.kind, "parent": job.parent });
            let event = NewEvent { kind: EventKind::JobCreated, job: Some(id.clone()), context: job.context.clone(), data };
            tx.events().append(&event).await.map(|_| ())
        });
        match made.await {
            Ok(()) => {
                self.desk.pulse.beat();
                Ok(id.clone())
            }
            // Two came at once: the other one's row is there now.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && job.context.is_some() => {
                Err(self.why_refused(job.context.as_ref(), error).await)
            }
            Err(error) => Err(error),
        }
    }

    async fn why_refused(&self, context: Option<&ContextId>, error: Error) -> Error {
        let Some(context) = context else { return error };
        match self.desk.read(|tx| async move { tx.jobs().active_of(context).await }).await {
            Ok(Some(active)) => busy(context, Some(&active)).with_source(error),
            // It came and went in between: it was busy when it was asked.
            _ => busy(context, None).with_source(error),
        }
    }

    /// The job.
    pub async fn get(&self, id: &JobId) -> Result<Job> {
        self.desk.read(|tx| async move { tx.jobs().get(id).await }).await
    }

    /// Its steps, in order.
    pub async fn steps(&self, id: &JobId) -> Result<Vec<Step>> {
        self.desk.read(|tx| async move { tx.steps().of_job(id).await }).await
    }

    /// All jobs that have not come to rest.
    pub async fn active(&self) -> Result<Vec<Job>> {
        self.desk.read(|tx| async move { tx.jobs().unfinished().await }).await
    }

    /// Asks a job to end: what it made is undone. Its children are asked too. One that has come to rest is left as it is, and one that is
    /// behind its pivot is refused ([`ErrorKind::InvalidInput`]): it can only be finished. Gives the status after that.
    pub async fn cancel(&self, id: &JobId, by: Option<&str>) -> Result<JobStatus> {
        let status = self
            .request("cancel a job", id, |tx, job| async move {
                if !job.status.is_busy() || matches!(job.status, JobStatus::Cancelling | JobStatus::RollingBack) {
                    return Ok(job.status);
                }
                if job.pivot_crossed {
                    let message = "it is past the point of return and will be finished";
                    return Err(Error::new(ErrorKind::InvalidInput, "cancel a job", message).with("job", id));
                }
                let to = job.status.next(JobTrigger::Cancel)?;
                if to == JobStatus::Cancelled {
                    let factory = self.desk.sagas.get(job.kind)?;
                    let loaded = factory.load(&job);
                    Domain::of(factory.as_ref(), &loaded).settle(&Outcome::Cancelled, &job, &tx).await?;
                }
                book::change(&tx, id, JobTrigger::Cancel, JobNote { by, ..JobNote::default() }).await?;
                Ok(to)
            })
            .await?;
        for child in self.desk.read(|tx| async move { tx.jobs().unfinished_children(id).await }).await? {
            Box::pin(self.cancel(&child, by)).await?;
        }
        Ok(status)
    }

    /// Asks a job to pause: the step under way is told to end, and will be begun again. [`ErrorKind::InvalidInput`] when it is not running.
    pub async fn pause(&self, id: &JobId) -> Result<()> {
        self.request("pause a job", id, |tx, job| async move {
            match job.status {
                JobStatus::Running if job.pivot_crossed => {
                    let message = "it is past the point of return and will be finished";
                    Err(Error::new(ErrorKind::InvalidInput, "pause a job", message).with("job", id))
                }
                JobStatus::Running => tx.jobs().ask_pause(id, true).await,
                JobStatus::Paused => Ok(()),
                status => {
                    let message = "only a running job can pause";
                    Err(Error::new(ErrorKind::InvalidInput, "pause a job", message).with("job", id).with("status", status))
                }
            }
        })
        .await
    }

    /// Lets a paused job go on from where it is. [`ErrorKind::InvalidInput`] when it is not paused.
    pub async fn resume(&self, id: &JobId) -> Result<()> {
        self.request("resume a job", id, |tx, job| async move {
            match job.status {
                JobStatus::Paused => {
                    tx.jobs().ask_pause(id, false).await?;
                    book::change(&tx, id, JobTrigger::Resume, JobNote::default()).await
                }
                JobStatus::Running => tx.jobs().ask_pause(id, false).await,
                status => {
                    let message = "it is not paused";
                    Err(Error::new(ErrorKind::InvalidInput, "resume a job", message).with("job", id).with("status", status))
                }
            }
        })
        .await
    }

    /// What a person may do with a job that needs attention: send it on, send it back, or say that it is dealt with.
    pub async fn retries(&self, id: &JobId) -> Result<&'static [JobTrigger]> {
        let definition = self.desk.sagas.get(self.get(id).await?.kind)?.definition();
        let page = self.desk.read(|tx| async move { Ok(Page::of(definition, tx.jobs().get(id).await?, tx.steps().of_job(id).await?)) });
        Ok(page.await?.journal.retries())
    }

    /// Does one of [`Jobs::retries`]. A job that goes on holds its VM again: [`ErrorKind::Busy`] when another job of it is active.
    pub async fn retry(&self, id: &JobId, how: JobTrigger, by: Option<&str>) -> Result<()> {
        let done = self.request("retry a job", id, |tx, job| async move {
            let definition = self.desk.sagas.get(job.kind)?.definition();
            let page = Page::of(definition, job, tx.steps().of_job(id).await?);
            if !page.journal.retries().contains(&how) {
                return Err(Error::new(ErrorKind::InvalidInput, "retry a job", "this is no way for the job as it is").with("job", id));
            }
            if how == JobTrigger::RetryUndo {
                tx.jobs().ask_undo(id).await?;
            }
            tx.steps().count_anew(id).await?;
            book::change(&tx, id, how, JobNote { by, ..JobNote::default() }).await
        });
        match done.await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let job = self.get(id).await?;
                Err(self.why_refused(job.context.as_ref(), error).await)
            }
            done => done,
        }
    }

    /// Waits until the job has come to rest: done, failed, cancelled, or in need of attention. A paused job is waited for as well.
    pub async fn wait(&self, id: &JobId, token: &CancellationToken) -> Result<Job> {
        self.wait_until(id, token, |job| !job.status.is_busy()).await
    }

    /// Waits until the job is as `ready` wants it. [`ErrorKind::Cancelled`] when `token` ends first; a catalog that cannot be reached is
    /// waited for.
    pub async fn wait_until(&self, id: &JobId, token: &CancellationToken, ready: impl Fn(&Job) -> bool) -> Result<Job> {
        let mut pulse = self.desk.pulse.listen();
        loop {
            pulse.mark_unchanged();
            match self.get(id).await {
                Ok(job) if ready(&job) => return Ok(job),
                Err(error) if !unreachable(&error) => return Err(error),
                _ => {}
            }
            tokio::select! {
                () = token.cancelled() => {
                    return Err(Error::new(ErrorKind::Cancelled, "wait for a job", "the wait was ended, the job was not").with("job", id));
                }
                _ = pulse.changed() => {}
                () = clock::sleep(LOOK) => {}
            }
        }
    }

    /// One transaction about a job that anybody may make: its row is held while it is looked at.
    async fn request<T, F, Fut>(&self, operation: &'static str, id: &JobId, work: F) -> Result<T>
    where
        F: Fn(Tx, Job) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let work = &work;
        let write = |tx: Tx| async move {
            let job = tx.jobs().lock(id).await?;
            work(tx, job).await
        };
        let done = self.desk.store.write(operation, write).await?;
        self.desk.pulse.beat();
        Ok(done)
    }
}

fn busy(context: &ContextId, active: Option<&JobId>) -> Error {
    let error = Error::new(ErrorKind::Busy, "start a job", "another job of this VM is active").with("context", context);
    match active {
        Some(job) => error.with("job", job),
        None => error,
    }
}
