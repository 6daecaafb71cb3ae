//! The runner: one for each process. It takes jobs, drives them, renews their leases, and lays them down in good order.
//!
//! ```text
//!              Scope of the runner
//!   look ─── every look: requests of the jobs it holds; jobs nobody holds, as many as it may
//!   renew ── every renew: one transaction for all leases; a clock that stepped is told
//!   mind ─── every 2 min: the health monitor (`monitor`)
//!   drives ─ one task for each job (`drive`)
//! ```
//!
//! A job with a parent is taken beyond the bound: its parent holds a place and waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::desk::Pace;
use super::drive::{AtStop, Drive};
use super::failpoint::Failpoints;
use super::home::Home;
use super::lease::{Grip, LeaseTimes, Observer, Stop};
use super::office::Jobs;
use super::recovery::{self, Asked, Found, Recovered};
use super::{Sagas, renewal};
use crate::clock::{self, WallClock};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, RunnerId};
use crate::model::{EventKind, JobStatus};
use crate::store::{NewEvent, Store, Tx};
use crate::task::{CancellationToken, Scope};

/// How many jobs a runner drives at once, unless it is told another number: each may move many gigabytes a minute, and has buffers of
/// some 64 MiB.
pub const JOBS_AT_ONCE: usize = 8;

/// How long [`Runner::stop`] waits for its jobs: the grace of a step and the transactions after it.
const STOP: Duration = Duration::from_secs(90);

/// What a runner is told at its start.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// How many jobs without a parent it drives at once.
    pub jobs_at_once: usize,
    /// What becomes of a job whose runner died, and of one that a stop laid down.
    pub orphans: Orphans,
    /// The only jobs it begins or goes on with; none: all that nobody holds. Orphans, and what goes back, are dealt with all the same.
    pub wanted: Option<Wanted>,
    /// The times of leases.
    pub leases: LeaseTimes,
    /// The times of a drive.
    pub pace: Pace,
    /// The wall clock whose steps are told; nothing else asks it.
    pub wall: WallClock,
    /// Failpoints; without feature `testing` there are none.
    pub failpoints: Failpoints,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        RunnerConfig {
            jobs_at_once: JOBS_AT_ONCE,
            orphans: Orphans::Continue,
            wanted: None,
            leases: LeaseTimes::default(),
            pace: Pace::default(),
            wall: WallClock::default(),
            failpoints: Failpoints::default(),
        }
    }
}

/// The jobs that a runner is there for: a command line runs what it was called for, and not what another one has just asked for.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Arc<Mutex<BTreeSet<JobId>>>);

impl Wanted {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<JobId>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This job is wanted. `jobs` are those of the runner, which then looks at once.
    pub fn add(&self, job: &JobId, jobs: &Jobs) {
        self.with(|wanted| wanted.insert(job.clone()));
        jobs.desk.pulse.beat();
    }

    pub(super) fn has(&self, job: &JobId) -> bool {
        self.with(|wanted| wanted.contains(job))
    }
}

/// What becomes of a job that another process left in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// It goes on here: what a service does.
    Continue,
    /// It is laid down as paused, for `resume`: what a command line does that was called for something else. Jobs that go back are finished
    /// all the same.
    LayDown,
}

/// A running runner. Dropping it is a crash: its jobs stand still until it is known dead.
#[derive(Debug)]
pub struct Runner {
    shared: Arc<Shared>,
    scope: Scope,
    recovered: Recovered,
}

/// What the tasks of a runner share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: RunnerId,
    pub(super) jobs: Jobs,
    pub(super) home: Home,
    pub(super) config: RunnerConfig,
    pub(super) token: CancellationToken,
    pub(super) observer: Mutex<Observer>,
    pub(super) asked: Mutex<Asked>,
    grips: Mutex<BTreeMap<JobId, Held>>,
}

#[derive(Debug)]
struct Held {
    grip: Arc<Grip>,
    counts: bool,
}

impl Runner {
    /// Registers this process, recovers what others left ([`Runner::recovered`]), and begins to take jobs. The catalog must answer.
    pub async fn start(store: Store, sagas: Sagas, config: RunnerConfig) -> Result<Runner> {
        let id = RunnerId::generate();
        let home = Home::enter(&store, &id).await?;
        let mut scope = Scope::new();
        let jobs = Jobs::with(store, sagas, config.failpoints.clone(), config.pace);
        let token = scope.token().clone();
        let shared = Arc::new(Shared {
            id,
            jobs,
            home,
            config,
            token,
            observer: Mutex::default(),
            asked: Mutex::default(),
            grips: Mutex::default(),
        });
        shared.register().await?;
        let recovered = recovery::at_start(&shared).await?;
        let (look, renew, mind) = (Arc::clone(&shared), Arc::clone(&shared), Arc::clone(&shared));
        scope.spawn(async move { look.look().await });
        scope.spawn(async move { renewal::renew(&renew).await });
        scope.spawn(async move { recovery::mind(&mind).await });
        Ok(Runner { shared, scope, recovered })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &RunnerId {
        &self.shared.id
    }

    /// What it found at its start.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The jobs, with this process's short ways: who waits for a change that was made here learns of it at once.
    #[must_use]
    pub fn jobs(&self) -> &Jobs {
        &self.shared.jobs
    }

    /// Waits until this runner holds no job, and none is left that it would take.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn idle(&self) -> Result<()> {
        self.idle_for(|_| true).await
    }

    /// Waits until this runner does not hold this job, and would not take it.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn done_with(&self, job: &JobId) -> Result<()> {
        self.idle_for(|of| of == job).await
    }

    async fn idle_for(&self, counts: impl Fn(&JobId) -> bool) -> Result<()> {
        let mut pulse = self.shared.jobs.desk.pulse.listen();
        loop {
            pulse.mark_unchanged();
            // In this order: a job that is taken between the two is no more free, but held.
            let free = recovery::free(&self.shared).await?.iter().any(|found| counts(&found.job.id));
            if !free && !self.shared.grips().iter().any(|grip| counts(&grip.job)) {
                return Ok(());
            }
            tokio::select! {
                _ = pulse.changed() => {}
                () = clock::sleep(self.shared.config.leases.look) => {}
            }
        }
    }

    /// Stops in good order: takes no more jobs, tells its steps to end, lays its jobs down (see [`Orphans`]), gives back its leases.
    /// [`ErrorKind::Timeout`] when steps do not end within 90 s: their leases run out.
    pub async fn stop(self) -> Result<()> {
        self.shared.shut();
        let late = || Error::new(ErrorKind::Timeout, "stop the runner", "its jobs did not stop in time; their leases run out");
        clock::within(STOP, self.scope.close()).await.ok_or_else(late)??;
        self.shared.leave().await
    }

    /// Ends like a crash: nothing is written, nothing is released.
    #[cfg(feature = "testing")]
    pub async fn crash(self) {
        self.scope.abort().await;
    }
}

impl Shared {
    fn held<T>(&self, change: impl FnOnce(&mut BTreeMap<JobId, Held>) -> T) -> T {
        change(&mut self.grips.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The jobs in hand.
    pub(super) fn grips(&self) -> Vec<Arc<Grip>> {
        self.held(|held| held.values().map(|held| Arc::clone(&held.grip)).collect())
    }

    pub(super) fn holds(&self, job: &JobId) -> bool {
        self.held(|held| held.contains_key(job))
    }

    fn shut(&self) {
        self.grips().iter().for_each(|grip| grip.stop(Stop::Shutdown));
    }

    async fn register(&self) -> Result<()> {
        let row = &self.home.row(&self.id);
        let data = json!({ "runner": self.id, "host": row.host, "pid": row.pid });
        self.write_event(EventKind::RunnerStarted, data, |tx| async move { tx.runners().insert(row).await }).await
    }

    async fn leave(&self) -> Result<()> {
        let data = json!({ "runner": self.id });
        self.write_event(EventKind::RunnerStopped, data, |tx| async move { tx.runners().stopped(&self.id).await }).await?;
        self.home.leave().await;
        Ok(())
    }

    /// Looks for requests and for work, until the runner ends.
    async fn look(self: Arc<Self>) {
        let mut drives = Scope::new();
        let mut pulse = self.jobs.desk.pulse.listen();
        while !self.token.is_cancelled() {
            pulse.mark_unchanged();
            let looked = async {
                self.requests().await?;
                self.take(&mut drives).await
            };
            if let Err(error) = looked.await {
                tracing::warn!(%error, "the runner cannot look for work; it goes on looking");
            }
            tokio::select! {
                () = self.token.cancelled() => {}
                _ = pulse.changed() => {}
                () = clock::sleep(self.config.leases.look) => {}
            }
        }
        self.shut();
        if let Err(error) = drives.join().await {
            tracing::error!(%error, "a drive ended badly");
        }
    }

    /// What was asked of the jobs held here, and which of them were lost.
    async fn requests(&self) -> Result<()> {
        // Grips made after the read must not be judged by it.
        let grips = self.grips();
        if grips.is_empty() {
            return Ok(());
        }
        let rows = self.jobs.desk.read(|tx| async move { tx.jobs().held_by(&self.id).await }).await?;
        for grip in grips {
            match rows.iter().find(|row| row.id == grip.job) {
                Some(row) if row.pivot_crossed || row.status == JobStatus::RollingBack => {}
                Some(row) if row.cancel_requested => grip.stop(Stop::Cancel),
                Some(row) if row.pause_requested => grip.stop(Stop::Pause),
                Some(_) => {}
                // Given back by its own drive a moment ago, or taken by another runner.
                None => grip.stop(Stop::Lost),
            }
        }
        Ok(())
    }

    /// Takes jobs that nobody holds, as many as there is room for.
    async fn take(self: &Arc<Self>, drives: &mut Scope) -> Result<()> {
        for found in recovery::free(self).await? {
            let room = self.held(|held| held.values().filter(|held| held.counts).count() < self.config.jobs_at_once);
            if (room || found.job.parent.is_some()) && !self.token.is_cancelled() {
                let job = found.job.clone();
                if let Err(error) = self.take_one(drives, found).await {
                    recovery::passed_over(&job, error)?;
                }
            }
        }
        Ok(())
    }

    async fn take_one(self: &Arc<Self>, drives: &mut Scope, found: Found) -> Result<()> {
        let asked = clock::now();
        let Some(epoch) = recovery::claim(self, &found.job).await? else { return Ok(()) };
        let (id, owner) = (found.job.id.clone(), self.id.clone());
        let grip = Arc::new(Grip::new(id.clone(), owner, epoch, CancellationToken::new(), asked + self.config.leases.lease));
        let held = Held { grip: Arc::clone(&grip), counts: found.job.parent.is_none() };
        self.held(|all| all.insert(id.clone(), held));
        if self.token.is_cancelled() {
            grip.stop(Stop::Shutdown);
        }
        let at_stop = if self.config.orphans == Orphans::Continue { AtStop::Release } else { AtStop::Pause };
        let shared = Arc::clone(self);
        drives.spawn(async move {
            let desk = Arc::clone(&shared.jobs.desk);
            let drive = Drive { desk, grip, job: found.job, at_stop, lay_down: found.lay_down, verdict: found.verdict };
            let rest = drive.run().await;
            tracing::debug!(job = %id, ?rest, "the drive ended");
            shared.held(|held| held.remove(&id));
            shared.jobs.desk.pulse.beat();
        });
        Ok(())
    }

    pub(super) async fn write_event<F, Fut>(&self, kind: EventKind, data: serde_json::Value, work: F) -> Result<()>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let (work, event) = (&work, &NewEvent { kind, job: None, context: None, data });
        let write = |tx: Tx| async move {
            work(tx.clone()).await?;
            tx.events().append(event).await.map(|_| ())
        };
        self.jobs.desk.store.write("write down what a runner does", write).await
    }
}
