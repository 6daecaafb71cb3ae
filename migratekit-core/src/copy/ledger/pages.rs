//! The state of every block of a disk: pages of 64 Ki blocks, each as small as its content allows.
//!
//! A page is one code for all its blocks, or runs of equal codes (4 bytes a run), or, when runs would be larger, four bits for each
//! block (32 KiB). So a disk of 16 Mi blocks (16 TiB at 1 MiB) needs at most 8 MiB, whatever the pattern, and a disk that is
//! written front to back a few kilobytes.

use super::code::{self, CODES, Table, UNKNOWN};

/// Blocks in a page.
pub(in crate::copy) const PAGE_BLOCKS: u64 = 1 << 16;
/// Bytes of a page with four bits for each block.
pub(super) const DENSE_BYTES: usize = 32 * 1024;
/// More runs than this, and the page takes four bits for each block. Their vector takes at most [`DENSE_BYTES`].
pub(super) const MOST_RUNS: usize = 4096;
/// A dense page with fewer runs than this becomes runs again (well below [`MOST_RUNS`], so that it does not swing).
const FEW_RUNS: usize = 1024;

/// A run: the first block's place in the page and its code, packed. It reaches to the next run or the end of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run(u32);

impl Run {
    pub(super) fn new(start: u16, code: u8) -> Self {
        Run(u32::from(start) << 8 | u32::from(code))
    }

    pub(super) fn start(self) -> u64 {
        u64::from(self.0 >> 8)
    }

    pub(super) fn code(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    /// One code for all.
    Uniform(u8),
    /// Sorted; the first starts at 0; neighbours differ.
    Runs(Vec<Run>),
    /// Two blocks in a byte, the lower four bits first.
    Dense(Box<[u8]>),
}

impl Page {
    fn get(&self, at: u64) -> u8 {
        match self {
            Page::Uniform(code) => *code,
            Page::Runs(runs) => {
                let after = runs.partition_point(|r| r.start() <= at);
                after.checked_sub(1).and_then(|i| runs.get(i)).map_or(UNKNOWN, |r| r.code())
            }
            Page::Dense(bytes) => {
                let byte = usize::try_from(at / 2).ok().and_then(|i| bytes.get(i)).copied().unwrap_or(0);
                if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
            }
        }
    }

    /// Calls `visit(start, end, code)` for each run of equal codes within `from..to`, in order.
    pub(super) fn for_runs(&self, from: u64, to: u64, mut visit: impl FnMut(u64, u64, u8)) {
        match self {
            Page::Uniform(code) => visit(from, to, *code),
            Page::Runs(runs) => {
                let first = runs.partition_point(|r| r.start() <= from).saturating_sub(1);
                let mut rest = runs.get(first..).unwrap_or(&[]).iter().peekable();
                while let Some(run) = rest.next() {
                    let end = rest.peek().map_or(PAGE_BLOCKS, |n| n.start()).min(to);
                    let start = run.start().max(from);
                    if start >= to {
                        break;
                    }
                    visit(start, end, run.code());
                }
            }
            Page::Dense(_) => {
                let mut start = from;
                let mut code = self.get(from);
                for at in from + 1..to {
                    let next = self.get(at);
                    if next != code {
                        visit(start, at, code);
                        (start, code) = (at, next);
                    }
                }
                visit(start, to, code);
            }
        }
    }

    fn set(&mut self, from: u64, to: u64, code: u8) {
        if from == 0 && to == PAGE_BLOCKS {
            *self = Page::Uniform(code);
            return;
        }
        match self {
            Page::Uniform(old) if *old == code => return,
            Page::Uniform(old) => *self = Page::Runs(vec![Run::new(0, *old)]),
            _ => {}
        }
        if let Page::Runs(runs) = self {
            set_runs(runs, from, to, code);
        }
        if let Page::Dense(bytes) = self {
            set_dense(bytes, from, to, code);
        }
        self.settle();
    }

    /// Chooses the form after a change of runs.
    fn settle(&mut self) {
        if let Page::Runs(runs) = self {
            if let [only] = runs.as_slice() {
                *self = Page::Uniform(only.code());
            } else if runs.len() > MOST_RUNS {
                let mut bytes = vec![0; DENSE_BYTES].into_boxed_slice();
                self.for_runs(0, PAGE_BLOCKS, |start, end, code| set_dense(&mut bytes, start, end, code));
                *self = Page::Dense(bytes);
            }
        }
    }

    fn remap(&mut self, table: &Table) {
        match self {
            Page::Uniform(code) => *code = code::apply(table, *code),
            Page::Runs(runs) => {
                for run in runs.iter_mut() {
                    *run = Run(run.0 & !0xff | u32::from(code::apply(table, run.code())));
                }
                runs.dedup_by_key(|r| r.code());
                self.settle();
            }
            Page::Dense(bytes) => {
                let mut pairs = [0; 256];
                for (to, byte) in pairs.iter_mut().zip(0_u8..=255) {
                    *to = code::apply(table, byte & 15) | code::apply(table, byte >> 4) << 4;
                }
                let (mut runs, mut last) = (1_usize, None);
                for byte in bytes.iter_mut() {
                    *byte = pairs.get(usize::from(*byte)).copied().unwrap_or(0);
                    runs += usize::from(*byte & 15 != *byte >> 4) + usize::from(last.is_some_and(|l| l != *byte & 15));
                    last = Some(*byte >> 4);
                }
                if runs <= FEW_RUNS {
                    self.thin();
                }
            }
        }
    }

    /// A dense page with few runs becomes runs again.
    fn thin(&mut self) {
        let mut runs = Vec::new();
        self.for_runs(0, PAGE_BLOCKS, |start, _, code| runs.push(Run::new(u16::try_from(start).unwrap_or(0), code)));
        *self = Page::Runs(runs);
        self.settle();
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Page::Uniform(_) => 0,
            Page::Runs(runs) => runs.capacity() * size_of::<Run>(),
            Page::Dense(bytes) => bytes.len(),
        }
    }
}

fn set_runs(runs: &mut Vec<Run>, from: u64, to: u64, code: u8) {
    let first = runs.partition_point(|r| r.start() < from);
    let after = runs.partition_point(|r| r.start() <= to);
    let before_code = first.checked_sub(1).and_then(|i| runs.get(i)).map(|r| r.code());
    let after_code = after.checked_sub(1).and_then(|i| runs.get(i)).map(|r| r.code());
    let mut new = [None, None];
    if before_code != Some(code) {
        new[0] = Some(Run::new(u16::try_from(from).unwrap_or(0), code));
    }
    if to < PAGE_BLOCKS && after_code.is_some_and(|c| c != code) {
        new[1] = after_code.map(|c| Run::new(u16::try_from(to).unwrap_or(0), c));
    }
    runs.splice(first..after, new.into_iter().flatten());
}

pub(super) fn set_dense(bytes: &mut [u8], from: u64, to: u64, code: u8) {
    for at in from..to {
        if let Some(byte) = usize::try_from(at / 2).ok().and_then(|i| bytes.get_mut(i)) {
            *byte = if at.is_multiple_of(2) { *byte & 0xf0 | code } else { *byte & 15 | code << 4 };
        }
    }
}

/// The states of all blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::copy) struct BlockMap {
    pages: Vec<Page>,
    blocks: u64,
}

impl BlockMap {
    /// All unknown.
    pub(in crate::copy) fn new(blocks: u64) -> Self {
        let pages = usize::try_from(blocks.div_ceil(PAGE_BLOCKS)).unwrap_or(0);
        BlockMap { pages: vec![Page::Uniform(UNKNOWN); pages], blocks }
    }

    /// The number of blocks.
    pub(in crate::copy) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The number of pages.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// The page with this number.
    #[cfg(test)]
    pub(super) fn page(&self, number: usize) -> Option<&Page> {
        self.pages.get(number)
    }

    /// Puts a page that was read from a file.
    pub(super) fn put_page(&mut self, number: usize, page: Page) {
        if let Some(place) = self.pages.get_mut(number) {
            *place = page;
        }
    }

    /// The state of a block; unknown beyond the end.
    pub(in crate::copy) fn get(&self, block: u64) -> u8 {
        let page = usize::try_from(block / PAGE_BLOCKS).ok().and_then(|p| self.pages.get(p));
        page.map_or(UNKNOWN, |p| p.get(block % PAGE_BLOCKS))
    }

    /// Sets the states of `from..to` (clipped to the disk).
    pub(in crate::copy) fn set(&mut self, from: u64, to: u64, code: u8) {
        debug_assert!(usize::from(code) < CODES);
        let to = to.min(self.blocks);
        let mut at = from;
        while at < to {
            let page = at / PAGE_BLOCKS;
            let end = ((page + 1) * PAGE_BLOCKS).min(to);
            if let Some(p) = usize::try_from(page).ok().and_then(|p| self.pages.get_mut(p)) {
                // The last page is filled up, so that a disk of one state is uniform.
                let within = if end == self.blocks { PAGE_BLOCKS } else { end - page * PAGE_BLOCKS };
                p.set(at % PAGE_BLOCKS, within, code);
            }
            at = end;
        }
    }

    /// Calls `visit(start, end, code)` for runs of equal states that cover `from..to`, in order; runs end at pages.
    pub(in crate::copy) fn for_runs(&self, from: u64, to: u64, mut visit: impl FnMut(u64, u64, u8)) {
        let to = to.min(self.blocks);
        let mut at = from;
        while at < to {
            let base = at / PAGE_BLOCKS * PAGE_BLOCKS;
            let end = (base + PAGE_BLOCKS).min(to);
            if let Some(p) = usize::try_from(at / PAGE_BLOCKS).ok().and_then(|p| self.pages.get(p)) {
                p.for_runs(at - base, end - base, |start, stop, code| visit(base + start, base + stop, code));
            }
            at = end;
        }
    }

    /// Changes every state of one page by a table.
    pub(super) fn remap_page(&mut self, page: usize, table: &Table) {
        if let Some(p) = self.pages.get_mut(page) {
            p.remap(table);
        }
    }

    /// Changes every state by a table.
    pub(super) fn remap(&mut self, table: &Table) {
        for page in &mut self.pages {
            page.remap(table);
        }
    }

    /// The memory held, in bytes.
    pub(in crate::copy) fn memory_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Page>() + self.pages.iter().map(Page::memory_bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(map: &BlockMap, naive: &[u8]) {
        for (i, code) in naive.iter().enumerate() {
            assert_eq!(map.get(i as u64), *code, "block {i}");
        }
        let mut at = 0;
        map.for_runs(0, naive.len() as u64, |start, end, code| {
            assert_eq!(start, at);
            assert!(end > start);
            assert!(naive[start as usize..end as usize].iter().all(|c| *c == code));
            at = end;
        });
        assert_eq!(at, naive.len() as u64);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_map_is_a_plain_array_of_states(
            steps in prop::collection::vec((0_u64..70_000, 1_u64..5000, 0_u8..16, 0_u8..20), 1..60),
            blocks in prop::sample::select(vec![1_u64, 100, 65_536, 65_537, 70_000]),
        ) {
            let mut map = BlockMap::new(blocks);
            let mut naive = vec![UNKNOWN; blocks as usize];
            for (from, length, code, act) in steps {
                if act == 0 {
                    let table = code::table(&[(code, (code + 1) % 16), (3, 0)]);
                    map.remap(&table);
                    naive.iter_mut().for_each(|c| *c = code::apply(&table, *c));
                } else {
                    let from = from % blocks;
                    let to = (from + length).min(blocks);
                    map.set(from, to, code);
                    naive[from as usize..to as usize].fill(code);
                }
            }
            check(&map, &naive);
        }
    }

    #[test]
    fn an_alternating_page_is_dense_and_thins_out_again() {
        let mut map = BlockMap::new(PAGE_BLOCKS);
        for at in (0..PAGE_BLOCKS).step_by(2) {
            map.set(at, at + 1, 9);
        }
        assert!(matches!(map.page(0), Some(Page::Dense(_))));
        assert!(map.memory_bytes() <= DENSE_BYTES + 64);
        assert_eq!((map.get(100), map.get(101)), (9, UNKNOWN));
        map.remap(&code::table(&[(9, UNKNOWN)]));
        assert_eq!(map.page(0), Some(&Page::Uniform(UNKNOWN)));
    }
}
