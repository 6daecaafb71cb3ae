//! What was acknowledged and is not yet known to be durable.
//!
//! A range enters when its write completed. A flush takes out what had completed before it began, and puts it back when it
//! fails. After a failure that a new attempt may mend (the target died and came back), all ranges in doubt are copied again:
//! a second flush that succeeds says nothing of what the first one lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::{Extent, ExtentKind, ExtentMap};
use crate::error::Error;
use crate::units::{ByteRange, GIB};

/// A flush is made after this many bytes at the latest, so that at most this much is ever copied twice.
const FLUSH_EVERY: u64 = 4 * GIB;
/// A flush is made when this many separate ranges are in doubt: some megabytes of memory.
const MOST_RANGES: usize = 32 * 1024;

#[derive(Default)]
pub(crate) struct Doubt {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ranges: ExtentMap,
    since_flush: u64,
    flushing: bool,
    broken: Option<Error>,
}

impl Doubt {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write of `range` completed.
    pub(crate) fn note(&self, range: ByteRange) {
        let mut state = self.state();
        state.since_flush += range.length();
        state.ranges.insert(range, ());
    }

    /// Zeros of `range` were not sent, because the target reads as zero there. That may be the work of an earlier writer which is
    /// not durable either, so a target that lost anything is asked again.
    pub(crate) fn note_skipped(&self, range: ByteRange) {
        self.state().ranges.insert(range, ());
    }

    /// Whether it is time for a flush on the way; true for one caller only, who must call [`Doubt::begin`].
    pub(crate) fn flush_is_due(&self) -> bool {
        let mut state = self.state();
        let due = (state.since_flush >= FLUSH_EVERY || state.ranges.len() >= MOST_RANGES) && !state.flushing && state.broken.is_none();
        state.flushing |= due;
        due
    }

    /// Before a flush: what it will cover.
    pub(crate) fn begin(&self) -> ExtentMap {
        let mut state = self.state();
        state.flushing = true;
        state.since_flush = 0;
        std::mem::take(&mut state.ranges)
    }

    /// After a flush.
    pub(crate) fn end(&self, covered: ExtentMap, flushed: bool) {
        let mut state = self.state();
        state.flushing = false;
        if !flushed {
            state.ranges = state.ranges.union(&covered);
        }
    }

    /// A flush on the way failed: the ranges must be copied again even if the next flush succeeds.
    pub(crate) fn broken(&self, error: Error) {
        self.state().broken.get_or_insert(error);
    }

    /// The failure of a flush on the way, once.
    pub(crate) fn take_broken(&self) -> Option<Error> {
        self.state().broken.take()
    }

    /// All that is in doubt, as extents to copy again; then nothing is.
    pub(crate) fn take_all(&self) -> Arc<[Extent]> {
        let ranges = std::mem::take(&mut self.state().ranges);
        ranges.iter().map(|(range, ())| Extent { range, kind: ExtentKind::Data }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(doubt: &Doubt) -> Vec<(u64, u64)> {
        doubt.take_all().iter().map(|e| (e.range.offset(), e.range.end())).collect()
    }

    #[test]
    fn many_scattered_ranges_are_flushed_before_they_fill_the_memory() {
        let doubt = Doubt::default();
        let mut noted = 0;
        while !doubt.flush_is_due() {
            doubt.note(ByteRange::between(noted * 8192, noted * 8192 + 4096));
            noted += 1;
        }
        assert_eq!(noted, MOST_RANGES as u64);
    }

    #[test]
    fn a_failed_flush_puts_its_ranges_back() {
        let doubt = Doubt::default();
        doubt.note(ByteRange::between(0, 10));
        let covered = doubt.begin();
        doubt.note(ByteRange::between(20, 30));
        doubt.end(covered, false);
        assert_eq!(ranges(&doubt), [(0, 10), (20, 30)]);
        doubt.note(ByteRange::between(0, 10));
        let covered = doubt.begin();
        doubt.note(ByteRange::between(20, 30));
        doubt.end(covered, true);
        assert_eq!(ranges(&doubt), [(20, 30)]);
    }
}
