//! Who is connected, counted. Connections that have not shown a key count by where they come from, those that have by their VMA.
//!
//! A crowd of half-open connections must not keep out who comes from elsewhere: when there is no room for one more without a key, the
//! oldest one of the source that has most of them goes, if that source has more than the newcomer's would have. Nobody is asked to go for
//! a newcomer of the same source: it would only be another one of the same crowd.
//!
//! VMAs that have very many connections must not keep out those that have few: a part of the room is for the latter only.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use crate::task::CancellationToken;
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
    /// Those of them that only VMAs get that have fewer than `few`.
    pub reserved: usize,
    /// See `reserved`.
    pub few: usize,
    /// Connections of one VMA.
    pub sessions_per_vma: usize,
    /// Channels of one connection.
    pub channels: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            handshakes: limits::MAX_HANDSHAKES,
            handshakes_per_source: limits::MAX_HANDSHAKES_PER_SOURCE,
            sessions: limits::MAX_SESSIONS,
            reserved: limits::RESERVED_SESSIONS,
            few: limits::FEW_SESSIONS,
            sessions_per_vma: limits::MAX_SESSIONS_PER_VMA,
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
    by_vma: HashMap<String, usize>,
    last: u64,
}

/// What one connection counts as.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Handshake(Waiting),
    Session(String),
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

    /// A connection has shown a key of `vma`; `None` when there are too many, and then it keeps its place.
    pub(super) fn login(&mut self, place: &Place, vma: &str, bounds: &Bounds) -> Option<Place> {
        let here = self.by_vma.get(vma).copied().unwrap_or(0);
        let room = if here < bounds.few { bounds.sessions } else { bounds.sessions.saturating_sub(bounds.reserved) };
        if self.sessions >= room || here >= bounds.sessions_per_vma {
            return None;
        }
        self.leave(place);
        self.sessions += 1;
        self.by_vma.insert(vma.to_owned(), here + 1);
        Some(Place::Session(vma.to_owned()))
    }

    /// A connection leaves its place.
    pub(super) fn leave(&mut self, place: &Place) {
        match place {
            Place::Handshake(waiting) => self.forget(waiting),
            Place::Session(vma) => {
                self.sessions = self.sessions.saturating_sub(1);
                if let Some(count) = self.by_vma.get_mut(vma) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.by_vma.remove(vma);
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

    fn count(places: &[Place], is: impl Fn(&Place) -> bool) -> usize {
        places.iter().filter(|place| is(place)).count()
    }

    proptest! {
        /// Whoever comes, logs in and leaves in whatever order: no bound is passed, and when all are gone nothing is left.
        #[test]
        fn no_bound_is_passed_and_nothing_is_left(steps in prop::collection::vec((0_u8..3, 0_u8..3, 0_usize..20), 1..200)) {
            let bounds = Bounds { handshakes: 5, handshakes_per_source: 2, sessions: 4, reserved: 1, few: 1, sessions_per_vma: 2, channels: 1 };
            let names = ["a", "b", "c"];
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
                            && let Some(new) = census.login(place, names[which as usize], &bounds)
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
                        Place::Session(vma) => count(&places, |p| matches!(p, Place::Session(other) if other == vma)),
                        Place::Handshake(at) => count(&places, |p| matches!(p, Place::Handshake(o) if o.source == at.source)),
                    };
                    prop_assert!(same <= 2);
                }
            }
            for place in &places {
                census.leave(place);
            }
            prop_assert!(census.by_source.is_empty() && census.by_vma.is_empty() && census.handshakes + census.sessions == 0);
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

    /// As many connections of a VMA as it gets, up to `most`.
    fn take(census: &mut Census, vma: &str, most: usize) -> usize {
        let bounds = Bounds::default();
        let one_more = |_: &usize| {
            let place = census.enter(IpAddr::from([10, 0, 0, 1]), &bounds).unwrap();
            let came = census.login(&place, vma, &bounds).is_some();
            if !came {
                census.leave(&place);
            }
            came
        };
        (0..most).take_while(one_more).count()
    }

    #[test]
    fn vmas_with_very_many_connections_keep_nobody_out() {
        let mut census = Census::default();
        let greedy: Vec<usize> = (0..10).map(|n| take(&mut census, &format!("greedy-{n}"), usize::MAX)).collect();
        assert_eq!(greedy[..4], [257, 257, 257, 253], "some take all there is for them: {greedy:?}");
        assert!(greedy[4..].iter().all(|few| *few == limits::FEW_SESSIONS), "{greedy:?}");
        // Each of as many VMAs as the room is kept for finds its own, though each asks for a control connection and sixteen more.
        for n in 0..58 {
            assert_eq!(take(&mut census, &format!("vma-{n}"), 17), limits::FEW_SESSIONS, "{n}");
        }
        assert_eq!((census.sessions, take(&mut census, "one-more", 17)), (limits::MAX_SESSIONS, 0));
        // Whoever leaves makes room for who has few, before who has many.
        census.leave(&Place::Session("greedy-0".to_owned()));
        assert_eq!((take(&mut census, "greedy-1", 1), take(&mut census, "one-more", 17)), (0, 1));
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
