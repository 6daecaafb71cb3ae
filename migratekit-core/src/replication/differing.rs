//! What differs between a frozen disk and its replica, by digests: for a disk whose change id is not believed, and for a full pass over
//! a volume that holds a point.
//!
//! Only the source's side is read in full, where it is; of a replica elsewhere 32 bytes for each block would cross the wire. Blocks are
//! of [`COMPARE_BLOCK`]; the answer is bounded by joining areas over the gaps between them.

use crate::block::ExtentMap;
use crate::copy::{Algorithm, Digest, Digests};
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;
use crate::units::{ByteRange, KIB};

/// The grain of the comparison, in bytes: that of change tracking.
pub const COMPARE_BLOCK: u32 = 64 * 1024;

/// Blocks whose digests are asked for at a time (64 MiB of disk); it bounds memory and the time until cancellation is seen.
const WINDOW: u64 = 1024;

/// The most areas kept apart; it bounds the answer to about 50 MB.
const MAX_AREAS: usize = 1_000_000;

/// Where the source differs from the replica. Of a source that is larger the rest differs. `passed` is told each window that is done.
///
/// # Errors
/// `Cancelled`; else as reading fails.
pub(super) async fn differing(
    source: &dyn Digests,
    replica: &dyn Digests,
    cancel: &CancellationToken,
    passed: impl Fn(u64) + Send + Sync,
) -> Result<ExtentMap> {
    let block = u64::from(COMPARE_BLOCK);
    // A block that the shorter replica cuts short is another block.
    let common = if replica.size() >= source.size() { source.size() } else { replica.size() / block * block };
    let (mut areas, mut gap) = (ExtentMap::new(), 64 * KIB);
    for window in ByteRange::between(0, common).pieces(block * WINDOW) {
        if cancel.is_cancelled() {
            return Err(
                Error::new(ErrorKind::Cancelled, "compare a disk with its replica", "it was cancelled").with("offset", window.offset())
            );
        }
        let (ours, theirs) = tokio::join!(
            source.digests(window, COMPARE_BLOCK, Algorithm::Blake3),
            digests_of(replica, window, source.size() == replica.size())
        );
        let (ours, theirs) = (ours.map_err(|e| e.with("side", "source"))?, theirs.map_err(|e| e.with("side", "replica"))?);
        for ((piece, a), b) in window.pieces(block).zip(&ours).zip(&theirs) {
            if Some(*a) != *b {
                areas.insert(piece, ());
            }
        }
        if areas.len() > MAX_AREAS {
            gap *= 2;
            areas = areas.close_gaps(gap);
        }
        passed(window.length());
    }
    areas.insert(ByteRange::between(common, source.size()), ());
    Ok(areas)
}

/// The replica's digests of a window. Where it is longer than the source, the source's last block, cut short, has no equal: it differs.
async fn digests_of(replica: &dyn Digests, window: ByteRange, same_size: bool) -> Result<Vec<Option<Digest>>> {
    let block = u64::from(COMPARE_BLOCK);
    let whole = if same_size { window.end() } else { window.end() / block * block };
    let part = ByteRange::between(window.offset(), whole.max(window.offset()));
    let mut found: Vec<_> = match part.is_empty() {
        true => Vec::new(),
        false => replica.digests(part, COMPARE_BLOCK, Algorithm::Blake3).await?.into_iter().map(Some).collect(),
    };
    found.resize(usize::try_from(window.length().div_ceil(block)).unwrap_or(found.len()), None);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::block::{BlockWrite, MemoryDisk, Persist};
    use crate::copy::{LocalDigests, ReadMode};

    const BLOCK: u64 = COMPARE_BLOCK as u64;

    fn disk(size: u64, writes: &[(u64, u8)]) -> LocalDigests {
        let disk = Arc::new(MemoryDisk::new("disk", size));
        for (at, byte) in writes.iter().filter(|(at, _)| *at < size) {
            futures(disk.write(*at, vec![*byte].into(), Persist::Cached)).unwrap();
        }
        LocalDigests::new(disk, ReadMode::Cached)
    }

    fn futures<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    proptest! {
        /// Every byte that differs is told, whatever the sizes; equal disks of one size give nothing.
        #[test]
        fn nothing_that_differs_is_missed(
            blocks in 0_u64..4, tail in 1_u64..70_000, more in prop_oneof![Just(0_i64), -70_000_i64..70_000],
            writes in proptest::collection::vec((0_u64..5 * BLOCK, any::<u8>(), 0..3_u8), 0..12),
        ) {
            let size = blocks * BLOCK + tail;
            let other = size.saturating_add_signed(more).max(1);
            let on = |side: u8| writes.iter().filter(|w| w.2 == side || w.2 == 2).map(|w| (w.0, w.1)).collect::<Vec<_>>();
            let (ours, theirs) = (disk(size, &on(0)), disk(other, &on(1)));
            let areas = futures(differing(&ours, &theirs, &CancellationToken::new(), |_| ())).unwrap();
            let value = |writes: &[(u64, u8)], at: u64| writes.iter().rev().find(|w| w.0 == at).map_or(0, |w| w.1);
            for at in writes.iter().map(|w| w.0).filter(|at| *at < size) {
                let same = at < other && value(&on(0), at) == value(&on(1), at);
                prop_assert!(same || areas.get(at).is_some(), "{} of {} against {}", at, size, other);
            }
            if other < size {
                prop_assert!(areas.covers(ByteRange::between(other, size)));
            }
            if on(0) == on(1) && size == other {
                prop_assert!(areas.is_empty());
            }
        }
    }
}
