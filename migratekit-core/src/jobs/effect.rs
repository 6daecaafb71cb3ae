//! Things made outside: an intent is committed before, the thing's id after.
//!
//! ```text
//!              effect: commit          make, then commit its id
//!   (nothing) ────────────▶ intended ────────────────────────────▶ effected
//!                              │ remove                               │ remove
//!                              ▼                                      ▼
//!                            undone ◀─────────────────────────── undone      a removal that fails: left_over
//! ```
//!
//! A crash between any two of these is answered by the world: it is asked for the intent's name before anything is made again. So names
//! are chosen by the saga and are unique (with the job's id in them, or the disk's key), and `find` looks for exactly that name.

use std::future::Future;
use std::sync::Arc;

use super::failpoint::Side;
use super::lease::{Stop, fenced};
use super::{Jobs, NewJob, StepContext};
use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;
use crate::model::{EffectMove, Intent, IntentTrigger, Job, JobStatus, RemovalMove, effect_move, removal_move};
use crate::store::NewIntent;

/// A thing outside, by which the world and the journal know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// What kind of thing: `snapshot`, `volume`, `export`, `spool`, `process`. At most 64 bytes.
    pub kind: &'static str,
    /// Its name, unique among the job's things of this kind. At most 255 bytes.
    pub name: String,
}

impl Thing {
    /// The thing `name` of `kind`.
    #[must_use]
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Thing { kind, name: name.into() }
    }
}

impl StepContext {
    /// Makes a thing outside, once: the intent is committed, `make` makes it and gives its id, the id is committed. When an earlier attempt
    /// was begun, `find` asks the world first, and what it finds is taken as the thing. A thing that was made is not asked for again.
    ///
    /// Both futures run only when they are needed. An error of `make` leaves the intent open, to be looked at by the next attempt or by undo.
    pub async fn effect(
        &self,
        thing: &Thing,
        find: impl Future<Output = Result<Option<String>>>,
        make: impl Future<Output = Result<String>>,
    ) -> Result<String> {
        self.check()?;
        let known = self.intent(thing).await?;
        let status = known.as_ref().map(|intent| intent.status);
        if let (EffectMove::Use, Some(Intent { effect: Some(id), .. })) = (effect_move(status, None), &known) {
            return Ok(id.clone());
        }
        let found = if effect_move(status, None) == EffectMove::LookFor { find.await? } else { None };
        if let Some(id) = found {
            self.mark(thing, IntentTrigger::Effect, Some(&id)).await?;
            return Ok(id);
        }
        self.intend(thing).await?;
        self.desk.points.reach(self.step.name, "make", Side::Before).await?;
        let id = make.await?;
        self.desk.points.reach(self.step.name, "make", Side::After).await?;
        self.mark(thing, IntentTrigger::Effect, Some(&id)).await?;
        Ok(id)
    }

    /// Removes a thing that this job made or meant to make; `false` when there is nothing of it. `find` asks the world where the journal has
    /// no id; `remove` takes the id, and what is gone already is no error. A removal that fails is written down as left over.
    pub async fn remove<R>(
        &self,
        thing: &Thing,
        find: impl Future<Output = Result<Option<String>>>,
        remove: impl FnOnce(String) -> R,
    ) -> Result<bool>
    where
        R: Future<Output = Result<()>>,
    {
        let known = self.intent(thing).await?;
        let id = match (removal_move(known.as_ref().map(|intent| intent.status), None), known) {
            (RemovalMove::Nothing, _) => return Ok(false),
            // Removing what is gone is no error, so a known id needs no look.
            (_, Some(Intent { effect: Some(id), .. })) => Some(id),
            _ => find.await?,
        };
        let Some(id) = id else {
            self.mark(thing, IntentTrigger::Undo, None).await?;
            return Ok(false);
        };
        self.desk.points.reach(self.step.name, "remove", Side::Before).await?;
        if let Err(error) = remove(id.clone()).await {
            if !self.token.is_cancelled() {
                self.mark(thing, IntentTrigger::LeaveOver, Some(&id)).await?;
            }
            return Err(error.with("kind", thing.kind).with("name", &thing.name));
        }
        self.desk.points.reach(self.step.name, "remove", Side::After).await?;
        self.mark(thing, IntentTrigger::Undo, Some(&id)).await?;
        Ok(true)
    }

    /// Runs another job as a part of this one, and waits until it rests; `key` names it, so that it is begun once however often this step is.
    /// It is cancelled, paused and continued with this job, and its writes fence this job's until it rests. What its end means is for the step
    /// to say. An error when the step was asked to end.
    pub async fn child(&self, key: &'static str, job: NewJob) -> Result<Job> {
        let id = self.once(key, JobId::generate).await?;
        let jobs = Jobs { desk: Arc::clone(&self.desk) };
        match jobs.get(&id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.check()?;
                let job = NewJob { parent: Some(self.job.id.clone()), ..job };
                match jobs.start_as(id.clone(), job, |_, _| async { Ok(()) }).await {
                    // An earlier owner of this job may have begun it a moment ago.
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
            Err(error) => return Err(error),
            Ok(child) if child.status == JobStatus::Paused => jobs.resume(&id).await?,
            Ok(_) => {}
        }
        let rested = jobs.wait_until(&id, &self.token, |child| {
            self.alive();
            !child.status.is_busy()
        });
        match (rested.await, self.grip.stopped()) {
            (Err(_), Some(Stop::Cancel)) => {
                jobs.cancel(&id, None).await?;
                jobs.wait(&id, &self.grip.token).await?;
                self.take_back().await?;
                Err(self.check().err().unwrap_or_else(|| fenced(&self.grip)))
            }
            (Err(_), Some(Stop::Pause)) => {
                // It may have come to rest, or be past its own point of return, meanwhile.
                let _ = jobs.pause(&id).await;
                Err(self.check().err().unwrap_or_else(|| fenced(&self.grip)))
            }
            (rested, _) => {
                let child = rested?;
                self.take_back().await?;
                Ok(child)
            }
        }
    }

    /// A child writes to the same volumes, with a higher epoch than its parent's. Once it rests, the parent takes a higher one still.
    async fn take_back(&self) -> Result<()> {
        let Some(context) = &self.job.context else { return Ok(()) };
        let epoch = self.commit_as("take-back", |tx| async move { tx.jobs().raise(&self.job.id, context).await }).await?;
        self.grip.raised(epoch);
        Ok(())
    }

    /// The things that this job wrote down, in the order of writing.
    pub async fn things(&self) -> Result<Vec<Intent>> {
        self.desk.read(|tx| async move { tx.intents().of_job(&self.job.id).await }).await
    }

    async fn intent(&self, thing: &Thing) -> Result<Option<Intent>> {
        self.desk.read(|tx| async move { tx.intents().find(&self.job.id, thing.kind, &thing.name).await }).await
    }

    async fn intend(&self, thing: &Thing) -> Result<()> {
        let intent = &NewIntent { job: &self.job.id, step: self.step.name, kind: thing.kind, name: &thing.name, epoch: self.grip.epoch() };
        self.commit_as("intend", |tx| async move { tx.intents().intend(intent).await }).await
    }

    async fn mark(&self, thing: &Thing, on: IntentTrigger, effect: Option<&str>) -> Result<()> {
        let act = if on == IntentTrigger::Effect { "effected" } else { "removed" };
        self.commit_as(act, |tx| async move {
            let missing =
                || Error::new(ErrorKind::Internal, "write down what became of a thing", "it was never intended").with("name", &thing.name);
            let intent = tx.intents().find(&self.job.id, thing.kind, &thing.name).await?.ok_or_else(missing)?;
            tx.intents().mark(&intent, intent.status.next(on)?, effect).await
        })
        .await
    }
}
