//! A disk that can only be read, in the place of one that can be written.

use std::sync::Arc;

use bytes::Bytes;

use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// Passes reads on and refuses the rest.
pub(super) struct ReadOnly {
    disk: Arc<dyn BlockRead>,
    info: BlockInfo,
}

impl ReadOnly {
    pub(super) fn new(disk: Arc<dyn BlockRead>) -> Self {
        let mut info = disk.info().clone();
        info.read_only = true;
        ReadOnly { disk, info }
    }

    fn refuse(&self) -> BoxFuture<'_, Result<()>> {
        let error = Error::new(ErrorKind::ReadOnly, "write", "digests can only be read").with("disk", &self.info.name);
        Box::pin(async move { Err(error) })
    }
}

impl BlockRead for ReadOnly {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        self.disk.read(range)
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.disk.extents(range)
    }
}

impl BlockWrite for ReadOnly {
    fn write(&self, _: u64, _: Bytes, _: Persist) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }

    fn zero(&self, _: ByteRange, _: ZeroMode, _: Persist) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }

    fn discard(&self, _: ByteRange, _: Persist) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
