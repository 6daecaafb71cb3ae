//! Jobs that run: what others left is recovered first, then a bounded runner takes jobs until it is stopped.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Engine;
use super::reach::Sites;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;
use crate::jobs::{Jobs, Orphans, Recovered, Runner, RunnerConfig, SagaFactory, Sagas, Wanted, housekeep};
use crate::model::{Job, JobStatus};
use crate::replication;
use crate::store::Store;
use crate::task::{CancellationToken, Scope};

/// For how long a verb that was called for something else finishes what others left: 5 s, enough for an undo, and not for the bytes of a
/// disk, which are for who asks for them.
pub const RECOVERY: Duration = Duration::from_secs(5);

/// Whether a job goes forward and was given back in good order.
fn is_laid_down(job: &Job) -> bool {
    job.status == JobStatus::Running && job.lease.is_none()
}

/// The sagas of this program.
pub(super) fn sagas(store: &Store) -> Result<Sagas> {
    let replications: Arc<dyn SagaFactory> = Arc::new(replication::Replications::new(Arc::new(Sites::of(store))));
    Sagas::new([replications])
}

/// An engine whose jobs run. Dropping it is a crash: its jobs stand still until it is known dead; end it with [`Running::stop`].
#[derive(Debug)]
#[must_use]
pub struct Running {
    engine: Engine,
    runner: Runner,
    log: Scope,
}

impl Running {
    /// What was found at the start.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        self.runner.recovered()
    }

    /// Ends in good order: no more jobs are taken, those that run are told to end and laid down or handed back.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) when they do not end within their time; those of the catalog.
    pub async fn stop(self) -> Result<()> {
        *self.engine.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let stopped = self.runner.stop().await;
        // After the runner, so that its last words are kept.
        self.log.close().await?;
        stopped
    }
}

impl Engine {
    /// Recovers what other processes left in the middle, then runs jobs. What becomes of theirs says [`EngineBuilder::orphans`](
    /// super::EngineBuilder::orphans).
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn start(&self) -> Result<Running> {
        let wanted = Wanted::default();
        let config = RunnerConfig {
            jobs_at_once: self.shared.limits.jobs_at_once,
            orphans: self.shared.orphans,
            wanted: (self.shared.orphans == Orphans::LayDown).then(|| wanted.clone()),
            ..RunnerConfig::default()
        };
        let runner = Runner::start(self.store().clone(), self.shared.sagas.clone(), config).await?;
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = Some((runner.jobs().clone(), wanted));
        let mut log = Scope::new();
        if let Some(writer) = self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).take() {
            log.spawn(writer.run(self.store().clone(), log.token().clone()));
        }
        Ok(Running { engine: self.clone(), runner, log })
    }

    /// Recovers what processes left in the middle that are gone, and runs nothing else: what goes back is finished, what went forward is
    /// laid down, for [`Replications::resume`](super::Replications::resume). What only has to be finished is, if that is short: after
    /// [`RECOVERY`] it is laid down too ([`Engine::unfinished_vms`]). `None` when there was nothing to do. When the housekeeping of the
    /// catalog is due, a bounded part of it is done first ([`housekeep`]).
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when `cancel` ended before it; those of the catalog.
    pub async fn recover(&self, cancel: &CancellationToken) -> Result<Option<Recovered>> {
        housekeep(self.store(), cancel).await;
        let in_hands = |status: JobStatus| matches!(status, JobStatus::Running | JobStatus::Cancelling | JobStatus::RollingBack);
        if !self.desk().active().await?.iter().any(|job| in_hands(job.status) && !is_laid_down(job)) {
            return Ok(None);
        }
        self.drive(None, cancel).await
    }

    /// Sees to the end of a job that was asked to end, if nobody is there who does.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when `cancel` ended before it; the job goes on with whoever comes next. Those of the catalog.
    pub async fn finish(&self, job: &JobId, cancel: &CancellationToken) -> Result<Option<Recovered>> {
        if self.desk().get(job).await?.status.is_busy() { self.drive(Some(job), cancel).await } else { Ok(None) }
    }

    /// A runner that takes what others left: until it is done with this job, or for a short time.
    async fn drive(&self, job: Option<&JobId>, cancel: &CancellationToken) -> Result<Option<Recovered>> {
        let config = RunnerConfig { orphans: Orphans::LayDown, wanted: Some(Wanted::default()), ..RunnerConfig::default() };
        let runner = Runner::start(self.store().clone(), self.shared.sagas.clone(), config).await?;
        let found = *runner.recovered();
        let until = async {
            match job {
                Some(job) => runner.done_with(job).await,
                None => clock::within(RECOVERY, runner.idle()).await.unwrap_or(Ok(())),
            }
        };
        let ended = cancel.run_until_cancelled(until).await;
        runner.stop().await?;
        let cancelled =
            || Error::new(ErrorKind::Cancelled, "finish what others left", "this process was asked to end; the next one goes on");
        ended.ok_or_else(cancelled)??;
        Ok((found.taken_over + found.laid_down + found.failed > 0).then_some(found))
    }

    /// The VMs whose job is behind its point of return and has nobody who finishes it:
    /// [`Replications::resume`](super::Replications::resume) does.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn unfinished_vms(&self) -> Result<Vec<String>> {
        let read = self.store().read("look for unfinished jobs", |tx| async move {
            let mut names = Vec::new();
            for job in tx.jobs().unfinished().await?.iter().filter(|job| job.pivot_crossed && is_laid_down(job)) {
                if let Some(context) = &job.context {
                    names.push(tx.contexts().get(context).await?.vm_name);
                }
            }
            Ok(names)
        });
        read.await
    }

    /// The jobs: those of the runner of this process, when there is one, so that it learns at once of what is asked.
    pub(super) fn desk(&self) -> Jobs {
        let live = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        live.map_or_else(|| Jobs::new(self.store().clone(), self.shared.sagas.clone()), |(jobs, _)| jobs)
    }

    /// This job was asked for here: a runner of this process takes it, even one that takes nothing else.
    pub(super) fn want(&self, job: &JobId) {
        if let Some((jobs, wanted)) = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            wanted.add(job, jobs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::crash::walked;
    use crate::model::messages::step_words;
    use crate::testing::catalog::on_sqlite;

    #[test]
    fn the_crash_model_walks_the_sagas_that_are_shipped() {
        on_sqlite(|store| async move {
            let sagas = sagas(&store).unwrap();
            assert!(sagas.definitions().count() > 0);
            for shipped in sagas.definitions() {
                let kind = shipped.kind;
                let (steps, pivot) = walked(kind).unwrap_or_else(|| panic!("{kind}: the model does not walk it"));
                let names: Vec<&str> = shipped.steps.iter().map(|step| step.name).collect();
                assert_eq!(names, steps, "{kind}");
                assert_eq!(shipped.steps.iter().find(|step| step.pivot).map(|step| step.name), Some(pivot), "{kind}");
                // Each has words of its own for those who follow it.
                let nothing = step_words("a step without words").friendly;
                let words: std::collections::BTreeSet<&str> = names.iter().map(|name| step_words(name).friendly).collect();
                assert!(words.len() == names.len() && !words.contains(nothing), "{kind}: {words:?}");
            }
        });
    }
}
