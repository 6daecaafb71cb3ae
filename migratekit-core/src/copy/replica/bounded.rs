//! The first part of a volume that is larger than the disk it replicates: a cloud rounds sizes up, and a disk may grow later than its volume.
//!
//! What lies behind it is neither read nor written.

use std::sync::Arc;

use bytes::Bytes;

use super::site::SiteDisk;
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::copy::export::Reopen;
use crate::error::Result;
use crate::units::ByteRange;

/// The first `size` bytes of the volume, which is larger.
pub(super) fn bounded(volume: SiteDisk, size: u64) -> SiteDisk {
    let reopen = volume.reopen.map(|reopen| {
        let again: Reopen = Box::new(move || {
            let opened = reopen();
            Box::pin(async move { Ok(Arc::new(Bounded::new(opened.await?, size)) as Arc<dyn BlockWrite>) })
        });
        Arc::new(again)
    });
    SiteDisk {
        disk: Arc::new(Bounded::new(volume.disk, size)),
        uncached: volume.uncached.map(|disk| Arc::new(Bounded::new(disk, size)) as Arc<dyn BlockRead>),
        reopen,
        state: volume.state,
    }
}

struct Bounded<D: ?Sized> {
    disk: Arc<D>,
    info: BlockInfo,
}

impl<D: BlockRead + ?Sized> Bounded<D> {
    fn new(disk: Arc<D>, size: u64) -> Self {
        let info = BlockInfo { size, ..disk.info().clone() };
        Bounded { disk, info }
    }
}

impl<D: BlockRead + ?Sized> BlockRead for Bounded<D> {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.info.check("read a volume", range)?;
            self.disk.read(range).await
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            self.info.check("look where a volume holds data", range)?;
            self.disk.extents(range).await
        })
    }
}

impl<D: BlockWrite + ?Sized> BlockWrite for Bounded<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            self.info.check_write("write a volume", ByteRange::new(offset, length)?)?;
            self.disk.write(offset, data, persist).await
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.info.check_write("zero a volume", range)?;
            self.disk.zero(range, mode, persist).await
        })
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.info.check_write("discard of a volume", range)?;
            self.disk.discard(range, persist).await
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

    #[tokio::test]
    async fn what_lies_behind_the_bound_is_out_of_reach() {
        let whole = Arc::new(MemoryDisk::from_bytes("volume", &[7; 100]));
        let part = bounded(SiteDisk { disk: Arc::clone(&whole) as _, uncached: None, reopen: None, state: None }, 60).disk;
        assert_eq!(part.info().size, 60);
        assert_eq!(part.read(ByteRange::between(0, 60)).await.unwrap(), vec![7; 60]);
        let (over, zero) = (ByteRange::between(50, 61), ZeroMode { may_punch: true, only_fast: false });
        assert!(part.read(over).await.is_err() && part.extents(over).await.is_err());
        assert!(part.write(60, Bytes::from_static(b"x"), Persist::Cached).await.is_err());
        assert!(part.zero(over, zero, Persist::Cached).await.is_err() && part.discard(over, Persist::Cached).await.is_err());
        part.zero(ByteRange::between(50, 60), zero, Persist::Cached).await.unwrap();
        let seen = whole.read(ByteRange::between(0, 100)).await.unwrap();
        assert_eq!((&seen[..50], &seen[50..60], &seen[60..]), (&[7; 50][..], &[0; 10][..], &[7; 40][..]));
    }
}
