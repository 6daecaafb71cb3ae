//! What must be done, piece by piece: the source's map, the wanted extents and the ledger, joined window by window.
//!
//! A plan is never held whole: it looks at one window of the disk at a time, and the window grows where the map is simple and
//! shrinks where it is fragmented, so that memory does not follow the disk's size.

use std::collections::VecDeque;
use std::sync::Arc;

use super::doubt::Doubt;
use super::engine::ResumeMap;
use super::report::{Count, Progress};
use crate::block::{BlockRead, BlockWrite, Extent, ExtentKind};
use crate::error::Result;
use crate::planted::planted;
use crate::units::{ByteRange, GIB, KIB, MIB};

/// The first window, in bytes.
const FIRST_WINDOW: u64 = 256 * MIB;
/// The smallest window, in bytes.
const SMALLEST_WINDOW: u64 = 32 * MIB;
/// The largest window, in bytes. A disk can change from one hole to a hole in every other page within a window: then its map
/// has half a million extents, some 12 MiB.
const LARGEST_WINDOW: u64 = 2 * GIB;
/// A window whose map has more extents than this is followed by a smaller one.
const MANY_EXTENTS: usize = 4096;
/// A window whose map has fewer extents than this is followed by a larger one.
const FEW_EXTENTS: usize = 256;
/// Ranges shorter than this are read without asking for their map: the question costs as much as the answer saves.
const MAP_WORTH: u64 = MIB;
/// A hole shorter than this inside data is read as data: one request instead of three.
pub(crate) const SHORTEST_HOLE: u64 = 32 * KIB;
/// Zeroing is asked for in pieces of this size at most, so that progress is seen and cancellation is prompt.
const ZERO_PIECE: u64 = GIB;

/// What to do with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read it, write it.
    Move,
    /// The source reads as zero: make the target do so.
    Zero,
}

/// A range and what to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) range: ByteRange,
    pub(crate) action: Action,
    /// The target certainly reads as zero here: zeros need not be sent.
    pub(crate) target_zero: bool,
}

/// What the plan goes by.
pub(crate) struct Rules {
    /// Only these; `None`: the whole disk. Sorted and disjoint.
    pub(crate) wanted: Option<Arc<[Extent]>>,
    /// The largest piece that is moved, in bytes.
    pub(crate) request: u64,
    /// Alignment of all pieces, in bytes (the coarser of both sides).
    pub(crate) align: u64,
    /// The whole target is known to read as zero.
    pub(crate) target_is_zero: bool,
    /// Zeros are always sent (a ledger wants to see them).
    pub(crate) explicit_zeros: bool,
    /// What an earlier run has proven.
    pub(crate) resume: Option<Arc<dyn ResumeMap>>,
}

/// The pieces still to come.
pub(crate) struct Plan {
    source: Arc<dyn BlockRead>,
    target: Arc<dyn BlockWrite>,
    rules: Rules,
    progress: Arc<Progress>,
    doubt: Arc<Doubt>,
    size: u64,
    cursor: u64,
    window: u64,
    /// Position in `wanted`.
    next_wanted: usize,
    ready: VecDeque<Piece>,
    counted: bool,
}

impl Plan {
    pub(crate) fn new(
        source: Arc<dyn BlockRead>,
        target: Arc<dyn BlockWrite>,
        rules: Rules,
        progress: Arc<Progress>,
        doubt: Arc<Doubt>,
    ) -> Self {
        let size = source.info().size;
        let size = if planted("lost-tail") { size / rules.request * rules.request } else { size };
        Plan {
            source,
            target,
            rules,
            progress,
            doubt,
            size,
            cursor: 0,
            window: FIRST_WINDOW,
            next_wanted: 0,
            ready: VecDeque::new(),
            counted: true,
        }
    }

    /// Starts again with other extents (ranges in doubt), which are not counted as done a second time. What `ledger` has proven
    /// meanwhile is left out.
    pub(crate) fn restart(&mut self, wanted: Arc<[Extent]>, ledger: Option<Arc<dyn ResumeMap>>) {
        self.rules.wanted = Some(wanted);
        self.rules.resume = ledger.or(self.rules.resume.take());
        self.rules.target_is_zero = false;
        self.cursor = 0;
        self.next_wanted = 0;
        self.ready.clear();
        self.counted = false;
    }

    /// The next piece, in the order of the disk; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            let Some((range, zero)) = self.next_range() else { return Ok(None) };
            let extents = self.look_at(range, zero).await?;
            if range.length() >= MAP_WORTH {
                self.window = match extents {
                    n if n > MANY_EXTENTS => (self.window / 2).max(SMALLEST_WINDOW),
                    n if n < FEW_EXTENTS => (self.window * 2).min(LARGEST_WINDOW),
                    _ => self.window,
                };
            }
        }
    }

    /// Whether `done` is counted for what is planned now (not when ranges in doubt are copied again).
    pub(crate) fn counts(&self) -> bool {
        self.counted
    }

    /// The next range that is wanted, at most one window long, and whether it is known to be zero.
    fn next_range(&mut self) -> Option<(ByteRange, bool)> {
        let Some(wanted) = &self.rules.wanted else {
            if self.cursor >= self.size {
                return None;
            }
            let range = ByteRange::between(self.cursor, self.window_end(self.cursor));
            self.cursor = range.end();
            return Some((range, false));
        };
        while let Some(extent) = wanted.get(self.next_wanted) {
            let align = self.rules.align;
            let start = (extent.range.offset() / align * align).max(self.cursor);
            let end = extent.range.end().next_multiple_of(align).min(self.size);
            if start >= end {
                self.next_wanted += 1;
                continue;
            }
            let end = end.min(self.window_end(start));
            self.cursor = end;
            // An extent that had to be widened is not wholly known as zero.
            let whole = ByteRange::between(start, end);
            return Some((whole, extent.kind.reads_zero() && extent.range.contains(whole)));
        }
        None
    }

    fn window_end(&self, start: u64) -> u64 {
        start.saturating_add(self.window).next_multiple_of(self.rules.request).min(self.size)
    }

    /// Makes the pieces of one range; tells how many extents its map had.
    async fn look_at(&mut self, range: ByteRange, zero: bool) -> Result<usize> {
        let todo = match &self.rules.resume {
            Some(resume) => subtract(range, &resume.proven(range).await.map_err(|e| e.with("side", "target"))?, self.rules.align),
            None => vec![range],
        };
        let left: u64 = todo.iter().map(|r| r.length()).sum();
        self.count(Count::Resumed, range.length() - left);
        let mut extents = 0;
        for part in todo {
            let map = if zero {
                vec![Extent { range: part, kind: ExtentKind::Zero }]
            } else if part.length() < MAP_WORTH || !self.source.info().can.extents {
                vec![Extent { range: part, kind: ExtentKind::Data }]
            } else {
                let source = self.source.info().name.clone();
                self.source.extents(part).await.map_err(|e| e.with("side", "source").with("source", source))?
            };
            extents += map.len();
            let target = self.target_map(part).await?;
            extents += target.len();
            self.cut(&map, &target);
        }
        Ok(extents)
    }

    /// Where the target certainly reads as zero.
    async fn target_map(&self, range: ByteRange) -> Result<Vec<ByteRange>> {
        if self.rules.explicit_zeros {
            return Ok(Vec::new());
        }
        if self.rules.target_is_zero {
            return Ok(vec![range]);
        }
        if range.length() < MAP_WORTH || !self.target.info().can.extents {
            return Ok(Vec::new());
        }
        let name = self.target.info().name.clone();
        let map = self.target.extents(range).await.map_err(|e| e.with("side", "target").with("target", name))?;
        let mut zero: Vec<ByteRange> = Vec::new();
        for extent in map.iter().filter(|e| e.kind.reads_zero()) {
            match zero.last_mut() {
                Some(last) if last.end() == extent.range.offset() => *last = ByteRange::between(last.offset(), extent.range.end()),
                _ => zero.push(extent.range),
            }
        }
        Ok(zero)
    }

    /// Cuts a map into pieces. Where data and zeros meet between two multiples of the alignment, the block is data.
    fn cut(&mut self, map: &[Extent], target_zero: &[ByteRange]) {
        let end = map.last().map_or(0, |e| e.range.end());
        let mut at = map.first().map_or(0, |e| e.range.offset());
        let align = self.rules.align;
        while at < end {
            let data_from = first_data(map, at, end);
            let zero_end = if data_from == end { end } else { data_from / align * align };
            if zero_end > at {
                self.push_zero(ByteRange::between(at, zero_end), target_zero);
                at = zero_end;
            }
            if at >= end {
                break;
            }
            let data_end = first_long_zero(map, at, end, align);
            for range in ByteRange::between(at, data_end).pieces(self.rules.request) {
                let target_zero = covered(target_zero, range);
                self.ready.push_back(Piece { range, action: Action::Move, target_zero });
            }
            at = data_end;
        }
    }

    fn push_zero(&mut self, range: ByteRange, target_zero: &[ByteRange]) {
        for part in range.pieces(ZERO_PIECE) {
            if covered(target_zero, part) {
                self.skip(part);
                continue;
            }
            // Only a part is known as zero: skip what is long enough, send the rest.
            let mut at = part.offset();
            let from = target_zero.partition_point(|z| z.end() <= part.offset());
            for known in target_zero.iter().skip(from).map(|z| z.intersection(part)).take_while(|z| !z.is_empty()) {
                let start = known.offset().next_multiple_of(self.rules.align);
                let end = if known.end() == part.end() { known.end() } else { known.end() / self.rules.align * self.rules.align };
                if end <= start || end - start < SHORTEST_HOLE {
                    continue;
                }
                self.send_zero(ByteRange::between(at, start));
                self.skip(ByteRange::between(start, end));
                at = end;
            }
            self.send_zero(ByteRange::between(at, part.end()));
        }
    }

    fn skip(&self, range: ByteRange) {
        self.doubt.note_skipped(range);
        self.count(Count::Skipped, range.length());
    }

    fn send_zero(&mut self, range: ByteRange) {
        if !range.is_empty() {
            self.ready.push_back(Piece { range, action: Action::Zero, target_zero: false });
        }
    }

    fn count(&self, what: Count, bytes: u64) {
        if self.counted {
            self.progress.add(what, bytes);
            self.progress.add(Count::Done, bytes);
        }
    }
}

/// The first byte of data from `at` on; `end` when there is none.
fn first_data(map: &[Extent], at: u64, end: u64) -> u64 {
    let from = map.partition_point(|e| e.range.end() <= at);
    map.iter().skip(from).find(|e| !e.kind.reads_zero()).map_or(end, |e| e.range.offset().max(at))
}

/// Where data that begins at `at` ends: at the first run of zeros worth a request of its own, or at `end`.
fn first_long_zero(map: &[Extent], at: u64, end: u64, align: u64) -> u64 {
    let from = map.partition_point(|e| e.range.end() <= at);
    let mut zero_from: Option<u64> = None;
    for extent in map.iter().skip(from) {
        if !extent.kind.reads_zero() {
            zero_from = None;
            continue;
        }
        let start = *zero_from.get_or_insert_with(|| extent.range.offset().max(at).next_multiple_of(align));
        let stop = if extent.range.end() == end { end } else { extent.range.end() / align * align };
        if stop > start && (stop - start >= SHORTEST_HOLE) {
            return start.max(at);
        }
    }
    end
}

/// Whether one of the sorted ranges covers all of `range`.
fn covered(sorted: &[ByteRange], range: ByteRange) -> bool {
    let at = sorted.partition_point(|z| z.end() <= range.offset());
    sorted.get(at).is_some_and(|z| z.contains(range))
}

/// `range` without the sorted `holes`; a hole counts only as far as it is aligned.
fn subtract(range: ByteRange, holes: &[ByteRange], align: u64) -> Vec<ByteRange> {
    let mut left = Vec::new();
    let mut at = range.offset();
    for hole in holes {
        let hole = hole.intersection(range);
        let start = hole.offset().next_multiple_of(align).max(at);
        let end = if hole.end() == range.end() { hole.end() } else { hole.end() / align * align };
        if end <= start {
            continue;
        }
        if start > at {
            left.push(ByteRange::between(at, start));
        }
        at = end;
    }
    if at < range.end() {
        left.push(ByteRange::between(at, range.end()));
    }
    left
}
