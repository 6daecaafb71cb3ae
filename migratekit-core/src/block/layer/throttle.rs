//! Not faster than so many bytes a second.
//!
//! A [`Throttle`] is a bucket that fills at the rate, up to a tenth of a second's worth. A request is let through when the bucket
//! is not in debt, and takes its bytes from it, into debt if need be; so a request of any length passes, and the next one waits.
//! Requests are let through in the order in which they asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::clock::{self, Instant};
use crate::error::Result;
use crate::units::ByteRange;

/// How much of a second's worth may be saved up for a burst: a tenth.
const BURST: f64 = 0.1;

/// The longest single wait, so that numbers stay in range; then it is looked at again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A rate that several disks may share; cheap to clone, and changed while they work.
#[derive(Debug, Clone)]
pub struct Throttle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bucket: Mutex<Bucket>,
    /// Who waits at the head of the queue holds it; tokio's lock is fair.
    queue: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes a second; `None`: no limit.
    rate: Option<f64>,
    /// Bytes saved up, or owed when negative.
    level: f64,
    at: Instant,
}

impl Throttle {
    /// A limit of so many bytes a second; `None` lets everything through. 0 counts as 1.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let bucket = Bucket { rate: bytes_per_second.map(to_rate), level: 0.0, at: clock::now() };
        Throttle(Arc::new(Shared { bucket: Mutex::new(bucket), queue: tokio::sync::Mutex::new(()), changed: Notify::new() }))
    }

    /// Changes the limit at once, also for those who wait. What is owed stays owed, and is paid at the new rate.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        {
            let mut bucket = self.bucket();
            bucket.refill();
            bucket.rate = bytes_per_second.map(to_rate);
        }
        self.0.changed.notify_waiters();
    }

    /// Waits for the turn, then takes `bytes`. Dropping the future takes nothing.
    pub async fn take(&self, bytes: u64) {
        if self.bucket().rate.is_none() {
            return;
        }
        let _turn = self.0.queue.lock().await;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // From here on a change is noticed, even before it is waited for.
            changed.as_mut().enable();
            let Some(wait) = self.bucket().try_take(bytes) else { return };
            tokio::select! {
                () = changed => {}
                () = clock::sleep(wait) => {}
            }
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `u64` as a float: exact up to 2^53 bytes a second, more than any disk.
fn to_rate(bytes_per_second: u64) -> f64 {
    float(bytes_per_second.max(1))
}

fn float(bytes: u64) -> f64 {
    // Two halves that are exact each.
    let high = u32::try_from(bytes >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(bytes & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

impl Bucket {
    fn refill(&mut self) {
        let now = clock::now();
        if let Some(rate) = self.rate {
            let gained = now.duration_since(self.at).as_secs_f64() * rate;
            self.level = (self.level + gained).min(rate * BURST);
        }
        self.at = now;
    }

    /// Takes, or says how long to wait.
    fn try_take(&mut self, bytes: u64) -> Option<Duration> {
        self.refill();
        let rate = self.rate?;
        if self.level < 0.0 {
            // Rounded up to a millisecond, which is what timers can do.
            let wait = Duration::try_from_secs_f64(-self.level / rate).unwrap_or(LONGEST_WAIT);
            return Some(wait.min(LONGEST_WAIT) + Duration::from_millis(1));
        }
        self.level -= float(bytes);
        None
    }
}

/// A disk whose reads and writes wait for a [`Throttle`]. Zeros and discards are free: their bytes are not moved.
#[derive(Debug, Clone)]
pub struct Throttled<D> {
    disk: D,
    throttle: Throttle,
}

impl<D> Throttled<D> {
    /// `disk` behind `throttle`.
    #[must_use]
    pub fn new(disk: D, throttle: Throttle) -> Self {
        Throttled { disk, throttle }
    }
}

impl<D: BlockRead> BlockRead for Throttled<D> {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.throttle.take(range.length()).await;
            self.disk.read(range).await
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.disk.extents(range)
    }
}

impl<D: BlockWrite> BlockWrite for Throttled<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.throttle.take(u64::try_from(data.len()).unwrap_or(u64::MAX)).await;
            self.disk.write(offset, data, persist).await
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.disk.zero(range, mode, persist)
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.disk.discard(range, persist)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDisk;
    use crate::units::MIB;

    /// Time is paused: it advances exactly as the timers say, so these are counts, not measurements.
    #[tokio::test(start_paused = true)]
    async fn two_disks_share_one_rate() {
        let throttle = Throttle::new(Some(10 * MIB));
        let disk = || Throttled::new(MemoryDisk::new("m", 2 * MIB), throttle.clone());
        let (a, b) = (disk(), disk());
        let before = clock::now();
        for _ in 0..50 {
            let (read, write) =
                tokio::join!(a.read(ByteRange::between(0, MIB)), b.write(0, Bytes::from(vec![1; 1 << 20]), Persist::Cached));
            read.map(|_| ()).and(write).unwrap();
        }
        let seconds = (clock::now() - before).as_secs_f64();
        assert!((9.8..10.3).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_those_who_wait() {
        let throttle = Throttle::new(Some(1));
        throttle.take(1_000_000).await;
        let before = clock::now();
        let waiting = throttle.take(1);
        tokio::pin!(waiting);
        tokio::select! {
            () = &mut waiting => panic!("it owes a million seconds"),
            () = clock::sleep(Duration::from_secs(100)) => {}
        }
        throttle.set(Some(1_000_000));
        waiting.await;
        assert!((clock::now() - before).as_secs_f64() < 101.1);
        throttle.take(u64::MAX).await;
        throttle.set(None);
        throttle.take(u64::MAX).await;
        assert!((clock::now() - before).as_secs_f64() < 101.1);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_saves_up_little() {
        let throttle = Throttle::new(Some(1000));
        clock::sleep(Duration::from_secs(3600)).await;
        let before = clock::now();
        for _ in 0..12 {
            throttle.take(100).await;
        }
        assert!((clock::now() - before).as_secs_f64() >= 1.0);
    }
}
