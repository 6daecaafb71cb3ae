//! How much of a pass may be written and not be proven: one ledger interval.
//!
//! A write takes its bytes from the room before it begins. When it completed they stay taken, until a flush that began later has ended and
//! the ledger that tells of it is durable; when it failed or was given up, they are free at once. Who finds no room waits, in the order of
//! coming, for as long as a flush or two last. So whoever dies, and however slow the disk is, no more than the room has to be
//! written again.
//!
//! ```text
//!            ┌─────────────────── the room: one interval ──────────────────┐
//!  flush N:  │ completed before it began │ completed since │ begun │ free  │ ◀── writes; none free: they wait
//!            └───────────────────────────┴─────────────────┴───────┴───────┘
//!              ▲ free when N has ended     flush N+1
//! ```
//!
//! A flush begins when half of the room is taken: while it lasts, the other half fills. It begins earlier when somebody waits.
//!
//! Where the ledger cannot be written, room is freed all the same, as after a flush that failed: nothing is proven then, and the ledger does not
//! claim it.
//!
//! What proves nothing (a discard, a writer of no pass) takes nothing, and neither does a zero request that is longer than any read:
//! its source was known to be zero, and is not read again.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::block::MAX_REQUEST;
use crate::planted::planted;

/// The room of one export.
pub(super) struct Room {
    /// Bytes.
    free: Semaphore,
    size: u32,
    /// Bytes of writes that completed since the last flush began.
    filled: AtomicUsize,
    /// How many writes wait.
    waiting: AtomicUsize,
}

/// The place of a write that has begun; dropped, it is free.
pub(super) struct Place<'r> {
    room: &'r Room,
    permit: SemaphorePermit<'r>,
}

/// The export flushes no more: there will never be room.
#[derive(Debug)]
pub(super) struct Closed;

impl Room {
    /// Room for so many bytes, at most 4 GiB.
    pub(super) fn new(bytes: u64) -> Self {
        let size = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        let permits = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Room { free: Semaphore::new(permits), size, filled: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Takes the place of a write, or waits for it; then `flusher` is told. One that is longer than the room takes the whole of it.
    pub(super) async fn enter(&self, bytes: u64, flusher: &Notify) -> Result<Place<'_>, Closed> {
        let bytes = if planted("no-interval") { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX).min(self.size) };
        let permit = match self.free.try_acquire_many(bytes) {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::new(&self.waiting);
                flusher.notify_one();
                self.free.acquire_many(bytes).await.map_err(|_| Closed)?
            }
        };
        Ok(Place { room: self, permit })
    }

    /// Whether somebody waits for room that a flush would give.
    pub(super) fn is_short(&self) -> bool {
        self.is_waited_for() && self.filled.load(Ordering::SeqCst) > 0
    }

    /// Whether somebody waits for room.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Before a flush begins: the bytes it will free.
    pub(super) fn begin_flush(&self) -> usize {
        self.filled.swap(0, Ordering::SeqCst)
    }

    /// After a flush, well or not: what it lost is written again anyway.
    pub(super) fn end_flush(&self, bytes: usize) {
        self.free.add_permits(bytes);
    }

    /// There are no more flushes; who waits is told.
    pub(super) fn close(&self) {
        self.free.close();
    }
}

impl Place<'_> {
    /// The write completed: its place is taken until a flush has ended. To be called after the ledger knows of it.
    pub(super) fn fill(self) {
        self.room.filled.fetch_add(self.permit.num_permits(), Ordering::SeqCst);
        self.permit.forget();
    }
}

/// One who waits.
struct Waiting<'r>(&'r AtomicUsize);

impl<'r> Waiting<'r> {
    fn new(count: &'r AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a zero request of so many bytes takes.
pub(super) fn of_zeros(bytes: u64) -> u64 {
    if bytes > u64::from(MAX_REQUEST) { 0 } else { bytes }
}
