//! Zero runs in bytes that were really read. Nothing is sampled: a byte that was not looked at is data.

use crate::planted::planted;

/// The unit of zero detection, in bytes: the page size, below which no storage saves anything.
pub const ZERO_UNIT: usize = 4096;

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Or-folding short runs lets the compiler use vector instructions, and leaves early where data begins.
    bytes.chunks(256).all(|run| run.iter().fold(0, |acc, b| acc | b) == 0)
}

/// A part of a buffer: where it begins, how long it is, and whether all of it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte.
    pub start: usize,
    /// Bytes.
    pub length: usize,
    /// All zero.
    pub zero: bool,
}

/// Splits `bytes` into runs of data and runs of zeros. Runs cover the buffer, in order, without gaps. A zero run is at least
/// `shortest` bytes long (or the whole buffer) and begins and ends at multiples of [`ZERO_UNIT`] of the disk, whose offset of the
/// first byte is `offset`, or at the ends of the buffer; shorter zeros belong to the data around them.
#[must_use]
pub fn split_zero_runs(bytes: &[u8], offset: u64, shortest: usize) -> Vec<Run> {
    split_zero_units(bytes, offset, shortest, ZERO_UNIT)
}

/// As [`split_zero_runs`], with zero runs at multiples of `step` bytes.
pub(crate) fn split_zero_units(bytes: &[u8], offset: u64, shortest: usize, step: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    let unit = step as u64;
    let head = usize::try_from((unit - offset % unit) % unit).unwrap_or(0).min(bytes.len());
    let (first, rest) = bytes.split_at_checked(head).unwrap_or((bytes, &[]));
    let mut start = 0;
    for unit in std::iter::once(first).filter(|f| !f.is_empty()).chain(rest.chunks(step)) {
        let zero = if planted("zero-by-sampling") { unit.iter().step_by(512).all(|b| *b == 0) } else { is_zero(unit) };
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.length += unit.len(),
            _ => runs.push(Run { start, length: unit.len(), zero }),
        }
        start += unit.len();
    }
    merge_short(runs, bytes.len(), shortest)
}

/// Zero runs shorter than `shortest` become data, and neighbours of one kind one run.
fn merge_short(runs: Vec<Run>, total: usize, shortest: usize) -> Vec<Run> {
    if runs.len() <= 1 {
        return runs;
    }
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    for mut run in runs {
        run.zero &= run.length >= shortest || run.length == total;
        match merged.last_mut() {
            Some(last) if last.zero == run.zero => last.length += run.length,
            _ => merged.push(run),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_byte_anywhere_is_data() {
        for length in [1, 255, 256, 257, 4096, 10_000] {
            let mut bytes = vec![0_u8; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{length} {at}");
                bytes[at] = 0;
            }
        }
    }

    proptest! {
        #[test]
        fn runs_cover_the_buffer_and_zero_runs_are_zero(
            pages in proptest::collection::vec((any::<bool>(), 0_usize..4096), 0..40),
            tail in 0_usize..4096, offset in 0_u64..10_000, shortest in 0_usize..40_000,
        ) {
            let mut bytes = vec![0_u8; pages.len() * 4096 + tail];
            for (i, (data, at)) in pages.iter().enumerate() {
                if *data { bytes[i * 4096 + at] = 1; }
            }
            let runs = split_zero_runs(&bytes, offset, shortest);
            let mut next = 0;
            for (i, run) in runs.iter().enumerate() {
                prop_assert_eq!(run.start, next);
                prop_assert!(run.length > 0);
                next += run.length;
                if run.zero {
                    prop_assert!(bytes[run.start..run.start + run.length].iter().all(|b| *b == 0));
                    prop_assert!(run.length >= shortest || run.length == bytes.len());
                }
                if i > 0 { prop_assert!(runs[i - 1].zero != run.zero); }
            }
            prop_assert_eq!(next, bytes.len());
        }
    }
}
