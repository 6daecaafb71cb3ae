//! The spool as a disk: what the pass wrote, and beneath it the volume as it is.
//!
//! A request holds the locks of its clusters and runs to its end even when the caller stops waiting, so that no byte of it lands
//! later, over a newer request beside it. It changes a cluster in the file first, and says that the cluster is there only when all
//! of it is: what the request does not cover was brought from the base, or is zeros.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::core::{self, ABSENT};
use super::{Inner, STRIPES, Spool};
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Buffer, Extent, ExtentKind, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::planted::planted;
use crate::task;
use crate::units::{ByteRange, MIB};

/// The longest piece read and verified at once, in bytes.
const VERIFY_STEP: u64 = 4 * MIB;

/// Where the bytes of a read come from: the usual ones, or those past the page cache.
pub(super) struct Sources<'a> {
    pub(super) base: &'a dyn BlockRead,
    pub(super) file: &'a dyn BlockRead,
}

impl Inner {
    /// The locks of some clusters, in an order that is the same for all.
    async fn lock(&self, first: u64, end: u64) -> Vec<OwnedMutexGuard<()>> {
        let mut stripes: Vec<usize> =
            (first..end.min(first + STRIPES)).filter_map(|cluster| usize::try_from(cluster % STRIPES).ok()).collect();
        stripes.sort_unstable();
        let mut locks = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            if let Some(lock) = self.stripes.get(stripe) {
                locks.push(Arc::clone(lock).lock_owned().await);
            }
        }
        locks
    }

    /// All locks: no request is under way.
    pub(super) async fn lock_all(&self) -> Vec<OwnedMutexGuard<()>> {
        self.lock(0, STRIPES).await
    }

    pub(super) fn check_open(&self, operation: &'static str) -> Result<()> {
        let core = self.core();
        let refuse = |kind, message: &'static str| {
            Err(Error::new(kind, operation, message).with("spool", &self.info.name).with("point", &self.header.point))
        };
        match (core.failed, core.closed) {
            (true, false) => refuse(ErrorKind::Io, "an earlier flush of the spool failed, so it must be opened again"),
            (true, true) => refuse(ErrorKind::Fenced, "the spool was opened anew, so this writer must not go on"),
            (false, true) => refuse(ErrorKind::ReadOnly, "the pass is complete, so its spool takes no more writes"),
            (false, false) => Ok(()),
        }
    }

    /// Writes bytes of at most one request. `data` is `None` for zeros (then the range lies within one cluster).
    async fn put(self: Arc<Self>, range: ByteRange, data: Option<Bytes>) -> Result<()> {
        let (first, end) = self.layout.touched(range);
        let crowded = {
            let _locks = self.lock(first, end).await;
            self.check_open("write to a spool")?;
            self.core().begin(first, end);
            let done = self.put_locked(range, data, first, end).await;
            let mut core = self.core();
            match done {
                Ok(digests) => digests.into_iter().for_each(|(cluster, digest)| core.end_data(cluster, digest)),
                Err(e) => {
                    core.end_unchanged(first, end);
                    return Err(e);
                }
            }
            core.is_crowded()
        };
        if crowded { self.flush().await } else { Ok(()) }
    }

    /// The clusters that are data now, with their digests where they are known.
    async fn put_locked(&self, range: ByteRange, data: Option<Bytes>, first: u64, end: u64) -> Result<Vec<(u64, Option<[u8; 32]>)>> {
        let bytes = match data {
            Some(bytes) => bytes,
            // Zeros over zeros.
            None if core::is_zero(self.core().get(first)) => {
                self.core().end_unchanged(first, end);
                return Ok(Vec::new());
            }
            None => Bytes::from(vec![0; usize::try_from(range.length()).unwrap_or(0)]),
        };
        self.withdraw(first, end).await?;
        for cluster in if end - first > 1 { [Some(first), Some(end - 1)] } else { [Some(first), None] }.into_iter().flatten() {
            self.fill_around(cluster, range).await?;
        }
        let mut digests = Vec::new();
        for cluster in first..end {
            let whole = self.layout.range_of(cluster);
            let inside = range.contains(whole).then(|| {
                let from = usize::try_from(whole.offset() - range.offset()).unwrap_or(usize::MAX);
                let length = usize::try_from(whole.length()).unwrap_or(usize::MAX);
                bytes.get(from..from.saturating_add(length)).map(|own| self.seals.digest(cluster, own))
            });
            digests.push((cluster, inside.flatten()));
        }
        self.file.write(self.layout.data(range).offset(), bytes, Persist::Cached).await?;
        Ok(digests)
    }

    /// Brings to the file what of a cluster lies outside `range`, unless the file has it.
    async fn fill_around(&self, cluster: u64, range: ByteRange) -> Result<()> {
        let whole = self.layout.range_of(cluster);
        let state = self.core().get(cluster);
        if core::is_data(state) {
            return Ok(());
        }
        let head = ByteRange::between(whole.offset(), range.offset().min(whole.end()));
        let tail = ByteRange::between(range.end().max(whole.offset()), whole.end());
        for edge in [head, tail].into_iter().filter(|edge| !edge.is_empty()) {
            let old = match state {
                ABSENT => self.base.read(edge).await?,
                _ => Bytes::from(vec![0; usize::try_from(edge.length()).unwrap_or(0)]),
            };
            self.file.write(self.layout.data(edge).offset(), old, Persist::Cached).await?;
        }
        Ok(())
    }

    /// Makes a range zeros: whole clusters by a word, the edges by bytes.
    async fn clear(self: Arc<Self>, range: ByteRange) -> Result<()> {
        let (full, full_end) = self.layout.full(range);
        if full < full_end {
            let crowded = {
                let _locks = self.lock(full, full_end).await;
                self.check_open("write zeros to a spool")?;
                let mut core = self.core();
                core.zero(full, full_end);
                core.is_crowded()
            };
            if crowded {
                self.flush().await?;
            }
        }
        for edge in self.edges(range, full, full_end) {
            Arc::clone(&self).put(edge, None).await?;
        }
        Ok(())
    }

    /// The parts of a range outside its whole clusters, each within one cluster.
    fn edges(&self, range: ByteRange, full: u64, full_end: u64) -> Vec<ByteRange> {
        let parts = if full < full_end {
            let middle = self.layout.ranges_of(full, full_end);
            [ByteRange::between(range.offset(), middle.offset()), ByteRange::between(middle.end(), range.end())]
        } else {
            [range, ByteRange::between(0, 0)]
        };
        parts.into_iter().flat_map(|part| part.pieces(self.layout.cluster_size())).collect()
    }

    /// Reads a range, at most `max_request` long.
    pub(super) async fn read_from(&self, from: Sources<'_>, range: ByteRange) -> Result<Bytes> {
        self.info.check_transfer("read", range)?;
        let (first, end) = self.layout.touched(range);
        let runs: Vec<_> = self.core().runs(first, end);
        if let [(_, _, state)] = runs.as_slice() {
            return self.read_part(&from, range, *state).await;
        }
        let mut buffer = Buffer::take(usize::try_from(range.length()).unwrap_or(usize::MAX));
        let mut rest: &mut [u8] = &mut buffer;
        for (first, end, state) in runs {
            let bytes = self.read_part(&from, self.layout.ranges_of(first, end).intersection(range), state).await?;
            let Some((to, after)) = rest.split_at_mut_checked(bytes.len()) else { break };
            to.copy_from_slice(&bytes);
            rest = after;
        }
        Ok(buffer.freeze())
    }

    async fn read_part(&self, from: &Sources<'_>, range: ByteRange, state: u8) -> Result<Bytes> {
        if state == ABSENT {
            from.base.read(range).await
        } else if core::is_zero(state) {
            let mut zeros = Buffer::take(usize::try_from(range.length()).unwrap_or(usize::MAX));
            zeros.fill(0);
            Ok(zeros.freeze())
        } else if self.is_sealed() {
            self.read_verified(from.file, range).await
        } else {
            from.file.read(self.layout.data(range)).await
        }
    }

    /// Reads data of a sealed spool: whole clusters, each against its digest.
    pub(super) async fn read_verified(&self, file: &dyn BlockRead, range: ByteRange) -> Result<Bytes> {
        let (first, end) = self.layout.touched(range);
        let wide = self.layout.ranges_of(first, end);
        if wide.length() <= VERIFY_STEP.max(self.layout.cluster_size()) {
            let bytes = self.read_clusters(file, first, end).await?;
            let from = usize::try_from(range.offset() - wide.offset()).unwrap_or(usize::MAX);
            return Ok(bytes.slice(from..from + usize::try_from(range.length()).unwrap_or(0)));
        }
        let mut buffer = Buffer::take(usize::try_from(range.length()).unwrap_or(usize::MAX));
        let mut rest: &mut [u8] = &mut buffer;
        for piece in range.pieces(VERIFY_STEP.max(self.layout.cluster_size())) {
            let bytes = Box::pin(self.read_verified(file, piece)).await?;
            let Some((to, after)) = rest.split_at_mut_checked(bytes.len()) else { break };
            to.copy_from_slice(&bytes);
            rest = after;
        }
        Ok(buffer.freeze())
    }

    async fn read_clusters(&self, file: &dyn BlockRead, first: u64, end: u64) -> Result<Bytes> {
        let bytes = file.read(self.layout.data(self.layout.ranges_of(first, end))).await?;
        let entries = file.read(ByteRange::between(self.layout.entry_at(first), self.layout.entry_at(end))).await?;
        let cluster_size = usize::try_from(self.layout.cluster_size()).unwrap_or(usize::MAX);
        for ((cluster, own), entry) in (first..end).zip(bytes.chunks(cluster_size)).zip(entries.chunks(32)) {
            if self.seals.digest(cluster, own) != entry {
                return Err(self
                    .damaged("its bytes are not those that were written")
                    .with("offset", self.layout.range_of(cluster).offset()));
            }
        }
        Ok(bytes)
    }

    async fn extents_of(&self, range: ByteRange) -> Result<Vec<Extent>> {
        self.info.check("ask for extents", range)?;
        let (first, end) = self.layout.touched(range);
        let mut found: Vec<Extent> = Vec::new();
        let runs = self.core().runs(first, end);
        for (first, end, state) in runs {
            let part = self.layout.ranges_of(first, end).intersection(range);
            match state {
                ABSENT => found.extend(self.base.extents(part).await?),
                state if core::is_zero(state) => found.push(Extent { range: part, kind: ExtentKind::Zero }),
                _ => found.push(Extent { range: part, kind: ExtentKind::Data }),
            }
        }
        Ok(found)
    }
}

impl BlockRead for Spool {
    fn info(&self) -> &BlockInfo {
        &self.0.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        let from = Sources { base: &*self.0.base, file: &*self.0.file };
        Box::pin(self.0.read_from(from, range))
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.0.extents_of(range))
    }
}

impl BlockWrite for Spool {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let range = ByteRange::new(offset, u64::try_from(data.len()).unwrap_or(u64::MAX))?;
            self.0.info.check_write("write", range)?;
            self.0.info.check_transfer("write", range)?;
            let inner = Arc::clone(&self.0);
            task::to_the_end(inner.put(range, Some(data))).await??;
            if persist == Persist::Durable { self.flush().await } else { Ok(()) }
        })
    }

    fn zero(&self, range: ByteRange, _mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.0.info.check_write("write zeros", range)?;
            task::to_the_end(Arc::clone(&self.0).clear(range)).await??;
            if persist == Persist::Durable { self.flush().await } else { Ok(()) }
        })
    }

    /// Nothing is given back: the base still needs what lies beneath.
    fn discard(&self, range: ByteRange, _persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.0.info.check_write("discard", range) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { task::to_the_end(async move { inner.flush().await }).await? })
    }
}

impl Inner {
    /// Sees to it that no entry with a digest speaks of these clusters, whose bytes are about to change.
    async fn withdraw(&self, first: u64, end: u64) -> Result<()> {
        if self.core().to_withdraw(first, end).is_empty() {
            return Ok(());
        }
        // A flush that is writing entries ends first; what it entered meanwhile is seen here.
        let _turn = self.turn.lock().await;
        let clusters = self.core().to_withdraw(first, end);
        let open = Bytes::copy_from_slice(&self.seals.open);
        let withdrawn = async {
            for cluster in &clusters {
                self.file.write(self.layout.entry_at(*cluster), open.clone(), Persist::Cached).await?;
            }
            if planted("spool-rewrite-in-place") { Ok(()) } else { self.file.flush().await }
        };
        if let Err(e) = withdrawn.await {
            self.core().failed = true;
            return Err(e.with("spool", &self.info.name));
        }
        self.core().withdrawn(&clusters);
        Ok(())
    }
}
