//! Which bytes of a block are covered: interval sets for the blocks a pass is in the middle of.
//!
//! Requests are smaller than blocks, and complete in any order. For each block that is begun and not complete, an *open* block
//! keeps the intervals written. Both the number of open blocks and of intervals in each is bounded; beyond the bounds coverage is
//! forgotten, which can only make a block stay partial, never make it proven.

use std::collections::{BTreeMap, VecDeque};

/// Open blocks at most; the oldest is forgotten for a new one.
pub(super) const MOST_OPEN: usize = 4096;
/// Intervals in one block at most; the shortest is forgotten for a new one.
pub(super) const MOST_INTERVALS: usize = 64;
/// Interval vectors kept for the next open blocks, so that the common path allocates nothing.
const MOST_SPARE: usize = 256;

/// A set of bytes of a block, as sorted disjoint intervals that do not touch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Intervals(Vec<(u64, u64)>);

impl Intervals {
    /// Adds `from..to`.
    pub(super) fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|(_, end)| *end < from);
        let after = self.0.partition_point(|(start, _)| *start <= to);
        let mut merged = (from, to);
        for (start, end) in self.0.get(first..after).unwrap_or(&[]) {
            merged = (merged.0.min(*start), merged.1.max(*end));
        }
        self.0.splice(first..after, [merged]);
        self.bound();
    }

    /// Takes `from..to` away.
    pub(super) fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|(_, end)| *end <= from);
        let after = self.0.partition_point(|(start, _)| *start < to);
        let touched = self.0.get(first..after).unwrap_or(&[]);
        let left = touched.first().map(|(start, _)| (*start, from)).filter(|(a, b)| a < b);
        let right = touched.last().map(|(_, end)| (to, *end)).filter(|(a, b)| a < b);
        self.0.splice(first..after, left.into_iter().chain(right));
        self.bound();
    }

    fn bound(&mut self) {
        if self.0.len() > MOST_INTERVALS
            && let Some(shortest) = (0..self.0.len()).min_by_key(|i| self.0.get(*i).map_or(0, |(a, b)| b - a))
        {
            self.0.remove(shortest);
        }
    }

    /// Whether all of `0..length` is in the set.
    pub(super) fn is_full(&self, length: u64) -> bool {
        matches!(self.0.as_slice(), [(0, end)] if *end >= length)
    }
}

/// The open blocks of a ledger.
#[derive(Debug, Default)]
pub(super) struct OpenBlocks {
    blocks: BTreeMap<u64, Intervals>,
    /// Blocks by age; entries of blocks no longer open are skipped, and swept when there are too many.
    order: VecDeque<u64>,
    spare: Vec<Intervals>,
}

impl OpenBlocks {
    /// The intervals of a block; opened (empty) when it is not open yet.
    pub(super) fn open(&mut self, block: u64) -> &mut Intervals {
        if !self.blocks.contains_key(&block) {
            self.make_room();
            self.order.push_back(block);
        }
        let spare = &mut self.spare;
        self.blocks.entry(block).or_insert_with(|| spare.pop().unwrap_or_default())
    }

    fn make_room(&mut self) {
        while self.blocks.len() >= MOST_OPEN {
            match self.order.pop_front() {
                Some(oldest) => self.close(oldest),
                None => self.clear(),
            }
        }
        if self.order.len() >= 2 * MOST_OPEN {
            let mut seen = std::collections::BTreeSet::new();
            let blocks = &self.blocks;
            self.order.retain(|b| blocks.contains_key(b) && seen.insert(*b));
        }
    }

    /// The intervals of a block that is open.
    pub(super) fn get(&mut self, block: u64) -> Option<&mut Intervals> {
        self.blocks.get_mut(&block)
    }

    /// Forgets a block's coverage.
    pub(super) fn close(&mut self, block: u64) {
        if let Some(intervals) = self.blocks.remove(&block) {
            self.keep(intervals);
        }
    }

    /// Forgets the coverage of `from..to`.
    pub(super) fn close_range(&mut self, from: u64, to: u64) {
        while let Some((block, _)) = self.blocks.range(from..to).next() {
            let block = *block;
            self.close(block);
        }
    }

    fn keep(&mut self, mut intervals: Intervals) {
        if self.spare.len() < MOST_SPARE {
            intervals.0.clear();
            self.spare.push(intervals);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.order.clear();
    }

    /// The memory held, in bytes (tree nodes counted at twice their content).
    pub(super) fn memory_bytes(&self) -> usize {
        let intervals = self.blocks.values().chain(&self.spare).map(|i| i.0.capacity() * size_of::<(u64, u64)>()).sum::<usize>();
        intervals
            + self.blocks.len() * 2 * size_of::<(u64, Intervals)>()
            + self.order.capacity() * size_of::<u64>()
            + self.spare.capacity() * size_of::<Intervals>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn intervals_are_a_set_of_bytes(steps in prop::collection::vec((any::<bool>(), 0_u64..100, 0_u64..40), 1..60)) {
            let mut set = Intervals::default();
            let mut naive = [false; 140];
            for (add, from, length) in steps {
                if add { set.add(from, from + length) } else { set.remove(from, from + length) }
                naive[from as usize..(from + length) as usize].fill(add);
                let mut back = [false; 140];
                for pair in set.0.windows(2) {
                    prop_assert!(pair[0].1 < pair[1].0);
                }
                for (a, b) in &set.0 {
                    prop_assert!(a < b);
                    back[*a as usize..*b as usize].fill(true);
                }
                prop_assert_eq!(back, naive);
                let prefix = naive.iter().take_while(|x| **x).count() as u64;
                prop_assert_eq!((0..140).filter(|n| *n > 0 && set.is_full(*n)).max().unwrap_or(0), if set.0.len() == 1 { prefix } else { 0 });
            }
        }
    }

    #[test]
    fn bounds_forget_and_never_invent() {
        let mut set = Intervals::default();
        for i in 0..200 {
            set.add(i * 10, i * 10 + 5);
        }
        assert!(set.0.len() <= MOST_INTERVALS);
        assert!(set.0.iter().all(|(a, b)| a % 10 == 0 && b - a == 5));
        let mut open = OpenBlocks::default();
        for block in 0..20_000 {
            open.open(block).add(0, 1);
            if block % 3 == 0 {
                open.close(block);
            }
        }
        assert!(open.blocks.len() <= MOST_OPEN && open.order.len() <= 2 * MOST_OPEN);
        assert!(open.get(0).is_none() && open.get(19_999).is_some());
    }
}
