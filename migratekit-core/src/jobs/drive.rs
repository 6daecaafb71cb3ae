//! The drive of one job: it reads the book, makes the one move that the model names, writes down what came of it, and reads again. So it
//! may begin anywhere, and the normal course and the recovery are one.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use super::attend::{End, attend, caught};
use super::book::{Book, Domain, Ended, Page};
use super::context::{Sign, StepContext};
use super::desk::{Desk, unreachable};
use super::lease::{Grip, Stop, fenced};
use super::saga::failure_of;
use super::{Failure, Outcome, Saga, SagaDefinition, StepSpec};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::StepId;
use crate::model::{IntentStatus, Job, JobStatus, JobTrigger, Move, StepStatus, StepTrigger};
use crate::task::CancellationToken;

/// What becomes of a job that this runner no longer drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It has come to rest; nobody drives it any more.
    Settled,
    /// It pauses, or waits for another runner; the lease is given back.
    LaidDown,
    /// The lease is gone, or the catalog is: whoever looks next decides.
    Lost,
}

/// What the stop of this process makes of a job that goes forward before its pivot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtStop {
    /// It is paused, and a person lets it go on.
    Pause,
    /// It stays as it is, and the next runner goes on.
    Release,
}

/// One job in the hands of this runner.
pub(super) struct Drive {
    pub(super) desk: Arc<Desk>,
    pub(super) grip: Arc<Grip>,
    pub(super) job: Job,
    pub(super) at_stop: AtStop,
    /// What recovery decided: the job is laid down as paused.
    pub(super) lay_down: bool,
    /// What recovery knows: the job goes back with this.
    pub(super) verdict: Option<Failure>,
}

impl Drive {
    /// Drives the job until it rests. What the catalog or the saga's code refuses for good is left to a person; else the same would be
    /// tried again for ever.
    pub(super) async fn run(self) -> Rest {
        let span = tracing::info_span!("job", job = %self.job.id, kind = %self.job.kind, epoch = %self.grip.epoch());
        async {
            let error = match caught(self.drive()).await {
                Ok(rest) => return rest,
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Fenced || unreachable(&error) {
                tracing::warn!(%error, "the job is no longer in our hands");
                self.grip.stop(Stop::Lost);
                return Rest::Lost;
            }
            tracing::error!(%error, "the job cannot go on; it is left to a person");
            match self.give_up(&error).await {
                Ok(()) => Rest::Settled,
                Err(error) => {
                    tracing::error!(%error, "the job cannot be written to the catalog; its lease runs out");
                    self.grip.stop(Stop::Lost);
                    Rest::Lost
                }
            }
        }
        .instrument(span)
        .await
    }

    /// Leaves the job to a person; the rows of its domain say so too, also when this program cannot read the job.
    async fn give_up(&self, error: &Error) -> Result<()> {
        let factory = self.desk.sagas.get(self.job.kind)?;
        let book = Book { desk: &self.desk, grip: &self.grip, definition: factory.definition() };
        let loaded = factory.load(&self.job);
        book.give_up(Domain::of(factory.as_ref(), &loaded), &failure_of("job", error)).await
    }

    async fn drive(&self) -> Result<Rest> {
        let factory = self.desk.sagas.get(self.job.kind)?;
        let definition = factory.definition();
        let book = Book { desk: &self.desk, grip: &self.grip, definition };
        let page = book.page().await?;
        let loaded = rows_match(definition, &page).and_then(|()| factory.load(&page.job));
        match loaded {
            Ok(saga) => Line { drive: self, book, saga, definition, pause: self.desk.pace.pause }.follow().await,
            Err(error) => {
                tracing::error!(%error, "this program cannot run the job; it is left to a person");
                self.give_up(&error).await.map(|()| Rest::Settled)
            }
        }
    }
}

/// The rows of a job are those of its saga: another version of the program may have other steps.
fn rows_match(definition: &SagaDefinition, page: &Page) -> Result<()> {
    if page.steps.len() == definition.steps.len() && page.steps.iter().zip(definition.steps).all(|(row, step)| row.name == step.name) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Mismatch, "run a job", "its steps in the catalog are not those of this program's saga")
        .with("kind", definition.kind))
}

/// What the functions of one drive share.
struct Line<'a> {
    drive: &'a Drive,
    book: Book<'a>,
    saga: Arc<dyn Saga>,
    definition: &'static SagaDefinition,
    /// The pause before the next repetition.
    pause: Duration,
}

impl Line<'_> {
    async fn follow(mut self) -> Result<Rest> {
        loop {
            let page = self.book.page().await?;
            self.book.grip.answer(wanted(&page));
            if let Some(rest) = self.stopped(&page).await? {
                return Ok(rest);
            }
            if self.drive.lay_down && page.job.status.next(JobTrigger::Pause).is_ok() {
                self.book.pause("recovery").await?;
                return Ok(Rest::LaidDown);
            }
            if let Some(failure) = self.drive.verdict.as_ref().filter(|_| page.job.error_kind.is_none()) {
                self.condemn(failure).await?;
                continue;
            }
            match page.journal.next_move() {
                Move::Begin(at) => self.forward(&page, at).await?,
                Move::Undo(at) => self.back(&page, at).await?,
                Move::Turn(JobTrigger::Pause) => {
                    self.book.pause("request").await?;
                    return Ok(Rest::LaidDown);
                }
                Move::Turn(on) => {
                    if self.turn(&page, on).await? {
                        return Ok(Rest::Settled);
                    }
                }
                Move::Rest => {
                    self.book.release().await?;
                    return Ok(Rest::LaidDown);
                }
            }
        }
    }

    /// The end of the lease, or of this process.
    async fn stopped(&self, page: &Page) -> Result<Option<Rest>> {
        match self.book.grip.stopped() {
            Some(Stop::Lost) => Err(fenced(self.book.grip)),
            Some(Stop::Shutdown) => {
                if self.drive.at_stop == AtStop::Pause && !page.journal.crossed && page.job.status.next(JobTrigger::Pause).is_ok() {
                    self.book.pause("stop").await?;
                } else {
                    self.book.release().await?;
                }
                Ok(Some(Rest::LaidDown))
            }
            _ => Ok(None),
        }
    }

    async fn condemn(&self, failure: &Failure) -> Result<()> {
        let job = &self.drive.job.id;
        self.drive.desk.fenced(self.book.grip, |tx| async move { tx.jobs().fail(job, failure).await }).await?;
        self.book.turn(JobTrigger::TurnBack).await
    }

    /// Changes the job's status; `true` when it came to rest by that.
    async fn turn(&self, page: &Page, on: JobTrigger) -> Result<bool> {
        let saga = Domain::Saga(self.saga.as_ref());
        let known = || Failure {
            step: page.job.failed_step.clone().unwrap_or_default(),
            kind: page.job.error_kind.clone().unwrap_or_else(|| ErrorKind::Internal.code().to_owned()),
            message: page.job.error_message.clone().unwrap_or_default(),
        };
        let undone = matches!(on, JobTrigger::UndoneAfterFailure | JobTrigger::UndoneAfterCancel | JobTrigger::UndoneByPerson);
        if undone && let Some(failure) = self.open_intent().await? {
            return self.book.settle(saga, JobTrigger::GiveUp, &Outcome::NeedsAttention(&failure)).await;
        }
        match on {
            JobTrigger::Complete => self.book.settle(saga, on, &Outcome::Completed).await,
            JobTrigger::UndoneAfterFailure => self.book.settle(saga, on, &Outcome::Failed(&known())).await,
            JobTrigger::UndoneAfterCancel => self.book.settle(saga, on, &Outcome::Cancelled).await,
            JobTrigger::UndoneByPerson => self.book.settle(saga, on, &Outcome::RolledBack).await,
            JobTrigger::GiveUp => self.book.settle(saga, on, &Outcome::NeedsAttention(&known())).await,
            on => self.book.turn(on).await.map(|()| false),
        }
    }

    async fn forward(&mut self, page: &Page, at: usize) -> Result<()> {
        let (Some(spec), Some(row)) = (self.definition.steps.get(at), page.steps.get(at)) else { return Ok(()) };
        self.wait_before(row.status == StepStatus::Failed).await;
        if self.book.grip.stopped().is_some() {
            return Ok(());
        }
        let attempt = self.book.begin(at, StepTrigger::Begin).await?;
        let cx = self.context(&page.job, spec, row.id, attempt, self.book.grip.forward());
        let ended = self.attended(spec, row.id.get(), &cx, self.saga.run(spec, &cx)).await?;
        let stop = self.book.grip.stopped();
        self.book.grip.forget_quiet();
        match ended {
            Ok(end) => {
                self.pause = self.drive.desk.pace.pause;
                self.book.end(at, Ended::Well(end)).await
            }
            Err(_) if stop == Some(Stop::Lost) => Err(fenced(self.book.grip)),
            Err(error) if matches!(stop, Some(Stop::Shutdown | Stop::Cancel | Stop::Pause)) => {
                tracing::info!(step = row.id.get(), step_name = spec.name, %error, "the step ended by request");
                self.book.end(at, Ended::Asked).await
            }
            Err(error) => {
                let error = renamed(error, stop);
                tracing::warn!(step = row.id.get(), step_name = spec.name, attempt, %error, "the step failed");
                self.book.end(at, Ended::Badly(&failure_of(spec.name, &error))).await
            }
        }
    }

    async fn back(&mut self, page: &Page, at: usize) -> Result<()> {
        let (Some(spec), Some(row)) = (self.definition.steps.get(at), page.steps.get(at)) else { return Ok(()) };
        self.wait_before(row.status == StepStatus::UndoFailed).await;
        if self.book.grip.stopped() >= Some(Stop::Shutdown) {
            return Ok(());
        }
        let attempt = self.book.begin(at, StepTrigger::Undo).await?;
        let cx = self.context(&page.job, spec, row.id, attempt, self.book.grip.backward());
        let ended = self.attended(spec, row.id.get(), &cx, self.saga.undo(spec, &cx)).await?;
        let stop = self.book.grip.stopped();
        self.book.grip.forget_quiet();
        match ended {
            Ok(()) => {
                self.pause = self.drive.desk.pace.pause;
                self.book.end_undo(at, None).await
            }
            Err(_) if stop == Some(Stop::Lost) => Err(fenced(self.book.grip)),
            Err(_) if stop == Some(Stop::Shutdown) => self.book.uncount(at).await,
            Err(error) => {
                let error = renamed(error, stop);
                tracing::warn!(step = row.id.get(), step_name = spec.name, attempt, %error, "the undo failed");
                self.book.end_undo(at, Some(&failure_of(spec.name, &error))).await
            }
        }
    }

    /// The growing pause before a repetition.
    async fn wait_before(&mut self, repeated: bool) {
        if repeated {
            let _ = self.book.grip.token.run_until_cancelled(clock::sleep(self.pause)).await;
            self.pause = (self.pause * 2).min(self.drive.desk.pace.longest_pause);
        }
    }

    fn context(&self, job: &Job, step: &'static StepSpec, row: StepId, attempt: u32, token: CancellationToken) -> StepContext {
        let (desk, grip) = (Arc::clone(&self.drive.desk), Arc::clone(&self.drive.grip));
        StepContext { desk, grip, job: job.clone(), step, row, attempt, token, sign: Arc::new(Sign::new()) }
    }

    /// Waits for a step's work. When it is deaf, the job comes to rest without it (its writes are fenced), and this drive ends with it.
    async fn attended<T>(
        &self,
        spec: &'static StepSpec,
        row: i64,
        cx: &StepContext,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Result<T>> {
        let span = tracing::info_span!("step", step = row, step_name = spec.name);
        let mut work = pin!(work.instrument(span));
        match attend(self.book, self.saga.as_ref(), spec, &cx.sign, &cx.token, &mut work).await {
            End::Returned(end) => Ok(end),
            End::Deaf => {
                let error = Error::new(ErrorKind::Timeout, "stop a step", "it was told to end and does not").with("step", spec.name);
                tracing::error!(%error, "the job is left to a person; the step is waited for");
                let settled = match self.book.grip.stopped() < Some(Stop::Shutdown) {
                    true => self.book.give_up(Domain::Saga(self.saga.as_ref()), &failure_of(spec.name, &error)).await,
                    false => Ok(()),
                };
                // Whatever came of that: dropped in its middle, a step leaves other bytes than it would have.
                self.book.grip.stop(Stop::Lost);
                let _ = work.await;
                settled.and_then(|()| Err(fenced(self.book.grip)))
            }
        }
    }

    /// An intent that undo left open: nobody knows whether the thing exists.
    async fn open_intent(&self) -> Result<Option<Failure>> {
        let job = &self.drive.job.id;
        let intents = self.drive.desk.fenced(self.book.grip, |tx| async move { tx.intents().of_job(job).await }).await?;
        let open = intents.into_iter().find(|intent| matches!(intent.status, IntentStatus::Intended | IntentStatus::LeftOver));
        Ok(open.map(|intent| {
            let error = Error::new(ErrorKind::Internal, "undo a job", "a thing it meant to make was neither found nor removed")
                .with("kind", &intent.kind)
                .with("name", &intent.name);
            failure_of(&intent.step, &error)
        }))
    }
}

/// What was asked of the job and is still to be answered.
fn wanted(page: &Page) -> Option<Stop> {
    match &page.journal {
        journal if journal.crossed || journal.status == JobStatus::RollingBack => None,
        journal if journal.cancel_requested => Some(Stop::Cancel),
        journal if journal.pause_requested => Some(Stop::Pause),
        _ => None,
    }
}

/// A step that was quiet for too long fails by that, whatever it made of it.
fn renamed(error: Error, stop: Option<Stop>) -> Error {
    if stop == Some(Stop::Quiet) && error.kind() != ErrorKind::Timeout {
        return Error::new(ErrorKind::Timeout, "run a step", "it made no progress for its time and was told to end").with_source(error);
    }
    error
}
