//! What the file must stop claiming before a write may begin.
//!
//! The file may say proven of a block that is about to be overwritten. So the write waits until a newer snapshot, which no longer
//! says it, is durable. One wait for each block would cost a sync each; so blocks proven by *earlier* passes are taken back for a
//! whole region at once (a *mask*), and for twice as many regions each time a write needs a new one: a pass that touches all of
//! a disk waits about as often as the logarithm of its regions. Masked blocks that were not touched come back with a later
//! snapshot. Blocks proven by the current pass are never masked: what a crash costs then would not be bounded by the interval.

use std::collections::BTreeMap;

use crate::units::MIB;

/// The smallest region, in bytes.
pub(super) const REGION_BYTES: u64 = 64 * MIB;
/// Regions of one disk at most; regions of larger disks are larger.
pub(super) const MOST_REGIONS: u64 = 32 * 1024;
/// Regions masked at once at most.
const MOST_AT_ONCE: u64 = 4096;

#[derive(Debug, Clone, Copy)]
struct Region {
    /// Snapshots with this number or a higher one say what writes in this region need.
    need: u64,
    /// The number the next snapshot had when a write last touched the region.
    touched: u64,
    /// Earlier passes' blocks are left out of snapshots.
    masked: bool,
}

/// The regions writes go to at present.
#[derive(Debug)]
pub(super) struct Regions {
    shift: u32,
    count: u64,
    map: BTreeMap<u64, Region>,
    at_once: u64,
}

impl Regions {
    /// For a disk of so many blocks of `1 << block_bits` bytes.
    pub(super) fn new(blocks: u64, block_bits: u32) -> Self {
        let mut shift = REGION_BYTES.trailing_zeros().saturating_sub(block_bits);
        while blocks >> shift >= MOST_REGIONS {
            shift += 1;
        }
        Regions { shift, count: (blocks >> shift) + 1, map: BTreeMap::new(), at_once: 1 }
    }

    /// Whether no region is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The region of a block.
    pub(super) fn of(&self, block: u64) -> u64 {
        block >> self.shift
    }

    /// The first block after the region of `block`.
    pub(super) fn end_of(&self, block: u64) -> u64 {
        ((block >> self.shift) + 1) << self.shift
    }

    /// Whether earlier passes' blocks of the region of `block` are left out.
    pub(super) fn is_masked(&self, block: u64) -> bool {
        !self.map.is_empty() && self.map.get(&self.of(block)).is_some_and(|r| r.masked)
    }

    /// A write is about to touch blocks `from..to` (within one region) that a snapshot may call proven, by an earlier pass
    /// (`mask`) or by the current one; `next` is the number of the next snapshot.
    pub(super) fn need(&mut self, from: u64, mask: bool, next: u64) {
        let region = self.of(from);
        let mut known = false;
        if let Some(r) = self.map.get_mut(&region) {
            known = r.masked;
            if !mask || !r.masked {
                r.need = next;
            }
            r.masked |= mask;
        } else {
            self.map.insert(region, Region { need: next, touched: next, masked: mask });
        }
        if mask && !known {
            for neighbour in region + 1..(region + self.at_once).min(self.count) {
                self.map.entry(neighbour).or_insert(Region { need: next, touched: next, masked: true });
            }
            self.at_once = (self.at_once * 2).min(MOST_AT_ONCE);
        }
    }

    /// A write touches blocks `from..to`: which snapshot must be durable before it may begin, if one must.
    pub(super) fn touch(&mut self, from: u64, to: u64, next: u64, durable: u64) -> Option<u64> {
        if self.map.is_empty() {
            return None;
        }
        let (first, last) = (self.of(from), self.of(to.saturating_sub(1).max(from)));
        let mut need = 0;
        for (_, region) in self.map.range_mut(first..=last) {
            region.touched = next;
            need = need.max(region.need);
        }
        (need > durable).then_some(need)
    }

    /// A snapshot is about to be made: regions not touched for two snapshots come back, all of them with `settled`. `durable`:
    /// the newest durable snapshot; regions that still wait for one stay.
    pub(super) fn release(&mut self, next: u64, durable: u64, settled: bool) {
        self.map.retain(|_, r| r.need > durable || (r.masked && !settled && r.touched + 2 > next));
        if self.map.is_empty() {
            self.at_once = 1;
        }
    }

    /// The memory held, in bytes (tree nodes counted at twice their content).
    pub(super) fn memory_bytes(&self) -> usize {
        self.map.len() * 2 * size_of::<(u64, Region)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_writes_wait_seldom() {
        let blocks = 64 * 1024; // 64 GiB in 1 MiB blocks, 1024 regions
        let mut regions = Regions::new(blocks, 20);
        let (mut next, mut durable, mut waits) = (1, 0, 0);
        for i in 0..4096_u64 {
            let block = (i * 7919) % blocks;
            if !regions.is_masked(block) {
                regions.need(block, true, next);
            }
            if regions.touch(block, block + 1, next, durable).is_some() {
                durable = next;
                next += 1;
                waits += 1;
            }
        }
        assert!(waits <= 64, "{waits} waits");
        assert!(Regions::new(1 << 24, 20).count <= MOST_REGIONS);
    }

    #[test]
    fn a_region_waits_until_its_snapshot_is_durable_and_then_no_more() {
        let mut regions = Regions::new(1000, 20);
        regions.need(5, true, 7);
        assert_eq!(regions.touch(5, 6, 7, 6), Some(7));
        assert_eq!(regions.touch(63, 64, 7, 6), Some(7), "another block of the region waits too");
        regions.release(8, 6, true);
        assert!(regions.is_masked(5), "not before it is durable");
        assert_eq!(regions.touch(5, 6, 8, 7), None);
        regions.release(9, 7, false);
        assert!(regions.is_masked(5));
        regions.release(10, 9, false);
        assert!(!regions.is_masked(5));
    }
}
