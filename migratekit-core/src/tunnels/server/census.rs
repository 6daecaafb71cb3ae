//! Who is connected, counted. Connections that have not shown a key count by where they come from, those that have by their key.
//!
//! A crowd of half-open connections must not keep out who comes from elsewhere: when there is no room for one more without a key, the
//! oldest one of the source that has most of them goes, if that source has more than the newcomer's would have. Nobody is asked to go for
//! a newcomer of the same source: it would only be another one of the same crowd.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use crate::task::CancellationToken;
use crate::tunnels::keys::Fingerprint;
use crate::tunnels::limits;

/// The bounds; the defaults are the constants of [`limits`].
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections without a key, from everywhere.
    pub handshakes: usize,
    /// Connections without a key, from one address.
    pub handshakes_per_source: usize,
    /// Connections with a key.
    pub sessions: usize,
    /// Connections of one key.
    pub sessions_per_key: usize,
    /// Channels of one connection.
    pub channels: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            handshakes: limits::MAX_HANDSHAKES,
            handshakes_per_source: limits::MAX_HANDSHAKES_PER_SOURCE,
            sessions: limits::MAX_SESSIONS,
            sessions_per_key: limits::MAX_SESSIONS_PER_KEY,
            channels: limits::MAX_CHANNELS,
        }
    }
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Census {
    handshakes: usize,
    /// Those without a key, by source, the oldest first.
    by_source: HashMap<IpAddr, VecDeque<Waiting>>,
    sessions: usize,
    by_key: HashMap<Fingerprint, usize>,
    last: u64,
}

/// What one connection counts as.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Handshake(Waiting),
    Session(Fingerprint),
}

/// A connection without a key.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    source: IpAddr,
    number: u64,
    /// Cancelled when it has to go because others need the room.
    pub(super) out: CancellationToken,
}

impl Place {
    /// Cancelled when the connection has to go because others need its room; never, once it has shown a key.
    pub(super) fn out(&self) -> CancellationToken {
        match self {
            Place::Handshake(waiting) => waiting.out.clone(),
            Place::Session(_) => CancellationToken::new(),
        }
    }
}

/// What counts as one source: an address of IPv4; of IPv6 the network of 64 bits, of which whoever has one address has all.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Census {
    /// A connection comes; `None` when there are too many.
    pub(super) fn enter(&mut self, address: IpAddr, bounds: &Bounds) -> Option<Place> {
        let source = source_of(address);
        let here = self.by_source.get(&source).map_or(0, VecDeque::len);
        if here >= bounds.handshakes_per_source || (self.handshakes >= bounds.handshakes && !self.make_room(here)) {
            return None;
        }
        self.last += 1;
        let waiting = Waiting { source, number: self.last, out: CancellationToken::new() };
        self.handshakes += 1;
        self.by_source.entry(source).or_default().push_back(waiting.clone());
        Some(Place::Handshake(waiting))
    }

    /// Sends away the oldest connection of the source that has most, if that are more than `here` and the newcomer.
    fn make_room(&mut self, here: usize) -> bool {
        let Some(most) = self.by_source.values().max_by_key(|waiting| waiting.len()) else { return false };
        let Some(oldest) = most.front().filter(|_| most.len() > here + 1).cloned() else { return false };
        oldest.out.cancel();
        self.forget(&oldest);
        true
    }

    /// One less of those without a key, unless it was sent away before.
    fn forget(&mut self, gone: &Waiting) {
        let Some(waiting) = self.by_source.get_mut(&gone.source) else { return };
        let before = waiting.len();
        waiting.retain(|other| other.number != gone.number);
        self.handshakes = self.handshakes.saturating_sub(before - waiting.len());
        // What is counted no more is forgotten, so that the tables do not grow with all who ever came.
        if waiting.is_empty() {
            self.by_source.remove(&gone.source);
        }
    }

    /// A connection has shown `key`; `None` when there are too many, and then it keeps its place.
    pub(super) fn login(&mut self, place: &Place, key: Fingerprint, bounds: &Bounds) -> Option<Place> {
        let here = self.by_key.get(&key).copied().unwrap_or(0);
        if self.sessions >= bounds.sessions || here >= bounds.sessions_per_key {
            return None;
        }
        self.leave(place);
        self.sessions += 1;
        self.by_key.insert(key.clone(), here + 1);
        Some(Place::Session(key))
    }

    /// A connection leaves its place.
    pub(super) fn leave(&mut self, place: &Place) {
        match place {
            Place::Handshake(waiting) => self.forget(waiting),
            Place::Session(key) => {
                self.sessions = self.sessions.saturating_sub(1);
                if let Some(count) = self.by_key.get_mut(key) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.by_key.remove(key);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnels::PrivateKey;

    fn count(places: &[Place], is: impl Fn(&Place) -> bool) -> usize {
        places.iter().filter(|place| is(place)).count()
    }

    proptest! {
        /// Whoever comes, logs in and leaves in whatever order: no bound is passed, and when all are gone nothing is left.
        #[test]
        fn no_bound_is_passed_and_nothing_is_left(steps in prop::collection::vec((0_u8..3, 0_u8..3, 0_usize..20), 1..200)) {
            let bounds = Bounds { handshakes: 5, handshakes_per_source: 2, sessions: 4, sessions_per_key: 2, channels: 1 };
            let keys: Vec<_> = (0..3).map(|_| PrivateKey::generate().unwrap().public().fingerprint()).collect();
            let (mut census, mut places) = (Census::default(), Vec::<Place>::new());
            for (what, which, at) in steps {
                match what {
                    0 => {
                        places.extend(census.enter(IpAddr::from([10, 0, 0, which]), &bounds));
                        // Who was sent away leaves.
                        if let Some(at) = places.iter().position(|place| place.out().is_cancelled()) {
                            let place = places.remove(at);
                            census.leave(&place);
                        }
                    }
                    1 => {
                        if let Some(place) = places.iter_mut().filter(|p| matches!(p, Place::Handshake(_))).nth(at % 3)
                            && let Some(new) = census.login(place, keys[which as usize].clone(), &bounds)
                        {
                            *place = new;
                        }
                    }
                    _ => if !places.is_empty() {
                        let place = places.swap_remove(at % places.len());
                        census.leave(&place);
                    },
                }
                let sessions = count(&places, |p| matches!(p, Place::Session(_)));
                prop_assert_eq!((census.sessions, census.handshakes), (sessions, places.len() - sessions));
                prop_assert!(sessions <= 4 && places.len() - sessions <= 5);
                for place in &places {
                    let same = match place {
                        Place::Session(key) => count(&places, |p| matches!(p, Place::Session(k) if k == key)),
                        Place::Handshake(at) => count(&places, |p| matches!(p, Place::Handshake(o) if o.source == at.source)),
                    };
                    prop_assert!(same <= 2);
                }
            }
            for place in &places {
                census.leave(place);
            }
            prop_assert!(census.by_source.is_empty() && census.by_key.is_empty() && census.handshakes + census.sessions == 0);
        }
    }

    #[test]
    fn a_crowd_from_some_sources_does_not_keep_out_who_comes_from_another() {
        let bounds = Bounds { handshakes: 6, handshakes_per_source: 4, ..Bounds::default() };
        let from = |last| IpAddr::from([10, 0, 0, last]);
        let mut census = Census::default();
        let crowd: Vec<Place> = [1, 2, 1, 2, 2, 2].iter().filter_map(|last| census.enter(from(*last), &bounds)).collect();
        assert_eq!(crowd.len(), 6);
        assert!(census.enter(from(2), &bounds).is_none(), "one more of the largest crowd");
        let newcomer = census.enter(from(3), &bounds).unwrap();
        let out = |places: &[Place]| places.iter().map(|p| p.out().is_cancelled()).collect::<Vec<_>>();
        assert_eq!(out(&crowd), [false, true, false, false, false, false], "the oldest of the largest went");
        assert!(!newcomer.out().is_cancelled() && census.handshakes == 6);
        // Who was sent away and leaves late is not counted twice.
        census.leave(&crowd[1]);
        assert_eq!(census.handshakes, 6);
        // When all have as few, who comes last waits outside.
        let more: Vec<Place> = [4, 5, 6, 7].iter().filter_map(|last| census.enter(from(*last), &bounds)).collect();
        assert_eq!((more.len(), census.handshakes), (3, 6), "as many sources as there is room, one each");
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_ipv4_has_one_form() {
        let source = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2:3::4"), source("2001:db8:1:2:ffff::"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }
}
