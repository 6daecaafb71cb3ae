//! Leases: who may run a job, and when another may take it over.
//!
//! A runner holds a job by a row: owner, epoch, `until` by the database's clock, and a counter that each renewal raises. It renews every
//! [`LeaseTimes::renew`]. If no renewal succeeded for [`LeaseTimes::lease`] of its own monotonic clock, it gives the job up itself: by then
//! another may have it.
//!
//! Taking over needs the owner to be *known dead* ([`Observer`]):
//!
//! | store | how it is known |
//! |---|---|
//! | SQLite | its lock file is free: the process that held it ended. No clock is asked |
//! | MariaDB | `until` is over by the database's clock **and** the counter stood still for [`LeaseTimes::still`] of the observer's monotonic clock |
//!
//! So a step of anybody's wall clock steals nothing: a living owner's counter moves.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Instant;
use crate::error::{Error, ErrorKind};
use crate::id::{Epoch, JobId, RunnerId};
use crate::model::{Job, Lease};
use crate::task::CancellationToken;

/// The times of leases. Tests make them short; all runners of one catalog should have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How long a lease lasts unless it is renewed: 30 s, six renewals, longer than a fail-over of the database.
    pub lease: Duration,
    /// How often it is renewed: 5 s.
    pub renew: Duration,
    /// How long an observer must see the counter stand still: 10 s, two renewals.
    pub still: Duration,
    /// How often a runner looks for work and for requests to cancel or pause: 1 s at most.
    pub look: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        LeaseTimes {
            lease: Duration::from_secs(30),
            renew: Duration::from_secs(5),
            still: Duration::from_secs(10),
            look: Duration::from_millis(900),
        }
    }
}

/// What is known of an owner without asking a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Its process ended.
    Gone,
    /// Its process lives.
    Lives,
    /// Nobody can tell from here.
    Unknown,
}

/// Watches the leases of others. Pure: times are handed in.
#[derive(Debug, Default)]
pub(super) struct Observer {
    seen: HashMap<JobId, Sight>,
}

#[derive(Debug)]
struct Sight {
    owner: RunnerId,
    epoch: Epoch,
    renewals: u64,
    since: Instant,
}

impl Observer {
    /// Whether the owner of this lease is known dead at `now`. `over`: the database's clock is behind `until`.
    pub(super) fn dead(&mut self, now: Instant, job: &JobId, lease: &Lease, over: bool, owner: Owner, still: Duration) -> bool {
        match owner {
            Owner::Gone => return true,
            Owner::Lives => return false,
            Owner::Unknown => {}
        }
        let same = |sight: &Sight| sight.owner == lease.owner && sight.epoch == lease.epoch && sight.renewals == lease.renewals;
        match self.seen.get(job) {
            Some(sight) if same(sight) => over && now.saturating_duration_since(sight.since) >= still,
            _ => {
                let sight = Sight { owner: lease.owner.clone(), epoch: lease.epoch, renewals: lease.renewals, since: now };
                self.seen.insert(job.clone(), sight);
                false
            }
        }
    }

    /// Forgets all jobs but these, so that it does not grow.
    pub(super) fn keep(&mut self, jobs: &[Job]) {
        self.seen.retain(|seen, _| jobs.iter().any(|job| job.id == *seen));
    }
}

/// Why a step is told to end. A stronger reason replaces a weaker one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// It made no progress for its time.
    Quiet,
    /// Somebody asked the job to pause.
    Pause,
    /// Somebody asked the job to end.
    Cancel,
    /// This process ends.
    Shutdown,
    /// The lease is gone: nothing may be written any more.
    Lost,
}

/// The error of who writes without owning the job any more.
pub(super) fn fenced(grip: &Grip) -> Error {
    Error::new(ErrorKind::Fenced, "write as the owner of a job", "the lease was lost: another runner may have taken the job")
        .with("job", &grip.job)
        .with("epoch", grip.epoch)
}

/// A job as this runner holds it.
#[derive(Debug)]
pub(super) struct Grip {
    pub(super) job: JobId,
    pub(super) owner: RunnerId,
    pub(super) epoch: Epoch,
    /// Ends with the lease or the process: all work on the job watches it, undo too.
    pub(super) token: CancellationToken,
    /// Ends with the present step.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    good_until: Instant,
    stop: Option<Stop>,
    step: Option<CancellationToken>,
}

impl Grip {
    pub(super) fn new(job: JobId, owner: RunnerId, epoch: Epoch, token: CancellationToken, good_until: Instant) -> Self {
        Grip { job, owner, epoch, token, state: Mutex::new(State { good_until, stop: None, step: None }) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A renewal that began at `asked` succeeded.
    pub(super) fn renewed(&self, asked: Instant, lease: Duration) {
        self.with(|state| state.good_until = state.good_until.max(asked + lease));
    }

    /// Whether the lease can still be ours at `now`, as far as this process knows.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.with(|state| state.stop != Some(Stop::Lost) && now < state.good_until)
    }

    /// Asks for the end of the present work.
    pub(super) fn stop(&self, why: Stop) {
        self.with(|state| {
            state.stop = state.stop.max(Some(why));
            if let Some(step) = &state.step {
                step.cancel();
            }
        });
        if why >= Stop::Shutdown {
            self.token.cancel();
        }
    }

    /// Why the present work was asked to end.
    pub(super) fn stopped(&self) -> Option<Stop> {
        self.with(|state| state.stop)
    }

    /// A token for a step that goes forward; every reason ends it.
    pub(super) fn forward(&self) -> CancellationToken {
        let token = self.token.child_token();
        self.with(|state| {
            if state.stop.is_some() {
                token.cancel();
            }
            state.step = Some(token.clone());
        });
        token
    }

    /// What is still wanted of the job, by its row: requests that were taken back or answered are forgotten.
    pub(super) fn answer(&self, wanted: Option<Stop>) {
        self.with(|state| state.stop = state.stop.filter(|why| *why >= Stop::Shutdown).or(wanted));
    }

    /// A token for an undo: requests of people do not end it, and those made so far are answered by it.
    pub(super) fn backward(&self) -> CancellationToken {
        self.with(|state| {
            state.stop = state.stop.filter(|why| *why >= Stop::Shutdown);
            state.step = None;
        });
        self.token.child_token()
    }

    /// A step that was quiet ended; the next may be told anew.
    pub(super) fn forget_quiet(&self) {
        self.with(|state| state.stop = state.stop.filter(|why| *why != Stop::Quiet));
    }
}
