//! How far something is, in whole percent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// Nothing yet.
    pub const ZERO: Percent = Percent(0);
    /// All of it.
    pub const FULL: Percent = Percent(100);

    /// `percent`, at most 100.
    #[must_use]
    pub const fn capped(percent: u8) -> Self {
        Percent(if percent > 100 { 100 } else { percent })
    }

    /// What `done` is of `total`, rounded down; everything, when there is nothing to do.
    #[must_use]
    pub fn of(done: u64, total: u64) -> Self {
        match total {
            0 => Self::FULL,
            total => Percent(u8::try_from(u128::from(done.min(total)) * 100 / u128::from(total)).unwrap_or(100)),
        }
    }

    /// This part (0 to 100) of the way from `self` to `to`; never before `self`.
    #[must_use]
    pub fn toward(self, to: Percent, part: Percent) -> Self {
        let way = u16::from(to.0.saturating_sub(self.0)) * u16::from(part.0) / 100;
        Percent::capped(u8::try_from(u16::from(self.0) + way).unwrap_or(100))
    }

    /// The further of both: shown progress never goes back.
    #[must_use]
    pub fn raised_to(self, other: Percent) -> Self {
        self.max(other)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = Error;
    fn try_from(percent: u8) -> Result<Self> {
        match percent {
            0..=100 => Ok(Percent(percent)),
            _ => Err(Error::new(ErrorKind::InvalidInput, "read a percentage", "it is above 100").with("percent", percent)),
        }
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_stay_between_their_ends(a in 0_u8..=100, b in 0_u8..=100, done: u64, total: u64) {
            let (a, b, part) = (Percent::capped(a), Percent::capped(b), Percent::of(done, total));
            prop_assert!(part <= Percent::FULL);
            let between = a.toward(b, part);
            prop_assert!(between >= a && between <= a.max(b));
            prop_assert_eq!(a.toward(b, Percent::FULL), a.max(b));
            prop_assert!(a.raised_to(b) >= a);
        }
    }

    #[test]
    fn rounding_never_says_done_too_early() {
        assert_eq!(Percent::of(u64::MAX - 1, u64::MAX).get(), 99);
        assert_eq!(Percent::of(0, 0), Percent::FULL);
        assert!(Percent::try_from(101).is_err());
    }
}
