//! The file of a spool: where things lie in it, and how each is checked.
//!
//! ```text
//!         0  header page: whose spool, from which point to which; BLAKE3 of the page at its end
//!      4096  footer page: zeros until the spool is sealed; then counts, digest of the table, digests of both ends; BLAKE3
//!      8192  table: 32 bytes for each cluster of the volume
//!   data_at  the volume's bytes, each at its own offset; holes where the pass wrote nothing
//! ```
//!
//! An entry of the table is zeros (the cluster is the base's), the mark *zero*, the mark *open* (its bytes are here, its digest is to
//! be computed), or the keyed BLAKE3 of the cluster's bytes and its number. Key and marks follow from the random id of the spool, so
//! that what an older spool left on the storage is never taken for this one's. An entry lies within one sector: it is old or new.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::copy::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ByteRange, KIB, MIB};

/// Bytes of the header, and of the footer.
pub(super) const PAGE: u64 = 4096;
/// Where the header lies.
pub(super) const HEADER_AT: u64 = 0;
/// Where the footer lies.
pub(super) const FOOTER_AT: u64 = PAGE;
/// Where the table lies.
pub(super) const TABLE_AT: u64 = 2 * PAGE;
/// Bytes of an entry.
pub(super) const ENTRY: u64 = 32;
/// The size of a cluster, in bytes, where the volume is not too large for it: the grain of changed-block tracking.
pub const SMALLEST_CLUSTER: u64 = 64 * KIB;
/// Clusters of a volume at most: their states take 32 MiB of memory in the worst pattern. A volume of more than 4 TiB has larger ones.
pub const MOST_CLUSTERS: u64 = 64 * 1024 * 1024;
/// The hash of a page takes its last bytes.
const HASH_AT: usize = 4096 - 32;

/// Where things lie in the spool of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) size: u64,
    pub(super) bits: u32,
    data_at: u64,
}

impl Layout {
    pub(super) fn new(size: u64) -> Self {
        let mut bits = SMALLEST_CLUSTER.trailing_zeros();
        while size.div_ceil(1 << bits) > MOST_CLUSTERS {
            bits += 1;
        }
        let table = size.div_ceil(1 << bits) * ENTRY;
        Layout { size, bits, data_at: (TABLE_AT + table).next_multiple_of(MIB) }
    }

    pub(super) fn clusters(&self) -> u64 {
        self.size.div_ceil(1 << self.bits)
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.bits
    }

    pub(super) fn file_size(&self) -> u64 {
        self.data_at.saturating_add(self.size)
    }

    /// The bytes of a cluster; fewer for the last one.
    pub(super) fn range_of(&self, cluster: u64) -> ByteRange {
        self.ranges_of(cluster, cluster + 1)
    }

    /// The bytes of the clusters from `first` to before `end`.
    pub(super) fn ranges_of(&self, first: u64, end: u64) -> ByteRange {
        ByteRange::between((first << self.bits).min(self.size), (end << self.bits).min(self.size))
    }

    /// The clusters a range touches: the first, and the one after the last.
    pub(super) fn touched(&self, range: ByteRange) -> (u64, u64) {
        (range.offset() >> self.bits, range.end().div_ceil(1 << self.bits))
    }

    /// The clusters that lie wholly in a range; none where the second is not more than the first.
    pub(super) fn full(&self, range: ByteRange) -> (u64, u64) {
        let first = range.offset().div_ceil(1 << self.bits);
        let end = if range.end() >= self.size { self.clusters() } else { range.end() >> self.bits };
        (first, end.max(first))
    }

    /// Where the entry of a cluster lies in the file.
    pub(super) fn entry_at(&self, cluster: u64) -> u64 {
        TABLE_AT + cluster * ENTRY
    }

    /// Where a range of the volume lies in the file.
    pub(super) fn data(&self, range: ByteRange) -> ByteRange {
        ByteRange::between(self.data_at + range.offset(), self.data_at + range.end())
    }
}

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) id: String,
    pub(super) volume: String,
    pub(super) size: u64,
    pub(super) cluster_bits: u32,
    pub(super) base: String,
    pub(super) point: String,
}

/// What the footer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Footer {
    pub(super) id: String,
    pub(super) data_clusters: u64,
    pub(super) zero_clusters: u64,
    pub(super) table: String,
    pub(super) first: String,
    pub(super) last: String,
}

/// The version of the format.
pub(super) const VERSION: u32 = 1;
/// What a header begins with.
pub(super) const HEADER_MAGIC: &[u8; 8] = b"MKSPOOL1";
/// What a footer begins with.
pub(super) const FOOTER_MAGIC: &[u8; 8] = b"MKSPEND1";

/// A page: magic, length, JSON, zeros, hash.
pub(super) fn encode_page(magic: &[u8; 8], content: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(content)
        .map_err(|e| Error::new(ErrorKind::Internal, "write a spool", "a page cannot be encoded").with_source(e))?;
    let mut page = magic.to_vec();
    page.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    page.extend_from_slice(&text);
    if page.len() > HASH_AT {
        return Err(Error::new(ErrorKind::InvalidInput, "write a spool", "the names of volume and points are too long for its header"));
    }
    page.resize(HASH_AT, 0);
    let hash = blake3::hash(&page);
    page.extend_from_slice(hash.as_bytes());
    Ok(page)
}

/// What a page says; `None` when it is not whole.
pub(super) fn decode_page<T: DeserializeOwned>(magic: &[u8; 8], page: &[u8]) -> Option<T> {
    let (hashed, hash) = page.split_at_checked(HASH_AT)?;
    if blake3::hash(hashed).as_bytes() != hash {
        return None;
    }
    let rest = hashed.strip_prefix(magic)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    serde_json::from_slice(rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?).ok()
}

/// The secret of one spool: the key of its digests, and its marks.
#[derive(Debug, Clone)]
pub(super) struct Seals {
    key: [u8; 32],
    pub(super) zero: Digest,
    pub(super) open: Digest,
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Absent,
    Zero,
    Open,
    Data(Digest),
}

impl Seals {
    pub(super) fn of(id: &str) -> Self {
        let key = blake3::derive_key("migratekit spool 1: digests", id.as_bytes());
        let mark = |what: &[u8]| *blake3::keyed_hash(&key, what).as_bytes();
        Seals { key, zero: mark(b"zero"), open: mark(b"open") }
    }

    /// The entry of a cluster with these bytes.
    pub(super) fn digest(&self, cluster: u64, bytes: &[u8]) -> Digest {
        let mut hash = blake3::Hasher::new_keyed(&self.key);
        hash.update(bytes);
        hash.update(&cluster.to_le_bytes());
        *hash.finalize().as_bytes()
    }

    pub(super) fn read(&self, entry: &[u8; 32]) -> Entry {
        match *entry {
            [0, ..] if entry.iter().all(|b| *b == 0) => Entry::Absent,
            e if e == self.zero => Entry::Zero,
            e if e == self.open => Entry::Open,
            e => Entry::Data(e),
        }
    }
}

/// A new random id.
pub(super) fn new_id() -> Result<String> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::from_io("make a random id", e.into()))?;
    Ok(random.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, TIB};

    #[test]
    fn the_parts_of_a_spool_do_not_overlap_and_its_clusters_are_bounded() {
        for size in [1, 4096, 100 * MIB + 1, 4 * TIB, 4 * TIB + 1, 16 * TIB, 62 * TIB] {
            let layout = Layout::new(size);
            assert!(layout.clusters() <= MOST_CLUSTERS);
            assert!(layout.entry_at(layout.clusters()) <= layout.data(ByteRange::between(0, 1)).offset());
            assert_eq!(layout.file_size(), layout.data(ByteRange::between(size - 1, size)).end());
        }
        assert_eq!(Layout::new(4 * TIB).cluster_size(), SMALLEST_CLUSTER);
        assert_eq!(Layout::new(16 * TIB).cluster_size(), 256 * KIB);
        assert!(Layout::new(16 * TIB).file_size() - 16 * TIB <= 2 * GIB + 2 * MIB);
    }

    #[test]
    fn a_page_changed_in_any_byte_says_nothing() {
        let footer =
            Footer { id: "x".into(), data_clusters: 3, zero_clusters: 1, table: String::new(), first: String::new(), last: String::new() };
        let page = encode_page(FOOTER_MAGIC, &footer).unwrap();
        assert_eq!(page.len() as u64, PAGE);
        assert_eq!(decode_page::<Footer>(FOOTER_MAGIC, &page), Some(footer));
        assert_eq!(decode_page::<Header>(HEADER_MAGIC, &page), None);
        for at in (0..page.len()).step_by(7) {
            let mut bad = page.clone();
            bad[at] ^= 1;
            assert_eq!(decode_page::<Footer>(FOOTER_MAGIC, &bad), None);
        }
    }

    #[test]
    fn entries_are_told_apart_and_belong_to_one_spool_and_cluster() {
        let (a, b) = (Seals::of("a"), Seals::of("b"));
        assert_eq!(a.read(&[0; 32]), Entry::Absent);
        assert_eq!((a.read(&a.zero), a.read(&a.open)), (Entry::Zero, Entry::Open));
        assert_eq!(a.read(&b.zero), Entry::Data(b.zero));
        assert_ne!(a.digest(1, b"x"), a.digest(2, b"x"));
        assert_ne!(a.digest(1, b"x"), b.digest(1, b"x"));
    }
}
