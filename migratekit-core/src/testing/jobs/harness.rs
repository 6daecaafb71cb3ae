//! The crash harness: any saga, crashed at every place where it can be, and continued by another runner.
//!
//! A place is a failpoint and how often it was passed. The harness learns the places from a run that nothing disturbs; then, for each of
//! them, it runs a fresh trial, ends its runner there as a crash does, and lets others go on. Afterwards it demands: the job has come to
//! rest, its VM is free, no intent is open, the trial finds nothing wrong in its world, and a second job of the same VM runs through.

use std::sync::Arc;
use std::time::Duration;

use super::points::{Blow, Points};
use crate::block::BoxFuture;
use crate::clock;
use crate::error::Result;
use crate::id::JobId;
use crate::jobs::{Jobs, LeaseTimes, Pace, Runner, RunnerConfig, Sagas};
use crate::model::{IntentStatus, Job, JobStatus};
use crate::store::Store;
use crate::task::CancellationToken;

/// How long a job may take before the harness calls it stuck.
const STUCK: Duration = Duration::from_secs(60);

/// One job, and how its world is judged.
pub trait Trial: Send + Sync {
    /// Asks for the job.
    fn begin<'a>(&'a self, jobs: &'a Jobs) -> BoxFuture<'a, Result<JobId>>;

    /// What is wrong in the world after the job came to rest.
    fn complaints<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Vec<String>>;
}

/// What the harness saw.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Places at which a runner was ended.
    pub places: usize,
    /// Runners that were ended.
    pub crashes: usize,
    /// Jobs that completed all the same.
    pub completed: usize,
    /// Jobs that failed or were cancelled, with everything undone.
    pub undone: usize,
    /// What was wrong.
    pub complaints: Vec<String>,
}

/// The harness over one catalog.
#[derive(Debug, Clone)]
pub struct CrashHarness {
    store: Store,
    sagas: Sagas,
}

impl CrashHarness {
    /// Over this catalog, with these sagas.
    #[must_use]
    pub fn new(store: Store, sagas: Sagas) -> Self {
        CrashHarness { store, sagas }
    }

    /// A configuration for tests: everything that waits, waits a moment only.
    #[must_use]
    pub fn config(points: &Arc<Points>) -> RunnerConfig {
        let ms = Duration::from_millis;
        RunnerConfig {
            leases: LeaseTimes { lease: ms(1500), renew: ms(250), still: ms(500), look: ms(20) },
            pace: Pace { progress: ms(20), pause: ms(5), longest_pause: ms(20), grace: Duration::from_secs(20) },
            failpoints: points.failpoints(),
            ..RunnerConfig::default()
        }
    }

    /// A runner of the saga.
    pub async fn runner(&self, points: &Arc<Points>) -> Result<Runner> {
        Runner::start(self.store.clone(), self.sagas.clone(), Self::config(points)).await
    }

    /// The places that an undisturbed job passes.
    pub async fn places(&self, trial: &dyn Trial) -> Result<Vec<String>> {
        let points = Points::watching();
        let runner = self.runner(&points).await?;
        let job = trial.begin(runner.jobs()).await?;
        self.rest(runner.jobs(), &job).await?;
        runner.stop().await?;
        // Progress comes by the clock, so its places are not the same in each run.
        Ok(points.seen().into_iter().filter(|place| !place.contains("/progress/")).collect())
    }

    /// Ends a runner at every `stride`-th place, `times` runners one after the other at the same one, each with a fresh trial.
    pub async fn crash_at_each_place<T: Trial>(&self, fresh: impl AsyncFn() -> T, stride: usize, times: usize) -> Result<Report> {
        let mut report = Report::default();
        for place in self.places(&fresh().await).await?.iter().step_by(stride) {
            let trial = fresh().await;
            report.places += 1;
            let mut job = None;
            for _ in 0..times {
                let points = Points::striking(place, Blow::Stand);
                let runner = self.runner(&points).await?;
                let id = match job.take() {
                    Some(id) => id,
                    None => trial.begin(runner.jobs()).await?,
                };
                let rested = self.rest(runner.jobs(), &id);
                tokio::select! {
                    () = points.struck().cancelled() => report.crashes += 1,
                    _ = rested => {}
                }
                runner.crash().await;
                job = Some(id);
            }
            if let Some(id) = job {
                self.finish(&trial, &id, place, &mut report).await?;
            }
        }
        Ok(report)
    }

    /// Lets an act fail at every place within a step, once, each with a fresh trial.
    pub async fn fail_at_each_place<T: Trial>(&self, fresh: impl AsyncFn() -> T) -> Result<Report> {
        let mut report = Report::default();
        let acts = ["commit", "pivot", "once", "intend", "make", "effected", "remove", "removed"];
        let within = |place: &&String| place.split('/').nth(1).is_some_and(|act| acts.contains(&act));
        for place in self.places(&fresh().await).await?.iter().filter(within) {
            let trial = fresh().await;
            report.places += 1;
            let points = Points::striking(place, Blow::Fail);
            let runner = self.runner(&points).await?;
            let id = trial.begin(runner.jobs()).await?;
            self.rest(runner.jobs(), &id).await?;
            report.crashes += usize::from(points.struck().is_cancelled());
            runner.stop().await?;
            self.finish(&trial, &id, place, &mut report).await?;
        }
        Ok(report)
    }

    /// Lets another runner go on, and judges.
    pub async fn finish(&self, trial: &dyn Trial, id: &JobId, place: &str, report: &mut Report) -> Result<()> {
        let runner = self.runner(&Points::watching()).await?;
        let jobs = runner.jobs();
        let job = self.rest(jobs, id).await?;
        let mut wrong = self.judge(trial, &job).await?;
        match job.status {
            JobStatus::Completed => report.completed += 1,
            JobStatus::Failed | JobStatus::Cancelled => report.undone += 1,
            status => wrong.push(format!("it ended as {status}: {:?}", job.error_message)),
        }
        // The VM is free, and what was left does not stand in the way.
        match trial.begin(jobs).await {
            Ok(next) => {
                let next = self.rest(jobs, &next).await?;
                wrong.extend(self.judge(trial, &next).await?.into_iter().map(|complaint| format!("in the next job: {complaint}")));
            }
            Err(error) => wrong.push(format!("no other job can begin: {error}")),
        }
        report.complaints.extend(wrong.into_iter().map(|complaint| format!("{place}: {complaint}")));
        runner.stop().await
    }

    /// What is wrong with a job that came to rest, by its rows and by its world.
    pub async fn judge(&self, trial: &dyn Trial, job: &Job) -> Result<Vec<String>> {
        let mut wrong = trial.complaints(job).await;
        let (context, id) = (job.context.as_ref(), &job.id);
        let (active, intents) = self
            .store
            .read("judge a job", |tx| async move {
                let active = match context {
                    Some(context) => tx.jobs().active_of(context).await?,
                    None => None,
                };
                Ok((active, tx.intents().of_job(id).await?))
            })
            .await?;
        if active.is_some() {
            wrong.push("its VM is still busy".to_owned());
        }
        if job.lease.is_some() {
            wrong.push("its lease was not given back".to_owned());
        }
        let open = |status| matches!(status, IntentStatus::Intended | IntentStatus::LeftOver);
        if job.status != JobStatus::NeedsAttention {
            wrong.extend(intents.iter().filter(|intent| open(intent.status)).map(|intent| format!("{} is {}", intent.name, intent.status)));
        }
        Ok(wrong)
    }

    async fn rest(&self, jobs: &Jobs, id: &JobId) -> Result<Job> {
        let token = CancellationToken::new();
        match clock::within(STUCK, jobs.wait(id, &token)).await {
            Some(job) => job,
            None => jobs.get(id).await,
        }
    }
}
