//! Layers: disks that wrap one and change how it is used, not what it holds.
//!
//! A shared disk is a disk, so layers take an `Arc<dyn BlockWrite>` and a concrete disk alike; a layer over a disk that can only be
//! read can only be read.

mod checksum;
mod retry;
mod throttle;

use std::sync::Arc;

use bytes::Bytes;

pub use self::checksum::Checksummed;
pub use self::retry::{RetryPolicy, Retrying};
pub use self::throttle::{Throttle, Throttled};
use super::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::error::Result;
use crate::units::ByteRange;

impl<D: BlockRead + ?Sized> BlockRead for Arc<D> {
    fn info(&self) -> &BlockInfo {
        (**self).info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        (**self).read(range)
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        (**self).extents(range)
    }
}

impl<D: BlockWrite + ?Sized> BlockWrite for Arc<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        (**self).write(offset, data, persist)
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        (**self).zero(range, mode, persist)
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        (**self).discard(range, persist)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        (**self).flush()
    }
}
