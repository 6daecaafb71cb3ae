//! What a copy did: counters while it runs, a report when it is done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Counters of a running copy; cheap to read at any time, from any thread. All in bytes but the last two.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    zeroed: AtomicU64,
    skipped: AtomicU64,
    resumed: AtomicU64,
    retries: AtomicU64,
    flushes: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProgressSnapshot {
    /// Bytes of the disk this copy is about.
    pub bytes_total: u64,
    /// Bytes of the disk that are dealt with. Never falls.
    pub bytes_done: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Bytes of data written to the target.
    pub bytes_written: u64,
    /// Bytes the target was told to zero.
    pub bytes_zeroed: u64,
    /// Zero bytes for which nothing was sent, since the target reads as zero there.
    pub bytes_skipped: u64,
    /// Bytes an earlier run of the same pass had proven.
    pub bytes_resumed: u64,
    /// Requests that were made again.
    pub retries: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Done,
    Read,
    Written,
    Zeroed,
    Skipped,
    Resumed,
    Retries,
    Flushes,
}

impl Progress {
    pub(crate) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, what: Count, amount: u64) {
        let counter = match what {
            Count::Done => &self.done,
            Count::Read => &self.read,
            Count::Written => &self.written,
            Count::Zeroed => &self.zeroed,
            Count::Skipped => &self.skipped,
            Count::Resumed => &self.resumed,
            Count::Retries => &self.retries,
            Count::Flushes => &self.flushes,
        };
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> ProgressSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bytes_total = get(&self.total);
        ProgressSnapshot {
            bytes_total,
            bytes_done: get(&self.done).min(bytes_total),
            bytes_read: get(&self.read),
            bytes_written: get(&self.written),
            bytes_zeroed: get(&self.zeroed),
            bytes_skipped: get(&self.skipped),
            bytes_resumed: get(&self.resumed),
            retries: get(&self.retries),
            flushes: get(&self.flushes),
        }
    }
}

/// A finished copy: every byte of its ranges is on the target, and a flush after the last write succeeded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CopyReport {
    /// The source, as people call it.
    pub source: String,
    /// The target.
    pub target: String,
    /// Capacity of the source in bytes.
    pub size: u64,
    /// The counters.
    #[serde(flatten)]
    pub counts: ProgressSnapshot,
    /// From the first request to the last flush, in seconds.
    pub seconds: f64,
    /// Bytes of the disk dealt with in a second.
    pub bytes_per_second: f64,
    /// Whether the target can flush. Without, the report does not speak of durability.
    pub durable: bool,
}

impl CopyReport {
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn new(source: String, target: String, size: u64, counts: ProgressSnapshot, time: Duration, durable: bool) -> Self {
        let seconds = time.as_secs_f64();
        let bytes_per_second = if seconds > 0.0 { counts.bytes_done as f64 / seconds } else { 0.0 };
        CopyReport { source, target, size, counts, seconds, bytes_per_second, durable }
    }
}
