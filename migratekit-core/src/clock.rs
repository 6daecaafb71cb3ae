//! Time: the only place that reads a clock. Durations come from the monotonic clock (which tests may pause); a [`Timestamp`] is for
//! people and for the catalog, never for measuring: the wall clock may step.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
pub use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};

/// Now, on the monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Waits.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// What `work` gives, if it ends within `time`; else it is dropped.
pub async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, work).await.ok()
}

/// A moment: microseconds since 1970 in UTC, of the years 0 to 9999. Its text is RFC 3339 with six digits of the second, which sorts as
/// the moments do: `2026-11-21T11:15:14.000000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROS;

impl Timestamp {
    /// The first moment that has a text: the beginning of the year 0.
    pub const MIN: Timestamp = Timestamp(-62_167_219_200 * MICROS);
    /// The last moment that has a text: the end of the year 9999.
    pub const MAX: Timestamp = Timestamp(253_402_300_800 * MICROS - 1);

    /// Now, by the wall clock of this host.
    #[must_use]
    pub fn now() -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        Timestamp(micros.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// The moment this many microseconds after 1970; refused outside the years 0 to 9999.
    pub fn from_micros(micros: i64) -> Result<Self> {
        if (Self::MIN.0..=Self::MAX.0).contains(&micros) {
            return Ok(Timestamp(micros));
        }
        Err(Error::new(ErrorKind::InvalidInput, "read a time", "it lies outside the years 0 to 9999").with("microseconds", micros))
    }

    /// Microseconds since 1970; negative before it.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// This much later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(micros).min(Self::MAX.0))
    }

    /// This much earlier, at least [`Timestamp::MIN`].
    #[must_use]
    pub fn minus(self, time: Duration) -> Self {
        let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_sub(micros).max(Self::MIN.0))
    }

    /// The time from `earlier` to this; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The wall clock as one part of the program sees it. It is the host's; only a test can step it, and only for this part.
#[derive(Debug, Clone, Default)]
pub struct WallClock {
    #[cfg(feature = "testing")]
    stepped: std::sync::Arc<std::sync::atomic::AtomicI64>,
}

impl WallClock {
    /// Now, by this clock.
    #[cfg(not(feature = "testing"))]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Now, by this clock.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let micros = Timestamp::now().0.saturating_add(self.stepped.load(std::sync::atomic::Ordering::SeqCst));
        Timestamp(micros.clamp(Timestamp::MIN.0, Timestamp::MAX.0))
    }

    /// Steps it by so many seconds; back, when they are negative. Clones see it too.
    #[cfg(feature = "testing")]
    pub fn step(&self, seconds: i64) {
        self.stepped.fetch_add(seconds.saturating_mul(MICROS), std::sync::atomic::Ordering::SeqCst);
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, micros) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil(days);
        let seconds = micros / MICROS;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", micros % MICROS)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads `YYYY-MM-DDTHH:MM:SS[.FRACTION](Z|+HH:MM|-HH:MM)`, with digits of the second beyond the sixth cut off. No leap seconds.
    fn from_str(text: &str) -> Result<Self> {
        read(text).and_then(|micros| Timestamp::from_micros(micros).ok()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read a time", "write it as RFC 3339, such as 2026-01-31T12:00:00Z")
                .with("time", text.chars().take(40).flat_map(char::escape_default).collect::<String>())
        })
    }
}

impl TryFrom<String> for Timestamp {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> String {
        time.to_string()
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. (Years that begin in March put the leap day last.)
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn read(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let sign = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|b| wanted.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let signs = sign(4, b"-") && sign(7, b"-") && sign(10, b"Tt ") && sign(13, b":") && sign(16, b":");
    let day_number = days(year, month, day);
    if !signs || civil(day_number) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
            (format!("{:0<6}", rest.get(..end.min(6))?).parse::<i64>().ok()?, rest.get(end..)?)
        }
        None => (0, rest),
    };
    let ahead = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [b'+' | b'-', _, _, b':', _, _] => {
            let at = text.len() - zone.len();
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            let seconds = (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
        _ => return None,
    };
    Some((day_number * 86_400 + hour * 3600 + minute * 60 + second - ahead) * MICROS + fraction)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments_print_and_read() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (Timestamp::MAX.0, "9999-12-31T23:59:59.999999Z"),
            (Timestamp::MIN.0, "0000-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp::from_micros(micros).unwrap().to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap().0, micros);
        }
        let noon = "2026-11-21T12:00:00Z".parse::<Timestamp>().unwrap();
        assert_eq!("2026-11-21T13:30:00+01:30".parse::<Timestamp>().unwrap(), noon);
        assert_eq!("2026-11-21T12:00:00.5Z".parse::<Timestamp>().unwrap().since(noon), Duration::from_millis(500));
        assert_eq!("2026-11-21T12:00:00.0000009Z".parse::<Timestamp>().unwrap(), noon);
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "now",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00+0100",
            "+026-01-01T00:00:00Z",
            "0000-01-01T00:00:00+01:00",
            "2026-01-01T00:00:00Zé",
            "202é-01-01T00:00:00Z",
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
        assert!(Timestamp::from_micros(i64::MAX).is_err() && Timestamp::from_micros(i64::MIN).is_err());
    }

    #[test]
    fn sums_stay_in_range() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.minus(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp::MIN.since(Timestamp::MAX), Duration::ZERO);
        assert!(Timestamp::now() > "2020-01-01T00:00:00Z".parse().unwrap());
    }

    proptest! {
        #[test]
        fn every_moment_reads_back_and_texts_sort_as_moments(a in Timestamp::MIN.0..=Timestamp::MAX.0, b in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let (a, b) = (Timestamp::from_micros(a).unwrap(), Timestamp::from_micros(b).unwrap());
            prop_assert_eq!(a.to_string().parse::<Timestamp>().unwrap(), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn reading_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
