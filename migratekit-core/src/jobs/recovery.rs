//! Recovery: what is done with jobs that nobody drives. [`model::decide`](crate::model::decide) says it; here its facts are gathered and its
//! decisions carried out, at the start of a runner, at each of its looks, and every two minutes by the health monitor for all that has not
//! come to rest, whatever its status.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::Failure;
use super::book::{self, Domain};
use super::desk::unreachable;
use super::housekeeping::{self, Part};
use super::lease::Owner as Life;
use super::runner::{Orphans, Shared};
use crate::clock::{self, Instant, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, JobId, RunnerId};
use crate::model::{Decision, EventKind, Job, JobStatus, JobTrigger, Leave, Lost, OtherSide, Owner, RecoveryFacts, decide};

/// How often the health monitor looks at everything that has not come to rest.
pub const MONITOR: Duration = Duration::from_secs(120);

/// A job whose row was not written for so long is stale: a lease has run out, or nobody took it.
pub const STALE: Duration = Duration::from_secs(30);

/// What a runner found at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Jobs that had not come to rest.
    pub unfinished: usize,
    /// Of these, held by others that live, or may live.
    pub held: usize,
    /// Waiting for a runner.
    pub waiting: usize,
    /// Paused by somebody.
    pub paused: usize,
    /// Left in the middle by a process that is gone; they go on.
    pub taken_over: usize,
    /// Left in the middle, and laid down as paused, for `resume`.
    pub laid_down: usize,
    /// Left in the middle, and they go back: the other side cannot prove them.
    pub failed: usize,
    /// Left as they are, because the other side cannot be reached.
    pub unreachable: usize,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} jobs had not ended: {} held by others, {} waiting, {} paused, {} taken over, {} laid down as paused, {} lost, {} out of reach",
            self.unfinished, self.held, self.waiting, self.paused, self.taken_over, self.laid_down, self.failed, self.unreachable
        )
    }
}

/// A job to be driven, and what recovery knows of it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) job: Job,
    /// It is laid down as paused instead of going on.
    pub(super) lay_down: bool,
    /// It goes back with this.
    pub(super) verdict: Option<Failure>,
}

/// What the other sides said before, so that none is asked at every look.
#[derive(Debug, Default)]
pub(super) struct Asked(HashMap<JobId, (Instant, u32)>);

/// Looks at everything once, at the start.
pub(super) async fn at_start(shared: &Arc<Shared>) -> Result<Recovered> {
    let recovered = look_at_all(shared).await?;
    let data = json!({ "unfinished": recovered.unfinished, "taken_over": recovered.taken_over, "laid_down": recovered.laid_down,
        "failed": recovered.failed, "unreachable": recovered.unreachable });
    shared.write_event(EventKind::Recovery, data, |_| async { Ok(()) }).await?;
    tracing::info!(
        unfinished = recovered.unfinished,
        held = recovered.held,
        waiting = recovered.waiting,
        paused = recovered.paused,
        taken_over = recovered.taken_over,
        laid_down = recovered.laid_down,
        failed = recovered.failed,
        unreachable = recovered.unreachable,
        "Job recovery completed"
    );
    Ok(recovered)
}

/// The health monitor, until the runner ends; and the housekeeping when it is due.
pub(super) async fn mind(shared: &Arc<Shared>) {
    tracing::info!(seconds = MONITOR.as_secs(), stale_seconds = STALE.as_secs(), "Health monitor started");
    keep_house(shared).await;
    while shared.token.run_until_cancelled(clock::sleep(MONITOR)).await.is_some() {
        match look_at_all(shared).await {
            Ok(found) => tracing::debug!(%found, "the health monitor looked"),
            Err(error) => tracing::warn!(%error, "the health monitor cannot look at the jobs; it tries again"),
        }
        keep_house(shared).await;
    }
}

async fn keep_house(shared: &Shared) {
    housekeeping::when_due(&shared.jobs.desk.store, Part::Whole, &shared.token).await;
}

/// Every job that has not come to rest, with the decision of each counted. The looks of the runner carry them out.
async fn look_at_all(shared: &Arc<Shared>) -> Result<Recovered> {
    let (now_there, jobs) = shared.jobs.desk.read(|tx| async move { Ok((tx.now().await?, tx.jobs().unfinished().await?)) }).await?;
    let mut count = Recovered { unfinished: jobs.len(), ..Recovered::default() };
    for job in &jobs {
        let decision = match facts(shared, job, now_there).await {
            Ok(facts) => decide(&facts),
            // Of who cannot be judged nothing is taken.
            Err(error) => {
                passed_over(job, error)?;
                Decision::Leave(Leave::Owned)
            }
        };
        if job.status != JobStatus::Paused && now_there.since(job.updated_at) > STALE {
            tracing::warn!(job = %job.id, status = %job.status, ?decision, "the job is stale");
        }
        match decision {
            Decision::Leave(Leave::Owned) => count.held += 1,
            Decision::Leave(Leave::Waiting) => count.waiting += 1,
            Decision::Leave(Leave::Paused) => count.paused += 1,
            Decision::Leave(Leave::AtRest) => {}
            Decision::TakeOver | Decision::Follow(_) | Decision::Finish(_) if lays_down(shared, job) => count.laid_down += 1,
            Decision::TakeOver | Decision::Follow(_) | Decision::Finish(_) => count.taken_over += 1,
            Decision::Fail(_) => count.failed += 1,
            Decision::AskAgain | Decision::MarkUnreachable | Decision::NeedsAttention => count.unreachable += 1,
        }
    }
    shared.observer.lock().unwrap_or_else(PoisonError::into_inner).keep(&jobs);
    Ok(count)
}

/// Whether an orphan is laid down: it goes forward, and nothing yet binds it to go on.
fn lays_down(shared: &Shared, job: &Job) -> bool {
    shared.config.orphans == Orphans::LayDown && job.status == JobStatus::Running && !job.pivot_crossed && job.lease.is_some()
}

/// Whether this runner is there for the job. What a crash left in the middle, and what goes back, is everybody's; what was laid down in good
/// order waits for who wants it, also behind its pivot; a part of a job is its owner's.
fn is_wanted(shared: &Shared, job: &Job) -> bool {
    let fresh = matches!(job.status, JobStatus::Pending | JobStatus::Running) && job.lease.is_none();
    // A job that waits for a part of itself holds its place until that is done.
    let part_of_ours = || job.parent.as_ref().is_some_and(|parent| shared.holds(parent));
    shared.config.wanted.as_ref().is_none_or(|wanted| !fresh || wanted.has(&job.id) || part_of_ours())
}

/// The jobs that may be taken now. What is decided otherwise is done here.
pub(super) async fn free(shared: &Arc<Shared>) -> Result<Vec<Found>> {
    let soon = if shared.home.has_locks() { Duration::MAX } else { shared.config.leases.still };
    let (now_there, jobs) =
        shared.jobs.desk.read(|tx| async move { Ok((tx.now().await?, tx.jobs().to_drive(&shared.id, soon).await?)) }).await?;
    let mut free = Vec::new();
    for job in jobs {
        if shared.holds(&job.id) || shared.jobs.desk.sagas.get(job.kind).is_err() {
            continue;
        }
        match judge(shared, &job, now_there).await {
            Ok(Some(verdict)) if is_wanted(shared, &job) => {
                let lay_down = lays_down(shared, &job);
                free.push(Found { job, lay_down, verdict });
            }
            Ok(_) => {}
            Err(error) => passed_over(&job, error)?,
        }
    }
    Ok(free)
}

/// Whether a job may be taken, and then what it goes back with, if it goes back. What is decided otherwise is done here.
async fn judge(shared: &Arc<Shared>, job: &Job, now_there: Timestamp) -> Result<Option<Option<Failure>>> {
    match decide(&facts(shared, job, now_there).await?) {
        Decision::Leave(Leave::Waiting) | Decision::TakeOver | Decision::Follow(_) | Decision::Finish(_) => Ok(Some(None)),
        Decision::Fail(lost) => Ok(Some(Some(lost_job(&lost)))),
        Decision::Leave(_) | Decision::AskAgain => Ok(None),
        Decision::MarkUnreachable => mark_unreachable(shared, job).await.map(|()| None),
        Decision::NeedsAttention => give_up(shared, job).await.map(|()| None),
    }
}

/// A job that cannot be judged or taken stands in nobody's way: it is told, and looked at again. An error is that of the catalog, which
/// is away for all.
pub(super) fn passed_over(job: &Job, error: Error) -> Result<()> {
    if unreachable(&error) {
        return Err(error);
    }
    tracing::warn!(job = %job.id, %error, "the job cannot be judged or taken; it is left as it is, and looked at again");
    Ok(())
}

async fn facts(shared: &Arc<Shared>, job: &Job, now_there: Timestamp) -> Result<RecoveryFacts> {
    let owner = owner(shared, job, now_there).await?;
    let ask = owner == Owner::Dead && job.status == JobStatus::Running && !job.pivot_crossed;
    let (mut other, mut disks, mut asked) = (OtherSide::None, Vec::new(), 0);
    if let (true, Ok(factory)) = (ask, shared.jobs.desk.sagas.get(job.kind)) {
        (other, disks) = factory.other_side(job).await;
        asked = count_asked(shared, job, &other);
    }
    if let (OtherSide::Unreachable { since }, Some(marked)) = (&mut other, job.unreachable_since) {
        *since = (*since).max(now_there.since(marked));
    }
    Ok(RecoveryFacts { status: job.status, owner, crossed: job.pivot_crossed, other, disks, asked })
}

/// How often this job's other side said that it completed; at most one in [`MONITOR`] counts.
fn count_asked(shared: &Shared, job: &Job, other: &OtherSide) -> u32 {
    let mut asked = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(other, OtherSide::Completed(_)) {
        asked.0.remove(&job.id);
        return 0;
    }
    let now = clock::now();
    let (at, times) = asked.0.entry(job.id.clone()).or_insert((now, 0));
    if *times == 0 || now.saturating_duration_since(*at) >= MONITOR {
        (*at, *times) = (now, *times + 1);
    }
    *times - 1
}

async fn owner(shared: &Arc<Shared>, job: &Job, now_there: Timestamp) -> Result<Owner> {
    let Some(lease) = &job.lease else {
        // Given back in good order, or never taken.
        return Ok(if job.status == JobStatus::Pending { Owner::None } else { Owner::Dead });
    };
    if lease.owner == shared.id {
        return Ok(if shared.holds(&job.id) { Owner::Us } else { Owner::Dead });
    }
    let (now, over, times) = (clock::now(), now_there > lease.until, &shared.config.leases);
    let life = life(shared, &lease.owner, over).await?;
    let dead = shared.observer.lock().unwrap_or_else(PoisonError::into_inner).dead(now, &job.id, lease, over, life, times);
    Ok(if dead { Owner::Dead } else { Owner::Alive })
}

/// What is known of an owner without asking a clock. With locks that it ended is written down: only then its lock's file may go.
async fn life(shared: &Shared, owner: &RunnerId, over: bool) -> Result<Life> {
    let life = shared.home.owner(owner).await?;
    if !shared.home.has_locks() || life == Life::Lives {
        return Ok(life);
    }
    let row = shared.jobs.desk.read(|tx| async move { tx.runners().find(owner).await }).await?;
    let life = match (life, &row) {
        (Life::Unknown, Some(row)) => shared.home.by_row(row, over),
        (life, _) => life,
    };
    if life == Life::Gone {
        if row.is_some_and(|row| row.stopped_at.is_none()) {
            shared.jobs.desk.store.write("write down a runner's end", |tx| async move { tx.runners().stopped(owner).await }).await?;
        }
        shared.home.bury(owner).await;
    }
    Ok(life)
}

/// Takes a job by a new epoch; none when somebody else was faster.
pub(super) async fn claim(shared: &Shared, seen: &Job) -> Result<Option<Epoch>> {
    let status = seen.status.next(JobTrigger::Take)?;
    let lease = shared.config.leases.lease;
    let claimed = shared.jobs.desk.store.write("take a job", |tx| async move {
        let Some(epoch) = tx.jobs().claim(seen, status, &shared.id, lease).await? else { return Ok(None) };
        book::tell_taken(&tx, seen, status, epoch).await?;
        Ok(Some(epoch))
    });
    claimed.await
}

async fn mark_unreachable(shared: &Shared, job: &Job) -> Result<()> {
    if job.unreachable_since.is_some() {
        return Ok(());
    }
    tracing::warn!(job = %job.id, "the other side of the job cannot be reached; it is left as it is");
    shared.jobs.desk.store.write("mark a job as out of reach", |tx| async move { tx.jobs().mark_unreachable(&job.id).await }).await
}

/// The other side was out of reach for too long: a person is asked. The new epoch fences whoever may still write.
async fn give_up(shared: &Arc<Shared>, job: &Job) -> Result<()> {
    let factory = shared.jobs.desk.sagas.get(job.kind)?;
    let next_action = factory.definition().next_action;
    let loaded = &factory.load(job);
    let Some(epoch) = claim(shared, job).await? else { return Ok(()) };
    let failure = &Failure {
        step: String::new(),
        kind: ErrorKind::Unreachable.code().to_owned(),
        message: "the other side of the job could not be reached for too long; whether it still runs is not known".to_owned(),
    };
    book::ends_all_the_same(Domain::of(factory.as_ref(), loaded), |domain| {
        shared.jobs.desk.store.write("leave a job to a person", move |tx| async move {
            if !tx.jobs().hold(&job.id, &shared.id, epoch).await? {
                return Ok(());
            }
            book::give_up(&tx, domain, &job.id, failure, next_action).await
        })
    })
    .await
}

fn lost_job(lost: &Lost) -> Failure {
    let message = match lost {
        Lost::NoProof => "no_proof: the other side says it completed, and cannot show the change ids of all disks".to_owned(),
        Lost::JobLost => "job_lost: the other side answers, and knows no such job".to_owned(),
        Lost::Reported(error) => format!("the other side says: {error}"),
    };
    Failure { step: String::new(), kind: lost.code().to_owned(), message }
}
