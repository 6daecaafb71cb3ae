//! The ledger without input and output: requests, flushes, passes in; states out. Everything here is short and never waits.

use super::Commit;
use super::code::{self, COVERED, FLUSHING, PARTIAL, UNKNOWN};
use super::coverage::{MOST_OPEN, OpenBlocks};
use super::inflight::{InFlight, Kind, Ticket};
use super::pages::BlockMap;
use super::passes::Passes;
use super::regions::Regions;
use crate::planted::planted;
use crate::units::ByteRange;

/// What the file says beside the states of the blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) generation: u64,
    pub(super) epoch: u64,
    pub(super) commit: Option<Commit>,
    /// What the volume looked like when its export was closed well; none while it is open, and after a crash.
    pub(super) seal: Option<String>,
}

/// The state of one ledger.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) size: u64,
    pub(super) block_bits: u32,
    pub(super) map: BlockMap,
    pub(super) passes: Passes,
    pub(super) facts: Facts,
    open: OpenBlocks,
    pub(super) regions: Regions,
    pub(super) inflight: InFlight,
    /// Rises with each pass begun: requests of earlier ones no longer count.
    serial: u64,
    /// Pages with covered blocks, and those with flushing ones.
    covered_pages: Vec<bool>,
    flushing_pages: Vec<bool>,
    /// Bytes written since the last flush began.
    pub(super) unflushed: u64,
    /// Whether the next snapshot would say something else than the last.
    pub(super) changed: bool,
    /// The number of the next snapshot, and of the newest durable one.
    pub(super) next: u64,
    pub(super) durable: u64,
}

/// A request that was entered: its place, and the snapshot that must be durable before it may touch the disk.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) ticket: Ticket,
    pub(super) wait: Option<u64>,
}

impl Core {
    /// Nothing known of a disk of `size` bytes.
    pub(super) fn new(size: u64, block_bits: u32) -> Self {
        let blocks = size.div_ceil(1 << block_bits);
        let map = BlockMap::new(blocks);
        let pages = map.pages();
        Core {
            size,
            block_bits,
            map,
            passes: Passes::default(),
            facts: Facts::default(),
            open: OpenBlocks::default(),
            regions: Regions::new(blocks, block_bits),
            inflight: InFlight::default(),
            serial: 0,
            covered_pages: vec![false; pages],
            flushing_pages: vec![false; pages],
            unflushed: 0,
            changed: false,
            next: 1,
            durable: 0,
        }
    }

    /// The blocks a range touches: first, and the one after the last.
    pub(super) fn blocks_of(&self, range: ByteRange) -> (u64, u64) {
        (range.offset() >> self.block_bits, range.end().div_ceil(1 << self.block_bits))
    }

    /// The bytes of a block; fewer for the last one.
    pub(super) fn range_of(&self, block: u64) -> ByteRange {
        let start = block << self.block_bits;
        ByteRange::between(start, (start + (1 << self.block_bits)).min(self.size))
    }

    /// The blocks that lie wholly in a range.
    fn full_blocks(&self, range: ByteRange) -> (u64, u64) {
        let first = range.offset().div_ceil(1 << self.block_bits);
        let end = if range.end() >= self.size { self.map.blocks() } else { range.end() >> self.block_bits };
        (first, end.max(first))
    }

    /// The parts of a range that lie in blocks it does not fill: at most one at each end.
    fn edges(&self, range: ByteRange) -> impl Iterator<Item = (u64, ByteRange)> + use<> {
        let (first, end) = self.blocks_of(range);
        let (full, full_end) = self.full_blocks(range);
        let (bits, size) = (self.block_bits, self.size);
        let head = (first < full || full == full_end).then_some(first);
        let tail = (full_end < end && end - 1 != first).then_some(end.saturating_sub(1));
        head.into_iter().chain(tail).map(move |block| {
            let start = block << bits;
            (block, range.intersection(ByteRange::between(start, (start + (1 << bits)).min(size))))
        })
    }

    /// A request is about to begin. From now on nothing of its blocks is proven; the caller waits for `wait` before it touches
    /// the disk.
    pub(super) fn begin(&mut self, range: ByteRange, kind: Kind) -> Begun {
        let kind = match kind {
            Kind::Pass(serial) if serial == self.serial && self.passes.current().is_some() => kind,
            _ => Kind::Void,
        };
        let wait = self.take_back(range);
        let (full, full_end) = self.full_blocks(range);
        let begun = if kind == Kind::Void { UNKNOWN } else { PARTIAL };
        if full < full_end {
            self.map.set(full, full_end, begun);
            self.open.close_range(full, full_end);
        }
        for (block, part) in self.edges(range) {
            if kind == Kind::Void {
                self.open.close(block);
            } else {
                self.uncover(block, part);
            }
            self.map.set(block, block + 1, begun);
        }
        self.changed = true;
        Begun { ticket: self.inflight.begin(range, kind, self.serial), wait }
    }

    /// Sees to it that no durable snapshot says proven of the blocks of `range` when the request begins.
    fn take_back(&mut self, range: ByteRange) -> Option<u64> {
        let (first, end) = self.blocks_of(range);
        let current = self.passes.current();
        let (regions, next) = (&mut self.regions, self.next);
        self.map.for_runs(first, end, |start, stop, state| {
            let Some(slot) = code::slot(state) else { return };
            let mask = Some(slot) != current;
            let mut at = start;
            while at < stop {
                if !mask || !regions.is_masked(at) {
                    regions.need(at, mask, next);
                }
                at = regions.end_of(at);
            }
        });
        self.regions.touch(first, end, self.next, self.durable)
    }

    /// Takes a part of a block out of what is covered; what else the current pass covered stays known.
    fn uncover(&mut self, block: u64, part: ByteRange) {
        let whole = self.range_of(block);
        let state = self.map.get(block);
        let covered = state == COVERED || state == FLUSHING || code::slot(state).is_some_and(|s| Some(s) == self.passes.current());
        if covered {
            self.open.open(block).add(0, whole.length());
        }
        if let Some(intervals) = self.open.get(block) {
            intervals.remove(part.offset() - whole.offset(), part.end() - whole.offset());
        }
    }

    /// A request ended, well or not (or was dropped: not well). Tells the unflushed bytes before and after.
    pub(super) fn end(&mut self, ticket: Ticket, ok: bool) -> (u64, u64) {
        let before = self.unflushed;
        let Some(request) = self.inflight.end(ticket) else { return (before, before) };
        let range = request.range;
        let (full, full_end) = self.full_blocks(range);
        let counts = matches!(request.kind, Kind::Pass(serial) if serial == self.serial);
        if !counts {
            let (first, end) = self.blocks_of(range);
            self.map.set(first, end, UNKNOWN);
            self.open.close_range(first, end);
        } else if ok {
            self.cover_full(full, full_end);
            for (block, part) in self.edges(range) {
                self.cover_part(block, part);
            }
        } else {
            self.map.set(full, full_end, PARTIAL);
            self.open.close_range(full, full_end);
            for (block, part) in self.edges(range) {
                self.uncover(block, part);
                self.map.set(block, block + 1, PARTIAL);
            }
        }
        if ok {
            self.unflushed = before.saturating_add(range.length());
        }
        (before, self.unflushed)
    }

    /// Whole blocks were written. A block that another request still touches is left to that one.
    fn cover_full(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let to = if planted("off-by-one-block") { to + 1 } else { to };
        let bytes = ByteRange::between(from << self.block_bits, self.range_of(to - 1).end());
        let mut at = from;
        for other in self.inflight.touching(bytes) {
            let (first, end) = self.blocks_of(other);
            let (first, end) = (first.max(at), end.min(to));
            if first >= end {
                continue;
            }
            self.covered(at, first);
            for block in (first..end).take(MOST_OPEN) {
                let length = self.range_of(block).length();
                self.open.open(block).add(0, length);
            }
            at = end;
        }
        self.covered(at, to);
    }

    fn cover_part(&mut self, block: u64, part: ByteRange) {
        let whole = self.range_of(block);
        let intervals = self.open.open(block);
        intervals.add(part.offset() - whole.offset(), part.end() - whole.offset());
        if intervals.is_full(whole.length()) && !self.inflight.touches(whole) {
            let extra = u64::from(planted("off-by-one-block"));
            self.covered(block, block + 1 + extra);
        }
    }

    fn covered(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.open.close_range(from, to);
        self.map.set(from, to, COVERED);
        let pages = (from / super::pages::PAGE_BLOCKS)..to.div_ceil(super::pages::PAGE_BLOCKS);
        for page in pages {
            if let Some(flag) = usize::try_from(page).ok().and_then(|p| self.covered_pages.get_mut(p)) {
                *flag = true;
            }
        }
    }

    /// A flush is about to begin: what is covered by now is what it will prove.
    pub(super) fn begin_flush(&mut self) {
        let table = code::table(&[(COVERED, FLUSHING)]);
        for (page, (covered, flushing)) in self.covered_pages.iter_mut().zip(&mut self.flushing_pages).enumerate() {
            if std::mem::take(covered) {
                self.map.remap_page(page, &table);
                *flushing = true;
            }
        }
        self.unflushed = 0;
    }

    /// The flush ended. A failed one leaves nothing known but what earlier flushes proved.
    pub(super) fn end_flush(&mut self, ok: bool) {
        let Some(current) = self.passes.current().filter(|_| ok) else {
            if !ok {
                self.forget_unproven();
            }
            return;
        };
        let table = code::table(&[(FLUSHING, code::proven(current, false))]);
        for (page, flushing) in self.flushing_pages.iter_mut().enumerate() {
            if std::mem::take(flushing) {
                self.map.remap_page(page, &table);
                self.changed = true;
            }
        }
    }

    /// Whether `id` wrote here before a newer pass began.
    pub(super) fn is_past(&self, id: &str) -> bool {
        self.passes.slot_of(id).is_some_and(|slot| Some(slot) != self.passes.current())
    }

    /// Whether requests with this serial number still count.
    pub(super) fn is_current(&self, serial: u64) -> bool {
        serial == self.serial
    }

    /// Everything not proven becomes unknown, requests under way included.
    fn forget_unproven(&mut self) {
        self.map.remap(&code::table(&[(PARTIAL, UNKNOWN), (COVERED, UNKNOWN), (FLUSHING, UNKNOWN)]));
        self.open.clear();
        self.inflight.void_all();
        self.covered_pages.fill(false);
        self.flushing_pages.fill(false);
        self.unflushed = 0;
        self.changed = true;
    }

    /// Continues pass `id`, or begins it; the serial number its requests carry.
    pub(super) fn begin_pass(&mut self, id: &str) -> u64 {
        if self.passes.current_id() != Some(id) {
            self.forget_unproven();
            let table = self.passes.begin(id);
            self.map.remap(&table);
            self.serial += 1;
        } else if self.serial == 0 {
            // The first pass after the file was read: partial blocks of it stay partial.
            self.serial = 1;
        }
        self.serial
    }

    /// The disk was written by another way than the export: nothing is known, of no pass.
    pub(super) fn raise_generation(&mut self) {
        self.forget_unproven();
        self.map.set(0, self.map.blocks(), UNKNOWN);
        self.passes = Passes::default();
        self.serial += 1;
        self.facts.generation += 1;
        self.facts.commit = None;
        self.facts.seal = None;
        self.changed = true;
    }

    /// What a snapshot says of a state; `masked`: earlier passes' proof is left out.
    pub(super) fn claim(&self, state: u8, masked: bool) -> u8 {
        match code::slot(state) {
            Some(slot) if masked && Some(slot) != self.passes.current() => UNKNOWN,
            Some(_) => state,
            None if state == UNKNOWN => UNKNOWN,
            None if planted("resume-ignores-partial") => self.passes.current().map_or(UNKNOWN, |slot| code::proven(slot, false)),
            None => PARTIAL,
        }
    }

    /// Notes that the side file holds the digest of a block that was watched and not disturbed.
    pub(super) fn note_digest(&mut self, block: u64) -> bool {
        match code::slot(self.map.get(block)) {
            Some(slot) => {
                self.map.set(block, block + 1, code::proven(slot, true));
                self.changed = true;
                true
            }
            None => false,
        }
    }

    /// The memory held, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.map.memory_bytes()
            + self.open.memory_bytes()
            + self.regions.memory_bytes()
            + self.inflight.memory_bytes()
            + self.covered_pages.capacity() * 2
            + size_of::<Self>()
    }
}
