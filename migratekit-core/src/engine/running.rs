//! Jobs that run: what others left is recovered first, then a bounded runner takes jobs until it is stopped.

use std::sync::{Arc, PoisonError};

use super::Engine;
use super::reach::Sites;
use crate::error::Result;
use crate::id::JobId;
use crate::jobs::{Jobs, Orphans, Recovered, Runner, RunnerConfig, SagaFactory, Sagas, Wanted, housekeep};
use crate::model::JobStatus;
use crate::replication;
use crate::store::Store;
use crate::task::Scope;

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
    /// laid down, for [`Replications::resume`](super::Replications::resume). `None` when there was nothing to do. When the housekeeping of
    /// the catalog is due, a bounded part of it is done first ([`housekeep`]).
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn recover(&self) -> Result<Option<Recovered>> {
        housekeep(self.store()).await;
        let in_hands = |status: JobStatus| matches!(status, JobStatus::Running | JobStatus::Cancelling | JobStatus::RollingBack);
        if !self.desk().active().await?.iter().any(|job| in_hands(job.status)) {
            return Ok(None);
        }
        let config = RunnerConfig { orphans: Orphans::LayDown, wanted: Some(Wanted::default()), ..RunnerConfig::default() };
        let runner = Runner::start(self.store().clone(), self.shared.sagas.clone(), config).await?;
        let found = *runner.recovered();
        let idle = runner.idle().await;
        runner.stop().await?;
        idle?;
        Ok((found.taken_over + found.laid_down + found.failed > 0).then_some(found))
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
