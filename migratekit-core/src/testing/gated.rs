//! A disk some of whose requests wait for leave: how a test makes a disk slow, or stops it, without a clock.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::Operation;
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::error::Result;
use crate::units::ByteRange;

/// A disk with a gate before it. Requests of the kinds that are held are numbered as they come, and go on in that order.
#[derive(Debug)]
pub struct Gated<D> {
    disk: D,
    held: Vec<Operation>,
    begun: AtomicU64,
    allowed: watch::Sender<u64>,
}

impl<D> Gated<D> {
    /// Holds requests of these kinds; the gate is closed.
    #[must_use]
    pub fn new(disk: D, held: &[Operation]) -> Self {
        Gated { disk, held: held.to_vec(), begun: AtomicU64::new(0), allowed: watch::channel(0).0 }
    }

    /// The disk behind the gate.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// How many requests have come to the gate.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Lets so many more through.
    pub fn allow(&self, more: u64) {
        self.allowed.send_modify(|allowed| *allowed = allowed.saturating_add(more));
    }

    /// Lets all through from now on.
    pub fn open(&self) {
        self.allow(u64::MAX);
    }

    async fn pass(&self, operation: Operation) {
        if self.held.contains(&operation) {
            let number = self.begun.fetch_add(1, Ordering::SeqCst);
            // The sender lives as long as this disk.
            let _ = self.allowed.subscribe().wait_for(|allowed| *allowed > number).await;
        }
    }
}

impl<D: BlockRead> BlockRead for Gated<D> {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.pass(Operation::Read).await;
            self.disk.read(range).await
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            self.pass(Operation::Extents).await;
            self.disk.extents(range).await
        })
    }
}

impl<D: BlockWrite> BlockWrite for Gated<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.pass(Operation::Write).await;
            self.disk.write(offset, data, persist).await
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.pass(Operation::Zero).await;
            self.disk.zero(range, mode, persist).await
        })
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.pass(Operation::Discard).await;
            self.disk.discard(range, persist).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.pass(Operation::Flush).await;
            self.disk.flush().await
        })
    }
}
