//! Tries again what may succeed later.
//!
//! Which errors, the error itself says ([`Error::retry`]). The wait begins with what the error hints, doubles with each further
//! try, and is shortened at random by up to half, so that many who failed together do not come back together. Attempts and total
//! time are bounded; then the last error comes back with [`Retry::Exhausted`]. Dropping the future ends all tries.
//!
//! Reads, writes, zeros and discards can be repeated: the result is the same. **A flush cannot**: when it failed, data of earlier
//! writes may be gone, and a second flush that succeeds would hide it. Only where the disk below sends again everything not yet
//! flushed after a broken connection may [`RetryPolicy::flush_again`] be set, and then only a connection that broke or a peer
//! that did not answer is tried again, never an error of the device.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::units::ByteRange;

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one request, the first one included; at least 1. Default: 8.
    pub attempts: u32,
    /// The longest wait between two tries. Default: 30 s.
    pub longest_wait: Duration,
    /// No try begins later than this after the first one began. Default: 5 minutes.
    pub total: Duration,
    /// Whether a flush may be tried again; see the module documentation. Default: false.
    pub flush_again: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { attempts: 8, longest_wait: Duration::from_secs(30), total: Duration::from_secs(300), flush_again: false }
    }
}

/// A disk that tries again. The head of its source file says more.
#[derive(Debug)]
pub struct Retrying<D> {
    disk: D,
    policy: RetryPolicy,
    retries: AtomicU64,
    jitter: RandomState,
}

impl<D> Retrying<D> {
    /// `disk` with this policy.
    #[must_use]
    pub fn new(disk: D, policy: RetryPolicy) -> Self {
        Retrying { disk, policy, retries: AtomicU64::new(0), jitter: RandomState::new() }
    }

    /// How often anything was tried again so far: for reports.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    async fn run<'a, T>(&'a self, request: impl Fn() -> BoxFuture<'a, Result<T>>, may_repeat: impl Fn(&Error) -> bool) -> Result<T> {
        let began = clock::now();
        let mut attempt = 1;
        loop {
            let error = match request().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let Retry::After(hint) = error.retry() else { return Err(error) };
            if !may_repeat(&error) {
                return Err(error);
            }
            let wait = self.wait(hint, attempt);
            if attempt >= self.policy.attempts || clock::now() - began + wait > self.policy.total {
                return Err(error.with_retry(Retry::Exhausted).with("attempts", attempt));
            }
            clock::sleep(wait).await;
            attempt += 1;
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The wait after try `attempt` (from 1) failed.
    fn wait(&self, hint: Duration, attempt: u32) -> Duration {
        let doubled = hint.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX)).min(self.policy.longest_wait);
        let number = self.jitter.hash_one((attempt, self.retries()));
        let percent = u32::try_from(number % 51).unwrap_or(0);
        doubled.saturating_sub(doubled.saturating_mul(percent) / 100)
    }
}

fn always(_: &Error) -> bool {
    true
}

impl<D: BlockRead> BlockRead for Retrying<D> {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(self.run(move || self.disk.read(range), always))
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.run(move || self.disk.extents(range), always))
    }
}

impl<D: BlockWrite> BlockWrite for Retrying<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.run(move || self.disk.write(offset, data.clone(), persist), always))
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.run(move || self.disk.zero(range, mode, persist), always))
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.run(move || self.disk.discard(range, persist), always))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        let may_repeat = |e: &Error| self.policy.flush_again && matches!(e.kind(), ErrorKind::Unreachable | ErrorKind::Timeout);
        Box::pin(self.run(|| self.disk.flush(), may_repeat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDisk;
    use crate::testing::{Effect, Fault, Faulty, Operation, Recorder, When};

    type Disk = Retrying<Recorder<Faulty<MemoryDisk>>>;

    fn disk(policy: RetryPolicy, faults: &[(Operation, When, ErrorKind)]) -> Disk {
        let faults = faults.iter().map(|(on, when, kind)| Fault { on: *on, when: *when, effect: Effect::Fail(*kind) }).collect();
        Retrying::new(Recorder::new(Faulty::new(MemoryDisk::new("m", 1000), 1, faults)), policy)
    }

    fn tries(disk: &Disk, operation: Operation) -> usize {
        disk.disk.count(operation)
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_succeed_later_is_tried_again() {
        let unreachable = ErrorKind::Unreachable;
        let disk = disk(
            RetryPolicy::default(),
            &[
                (Operation::Read, When::Nth(1), unreachable),
                (Operation::Read, When::Nth(2), ErrorKind::Timeout),
                (Operation::Write, When::Nth(1), unreachable),
            ],
        );
        let before = clock::now();
        disk.read(ByteRange::between(0, 10)).await.unwrap();
        let waited = clock::now() - before;
        assert!(
            waited >= Duration::from_millis(1500) && waited <= Duration::from_millis(3100),
            "1 s and 2 s, each less up to half: {waited:?}"
        );
        disk.write(0, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
        assert_eq!((tries(&disk, Operation::Read), tries(&disk, Operation::Write), disk.retries()), (3, 2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_and_time_have_an_end() {
        let fails = [(Operation::Read, When::From(1), ErrorKind::Timeout)];
        let few = disk(RetryPolicy { attempts: 3, ..RetryPolicy::default() }, &fails);
        let error = few.read(ByteRange::between(0, 10)).await.unwrap_err();
        assert_eq!((error.kind(), error.retry(), tries(&few, Operation::Read)), (ErrorKind::Timeout, Retry::Exhausted, 3));
        assert_eq!(error.context_value("attempts"), Some("3"));

        let before = clock::now();
        let policy = RetryPolicy { attempts: u32::MAX, total: Duration::from_secs(100), ..RetryPolicy::default() };
        let error = disk(policy, &fails).read(ByteRange::between(0, 10)).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Exhausted);
        assert!((clock::now() - before) <= Duration::from_secs(101));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_succeed_is_not_tried_again() {
        let disk = disk(RetryPolicy::default(), &[(Operation::Write, When::From(1), ErrorKind::NoSpace)]);
        let error = disk.write(0, Bytes::from_static(b"x"), Persist::Cached).await.unwrap_err();
        assert_eq!((error.retry(), tries(&disk, Operation::Write)), (Retry::Never, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_flush_is_not_tried_again_unless_allowed() {
        for (flush_again, kind, expected) in
            [(false, ErrorKind::Unreachable, 1), (true, ErrorKind::Unreachable, 2), (true, ErrorKind::Busy, 1), (true, ErrorKind::Io, 1)]
        {
            let disk = disk(RetryPolicy { flush_again, ..RetryPolicy::default() }, &[(Operation::Flush, When::Nth(1), kind)]);
            assert_eq!(disk.flush().await.is_ok(), expected == 2, "{kind}");
            assert_eq!(tries(&disk, Operation::Flush), expected, "{kind}");
        }
    }
}
