//! What a spool knows of each cluster, without input and output. Everything here is short and never waits.
//!
//! ```text
//!              what a reader sees    the entry on the storage      its bytes in the file may be changed
//!  ABSENT      the base              none                          yes
//!  DATA_NEW    the file's bytes      none, zero or open            yes
//!  DATA_KEPT   the file's bytes      their digest                  after the entry was made *open* (withdrawn)
//!  ZERO_NEW    zeros                 none, zero or open            yes
//!  ZERO_OVER   zeros                 digest of what was there      after the entry was made *open*
//!  ZERO_KEPT   zeros                 zero                          yes
//! ```
//!
//! So an entry that holds a digest is true of the storage at every moment: bytes under it are not touched. What a flush has yet to
//! enter is *pending*; a request that begins takes its clusters out of the flush that is under way.

use std::collections::BTreeMap;

use crate::block::ExtentMap;
use crate::copy::Digest;
use crate::copy::ledger::pages::{BlockMap, PAGE_BLOCKS};
use crate::units::ByteRange;

/// The base's.
pub(super) const ABSENT: u8 = 0;
/// Data; see the table above.
pub(super) const DATA_NEW: u8 = 1;
/// Data whose digest is on the storage.
pub(super) const DATA_KEPT: u8 = 2;
/// Zeros.
pub(super) const ZERO_NEW: u8 = 3;
/// Zeros, where the storage still has an entry with a digest.
pub(super) const ZERO_OVER: u8 = 4;
/// Zeros, and the storage says so.
pub(super) const ZERO_KEPT: u8 = 5;

/// Clusters and runs of zeros that wait for a flush at most: about 3 MiB of memory, and at least 1 GiB of data between flushes.
pub(super) const MOST_PENDING: usize = 16 * 1024;

/// Clusters with no entry yet.
#[derive(Debug, Default)]
struct Pending {
    /// Data, with the digest if it is known.
    data: BTreeMap<u64, Option<Digest>>,
    /// Zeros, as ranges of cluster numbers.
    zeros: ExtentMap,
}

impl Pending {
    fn remove(&mut self, first: u64, end: u64) {
        while let Some((&cluster, _)) = self.data.range(first..end).next() {
            self.data.remove(&cluster);
        }
        self.zeros.remove(ByteRange::between(first, end));
    }
}

/// Entries to be written: data by cluster, zeros by ranges of clusters.
pub(super) type Entries = (Vec<(u64, Digest)>, Vec<(u64, u64)>);

/// The clusters of a spool.
#[derive(Debug)]
pub(super) struct Core {
    map: BlockMap,
    pending: Pending,
    flushing: Pending,
    /// No request is taken any more.
    pub(super) closed: bool,
    /// A flush or an entry failed: what this object knows may be wrong, it must be opened again.
    pub(super) failed: bool,
}

pub(super) fn is_zero(state: u8) -> bool {
    matches!(state, ZERO_NEW | ZERO_OVER | ZERO_KEPT)
}

pub(super) fn is_data(state: u8) -> bool {
    matches!(state, DATA_NEW | DATA_KEPT)
}

impl Core {
    pub(super) fn new(clusters: u64) -> Self {
        Core { map: BlockMap::new(clusters), pending: Pending::default(), flushing: Pending::default(), closed: false, failed: false }
    }

    /// As read from the table, when it is opened.
    pub(super) fn load(&mut self, first: u64, end: u64, state: u8) {
        self.map.set(first, end, state);
        if state == DATA_NEW {
            self.pending.data.extend((first..end).map(|cluster| (cluster, None)));
        }
    }

    pub(super) fn get(&self, cluster: u64) -> u8 {
        self.map.get(cluster)
    }

    /// Runs of equal states, in order; they end at pages.
    pub(super) fn runs(&self, first: u64, end: u64) -> Vec<(u64, u64, u8)> {
        let mut runs = Vec::new();
        self.map.for_runs(first, end, |from, to, state| runs.push((from, to, state)));
        runs
    }

    /// How many clusters hold data, and how many zeros.
    pub(super) fn counts(&self) -> (u64, u64) {
        let (mut data, mut zero) = (0, 0);
        self.map.for_runs(0, self.map.blocks(), |from, to, state| match state {
            ABSENT => {}
            state if is_data(state) => data += to - from,
            _ => zero += to - from,
        });
        (data, zero)
    }

    /// Whether so much is pending that a flush should come.
    pub(super) fn is_crowded(&self) -> bool {
        self.pending.data.len() + self.pending.zeros.len() > MOST_PENDING
    }

    /// A request for these clusters begins: no flush enters them until it ends.
    pub(super) fn begin(&mut self, first: u64, end: u64) {
        self.pending.remove(first, end);
        self.flushing.remove(first, end);
    }

    /// Those of these clusters whose entry must be withdrawn before their bytes in the file may be changed.
    pub(super) fn to_withdraw(&self, first: u64, end: u64) -> Vec<u64> {
        (first..end).filter(|cluster| matches!(self.get(*cluster), DATA_KEPT | ZERO_OVER)).collect()
    }

    /// The entries of these clusters say *open* now.
    pub(super) fn withdrawn(&mut self, clusters: &[u64]) {
        for cluster in clusters {
            match self.get(*cluster) {
                DATA_KEPT => self.map.set(*cluster, cluster + 1, DATA_NEW),
                ZERO_OVER => self.map.set(*cluster, cluster + 1, ZERO_NEW),
                _ => {}
            }
        }
    }

    /// The request ended without having changed what these clusters are (it failed, or had nothing to do).
    pub(super) fn end_unchanged(&mut self, first: u64, end: u64) {
        for (from, to, state) in self.runs(first, end) {
            match state {
                DATA_NEW => self.pending.data.extend((from..to).map(|cluster| (cluster, None))),
                ZERO_NEW | ZERO_OVER => self.pending.zeros.insert(ByteRange::between(from, to), ()),
                _ => {}
            }
        }
    }

    /// The bytes of a cluster were written (its entry was withdrawn before, if it had one).
    pub(super) fn end_data(&mut self, cluster: u64, digest: Option<Digest>) {
        self.map.set(cluster, cluster + 1, DATA_NEW);
        self.pending.data.insert(cluster, digest);
    }

    /// Whole clusters are zeros now; nothing in the file was touched. Goes page by page, so that no list grows with the range.
    pub(super) fn zero(&mut self, first: u64, end: u64) {
        self.pending.remove(first, end);
        self.flushing.remove(first, end);
        let mut at = first;
        while at < end {
            let next = ((at / PAGE_BLOCKS + 1) * PAGE_BLOCKS).min(end);
            for (from, to, state) in self.runs(at, next) {
                let new = if matches!(state, DATA_KEPT | ZERO_OVER) { ZERO_OVER } else { ZERO_NEW };
                self.map.set(from, to, new);
            }
            at = next;
        }
        self.pending.zeros.insert(ByteRange::between(first, end), ());
    }

    /// A flush begins; tells the clusters whose digest must be computed from the file.
    pub(super) fn begin_flush(&mut self) -> Vec<u64> {
        self.flushing = std::mem::take(&mut self.pending);
        self.flushing.data.iter().filter(|(_, digest)| digest.is_none()).map(|(cluster, _)| *cluster).collect()
    }

    /// The digest of a cluster, read while it was not touched. A cluster that was touched since is no longer of this flush.
    pub(super) fn computed(&mut self, cluster: u64, digest: Digest) {
        if let Some(place) = self.flushing.data.get_mut(&cluster) {
            *place = Some(digest);
        }
    }

    /// The data is durable: the entries that may be written. From now on a request that begins withdraws them first.
    pub(super) fn flushed(&mut self) -> Entries {
        let done = std::mem::take(&mut self.flushing);
        let mut data = Vec::with_capacity(done.data.len());
        for (cluster, digest) in done.data {
            match digest {
                Some(digest) => {
                    self.map.set(cluster, cluster + 1, DATA_KEPT);
                    data.push((cluster, digest));
                }
                None => {
                    self.pending.data.insert(cluster, None);
                }
            }
        }
        (data, done.zeros.iter().map(|(range, ())| (range.offset(), range.end())).collect())
    }

    /// The entries of these zeros are durable. Only now: until then an entry with a digest may lie there, and a request that began
    /// meanwhile still has to withdraw it.
    pub(super) fn entered(&mut self, zeros: &[(u64, u64)]) {
        for (first, end) in zeros {
            let mut at = *first;
            while at < *end {
                let next = ((at / PAGE_BLOCKS + 1) * PAGE_BLOCKS).min(*end);
                for (from, to, state) in self.runs(at, next) {
                    if is_zero(state) {
                        self.map.set(from, to, ZERO_KEPT);
                    }
                }
                at = next;
            }
        }
    }

    /// The memory held, in bytes; that of what is pending is bounded by [`MOST_PENDING`].
    pub(super) fn memory_bytes(&self) -> usize {
        self.map.memory_bytes()
            + (self.pending.data.len() + self.flushing.data.len()) * 64
            + (self.pending.zeros.len() + self.flushing.zeros.len()) * 64
    }
}
