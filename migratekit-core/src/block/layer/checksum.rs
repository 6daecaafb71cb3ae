//! Notices bytes that come back other than they went.
//!
//! The layer remembers a BLAKE3 digest of every whole block that was written or read through it, and which ranges were zeroed;
//! later reads must agree, or fail with [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) that names the offset. A write to a
//! part of a block forgets the block's digest; nothing is read only to know it.
//!
//! Requests that overlap while both are under way have no defined order, so nothing is learned or judged from them; and what a
//! dropped or failed write has touched stays unknown for good, for its bytes may land at any time.
//!
//! Memory: about 60 bytes for each block that was seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, ExtentMap, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ByteRange, MIB};

/// The block a digest is of, in bytes.
const BLOCK: u64 = MIB;

/// A disk that is watched. The head of its source file says more.
#[derive(Debug)]
pub struct Checksummed<D> {
    disk: D,
    block: u64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    digests: BTreeMap<u64, blake3::Hash>,
    zeroed: ExtentMap,
    /// Touched by writes that failed or were dropped.
    doubtful: ExtentMap,
    under_way: HashMap<u64, UnderWay>,
    next: u64,
}

#[derive(Debug)]
struct UnderWay {
    range: ByteRange,
    changes: bool,
    /// Whether no request that overlaps was under way at any moment of this one, one of the two a change.
    alone: bool,
}

/// A request under way; dropping it without [`Ticket::end`] leaves its range in doubt if it was a change.
struct Ticket<'a, D> {
    layer: &'a Checksummed<D>,
    id: u64,
}

impl<D> Checksummed<D> {
    /// Watches `disk` in blocks of 1 MiB.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Checksummed::with_block(disk, BLOCK)
    }

    /// Watches `disk` in blocks of `block` bytes (0 counts as 1).
    #[must_use]
    pub fn with_block(disk: D, block: u64) -> Self {
        Checksummed { disk, block: block.max(1), known: Mutex::default() }
    }

    /// The offsets of the blocks whose content is known by its digest, in order.
    #[must_use]
    pub fn digests(&self) -> Vec<(u64, blake3::Hash)> {
        self.known().digests.iter().map(|(number, digest)| (number.saturating_mul(self.block), *digest)).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, range: ByteRange, changes: bool) -> Ticket<'_, D> {
        let known = &mut *self.known();
        let mut alone = true;
        for other in known.under_way.values_mut() {
            if (changes || other.changes) && !other.range.intersection(range).is_empty() {
                other.alone = false;
                alone = false;
            }
        }
        let id = known.next;
        known.next += 1;
        known.under_way.insert(id, UnderWay { range, changes, alone });
        if changes {
            known.forget(range, self.block);
        }
        Ticket { layer: self, id }
    }

    /// The whole blocks in `bytes` at `range`, the last one of the disk may be short.
    fn whole_blocks<'b>(&self, range: ByteRange, bytes: &'b [u8], size: u64) -> impl Iterator<Item = (u64, ByteRange, &'b [u8])> {
        let block = self.block;
        range.pieces(block).filter_map(move |piece| {
            let whole = piece.offset().is_multiple_of(block) && (piece.length() == block || piece.end() == size);
            let start = usize::try_from(piece.offset() - range.offset()).ok()?;
            let content = bytes.get(start..start.checked_add(usize::try_from(piece.length()).ok()?)?)?;
            whole.then_some((piece.offset() / block, piece, content))
        })
    }
}

impl Known {
    fn forget(&mut self, range: ByteRange, block: u64) {
        self.zeroed.remove(range);
        let (first, end) = (range.offset() / block, range.end().div_ceil(block));
        while let Some((&number, _)) = self.digests.range(first..end).next() {
            self.digests.remove(&number);
        }
    }

    fn learn(&mut self, number: u64, piece: ByteRange, digest: blake3::Hash) {
        if !self.is_doubtful(piece) {
            self.digests.insert(number, digest);
        }
    }

    fn learn_zero(&mut self, range: ByteRange) {
        let mut sure = ExtentMap::from_iter([(range, ())]);
        self.doubtful.within(range).for_each(|(part, ())| sure.remove(part));
        sure.iter().for_each(|(part, ())| self.zeroed.insert(part, ()));
    }

    fn is_doubtful(&self, range: ByteRange) -> bool {
        self.doubtful.within(range).next().is_some()
    }
}

impl<D> Ticket<'_, D> {
    /// The request completed. `learn` is run, before any other request can begin, if no other one overlapped.
    fn end<T>(self, learn: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut known = self.layer.known();
        let alone = known.under_way.remove(&self.id).is_some_and(|request| request.alone);
        let learned = alone.then(|| learn(&mut known));
        // Before the ticket is dropped, which takes the lock again.
        drop(known);
        learned
    }

    /// The change failed: nothing is in doubt if it was refused before anything was done.
    fn fail(self, error: Error) -> Error {
        if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::ReadOnly | ErrorKind::Unsupported) {
            self.end(|_| ());
        }
        error
    }
}

impl<D> Drop for Ticket<'_, D> {
    fn drop(&mut self) {
        let mut known = self.layer.known();
        if let Some(request) = known.under_way.remove(&self.id)
            && request.changes
        {
            known.doubtful.insert(request.range, ());
        }
    }
}

impl<D: BlockRead> Checksummed<D> {
    fn mismatch(&self, offset: u64, text: &'static str) -> Error {
        Error::new(ErrorKind::Mismatch, "read", text).with("disk", &self.disk.info().name).with("offset", offset)
    }

    /// The digests of the whole blocks in `bytes`; made without the lock, for it takes a while.
    fn digest(&self, range: ByteRange, bytes: &[u8]) -> Vec<(u64, ByteRange, blake3::Hash)> {
        let size = self.disk.info().size;
        self.whole_blocks(range, bytes, size).map(|(number, piece, content)| (number, piece, blake3::hash(content))).collect()
    }

    /// Compares what was read with what is known, and remembers the blocks that were not known.
    fn judge(&self, known: &mut Known, range: ByteRange, bytes: &[u8], digests: Vec<(u64, ByteRange, blake3::Hash)>) -> Result<()> {
        for (part, ()) in known.zeroed.within(range) {
            let start = usize::try_from(part.offset() - range.offset()).unwrap_or(usize::MAX);
            let length = usize::try_from(part.length()).unwrap_or(usize::MAX);
            let content = bytes.get(start..start.saturating_add(length)).unwrap_or(&[]);
            if let Some(at) = content.iter().position(|b| *b != 0) {
                let offset = part.offset() + u64::try_from(at).unwrap_or(0);
                return Err(self.mismatch(offset, "a byte that was zeroed does not read as zero"));
            }
        }
        for (number, piece, digest) in digests {
            if known.digests.get(&number).is_some_and(|before| *before != digest) {
                return Err(self.mismatch(piece.offset(), "a block reads other than it was written or read before"));
            }
            known.learn(number, piece, digest);
        }
        Ok(())
    }
}

impl<D: BlockRead> BlockRead for Checksummed<D> {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            let ticket = self.begin(range, false);
            let bytes = self.disk.read(range).await?;
            let digests = self.digest(range, &bytes);
            ticket.end(|known| self.judge(known, range, &bytes, digests)).unwrap_or(Ok(()))?;
            Ok(bytes)
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.disk.extents(range)
    }
}

impl<D: BlockWrite> BlockWrite for Checksummed<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let range = ByteRange::new(offset, u64::try_from(data.len()).unwrap_or(u64::MAX))?;
            let ticket = self.begin(range, true);
            if let Err(error) = self.disk.write(offset, data.clone(), persist).await {
                return Err(ticket.fail(error));
            }
            let digests = self.digest(range, &data);
            ticket.end(|known| digests.into_iter().for_each(|(number, piece, digest)| known.learn(number, piece, digest)));
            Ok(())
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ticket = self.begin(range, true);
            if let Err(error) = self.disk.zero(range, mode, persist).await {
                return Err(ticket.fail(error));
            }
            ticket.end(|known| known.learn_zero(range));
            Ok(())
        })
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ticket = self.begin(range, true);
            if let Err(error) = self.disk.discard(range, persist).await {
                return Err(ticket.fail(error));
            }
            ticket.end(|_| ());
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDisk;
    use crate::testing::{Effect, Fault, Faulty, Operation, When};

    const SMALL: u64 = 4096;

    fn disk(faults: Vec<Fault>) -> Checksummed<Faulty<MemoryDisk>> {
        Checksummed::with_block(Faulty::new(MemoryDisk::new("m", 100_000), 1, faults), SMALL)
    }

    fn fault(on: Operation, when: When, effect: Effect) -> Vec<Fault> {
        vec![Fault { on, when, effect }]
    }

    fn r(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    fn ones(length: usize) -> Bytes {
        vec![1; length].into()
    }

    #[tokio::test]
    async fn a_wrong_bit_and_a_lost_write_are_noticed_at_their_block() {
        for (on, effect) in [(Operation::Write, Effect::Lie), (Operation::Write, Effect::FlipBit), (Operation::Read, Effect::FlipBit)] {
            let disk = disk(fault(on, When::Nth(1), effect));
            disk.write(2 * SMALL, ones(4096), Persist::Cached).await.unwrap();
            disk.write(3 * SMALL, ones(4096), Persist::Cached).await.unwrap();
            let error = disk.read(r(SMALL, 3 * SMALL)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            let at: u64 = error.context_value("offset").unwrap().parse().unwrap();
            // A bit that flips in the read may lie in the block nobody knew, which is then noticed when it is read again.
            assert!(at == 2 * SMALL || (on == Operation::Read && at == 3 * SMALL), "{error}");
        }
        let disk = disk(fault(Operation::Zero, When::Nth(1), Effect::Lie));
        disk.write(0, ones(100), Persist::Cached).await.unwrap();
        disk.zero(r(50, 100), ZeroMode::default(), Persist::Cached).await.unwrap();
        let error = disk.read(r(0, 200)).await.unwrap_err();
        assert_eq!(error.context_value("offset"), Some("50"));
    }

    #[tokio::test]
    async fn a_source_that_changes_is_noticed() {
        let below = std::sync::Arc::new(MemoryDisk::new("m", 100_000));
        let disk = Checksummed::with_block(below.clone(), SMALL);
        disk.read(r(0, 100_000)).await.unwrap();
        assert_eq!(disk.digests().len(), 25, "the short block at the end too");
        below.write(99_999, ones(1), Persist::Cached).await.unwrap();
        let error = disk.read(r(24 * SMALL, 100_000 - 24 * SMALL)).await.unwrap_err();
        assert_eq!(error.context_value("offset"), Some((24 * SMALL).to_string().as_str()));
    }

    #[tokio::test]
    async fn what_is_in_doubt_is_not_judged() {
        // Told to fail, and done nevertheless.
        let disk = disk(fault(Operation::Write, When::Nth(2), Effect::FailAfter(ErrorKind::Timeout)));
        disk.write(0, ones(4096), Persist::Cached).await.unwrap();
        disk.write(100, vec![2; 10].into(), Persist::Cached).await.unwrap_err();
        disk.read(r(0, SMALL)).await.unwrap();
        // A dropped write, too.
        disk.disk.set_faults(fault(Operation::Write, When::From(1), Effect::Hang));
        tokio::select! {
            biased;
            _ = disk.write(SMALL, ones(4096), Persist::Cached) => panic!("it hangs"),
            () = std::future::ready(()) => {}
        }
        disk.read(r(SMALL, SMALL)).await.unwrap();
        assert!(disk.digests().is_empty());
        // A request that was refused leaves no doubt.
        disk.disk.set_faults(Vec::new());
        disk.write(99_999, ones(2), Persist::Cached).await.unwrap_err();
        assert!(!disk.known().is_doubtful(r(50_000, 50_000)));
    }
}
