//! Copy on write: changes go to a *top*, everything else is read from a *base* that is never written.
//!
//! The unit is a cluster (64 KiB by default). A cluster is in the top as a whole or not at all: the first write to a part of it
//! brings the rest from the base. Which clusters are in the top is kept in memory only, so an overlay lives as long as its
//! object; what was in the top before is never read.
//!
//! # How a first write stays right
//!
//! It holds the locks of its clusters, writes the new bytes and the old ones around them to the top, and only then says that the
//! clusters are there; until then readers see the base. It runs to its end even when the caller stops waiting: otherwise old
//! bytes still on their way could land later, over a newer write beside them. Writes to clusters that are there take no lock.

mod present;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::present::Present;
use super::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Buffer, Capabilities, Extent, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::task;
use crate::units::{ByteRange, KIB};

/// The cluster size unless said otherwise, in bytes.
const CLUSTER: u64 = 64 * KIB;

/// Locks for first writes; a cluster takes the one of its number modulo this.
const STRIPES: u64 = 64;

/// A writable view of a base that stays as it is. The head of its source file says more.
#[derive(Clone)]
pub struct Overlay(Arc<Inner>);

struct Inner {
    base: Arc<dyn BlockRead>,
    top: Arc<dyn BlockWrite>,
    info: BlockInfo,
    cluster: u64,
    present: Mutex<Present>,
    stripes: Vec<tokio::sync::Mutex<()>>,
}

/// A change of bytes in the top.
enum Change {
    Write(Bytes),
    Zero(ZeroMode),
}

impl Overlay {
    /// An overlay with clusters of 64 KiB. The top must be writable and at least as large as the base; its content is not used.
    pub fn new(base: Arc<dyn BlockRead>, top: Arc<dyn BlockWrite>) -> Result<Overlay> {
        Overlay::with_cluster(base, top, CLUSTER)
    }

    /// As [`Overlay::new`], with clusters of `cluster` bytes: a power of two, at least both disks' `min_block` and at most their
    /// `max_request`.
    pub fn with_cluster(base: Arc<dyn BlockRead>, top: Arc<dyn BlockWrite>, cluster: u64) -> Result<Overlay> {
        let info = describe(base.info(), top.info(), cluster)?;
        let stripes = (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect();
        Ok(Overlay(Arc::new(Inner { base, top, info, cluster, present: Mutex::default(), stripes })))
    }

    async fn change(&self, range: ByteRange, change: Change, persist: Persist) -> Result<()> {
        if self.0.runs(range).iter().all(|(_, present)| *present) {
            return self.0.apply(range, change, persist).await;
        }
        let inner = self.0.clone();
        task::to_the_end(async move { inner.first_change(range, change, persist).await }).await?
    }
}

fn describe(base: &BlockInfo, top: &BlockInfo, cluster: u64) -> Result<BlockInfo> {
    let refuse = |kind, text: &'static str| Error::new(kind, "make an overlay", text).with("base", &base.name).with("top", &top.name);
    if top.read_only {
        return Err(refuse(ErrorKind::ReadOnly, "the top is read-only"));
    }
    if top.size < base.size {
        return Err(refuse(ErrorKind::NoSpace, "the top is smaller than the base").with("top_size", top.size).with("base_size", base.size));
    }
    let min_block = base.min_block.max(top.min_block);
    let max_request = base.max_request.min(top.max_request);
    if !cluster.is_power_of_two() || cluster < u64::from(min_block) || cluster > u64::from(max_request) {
        return Err(
            refuse(ErrorKind::InvalidInput, "the cluster size is not a power of two within the disks' limits").with("cluster", cluster)
        );
    }
    Ok(BlockInfo {
        read_only: false,
        min_block,
        preferred_block: base.preferred_block.max(top.preferred_block),
        max_request,
        can: Capabilities {
            extents: base.can.extents || top.can.extents,
            // All connections go through this object.
            multi_conn: true,
            cache: false,
            ..top.can
        },
        ..BlockInfo::plain(format!("overlay of {}", base.name), base.size)
    })
}

impl Inner {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first cluster of `range` and the one after its last.
    fn clusters(&self, range: ByteRange) -> (u64, u64) {
        (range.offset() / self.cluster, range.end().div_ceil(self.cluster))
    }

    /// `range` in parts that lie in the top (true) or the base (false) as a whole.
    fn runs(&self, range: ByteRange) -> Vec<(ByteRange, bool)> {
        let present = self.present();
        let (mut at, end) = self.clusters(range);
        let mut runs = Vec::new();
        while at < end {
            let (here, next) = present.run(at, end);
            let part = ByteRange::between(at.saturating_mul(self.cluster), next.saturating_mul(self.cluster));
            runs.push((part.intersection(range), here));
            at = next;
        }
        runs
    }

    async fn apply(&self, range: ByteRange, change: Change, persist: Persist) -> Result<()> {
        match change {
            Change::Write(data) => self.top.write(range.offset(), data, persist).await,
            Change::Zero(mode) => self.top.zero(range, mode, persist).await,
        }
    }

    /// A change that touches clusters not yet in the top.
    async fn first_change(&self, range: ByteRange, change: Change, persist: Persist) -> Result<()> {
        let (first, end) = self.clusters(range);
        let mut stripes: Vec<u64> = (first..end.min(first + STRIPES)).map(|cluster| cluster % STRIPES).collect();
        // All take them in the same order, so that none waits in a circle.
        stripes.sort_unstable();
        let mut locks = Vec::new();
        for stripe in stripes {
            if let Some(lock) = usize::try_from(stripe).ok().and_then(|n| self.stripes.get(n)) {
                locks.push(lock.lock().await);
            }
        }
        // The change comes first: it may be refused (a fast zero), and then nothing must have happened.
        self.apply(range, change, persist).await?;
        let head = ByteRange::between(first * self.cluster, range.offset());
        let tail = ByteRange::between(range.end(), end.saturating_mul(self.cluster).min(self.info.size));
        for (edge, cluster) in [(head, first), (tail, end - 1)] {
            if !edge.is_empty() && !self.present().contains(cluster) {
                let old = self.base.read(edge).await?;
                self.top.write(edge.offset(), old, persist).await?;
            }
        }
        let mut present = self.present();
        (first..end).for_each(|cluster| present.insert(cluster));
        Ok(())
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        self.info.check_transfer("read", range)?;
        let runs = self.runs(range);
        if let [(_, present)] = runs.as_slice() {
            return self.read_part(range, *present).await;
        }
        let mut buffer = Buffer::take(usize::try_from(range.length()).unwrap_or(usize::MAX));
        let mut rest: &mut [u8] = &mut buffer;
        for (part, present) in runs {
            let bytes = self.read_part(part, present).await?;
            let Some((to, after)) = rest.split_at_mut_checked(bytes.len()) else { break };
            to.copy_from_slice(&bytes);
            rest = after;
        }
        Ok(buffer.freeze())
    }

    async fn read_part(&self, range: ByteRange, present: bool) -> Result<Bytes> {
        if present { self.top.read(range).await } else { self.base.read(range).await }
    }
}

impl BlockRead for Overlay {
    fn info(&self) -> &BlockInfo {
        &self.0.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(self.0.read(range))
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            self.0.info.check("ask for extents", range)?;
            let mut all = Vec::new();
            for (part, present) in self.0.runs(range) {
                all.extend(if present { self.0.top.extents(part).await? } else { self.0.base.extents(part).await? });
            }
            Ok(all)
        })
    }
}

impl BlockWrite for Overlay {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let range = ByteRange::new(offset, u64::try_from(data.len()).unwrap_or(u64::MAX))?;
            self.0.info.check_write("write", range)?;
            self.0.info.check_transfer("write", range)?;
            self.change(range, Change::Write(data), persist).await
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.0.info.check_write("zero", range)?;
            self.change(range, Change::Zero(mode), persist).await
        })
    }

    /// Only what is in the top can be given back; the rest stays what it is.
    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.0.info.check_write("discard", range)?;
            for (part, _) in self.0.runs(range).into_iter().filter(|(_, present)| *present) {
                self.0.top.discard(part, persist).await?;
            }
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.0.top.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDisk;
    use crate::units::TIB;

    fn overlay(base: &Arc<MemoryDisk>) -> (Overlay, Arc<MemoryDisk>) {
        let top = Arc::new(MemoryDisk::new("top", base.info().size));
        (Overlay::new(base.clone(), top.clone()).unwrap(), top)
    }

    #[tokio::test]
    async fn a_small_write_keeps_what_lies_around_it_and_the_base() {
        let content: Vec<u8> = (0..200_001u32).map(|i| (i % 251) as u8 + 1).collect();
        let base = Arc::new(MemoryDisk::from_bytes("base", &content));
        let (overlay, top) = overlay(&base);
        let mut expected = content.clone();
        expected[65_530..65_540].fill(0);
        expected[200_000] = 0;
        overlay.write(65_530, Bytes::from(vec![0; 10]), Persist::Cached).await.unwrap();
        overlay.zero(ByteRange::new(200_000, 1).unwrap(), ZeroMode::default(), Persist::Durable).await.unwrap();
        let all = ByteRange::whole(200_001).unwrap();
        assert_eq!(overlay.read(all).await.unwrap(), expected);
        assert_eq!(base.read(all).await.unwrap(), content);
        assert_eq!(top.allocated(), 3 * CLUSTER, "clusters 0, 1 and 3");
    }

    #[tokio::test]
    async fn what_the_top_held_before_is_never_seen() {
        let base = Arc::new(MemoryDisk::new("base", 1 << 20));
        let top = Arc::new(MemoryDisk::from_bytes("top", &vec![9; 1 << 20]));
        let overlay = Overlay::new(base, top).unwrap();
        overlay.write(100, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
        let read = overlay.read(ByteRange::whole(1 << 20).unwrap()).await.unwrap();
        assert_eq!(read.iter().map(|b| u32::from(*b)).sum::<u32>(), u32::from(b'x'));
    }

    #[tokio::test]
    async fn a_huge_disk_costs_little() {
        let base = Arc::new(MemoryDisk::new("base", 16 * TIB));
        let (overlay, top) = overlay(&base);
        overlay.write(16 * TIB - 1, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
        assert_eq!(overlay.extents(ByteRange::whole(16 * TIB).unwrap()).await.unwrap().len(), 2);
        assert_eq!(top.allocated(), CLUSTER);
    }

    #[tokio::test]
    async fn wrong_parts_are_refused() {
        let disk = |size| Arc::new(MemoryDisk::new("m", size));
        let kind = |base, top, cluster| Overlay::with_cluster(base, top, cluster).err().map(|e| e.kind());
        assert_eq!(kind(disk(10), disk(9), CLUSTER), Some(ErrorKind::NoSpace));
        assert_eq!(kind(disk(10), disk(10), 1000), Some(ErrorKind::InvalidInput));
        let read_only = MemoryDisk::with_info(BlockInfo { read_only: true, ..BlockInfo::plain("m", 10) });
        assert_eq!(kind(disk(10), Arc::new(read_only), CLUSTER), Some(ErrorKind::ReadOnly));
    }
}
