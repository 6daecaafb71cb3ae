//! What a step sees of the engine: its job, its token, its journal.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::book;
use super::desk::Desk;
use super::failpoint::Side;
use super::lease::{Grip, Stop, fenced};
use super::{Progress, StepSpec};
use crate::clock::{self, Instant};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, Epoch, JobId, StepId};
use crate::model::{Job, Percent};
use crate::nbd::EpochKey;
use crate::store::{Store, Tx};
use crate::task::{CancellationToken, Passed};

/// A step's view of its job. All it offers is fenced: once the lease is lost, everything fails with [`ErrorKind::Fenced`].
pub struct StepContext {
    pub(super) desk: Arc<Desk>,
    pub(super) grip: Arc<Grip>,
    pub(super) job: Job,
    pub(super) step: &'static StepSpec,
    pub(super) row: StepId,
    pub(super) attempt: u32,
    pub(super) token: CancellationToken,
    pub(super) sign: Arc<Sign>,
}

/// What a step last said of itself; the runner reads it.
#[derive(Debug)]
pub(super) struct Sign(Mutex<(Progress, Instant)>);

impl Sign {
    pub(super) fn new() -> Self {
        Sign(Mutex::new((Progress::default(), clock::now())))
    }

    fn give(&self, progress: Option<Progress>) {
        let mut sign = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(new) = progress {
            sign.0 = Progress { part: new.part.max(sign.0.part), ..new };
        }
        sign.1 = clock::now();
    }

    /// The furthest progress, and when the last sign came.
    pub(super) fn last(&self) -> (Progress, Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext").field("job", &self.job.id).field("step", &self.step.name).field("attempt", &self.attempt).finish()
    }
}

impl StepContext {
    /// The job.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job.id
    }

    /// The job's VM, for jobs of one.
    pub fn context(&self) -> Result<&ContextId> {
        self.job.context.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "run a step", "the job is of no VM, but its steps ask for one").with("job", &self.job.id)
        })
    }

    /// The job's row as it was when this runner took it: its input above all.
    #[must_use]
    pub fn row(&self) -> &Job {
        &self.job
    }

    /// What every write outside carries: the right of this runner to this job's volumes.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.grip.epoch()
    }

    /// The name by which this runner may write the volume that is served as `volume` and fenced by `key`: it carries the job, and the epoch
    /// that came with the lease. A runner that took the job over has a higher one, and from then on this name is refused. Ask for it before
    /// each connection: a child that came to rest has raised the epoch.
    pub fn export_name(&self, key: &EpochKey, volume: &str) -> Result<String> {
        key.name(volume, self.epoch().get(), self.job.id.as_str())
    }

    /// How often the step was begun, this time included; 1 and more.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Ends when the step shall end: cancelled, paused, quiet for too long, the lease lost, the process ending.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The catalog, for reading. Writing goes through [`StepContext::commit`].
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.desk.store
    }

    /// Says how far the step is. Costs nothing: the runner stores the last word once a second.
    pub fn progress(&self, progress: Progress) {
        self.sign.give(Some(progress));
    }

    /// A sign of life without progress, for waits whose end is bounded elsewhere.
    pub fn alive(&self) {
        self.sign.give(None);
    }

    /// For work elsewhere that takes long: whenever bytes pass there, that is a sign here. The step's progress goes with it `from` so many of
    /// `total` bytes `to` so many; with a total of 0 it is a sign of life only.
    #[must_use]
    pub fn passing(&self, from: u64, to: u64, total: u64) -> Passed {
        let (sign, passed) = (Arc::clone(&self.sign), AtomicU64::new(from));
        Passed::to(move |bytes| {
            let done = passed.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes).min(to);
            sign.give((total > 0).then(|| Progress::part(Percent::of(done, total))));
        })
    }

    /// An error when the step was asked to end: for the top of loops.
    pub fn check(&self) -> Result<()> {
        if !self.token.is_cancelled() {
            return Ok(());
        }
        Err(match self.grip.stopped() {
            Some(Stop::Lost) => fenced(&self.grip),
            Some(Stop::Quiet) => {
                Error::new(ErrorKind::Timeout, "run a step", "it made no progress for its time").with("step", self.step.name)
            }
            _ => Error::new(ErrorKind::Cancelled, "run a step", "the job was asked to stop here").with("step", self.step.name),
        })
    }

    /// One transaction, after the check that this runner still owns the job in the same transaction ([`ErrorKind::Fenced`] if not). While
    /// the catalog cannot be reached it is repeated, for as long as the lease can be valid; so `work` must not do anything but write rows.
    pub async fn commit<T, F, Fut>(&self, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.act("commit", false, work).await
    }

    /// As [`StepContext::commit`], for the decisive commit of the pivot: in the same transaction the step becomes complete, so from here on
    /// the job only goes forward. [`ErrorKind::Cancelled`] when the job was asked to end before.
    pub async fn pivot<T, F, Fut>(&self, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        if !self.step.pivot {
            return Err(Error::new(ErrorKind::Internal, "cross the pivot", "this step is not the pivot").with("step", self.step.name));
        }
        self.act("pivot", true, work).await
    }

    async fn act<T, F, Fut>(&self, act: &'static str, pivot: bool, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.desk.points.reach(self.step.name, act, Side::Before).await?;
        let work = &work;
        let done = self.desk.fenced(&self.grip, |tx| async move {
            let done = work(tx.clone()).await?;
            if pivot {
                book::cross(&tx, self).await?;
            }
            Ok(done)
        });
        let done = done.await?;
        self.sign.give(None);
        self.desk.points.reach(self.step.name, act, Side::After).await?;
        Ok(done)
    }

    pub(super) async fn commit_as<T, F, Fut>(&self, act: &'static str, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.act(act, false, work).await
    }

    /// A value that is made once in the life of the job, however often its steps are begun: `make` is asked only when the catalog has none
    /// under `key` (unique in the job), and what it gave is committed before it is used.
    pub async fn once<T: Serialize + DeserializeOwned>(&self, key: &str, make: impl FnOnce() -> T) -> Result<T> {
        if let Some(known) = self.recall(key).await? {
            return Ok(known);
        }
        let value = encode(key, &make())?;
        let (key_of, value_of) = (key, &value);
        self.commit_as("once", |tx| async move { tx.steps().remember(self.row, key_of, value_of).await }).await?;
        decode(key, value)
    }

    /// What [`StepContext::once`] made under `key` in this job, in whichever step.
    pub async fn recall<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let known = self.desk.read(|tx| async move { tx.steps().recall(&self.job.id, key).await }).await?;
        known.map(|value| decode(key, value)).transpose()
    }
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| {
        Error::new(ErrorKind::Internal, "keep a value of a step", "it cannot be written as JSON").with("key", key).with_source(e)
    })
}

fn decode<T: DeserializeOwned>(key: &str, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| {
        Error::new(ErrorKind::Mismatch, "read a value of a step", "the catalog's text is not what this program would have written")
            .with("key", key)
            .with_source(e)
    })
}
