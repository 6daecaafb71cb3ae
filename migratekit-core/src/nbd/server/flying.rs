//! The requests a connection has under way on its disk: futures that were not ready at once.
//!
//! One task polls them all. Each has a slot with a waker of its own, so that the end of one request polls only that one; slots and
//! wakers are used again, so a request under way costs no allocation of ours.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A set of futures, of which those that end are handed out.
pub(super) struct Flying<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    woken: Arc<Mutex<Woken>>,
    /// Reused space for the slots woken since the last poll.
    batch: Vec<usize>,
    fresh: bool,
}

struct Slot<F> {
    future: Option<F>,
    waker: Waker,
}

/// Who woke since the last poll, and whom to tell.
struct Woken {
    slots: Vec<usize>,
    task: Waker,
}

struct SlotWaker {
    slot: usize,
    woken: Arc<Mutex<Woken>>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        if !woken.slots.contains(&self.slot) {
            woken.slots.push(self.slot);
        }
        let task = woken.task.clone();
        drop(woken);
        task.wake();
    }
}

impl<F: Future + Unpin> Flying<F> {
    pub(super) fn new() -> Self {
        let woken = Woken { slots: Vec::new(), task: Waker::noop().clone() };
        Flying { slots: Vec::new(), free: Vec::new(), woken: Arc::new(Mutex::new(woken)), batch: Vec::new(), fresh: false }
    }

    /// Whether a future was taken since the last poll: nobody waits for it yet.
    pub(super) fn fresh(&self) -> bool {
        self.fresh
    }

    /// Takes a future, to be polled at the next [`Flying::poll`].
    pub(super) fn push(&mut self, future: F) {
        self.fresh = true;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if let Some(place) = self.slots.get_mut(slot) {
            place.future = Some(future);
        } else {
            let waker = Arc::new(SlotWaker { slot, woken: Arc::clone(&self.woken) }).into();
            self.slots.push(Slot { future: Some(future), waker });
        }
        self.lock().slots.push(slot);
    }

    /// Polls what woke; hands each result to `done`. Registers the task for the rest.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut done: impl FnMut(F::Output)) {
        self.fresh = false;
        let mut batch = std::mem::take(&mut self.batch);
        {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            if !woken.task.will_wake(cx.waker()) {
                woken.task = cx.waker().clone();
            }
            std::mem::swap(&mut batch, &mut woken.slots);
        }
        for slot in batch.drain(..) {
            let Some(place) = self.slots.get_mut(slot) else { continue };
            let Some(future) = place.future.as_mut() else { continue };
            if let Poll::Ready(value) = Pin::new(future).poll(&mut Context::from_waker(&place.waker)) {
                place.future = None;
                self.free.push(slot);
                done(value);
            }
        }
        self.batch = batch;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Woken> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn futures_end_in_their_own_order_and_slots_are_used_again() {
        let mut flying = Flying::new();
        let mut ended = Vec::new();
        for round in 0..3u32 {
            let mut senders = Vec::new();
            for id in 0..4u32 {
                let (tx, rx) = tokio::sync::oneshot::channel::<()>();
                senders.push(tx);
                let future: crate::block::BoxFuture<'_, u32> = Box::pin(async move {
                    let _ = rx.await;
                    round * 10 + id
                });
                flying.push(future);
            }
            assert_eq!(flying.slots.len() - flying.free.len(), 4);
            for id in [2usize, 0, 3, 1] {
                poll_fn(|cx| {
                    flying.poll(cx, |v| ended.push(v));
                    Poll::Ready(())
                })
                .await;
                let (tx, _) = tokio::sync::oneshot::channel();
                let _ = std::mem::replace(&mut senders[id], tx).send(());
                let before = ended.len();
                poll_fn(|cx| {
                    flying.poll(cx, |v| ended.push(v));
                    if ended.len() > before { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
            assert_eq!(flying.free.len(), 4);
            assert_eq!(flying.slots.len(), 4);
        }
        assert_eq!(ended, [2, 0, 3, 1, 12, 10, 13, 11, 22, 20, 23, 21]);
    }
}
