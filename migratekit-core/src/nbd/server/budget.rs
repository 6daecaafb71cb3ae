//! The bytes of payload under way over all connections of a server.
//!
//! A request that carries a payload, in or out, takes its length (BLOCK_STATUS the most its answer may take) before the payload is read or made, and gives it back when the
//! write ended or the reply left. Who finds too little waits, first come first served, and reads no further from its socket. No
//! connection needs a second share to give its first one back, so each wait ends when earlier requests end; a peer that stands
//! still while others wait is closed ([`crate::nbd::limits::CROWDED_STALL_TIME`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::block::BoxFuture;

/// The budget of a server.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    total: u32,
}

/// Bytes taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Share(Option<Taken>);

/// A permit, and the account of the connection that holds it.
#[derive(Debug)]
struct Taken {
    permit: OwnedSemaphorePermit,
    held: Arc<AtomicU64>,
}

impl Taken {
    fn new(permit: OwnedSemaphorePermit, held: Arc<AtomicU64>) -> Self {
        held.fetch_add(length(&permit), Ordering::Relaxed);
        Taken { permit, held }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.held.fetch_sub(length(&self.permit), Ordering::Relaxed);
    }
}

fn length(permit: &OwnedSemaphorePermit) -> u64 {
    u64::try_from(permit.num_permits()).unwrap_or(u64::MAX)
}

impl Share {
    /// Of a request without a payload.
    pub(super) fn none() -> Self {
        Share(None)
    }

    /// Whether there is something to give back.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

/// A wait for bytes.
pub(super) type Wait = BoxFuture<'static, Share>;

impl Budget {
    pub(super) fn new(total: u64) -> Self {
        let total = u32::try_from(total).unwrap_or(u32::MAX).max(1);
        let permits = usize::try_from(total).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Budget { bytes: Arc::new(Semaphore::new(permits)), waiting: Arc::new(AtomicUsize::new(0)), total }
    }

    /// Bytes at once, or the wait for them; counted in `held` while taken. A request longer than the whole budget takes all of it.
    pub(super) fn take(&self, length: u32, held: &Arc<AtomicU64>) -> Result<Share, Wait> {
        let length = length.min(self.total);
        if let Ok(permit) = Arc::clone(&self.bytes).try_acquire_many_owned(length) {
            return Ok(Share(Some(Taken::new(permit, Arc::clone(held)))));
        }
        let held = Arc::clone(held);
        let bytes = Arc::clone(&self.bytes);
        let waiting = Waiting::new(&self.waiting);
        Err(Box::pin(async move {
            let _waiting = waiting;
            // The semaphore is never closed.
            Share(bytes.acquire_many_owned(length).await.ok().map(|permit| Taken::new(permit, held)))
        }))
    }

    /// Whether some connection waits.
    pub(super) fn crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Bytes taken now.
    pub(super) fn used(&self) -> u64 {
        u64::from(self.total).saturating_sub(self.bytes.available_permits().try_into().unwrap_or(u64::MAX))
    }
}

struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_waited_for_and_given_back() {
        let budget = Budget::new(100);
        let held = Arc::new(AtomicU64::new(0));
        let first = budget.take(60, &held).ok().unwrap();
        let all = budget.take(1000, &held).err().unwrap();
        assert!(budget.crowded());
        assert_eq!((budget.used(), held.load(Ordering::Relaxed)), (60, 60));
        drop(first);
        let all = all.await;
        assert_eq!((budget.used(), budget.crowded(), held.load(Ordering::Relaxed)), (100, false, 100));
        drop(all);
        assert_eq!((budget.used(), held.load(Ordering::Relaxed)), (0, 0));
    }
}
