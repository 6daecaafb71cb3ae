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
//! | SQLite | its lock file is free: the process that held it ended. No clock is asked. Where the file is missing: its row says that it ended, or `until` is over and its process is not there, or as with MariaDB |
//! | MariaDB | `until` is over by the database's clock **and** the counter stood still for [`LeaseTimes::still`] of the observer's monotonic clock; or it stood still for a whole lease more than that, whatever the database's clock says |
//!
//! So a step of anybody's wall clock steals nothing, since a living owner's counter moves; and it delays nothing for long, since an owner
//! whose counter stood still for a whole lease has given up by its own monotonic clock.

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
    pub(super) fn dead(&mut self, now: Instant, job: &JobId, lease: &Lease, over: bool, owner: Owner, times: &LeaseTimes) -> bool {
        match owner {
            Owner::Gone => return true,
            Owner::Lives => return false,
            Owner::Unknown => {}
        }
        let same = |sight: &Sight| sight.owner == lease.owner && sight.epoch == lease.epoch && sight.renewals == lease.renewals;
        match self.seen.get(job) {
            Some(sight) if same(sight) => {
                let still = now.saturating_duration_since(sight.since);
                still >= times.still && (over || still >= times.still + times.lease)
            }
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
        .with("epoch", grip.epoch())
}

/// A job as this runner holds it.
#[derive(Debug)]
pub(super) struct Grip {
    pub(super) job: JobId,
    pub(super) owner: RunnerId,
    /// Ends with the lease or the process: all work on the job watches it, undo too.
    pub(super) token: CancellationToken,
    /// Ends with the present step.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    epoch: Epoch,
    good_until: Instant,
    stop: Option<Stop>,
    step: Option<CancellationToken>,
}

impl Grip {
    pub(super) fn new(job: JobId, owner: RunnerId, epoch: Epoch, token: CancellationToken, good_until: Instant) -> Self {
        Grip { job, owner, token, state: Mutex::new(State { epoch, good_until, stop: None, step: None }) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What its writes carry.
    pub(super) fn epoch(&self) -> Epoch {
        self.with(|state| state.epoch)
    }

    /// The job took the right to write back from its child.
    pub(super) fn raised(&self, epoch: Epoch) {
        self.with(|state| state.epoch = epoch);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{self, Timestamp};

    const STILL: Duration = Duration::from_secs(10);

    fn lease(owner: &RunnerId, renewals: u64) -> Lease {
        Lease { owner: owner.clone(), epoch: Epoch::NONE, until: Timestamp::MIN, renewals }
    }

    #[test]
    fn an_owner_that_stands_still_is_dead_only_after_the_time_and_with_its_lease_over() {
        let (start, job, owner) = (clock::now(), JobId::generate(), RunnerId::generate());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut observer = Observer::default();
        let times = LeaseTimes::default();
        let mut dead = |seconds, renewals, over| observer.dead(at(seconds), &job, &lease(&owner, renewals), over, Owner::Unknown, &times);
        assert!(!dead(0, 7, true), "seen for the first time");
        assert!(!dead(9, 7, true), "not long enough");
        assert!(!dead(11, 7, false), "its lease is not over");
        assert!(dead(11, 7, true));
        assert!(!dead(12, 8, true), "it lives after all");
        assert!(!dead(21, 8, true));
        assert!(dead(22, 8, true));
        // A database whose clock was set back: the lease is never over, and the owner has given up all the same.
        assert!(!dead(51, 8, false), "its own clock may not have said so yet");
        assert!(dead(52, 8, false));
    }

    #[test]
    fn a_lock_says_more_than_any_clock() {
        let (now, job, owner) = (clock::now(), JobId::generate(), RunnerId::generate());
        let mut observer = Observer::default();
        assert!(observer.dead(now, &job, &lease(&owner, 0), false, Owner::Gone, &LeaseTimes::default()));
        for seconds in [0, 100, 1000] {
            assert!(!observer.dead(
                now + Duration::from_secs(seconds),
                &job,
                &lease(&owner, 0),
                true,
                Owner::Lives,
                &LeaseTimes::default()
            ));
        }
    }

    proptest! {
        /// Whatever the wall clocks say (`over` is anything), an owner that renews every few seconds is never thought dead.
        #[test]
        fn no_step_of_a_clock_steals_from_the_living(looks in prop::collection::vec((1_u64..4000, any::<bool>()), 1..200)) {
            let (start, job, owner) = (clock::now(), JobId::generate(), RunnerId::generate());
            let (mut observer, mut passed) = (Observer::default(), 0);
            for (milliseconds, over) in looks {
                passed += milliseconds;
                let (now, renewals) = (start + Duration::from_millis(passed), passed / 5000);
                prop_assert!(!observer.dead(now, &job, &lease(&owner, renewals), over, Owner::Unknown, &LeaseTimes::default()));
            }
        }
    }

    #[test]
    fn a_stronger_reason_replaces_a_weaker_one_and_a_lost_lease_is_never_held_again() {
        let now = clock::now();
        let grip = Grip::new(JobId::generate(), RunnerId::generate(), Epoch::NONE, CancellationToken::new(), now + STILL);
        let step = grip.forward();
        grip.stop(Stop::Pause);
        assert!(step.is_cancelled() && !grip.token.is_cancelled());
        grip.stop(Stop::Quiet);
        assert_eq!(grip.stopped(), Some(Stop::Pause));
        grip.answer(None);
        assert!(!grip.forward().is_cancelled(), "the pause was taken back");
        assert!(grip.holds(now) && !grip.holds(now + STILL));
        grip.renewed(now + STILL, STILL);
        assert!(grip.holds(now + STILL));
        grip.stop(Stop::Lost);
        grip.answer(None);
        grip.renewed(now + STILL, STILL * 9);
        assert!(!grip.holds(now) && grip.token.is_cancelled());
    }
}
