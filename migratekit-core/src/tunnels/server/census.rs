//! Who is connected, counted: pure. Connections that have not shown a key count by their address, those that have by their key.

use std::collections::HashMap;
use std::net::IpAddr;

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
    by_source: HashMap<IpAddr, usize>,
    sessions: usize,
    by_key: HashMap<Fingerprint, usize>,
}

/// What one connection counts as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Handshake(IpAddr),
    Session(Fingerprint),
}

impl Census {
    /// A connection comes; `None` when there are too many.
    pub(super) fn enter(&mut self, source: IpAddr, bounds: &Bounds) -> Option<Place> {
        let here = self.by_source.get(&source).copied().unwrap_or(0);
        if self.handshakes >= bounds.handshakes || here >= bounds.handshakes_per_source {
            return None;
        }
        self.handshakes += 1;
        self.by_source.insert(source, here + 1);
        Some(Place::Handshake(source))
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
            Place::Handshake(source) => {
                self.handshakes = self.handshakes.saturating_sub(1);
                less(&mut self.by_source, source);
            }
            Place::Session(key) => {
                self.sessions = self.sessions.saturating_sub(1);
                less(&mut self.by_key, key);
            }
        }
    }
}

/// One less of `key`; what is counted no more is forgotten, so that the tables do not grow with all who ever came.
fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnels::PrivateKey;

    proptest! {
        /// Whoever comes, logs in and leaves in whatever order: no bound is passed, and when all are gone nothing is left.
        #[test]
        fn no_bound_is_passed_and_nothing_is_left(steps in prop::collection::vec((0_u8..3, 0_u8..3, 0_usize..20), 1..200)) {
            let bounds = Bounds { handshakes: 5, handshakes_per_source: 2, sessions: 4, sessions_per_key: 2, channels: 1 };
            let keys: Vec<_> = (0..3).map(|_| PrivateKey::generate().unwrap().public().fingerprint()).collect();
            let (mut census, mut places) = (Census::default(), Vec::<Place>::new());
            for (what, which, at) in steps {
                match what {
                    0 => places.extend(census.enter(IpAddr::from([10, 0, 0, which]), &bounds)),
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
                let sessions = places.iter().filter(|p| matches!(p, Place::Session(_))).count();
                prop_assert_eq!((census.sessions, census.handshakes), (sessions, places.len() - sessions));
                prop_assert!(sessions <= 4 && places.len() - sessions <= 5);
                for place in &places {
                    prop_assert!(places.iter().filter(|p| *p == place).count() <= 2);
                }
            }
            for place in &places {
                census.leave(place);
            }
            prop_assert!(census.by_source.is_empty() && census.by_key.is_empty() && census.handshakes + census.sessions == 0);
        }
    }
}
