//! One channel: what the session's task, the two halves of its stream and its pump share.
//!
//! ```text
//!  session task ── arrived, credit, eof, closed ──▶ ┌──────┐ ◀── ReadHalf: takes
//!                                                   │ Flow │ ◀── WriteHalf: spends credit, puts one packet
//!  session task ◀── packet, credit, eof, close ─ pump └──────┘
//! ```
//!
//! The session's task only puts bytes in and wakes the reader; it never waits. What a stopped reader makes us hold is bounded by the credit
//! (peers of ours) or by holding up the connection (foreign peers): see [`super::flow`].
//!
//! **Only the pump waits for the session**, one message at a time, and it is a task: it always runs on. russh wakes one of those who wait for a
//! channel's window, and a future that is woken and not polled again keeps the others waiting for ever; so no future of russh lies in
//! a half, whose user may turn to something else.
//!
//! **The session is given little at a time**: at most [`BATCH`] of a channel until the socket has taken what the session had. russh encrypts whatever
//! it is given into one buffer; what waits here instead waits as what it was, in the buffers of who sends.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::ReadBuf;

use super::flow::{Credit, Inbox};
use super::limits::{BATCH, CHANNEL_BUFFER, PACKET, STUCK_BUFFER};
use super::transport::Control;

/// What a pump gives to the session. Each returns when the session has taken it.
pub(super) trait Outgoing: Send + Sync {
    /// A payload.
    fn data(&self, payload: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Credit that goes back.
    fn credit(&self, amount: u32) -> impl Future<Output = io::Result<()>> + Send;
    /// No more data comes.
    fn eof(&self) -> impl Future<Output = io::Result<()>> + Send;
    /// The channel is not used any more.
    fn close(&self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Where a channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The peer may still send.
    Open,
    /// The peer will send no more.
    Eof,
    /// The peer closed the channel.
    Closed,
    /// The connection broke.
    Broken,
}

/// What is on its way to the session.
#[derive(Debug, Default)]
struct Outbox {
    /// A payload that waits for the pump; its credit is spent.
    next: Option<Bytes>,
    /// The pump waits for the session.
    sending: bool,
    /// Bytes given to the session since the socket had all of it, and which of [`Control::batches`] that was.
    given: (u64, u64),
    /// A payload was not taken.
    lost: bool,
    eof_wanted: bool,
    eof_said: bool,
}

impl Outbox {
    /// Whether the session has every payload.
    fn is_sent(&self) -> bool {
        self.next.is_none() && !self.sending && !self.lost
    }
}

#[derive(Debug)]
struct State {
    inbox: Inbox,
    outbox: Outbox,
    credit: Credit,
    end: End,
    reader: Option<Waker>,
    writer: Option<Waker>,
    pump: Option<Waker>,
    reader_gone: bool,
    writer_gone: bool,
    /// The pump found the session full.
    stuck: bool,
    /// The connection is held up on this channel's account.
    holds: bool,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Flow {
    own: bool,
    control: Arc<Control>,
    state: Mutex<State>,
}

/// What a pump does next.
#[derive(Debug)]
enum Next {
    Data(Bytes),
    Credit(u32),
    Eof,
    /// Nobody uses the channel any more.
    Close,
    /// The connection is gone: nothing more to do.
    Over,
}

impl Flow {
    /// A new channel; `own`: the peer is one of ours and keeps the account of [`Credit`].
    pub(super) fn new(own: bool, control: Arc<Control>) -> Self {
        let state = State {
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            credit: Credit::new(own),
            end: End::Open,
            reader: None,
            writer: None,
            pump: None,
            reader_gone: false,
            writer_gone: false,
            stuck: false,
            holds: false,
        };
        Flow { own, control, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The session's task.

    /// Data came. `false`: a peer of ours sent more than it had credit for.
    pub(super) fn arrived(&self, data: &[u8]) -> bool {
        let mut state = self.lock();
        if state.end != End::Open {
            return true;
        }
        state.inbox.put(data);
        if self.own && state.inbox.held() > CHANNEL_BUFFER {
            return false;
        }
        if state.reader_gone {
            // Nobody will take it; the peer goes on.
            state.inbox.discard();
            wake(&mut state.pump);
        }
        self.settle(&mut state);
        wake(&mut state.reader);
        true
    }

    /// The peer gave credit back. `false`: more than there ever was.
    pub(super) fn credited(&self, amount: u32) -> bool {
        let mut state = self.lock();
        let right = state.credit.give(u64::from(amount));
        wake(&mut state.writer);
        right
    }

    /// The peer sends no more.
    pub(super) fn eof(&self) {
        self.ends(End::Eof);
    }

    /// The peer closed the channel.
    pub(super) fn closed(&self) {
        self.ends(End::Closed);
    }

    /// The connection is gone.
    pub(super) fn broken(&self) {
        self.ends(End::Broken);
    }

    fn ends(&self, end: End) {
        let mut state = self.lock();
        if matches!(state.end, End::Open | End::Eof) {
            state.end = end;
        }
        wake(&mut state.reader);
        wake(&mut state.writer);
        wake(&mut state.pump);
    }

    // The reader.

    /// Takes what there is, at most `most` bytes, which are more than none.
    pub(super) fn poll_take(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>, most: usize) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.inbox.is_empty() {
            return match state.end {
                End::Open => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
                End::Eof | End::Closed => Poll::Ready(Ok(())),
                End::Broken => Poll::Ready(Err(broken())),
            };
        }
        let mut left = most;
        state.inbox.take(|part| {
            let n = part.len().min(buf.remaining()).min(left);
            buf.put_slice(part.get(..n).unwrap_or_default());
            left -= n;
            n
        });
        self.settle(&mut state);
        if self.own && state.inbox.owes() {
            wake(&mut state.pump);
        }
        Poll::Ready(Ok(()))
    }

    /// Nobody reads any more.
    pub(super) fn reader_gone(&self) {
        let mut state = self.lock();
        state.reader_gone = true;
        state.inbox.discard();
        self.settle(&mut state);
        wake(&mut state.pump);
    }

    /// Holds up the connection of a foreign peer, or lets it go on, as the inbox is full or not. While the pump is stuck, it may be
    /// for a window that the peer can only give if it is heard: then more is taken in.
    fn settle(&self, state: &mut State) {
        if self.own {
            return;
        }
        let held = state.inbox.held();
        let (most, enough) = if state.stuck { (STUCK_BUFFER, STUCK_BUFFER) } else { (CHANNEL_BUFFER, CHANNEL_BUFFER / 2) };
        if !state.holds && held > most {
            state.holds = true;
            self.control.hold();
        } else if state.holds && held <= enough {
            state.holds = false;
            self.control.release();
        }
    }

    // The writer.

    /// Gives the first packet of `gathered`, or as much of it as there is credit for, to the pump.
    pub(super) fn poll_put(&self, cx: &Context<'_>, gathered: &mut BytesMut) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        match state.end {
            End::Closed => return Poll::Ready(Err(closed())),
            End::Broken => return Poll::Ready(Err(broken())),
            End::Open | End::Eof => {}
        }
        let allowed = state.credit.allows(gathered.len().min(PACKET as usize));
        if state.outbox.next.is_some() || allowed == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.credit.spend(allowed);
        state.outbox.next = Some(gathered.split_to(allowed).freeze());
        wake(&mut state.pump);
        Poll::Ready(Ok(()))
    }

    /// Waits until the session has all that was put.
    pub(super) fn poll_sent(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let said = state.outbox.eof_said || !state.outbox.eof_wanted;
        match state.end {
            // Who closed the channel need not hear that no more comes.
            End::Closed if state.outbox.is_sent() => Poll::Ready(Ok(())),
            End::Closed => Poll::Ready(Err(closed())),
            _ if state.outbox.is_sent() && said => Poll::Ready(Ok(())),
            End::Broken => Poll::Ready(Err(broken())),
            End::Open | End::Eof => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// No more data comes after what was put.
    pub(super) fn want_eof(&self) {
        let mut state = self.lock();
        state.outbox.eof_wanted = true;
        wake(&mut state.pump);
    }

    /// Nobody writes any more.
    pub(super) fn writer_gone(&self) {
        let mut state = self.lock();
        state.writer_gone = true;
        wake(&mut state.pump);
    }

    // The pump.

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Next> {
        let mut state = self.lock();
        if state.end == End::Broken {
            return Poll::Ready(Next::Over);
        }
        if state.reader_gone && state.writer_gone {
            return Poll::Ready(Next::Close);
        }
        if state.end != End::Closed {
            if self.own
                && let Some(amount) = state.inbox.give_back()
            {
                return Poll::Ready(Next::Credit(amount));
            }
            if state.outbox.next.is_some() && !self.may_give(&mut state.outbox, cx) {
                state.pump = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if let Some(payload) = state.outbox.next.take() {
                state.outbox.sending = true;
                state.outbox.given.0 += u64::try_from(payload.len()).unwrap_or(u64::MAX);
                wake(&mut state.writer);
                return Poll::Ready(Next::Data(payload));
            }
            if state.outbox.eof_wanted && !state.outbox.eof_said {
                return Poll::Ready(Next::Eof);
            }
        }
        state.pump = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the session may be given another payload now.
    fn may_give(&self, outbox: &mut Outbox, cx: &Context<'_>) -> bool {
        let batches = self.control.batches();
        if outbox.given.1 != batches {
            outbox.given = (0, batches);
        }
        if outbox.given.0 >= BATCH && self.control.poll_batch(cx, batches) {
            outbox.given = (0, self.control.batches());
        }
        outbox.given.0 < BATCH
    }

    /// What `giving` came to; `None` when nobody wants it any more.
    async fn unless_vain<T>(&self, giving: impl Future<Output = T>) -> Option<T> {
        let mut giving = pin!(giving);
        std::future::poll_fn(|cx| match giving.as_mut().poll(cx) {
            Poll::Ready(given) => Poll::Ready(Some(given)),
            Poll::Pending if self.poll_vain(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Whether nobody wants any more what the session does not take.
    fn poll_vain(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let vain = matches!(state.end, End::Closed | End::Broken) || (state.reader_gone && state.writer_gone);
        if !vain && !state.stuck {
            state.stuck = true;
            self.settle(&mut state);
        }
        state.pump = Some(cx.waker().clone());
        vain
    }

    /// The session took what it was given, or it did not.
    fn given(&self, taken: bool, eof: bool) {
        let mut state = self.lock();
        state.outbox.lost |= state.outbox.sending && !taken;
        state.outbox.sending = false;
        state.outbox.eof_said |= eof;
        state.stuck = false;
        self.settle(&mut state);
        wake(&mut state.writer);
    }
}

/// Carries what a channel has to say to the session, until nobody uses it any more. `forget` is called before the peer hears that it is
/// closed: its number may be given to another channel afterwards.
pub(super) async fn pump(flow: Arc<Flow>, outgoing: impl Outgoing, forget: impl FnOnce()) {
    loop {
        let next = std::future::poll_fn(|cx| flow.poll_next(cx)).await;
        let eof = matches!(next, Next::Eof);
        let given = match next {
            Next::Over => return,
            Next::Close => {
                forget();
                // Ends with the session at the latest.
                let _ = outgoing.close().await;
                return;
            }
            Next::Data(payload) => flow.unless_vain(outgoing.data(payload)).await,
            Next::Credit(amount) => flow.unless_vain(outgoing.credit(amount)).await,
            Next::Eof => flow.unless_vain(outgoing.eof()).await,
        };
        flow.given(matches!(given, Some(Ok(()))), eof);
        if matches!(given, Some(Err(_))) {
            flow.broken();
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the peer closed the channel")
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the tunnel's connection broke")
}

#[cfg(test)]
mod tests;
