//! Records every request a disk gets: the evidence that something was read once, written nowhere else, flushed at the end.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, ExtentMap, Persist, ZeroMode};
use crate::error::Result;
use crate::units::ByteRange;

/// What kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// [`BlockRead::read`]
    Read,
    /// [`BlockRead::extents`]
    Extents,
    /// [`BlockWrite::write`]
    Write,
    /// [`BlockWrite::zero`]
    Zero,
    /// [`BlockWrite::discard`]
    Discard,
    /// [`BlockWrite::flush`]
    Flush,
}

/// One request. `started` and `ended` are taken from one counter, so they tell the order of all starts and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What kind.
    pub operation: Operation,
    /// Where; empty for a flush.
    pub range: ByteRange,
    /// Whether it was to be durable.
    pub persist: Persist,
    /// When it began.
    pub started: u64,
    /// When it completed or failed; `None` while it is under way, or when it was dropped.
    pub ended: Option<u64>,
    /// Whether it completed well.
    pub succeeded: bool,
}

/// A disk that keeps a record of its requests. See the [module documentation](self).
#[derive(Debug)]
pub struct Recorder<D> {
    disk: D,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    requests: Vec<Request>,
    clock: u64,
}

impl<D> Recorder<D> {
    /// Records what `disk` gets from now on.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Recorder { disk, record: Mutex::default() }
    }

    /// All requests in the order of their start.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.record().requests.clone()
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.record().requests.clear();
    }

    /// How many requests of this kind there were.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.record().requests.iter().filter(|r| r.operation == operation).count()
    }

    /// The bytes that requests of this kind asked for, repeated ones counted each time.
    #[must_use]
    pub fn bytes(&self, operation: Operation) -> u64 {
        self.record().requests.iter().filter(|r| r.operation == operation).map(|r| r.range.length()).sum()
    }

    /// The bytes that were touched by requests of this kind.
    #[must_use]
    pub fn ranges(&self, operation: Operation) -> ExtentMap {
        self.record().requests.iter().filter(|r| r.operation == operation).map(|r| (r.range, ())).collect()
    }

    /// The bytes changed by completed requests that no good flush covers: one that began after the change had completed.
    #[must_use]
    pub fn not_durable(&self) -> ExtentMap {
        let record = self.record();
        let last = record.requests.iter().filter(|r| r.operation == Operation::Flush && r.succeeded).map(|r| r.started).max();
        let mut open = ExtentMap::new();
        for request in &record.requests {
            let changes = matches!(request.operation, Operation::Write | Operation::Zero | Operation::Discard);
            let Some(ended) = request.ended.filter(|_| changes && request.succeeded) else { continue };
            if request.persist == Persist::Cached && last.is_none_or(|flush| flush < ended) {
                open.insert(request.range, ());
            }
        }
        open
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<T>(&self, operation: Operation, range: ByteRange, persist: Persist, work: BoxFuture<'_, Result<T>>) -> Result<T> {
        let started = {
            let mut record = self.record();
            record.clock += 1;
            let started = record.clock;
            record.requests.push(Request { operation, range, persist, started, ended: None, succeeded: false });
            started
        };
        let result = work.await;
        let mut record = self.record();
        record.clock += 1;
        let now = record.clock;
        // Found by its start, because the record may have been cleared meanwhile.
        if let Some(request) = record.requests.iter_mut().rev().find(|r| r.started == started) {
            request.ended = Some(now);
            request.succeeded = result.is_ok();
        }
        result
    }
}

impl<D: BlockRead> BlockRead for Recorder<D> {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(self.run(Operation::Read, range, Persist::Cached, self.disk.read(range)))
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.run(Operation::Extents, range, Persist::Cached, self.disk.extents(range)))
    }
}

impl<D: BlockWrite> BlockWrite for Recorder<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let range = ByteRange::between(offset, offset.saturating_add(length));
        Box::pin(self.run(Operation::Write, range, persist, self.disk.write(offset, data, persist)))
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.run(Operation::Zero, range, persist, self.disk.zero(range, mode, persist)))
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.run(Operation::Discard, range, persist, self.disk.discard(range, persist)))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.run(Operation::Flush, ByteRange::between(0, 0), Persist::Cached, self.disk.flush()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDisk;

    #[tokio::test]
    async fn the_record_tells_what_happened_and_what_is_durable() {
        let disk = Recorder::new(MemoryDisk::new("m", 1000));
        let r = |offset, length| ByteRange::new(offset, length).unwrap();
        disk.write(0, Bytes::from(vec![1; 10]), Persist::Cached).await.unwrap();
        disk.flush().await.unwrap();
        disk.write(5, Bytes::from(vec![1; 10]), Persist::Cached).await.unwrap();
        disk.write(100, Bytes::from(vec![1; 10]), Persist::Durable).await.unwrap();
        disk.read(r(0, 7)).await.unwrap();
        disk.read(r(990, 20)).await.unwrap_err();
        assert_eq!((disk.count(Operation::Write), disk.bytes(Operation::Write), disk.bytes(Operation::Read)), (3, 30, 27));
        assert_eq!(disk.ranges(Operation::Write).total(), 25);
        assert_eq!(disk.not_durable().iter().map(|(range, ())| range).collect::<Vec<_>>(), [r(5, 10)]);
        let requests = disk.requests();
        assert!(requests.iter().all(|q| q.ended > Some(q.started)));
        assert_eq!(requests.iter().filter(|q| !q.succeeded).count(), 1);
        disk.clear();
        assert!(disk.requests().is_empty());
    }

    #[tokio::test]
    async fn a_flush_covers_only_what_was_completed_before_it_began() {
        let disk = Recorder::new(MemoryDisk::new("m", 1000));
        let write = disk.write(0, Bytes::from(vec![1; 10]), Persist::Cached);
        let flush = disk.flush();
        // Both record their start when first polled: the flush begins while the write is not yet complete.
        let (a, b) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                write.await
            },
            flush
        );
        a.and(b).unwrap();
        assert_eq!(disk.not_durable().total(), 10);
    }
}
