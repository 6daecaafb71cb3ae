//! How often somebody may be wrong: pure. A try takes a place before it is judged, so that many at once are not more than one after the
//! other, and gives it back when it was right.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::limits::{GUESS_TIME, MAX_GUESSES, MAX_GUESSES_PER_SOURCE};
use crate::clock::Instant;

/// The bounds; the defaults are the constants of [`super::limits`].
#[derive(Debug, Clone, Copy)]
pub struct GuessBounds {
    /// Wrong tries of one address.
    pub per_source: usize,
    /// Wrong tries of all.
    pub all: usize,
    /// In this time.
    pub time: Duration,
}

impl Default for GuessBounds {
    fn default() -> Self {
        GuessBounds { per_source: MAX_GUESSES_PER_SOURCE, all: MAX_GUESSES, time: GUESS_TIME }
    }
}

/// The tries that count; never more than the bounds allow, so the tables do not grow with those who come.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    tries: VecDeque<(Instant, IpAddr)>,
    by_source: HashMap<IpAddr, usize>,
}

/// Whether a try may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    Try,
    /// No; wait so long.
    Wait(Duration),
}

/// Sources are counted as networks: who has one address of IPv6 has 2^64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() >> 64 << 64;
            IpAddr::V6(network.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Guesses {
    /// A try from `address` begins.
    pub(super) fn begin(&mut self, address: IpAddr, now: Instant, bounds: &GuessBounds) -> May {
        let address = source(address);
        while let Some((at, old)) = self.tries.front().copied()
            && now.saturating_duration_since(at) >= bounds.time
        {
            self.tries.pop_front();
            self.less(old);
        }
        let here = self.by_source.get(&address).copied().unwrap_or(0);
        if here >= bounds.per_source || self.tries.len() >= bounds.all {
            let all = self.tries.len() >= bounds.all;
            let first = self.tries.iter().find(|(_, a)| all || *a == address).map_or(now, |(at, _)| *at);
            return May::Wait(bounds.time.saturating_sub(now.saturating_duration_since(first)));
        }
        self.tries.push_back((now, address));
        self.by_source.insert(address, here + 1);
        May::Try
    }

    /// A try from `address` was right after all.
    pub(super) fn was_right(&mut self, address: IpAddr) {
        let address = source(address);
        if let Some(at) = self.tries.iter().rposition(|(_, a)| *a == address) {
            self.tries.remove(at);
            self.less(address);
        }
    }

    fn less(&mut self, address: IpAddr) {
        if let Some(count) = self.by_source.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const BOUNDS: GuessBounds = GuessBounds { per_source: 2, all: 5, time: Duration::from_secs(100) };

    #[test]
    fn a_source_is_stopped_and_let_go_on_when_the_time_is_over() {
        let (mut guesses, begin) = (Guesses::default(), clock::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert_eq!(guesses.begin(one, at(0), &BOUNDS), May::Try);
        assert_eq!(guesses.begin(one, at(10), &BOUNDS), May::Try);
        assert_eq!(guesses.begin(one, at(20), &BOUNDS), May::Wait(Duration::from_secs(80)));
        assert_eq!(guesses.begin(other, at(20), &BOUNDS), May::Try, "others are not hindered");
        guesses.was_right(one);
        assert_eq!(guesses.begin(one, at(21), &BOUNDS), May::Try, "who was right has a try more");
        assert_eq!(guesses.begin(one, at(99), &BOUNDS), May::Wait(Duration::from_secs(1)));
        assert_eq!(guesses.begin(one, at(100), &BOUNDS), May::Try);
    }

    #[test]
    fn one_network_of_ipv6_is_one_source_and_mapped_addresses_are_those_of_ipv4() {
        let (mut guesses, now) = (Guesses::default(), clock::now());
        for address in ["2001:db8::1", "2001:db8::2"] {
            assert_eq!(guesses.begin(address.parse().unwrap(), now, &BOUNDS), May::Try);
        }
        assert_ne!(guesses.begin("2001:db8::3".parse().unwrap(), now, &BOUNDS), May::Try);
        for address in ["::ffff:10.0.0.1", "10.0.0.1"] {
            assert_eq!(guesses.begin(address.parse().unwrap(), now, &BOUNDS), May::Try);
        }
        assert_ne!(guesses.begin("10.0.0.1".parse().unwrap(), now, &BOUNDS), May::Try);
        assert_eq!(guesses.begin("::ffff:10.0.0.2".parse().unwrap(), now, &BOUNDS), May::Try);
    }

    proptest! {
        /// Whatever comes, in whatever order: no bound is passed within any span of the time, and nothing is left when all is over.
        #[test]
        fn no_bound_is_passed(steps in prop::collection::vec((0_u8..4, 0_u64..40, prop::bool::ANY), 1..200)) {
            let (mut guesses, begin, mut now) = (Guesses::default(), clock::now(), 0);
            let mut wrong: Vec<(u64, u8)> = Vec::new();
            for (who, later, right) in steps {
                now += later;
                let address = IpAddr::from([10, 0, 0, who]);
                if guesses.begin(address, begin + Duration::from_secs(now), &BOUNDS) == May::Try {
                    if right { guesses.was_right(address) } else { wrong.push((now, who)) }
                }
                let recent = |w: &&(u64, u8)| w.0 + 100 > now;
                prop_assert!(wrong.iter().filter(recent).count() <= 5);
                prop_assert!(wrong.iter().filter(recent).filter(|w| w.1 == who).count() <= 2);
                prop_assert!(guesses.tries.len() <= 5 && guesses.by_source.len() <= 5);
            }
            guesses.begin(IpAddr::from([10, 0, 1, 0]), begin + Duration::from_secs(now + 100), &BOUNDS);
            prop_assert!(guesses.tries.len() == 1 && guesses.by_source.len() == 1);
        }
    }
}
