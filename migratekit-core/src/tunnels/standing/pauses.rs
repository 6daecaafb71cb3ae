//! How long to wait before a connection is made again: pure.

use std::time::Duration;

use crate::tunnels::limits;

/// The pauses between two tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    /// The first; each further one is twice as long.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses { first: limits::FIRST_PAUSE, longest: limits::LONGEST_PAUSE }
    }
}

impl Pauses {
    /// The pause after `failures` failures in a row, of which there was at least one. `random` moves it between its half and its whole, so
    /// that fifty VMAs that lost their server at once do not come back at once. Where the server has said no, it is the longest at once.
    pub(super) fn after(&self, failures: u32, refused: bool, random: u16) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        let whole = if refused { self.longest } else { doubled.min(self.longest) };
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u16::MAX))
    }
}

/// Sixteen random bits; a middle value where the system gives none.
pub(super) fn random() -> u16 {
    let mut bytes = [0; 2];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(2) => u16::from_le_bytes(bytes),
        _ => u16::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_grow_to_the_longest_and_never_beyond(failures in 1_u32..200, refused in any::<bool>(), random in any::<u16>()) {
            let pauses = Pauses::default();
            let (this, next) = (pauses.after(failures, refused, random), pauses.after(failures + 1, refused, random));
            prop_assert!(this <= next && next <= pauses.longest);
            prop_assert!(this >= pauses.first / 2 && this >= pauses.after(failures, refused, u16::MAX) / 2);
            if refused || failures > 6 {
                prop_assert!(this >= pauses.longest / 2);
            }
        }
    }

    #[test]
    fn the_first_is_short_and_they_differ() {
        let pauses = Pauses::default();
        assert_eq!((pauses.after(1, false, u16::MAX), pauses.after(1, false, 0)), (pauses.first, pauses.first / 2));
        assert_eq!(pauses.after(3, false, u16::MAX), pauses.first * 4);
        assert!((0..100).map(|_| random()).collect::<std::collections::BTreeSet<_>>().len() > 50);
    }
}
