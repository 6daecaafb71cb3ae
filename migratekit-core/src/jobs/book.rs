//! The book of one job: each function is one transaction, checked against the lease, with its events inside.
//!
//! What comes next is never decided here: [`model::Journal`](crate::model::Journal) says it, from what is written here. After any of these
//! transactions a crash leaves rows from which the job goes on.

use std::future::Future;
use std::sync::Arc;

use serde_json::json;

use super::attend::caught;
use super::desk::{Desk, unreachable};
use super::failpoint::Side;
use super::lease::Grip;
use super::{Failure, Outcome, Progress, Saga, SagaDefinition, SagaFactory, StepContext, StepEnd, StepSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, JobId};
use crate::model::messages::Action;
use crate::model::{EventKind, Job, JobStatus, JobTrigger, Journal, JournalStep, OperationSummary, Percent, Step, StepStatus, StepTrigger};
use crate::store::{JobNote, NewEvent, StepNote, Tx};

/// How often an undo is begun before it is a state: three times; what two pauses do not heal needs a person.
pub(super) const UNDO_ATTEMPTS: u32 = 3;

/// One job's book.
#[derive(Clone, Copy)]
pub(super) struct Book<'a> {
    pub(super) desk: &'a Desk,
    pub(super) grip: &'a Grip,
    pub(super) definition: &'static SagaDefinition,
}

/// What stands in it.
pub(super) struct Page {
    pub(super) job: Job,
    pub(super) steps: Vec<Step>,
    pub(super) journal: Journal,
}

impl Page {
    /// The page of `job`, whose steps are those of `definition`.
    pub(super) fn of(definition: &SagaDefinition, job: Job, steps: Vec<Step>) -> Page {
        let going_back = |status| matches!(status, StepStatus::Undoing | StepStatus::Undone | StepStatus::UndoFailed);
        let journal_steps = definition.steps.iter().zip(&steps).map(|(spec, step)| JournalStep {
            status: step.status,
            attempt: step.attempt,
            attempts: if going_back(step.status) { UNDO_ATTEMPTS } else { spec.attempts },
        });
        let journal = Journal {
            status: job.status,
            crossed: job.pivot_crossed,
            cancel_requested: job.cancel_requested,
            pause_requested: job.pause_requested,
            undo_requested: job.undo_requested,
            steps: journal_steps.collect(),
        };
        Page { job, steps, journal }
    }
}

/// Who writes the domain's rows when a job comes to rest.
#[derive(Clone, Copy)]
pub(super) enum Domain<'a> {
    /// The job's code.
    Saga(&'a dyn Saga),
    /// Who would make it, for a job that this program cannot read.
    Factory(&'a dyn SagaFactory),
    /// Nobody: the domain refused.
    Nobody,
}

impl<'a> Domain<'a> {
    /// That of a job whose code was loaded, or could not be.
    pub(super) fn of(factory: &'a dyn SagaFactory, loaded: &'a Result<Arc<dyn Saga>>) -> Self {
        match loaded {
            Ok(saga) => Domain::Saga(saga.as_ref()),
            Err(_) => Domain::Factory(factory),
        }
    }

    pub(super) async fn settle(self, outcome: &Outcome<'_>, job: &Job, tx: &Tx) -> Result<()> {
        match self {
            Domain::Saga(saga) => saga.settle(outcome, job, tx).await,
            Domain::Factory(factory) => factory.abandon(outcome, job, tx).await,
            Domain::Nobody => Ok(()),
        }
    }
}

/// How the attempt at a step ended.
pub(super) enum Ended<'a> {
    Well(StepEnd),
    Badly(&'a Failure),
    /// By request: it will be begun again, and this time does not count.
    Asked,
}

impl Book<'_> {
    /// What stands in the book.
    pub(super) async fn page(&self) -> Result<Page> {
        let definition = self.definition;
        self.desk.fenced(self.grip, |tx| async move { page(&tx, definition, self.grip).await }).await
    }

    /// The job changes its status, and does not come to rest by it.
    pub(super) async fn turn(&self, on: JobTrigger) -> Result<()> {
        self.write("job", "turn", |tx| async move { self.change(&tx, on, JobNote::default()).await }).await
    }

    /// The job pauses, and the lease is given back.
    pub(super) async fn pause(&self, by: &'static str) -> Result<()> {
        self.write("job", "pause", |tx| async move {
            tx.jobs().ask_pause(&self.grip.job, true).await?;
            tx.jobs().release(&self.grip.job).await?;
            self.change(&tx, JobTrigger::Pause, JobNote { by: Some(by), ..JobNote::default() }).await
        })
        .await
    }

    /// The lease is given back, and the status stays as it is: somebody goes on from here.
    pub(super) async fn release(&self) -> Result<()> {
        self.write("job", "release", |tx| async move { tx.jobs().release(&self.grip.job).await }).await
    }

    /// A step is begun, or its undo. Gives the attempt.
    pub(super) async fn begin(&self, at: usize, on: StepTrigger) -> Result<u32> {
        let act = if on == StepTrigger::Begin { "begin" } else { "undo" };
        self.write(self.spec(at)?.name, act, |tx| async move {
            let page = page(&tx, self.definition, self.grip).await?;
            let attempt = page.journal.next_attempt(at);
            self.step(&tx, &page, at, on, Some(attempt), None).await?;
            Ok(attempt)
        })
        .await
    }

    /// The attempt at a step ended. The pivot may have been crossed by the step itself; else it is crossed here, unless the end of the job
    /// was asked for before.
    pub(super) async fn end(&self, at: usize, ended: Ended<'_>) -> Result<()> {
        let (spec, ended) = (self.spec(at)?, &ended);
        self.write(spec.name, "end", |tx| async move {
            let page = page(&tx, self.definition, self.grip).await?;
            let Some(step) = page.steps.get(at).filter(|step| step.status == StepStatus::Running) else { return Ok(()) };
            match ended {
                Ended::Asked => tx.steps().uncount(step.id).await,
                Ended::Badly(failure) => {
                    tx.jobs().fail(&self.grip.job, failure).await?;
                    self.step(&tx, &page, at, StepTrigger::Fail, None, Some(failure)).await
                }
                Ended::Well(_) if spec.pivot && page.journal.cancel_requested => tx.steps().uncount(step.id).await,
                Ended::Well(end) => {
                    if spec.pivot {
                        tx.jobs().cross(&self.grip.job).await?;
                    }
                    let on = if *end == StepEnd::Done { StepTrigger::Complete } else { StepTrigger::Skip };
                    self.step(&tx, &page, at, on, None, None).await
                }
            }
        })
        .await
    }

    /// A step was undone, or could not be.
    pub(super) async fn end_undo(&self, at: usize, failure: Option<&Failure>) -> Result<()> {
        self.write(self.spec(at)?.name, "undone", |tx| async move {
            let page = page(&tx, self.definition, self.grip).await?;
            let on = if failure.is_none() { StepTrigger::UndoDone } else { StepTrigger::UndoFail };
            self.step(&tx, &page, at, on, None, failure).await
        })
        .await
    }

    /// An undo was ended by the end of this process: this time does not count.
    pub(super) async fn uncount(&self, at: usize) -> Result<()> {
        let page = self.page().await?;
        let Some(step) = page.steps.get(at) else { return Ok(()) };
        self.write(&step.name, "uncount", |tx| async move { tx.steps().uncount(step.id).await }).await
    }

    /// The job comes to rest: the domain's rows, the job's, the lease. `false`: its end was asked for in the last moment.
    pub(super) async fn settle(&self, domain: Domain<'_>, on: JobTrigger, outcome: &Outcome<'_>) -> Result<bool> {
        self.write("job", "settle", |tx| async move {
            let job = tx.jobs().get(&self.grip.job).await?;
            if on == JobTrigger::Complete && job.status.next(on).is_err() {
                return Ok(false);
            }
            domain.settle(outcome, &job, &tx).await?;
            tx.jobs().release(&self.grip.job).await?;
            let next_action = matches!(outcome, Outcome::NeedsAttention(_)).then_some(self.definition.next_action.code());
            let failure = match outcome {
                Outcome::Failed(failure) | Outcome::NeedsAttention(failure) => Some(*failure),
                _ => None,
            };
            self.change(&tx, on, JobNote { failure, next_action, ..JobNote::default() }).await?;
            Ok(true)
        })
        .await
    }

    /// The job is left to a person; see [`ends_all_the_same`].
    pub(super) async fn give_up(&self, domain: Domain<'_>, failure: &Failure) -> Result<()> {
        let outcome = &Outcome::NeedsAttention(failure);
        ends_all_the_same(domain, |domain| async move { self.settle(domain, JobTrigger::GiveUp, outcome).await.map(|_| ()) }).await
    }

    /// How far the job is: its row, the domain's rows, an event. At most one a second.
    pub(super) async fn progress(&self, saga: &dyn Saga, spec: &'static StepSpec, progress: Progress) -> Result<()> {
        self.write(spec.name, "progress", |tx| async move {
            let page = page(&tx, self.definition, self.grip).await?;
            let percent = page.journal.percent(page.job.percent, &self.weights(), progress.part);
            tx.jobs().show(&self.grip.job, percent).await?;
            saga.record(progress, &page.job, &tx).await?;
            let data =
                json!({ "step": spec.name, "epoch": self.grip.epoch(), "percent": percent, "bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total });
            tx.events().append(&self.event(EventKind::JobProgress, &page.job, data)).await.map(|_| ())
        })
        .await
    }

    async fn write<T, F, Fut>(&self, place: &str, act: &'static str, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.desk.points.reach(place, act, Side::Before).await?;
        let done = self.desk.fenced(self.grip, work).await?;
        self.desk.points.reach(place, act, Side::After).await?;
        Ok(done)
    }

    fn spec(&self, at: usize) -> Result<&'static StepSpec> {
        self.definition.steps.get(at).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "run a job", "its journal names a step that its saga does not have").with("step", at)
        })
    }

    fn weights(&self) -> Vec<u32> {
        self.definition.steps.iter().map(|step| step.weight).collect()
    }

    async fn change(&self, tx: &Tx, on: JobTrigger, note: JobNote<'_>) -> Result<()> {
        change(tx, &self.grip.job, on, note).await
    }

    /// A step's change, the percent that follows from it, and the event of both.
    async fn step(&self, tx: &Tx, page: &Page, at: usize, on: StepTrigger, attempt: Option<u32>, failure: Option<&Failure>) -> Result<()> {
        let Some(step) = page.steps.get(at) else { return Ok(()) };
        let to = step.status.next(on)?;
        let note = StepNote { attempt, error: failure.map(|failure| failure.message.as_str()) };
        tx.steps().change(step.id, step.status, to, &note).await?;
        let mut journal = page.journal.clone();
        if let Some(step) = journal.steps.get_mut(at) {
            step.status = to;
        }
        let percent = journal.percent(page.job.percent, &self.weights(), Percent::ZERO);
        if percent > page.job.percent {
            tx.jobs().show(&self.grip.job, percent).await?;
        }
        let data = json!({
            "step": step.name, "from": step.status, "to": to, "percent": percent,
            "epoch": self.grip.epoch(), "attempt": attempt.unwrap_or(step.attempt), "error_kind": failure.map(|failure| &failure.kind),
        });
        tx.events().append(&self.event(EventKind::StepStatus, &page.job, data)).await.map(|_| ())
    }

    fn event(&self, kind: EventKind, job: &Job, data: serde_json::Value) -> NewEvent {
        NewEvent { kind, job: Some(job.id.clone()), context: job.context.clone(), data }
    }
}

async fn page(tx: &Tx, definition: &'static SagaDefinition, grip: &Grip) -> Result<Page> {
    let job = tx.jobs().get(&grip.job).await?;
    Ok(Page::of(definition, job, tx.steps().of_job(&grip.job).await?))
}

/// A job's change of status, and its event: the only place where a job's status changes. When the job comes to rest by it, or leaves its
/// rest, its VM's summary of the last operation is written anew; that of a part of another job is its parent's.
pub(super) async fn change(tx: &Tx, id: &JobId, on: JobTrigger, note: JobNote<'_>) -> Result<()> {
    let job = tx.jobs().get(id).await?;
    let to = job.status.next(on)?;
    tx.jobs().change(id, job.status, to, &note).await?;
    let data = json!({ "from": job.status, "to": to, "by": note.by, "error_kind": note.failure.map(|failure| &failure.kind) });
    tx.events().append(&NewEvent { kind: EventKind::JobStatus, job: Some(id.clone()), context: job.context.clone(), data }).await?;
    match &job.context {
        Some(context) if job.parent.is_none() && !(job.status.is_busy() && to.is_busy()) => {
            let summary = OperationSummary::of(&tx.jobs().get(id).await?, &tx.steps().of_job(id).await?);
            tx.feed().keep_summary(context, &summary).await
        }
        _ => Ok(()),
    }
}

/// The pivot is crossed, in the transaction of the step's own rows.
pub(super) async fn cross(tx: &Tx, cx: &StepContext) -> Result<()> {
    let definition = cx.desk.sagas.get(cx.job.kind)?.definition();
    let book = Book { desk: &cx.desk, grip: &cx.grip, definition };
    let page = page(tx, definition, &cx.grip).await?;
    if page.journal.cancel_requested {
        return Err(Error::new(ErrorKind::Cancelled, "cross the pivot", "the job was asked to end before").with("step", cx.step.name));
    }
    tx.jobs().cross(&cx.job.id).await?;
    let at = definition.steps.iter().position(|step| step.name == cx.step.name).unwrap_or(usize::MAX);
    book.step(tx, &page, at, StepTrigger::Complete, None, None).await
}

/// A runner took the job, in the transaction of the claim.
pub(super) async fn tell_taken(tx: &Tx, seen: &Job, status: JobStatus, epoch: Epoch) -> Result<()> {
    let data = json!({ "from": seen.status, "to": status, "epoch": epoch });
    let event = NewEvent { kind: EventKind::JobStatus, job: Some(seen.id.clone()), context: seen.context.clone(), data };
    tx.events().append(&event).await.map(|_| ())
}

/// Ends a job by `end`, if need be without its domain's rows: a job that cannot be ended holds its VM for ever, and is tried again for ever.
pub(super) async fn ends_all_the_same<'a, Fut>(domain: Domain<'a>, end: impl Fn(Domain<'a>) -> Fut) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    match caught(end(domain)).await {
        Err(error) if error.kind() != ErrorKind::Fenced && !unreachable(&error) => {
            tracing::error!(%error, "the rows of the job's domain cannot be written; the job ends without them");
            end(Domain::Nobody).await
        }
        ended => ended,
    }
}

/// The job is left to a person, outside of a drive.
pub(super) async fn give_up(tx: &Tx, domain: Domain<'_>, id: &JobId, failure: &Failure, next_action: Action) -> Result<()> {
    let job = tx.jobs().get(id).await?;
    domain.settle(&Outcome::NeedsAttention(failure), &job, tx).await?;
    tx.jobs().release(id).await?;
    change(tx, id, JobTrigger::GiveUp, JobNote { failure: Some(failure), next_action: Some(next_action.code()), by: None }).await
}
