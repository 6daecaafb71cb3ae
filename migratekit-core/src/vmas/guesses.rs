//! How often somebody may be wrong: pure. A try takes a place before it is judged, so that many at once are not more than one after the
//! other, and gives it back unless it was judged and wrong: a catalog that does not answer locks nobody out.
//!
//! Who is wrong too often waits. Many who are wrong from everywhere make no honest person wait: above a number of wrong tries in all each
//! source has a few still, and when there are more than can be remembered the oldest are forgotten. What keeps codes from being guessed is
//! that they are long; this keeps it from being tried with the OMA's time and its audit's room.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::limits::{FEW_GUESSES, GUESS_TIME, MAX_GUESSES, MAX_GUESSES_KEPT, MAX_GUESSES_PER_SOURCE};
use crate::clock::{self, Instant};

/// The bounds; the defaults are the constants of [`super::limits`].
#[derive(Debug, Clone, Copy)]
pub struct GuessBounds {
    /// Wrong tries of one address.
    pub per_source: usize,
    /// Wrong tries of all, above which each address has `few`.
    pub all: usize,
    /// See `all`.
    pub few: usize,
    /// Wrong tries that are remembered; of more the oldest are forgotten.
    pub kept: usize,
    /// In this time.
    pub time: Duration,
}

impl Default for GuessBounds {
    fn default() -> Self {
        GuessBounds { per_source: MAX_GUESSES_PER_SOURCE, all: MAX_GUESSES, few: FEW_GUESSES, kept: MAX_GUESSES_KEPT, time: GUESS_TIME }
    }
}

/// The tries that count, by whose they are; never more than the bounds allow, so the tables do not grow with those who come.
#[derive(Debug)]
pub(super) struct Guesses<S = IpAddr> {
    tries: VecDeque<(Instant, S)>,
    by_source: HashMap<S, usize>,
}

impl<S> Default for Guesses<S> {
    fn default() -> Self {
        Guesses { tries: VecDeque::new(), by_source: HashMap::new() }
    }
}

/// Whether a try may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    Try,
    /// No; wait so long.
    Wait(Duration),
}

/// Sources are counted as networks: who has one address of IPv6 has 2^64.
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() >> 64 << 64;
            IpAddr::V6(network.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl<S: Clone + Eq + Hash> Guesses<S> {
    /// A try of `source` begins.
    pub(super) fn begin(&mut self, source: S, now: Instant, bounds: &GuessBounds) -> May {
        while self.tries.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= bounds.time) {
            self.forget_oldest();
        }
        let here = self.by_source.get(&source).copied().unwrap_or(0);
        let most = if self.tries.len() >= bounds.all { bounds.few.min(bounds.per_source) } else { bounds.per_source };
        if here >= most {
            let first = self.tries.iter().find(|(_, of)| *of == source).map_or(now, |(at, _)| *at);
            return May::Wait(bounds.time.saturating_sub(now.saturating_duration_since(first)));
        }
        if self.tries.len() >= bounds.kept {
            self.forget_oldest();
        }
        self.tries.push_back((now, source.clone()));
        *self.by_source.entry(source).or_default() += 1;
        May::Try
    }

    /// The newest try of `source` does not count after all.
    fn give_back(&mut self, source: &S) {
        if let Some(at) = self.tries.iter().rposition(|(_, of)| of == source) {
            self.tries.remove(at);
            self.less(source);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, source)) = self.tries.pop_front() {
            self.less(&source);
        }
    }

    fn less(&mut self, source: &S) {
        if let Some(count) = self.by_source.get_mut(source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(source);
            }
        }
    }
}

/// A try that was begun and is not judged yet; dropped so, it does not count.
#[derive(Debug)]
pub(super) struct Try<'g, S: Clone + Eq + Hash> {
    guesses: &'g Mutex<Guesses<S>>,
    source: Option<S>,
}

impl<'g, S: Clone + Eq + Hash> Try<'g, S> {
    /// A try of `source` begins; or the time that it has to wait.
    pub(super) fn begin(guesses: &'g Mutex<Guesses<S>>, source: S, bounds: &GuessBounds) -> Result<Self, Duration> {
        match lock(guesses).begin(source.clone(), clock::now(), bounds) {
            May::Try => Ok(Try { guesses, source: Some(source) }),
            May::Wait(time) => Err(time),
        }
    }

    /// It counts.
    pub(super) fn counts(mut self) {
        self.source = None;
    }
}

impl<S: Clone + Eq + Hash> Drop for Try<'_, S> {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            lock(self.guesses).give_back(source);
        }
    }
}

fn lock<S>(guesses: &Mutex<Guesses<S>>) -> MutexGuard<'_, Guesses<S>> {
    guesses.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: GuessBounds = GuessBounds { per_source: 3, all: 5, few: 1, kept: 8, time: Duration::from_secs(100) };

    #[test]
    fn a_source_is_stopped_and_let_go_on_when_the_time_is_over() {
        let (mut guesses, begin) = (Guesses::default(), clock::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for second in [0, 5, 10] {
            assert_eq!(guesses.begin(one, at(second), &BOUNDS), May::Try);
        }
        assert_eq!(guesses.begin(one, at(20), &BOUNDS), May::Wait(Duration::from_secs(80)));
        assert_eq!(guesses.begin(other, at(20), &BOUNDS), May::Try, "others are not hindered");
        guesses.give_back(&one);
        assert_eq!(guesses.begin(one, at(21), &BOUNDS), May::Try, "who was right has a try more");
        assert_eq!(guesses.begin(one, at(99), &BOUNDS), May::Wait(Duration::from_secs(1)));
        assert_eq!(guesses.begin(one, at(100), &BOUNDS), May::Try);
    }

    #[test]
    fn many_who_are_wrong_leave_everybody_a_few_tries() {
        let (mut guesses, begin) = (Guesses::default(), clock::now());
        let wrong = |guesses: &mut Guesses<u32>, who| guesses.begin(who, begin, &BOUNDS) == May::Try;
        assert_eq!((0..8).map(|_| wrong(&mut guesses, 0)).filter(|may| *may).count(), 3);
        assert!(wrong(&mut guesses, 1) && wrong(&mut guesses, 1), "as many as all may be wrong");
        // From now on each has one; and however many come, who comes last has too.
        for who in 2..1000 {
            assert!(wrong(&mut guesses, who), "{who}");
            assert!(!wrong(&mut guesses, who), "{who}");
            assert!(guesses.tries.len() <= BOUNDS.kept && guesses.by_source.len() <= BOUNDS.kept);
        }
    }

    #[test]
    fn a_try_counts_when_it_was_judged_and_not_when_it_was_left() {
        let guesses = Mutex::new(Guesses::<u32>::default());
        for _ in 0..100 {
            drop(Try::begin(&guesses, 1, &BOUNDS).unwrap());
        }
        for _ in 0..3 {
            Try::begin(&guesses, 1, &BOUNDS).unwrap().counts();
        }
        assert!(Try::begin(&guesses, 1, &BOUNDS).is_err());
        assert_eq!(lock(&guesses).tries.len(), 3);
    }

    #[test]
    fn one_network_of_ipv6_is_one_source_and_mapped_addresses_are_those_of_ipv4() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    proptest! {
        /// Whatever comes, in whatever order: no bound of a source is passed within any span of the time, what is remembered is bounded, and
        /// nothing is left when all is over.
        #[test]
        fn no_bound_is_passed(steps in prop::collection::vec((0_u8..4, 0_u64..40, prop::bool::ANY), 1..200)) {
            let (mut guesses, begin, mut now) = (Guesses::default(), clock::now(), 0);
            let mut wrong: Vec<(u64, u8)> = Vec::new();
            for (who, later, right) in steps {
                now += later;
                let address = IpAddr::from([10, 0, 0, who]);
                if guesses.begin(address, begin + Duration::from_secs(now), &BOUNDS) == May::Try {
                    if right { guesses.give_back(&address) } else { wrong.push((now, who)) }
                }
                let recent = |w: &&(u64, u8)| w.0 + 100 > now;
                // Four sources: the last of 5 in all may be anybody's third.
                prop_assert!(wrong.iter().filter(recent).count() <= 8);
                prop_assert!(wrong.iter().filter(recent).filter(|w| w.1 == who).count() <= 3);
                prop_assert!(guesses.tries.len() <= 8 && guesses.by_source.len() <= 4);
            }
            guesses.begin(IpAddr::from([10, 0, 1, 0]), begin + Duration::from_secs(now + 100), &BOUNDS);
            prop_assert!(guesses.tries.len() == 1 && guesses.by_source.len() == 1);
        }
    }
}
