//! A wall clock that steps: noticed against the monotonic clock, told and audited; nothing depends on it.

use std::time::Duration;

use crate::clock::{Instant, Timestamp};

/// What counts as a step, in microseconds: a minute. Less is the everyday work of a time daemon.
const STEP: i128 = 60_000_000;

/// Compares how far both clocks went between two looks.
#[derive(Debug)]
pub(super) struct ClockWatch {
    last: (Instant, Timestamp),
}

impl ClockWatch {
    pub(super) fn new(now: Instant, wall: Timestamp) -> Self {
        ClockWatch { last: (now, wall) }
    }

    /// By how many seconds the wall clock stepped since the last look (negative: back), if it was more than a minute.
    pub(super) fn look(&mut self, now: Instant, wall: Timestamp) -> Option<i64> {
        let (then, wall_then) = std::mem::replace(&mut self.last, (now, wall));
        let passed: Duration = now.saturating_duration_since(then);
        let passed = i128::try_from(passed.as_micros()).unwrap_or(i128::MAX);
        let step = i128::from(wall.as_micros()) - i128::from(wall_then.as_micros()) - passed;
        (step.abs() > STEP).then(|| i64::try_from(step / 1_000_000).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn only_a_step_of_more_than_a_minute_is_told_and_only_once() {
        let (now, wall) = (clock::now(), Timestamp::from_micros(1_000_000_000_000).unwrap());
        let later = |seconds: u64, wall_seconds: i64| {
            (now + Duration::from_secs(seconds), Timestamp::from_micros(wall.as_micros() + wall_seconds * 1_000_000).unwrap())
        };
        let mut watch = ClockWatch::new(now, wall);
        for ((seconds, wall_seconds), told) in [
            ((5, 5), None),
            ((10, 69), None), // 54 s ahead
            ((15, 200), Some(126)),
            ((20, 205), None),
            ((25, 210 - 3600), Some(-3600)),
            ((30, 215 - 3600), None),
            ((100_000, 100_185 - 3600), None), // a long sleep that both clocks saw
        ] {
            let (now, wall) = later(seconds, wall_seconds);
            assert_eq!(watch.look(now, wall), told, "after {seconds} s");
        }
    }
}
