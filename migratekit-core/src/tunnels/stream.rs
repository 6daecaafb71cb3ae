//! A channel as a stream of bytes, whose two halves never make the session wait.
//!
//! ```text
//!  session task ── arrived, credit, eof, closed ──▶ Flow ◀── ReadHalf (takes; gives credit back)  ──▶ messages to the session
//!                                                    ▲   ◀── WriteHalf (spends credit; whole packets) ──▶
//! ```
//!
//! The session's task only puts bytes into the [`Flow`] and wakes the reader. What a stopped reader makes us hold is bounded by the
//! credit (peers of ours) or by holding up the connection (foreign peers): see [`super::flow`]. Credit travels as extended data
//! of a code of our own, beside the data of the other direction.
//!
//! The write half gathers small writes into packets, as a buffered writer does: what is written leaves when a packet is full, or with
//! a flush. When both halves are dropped the channel is closed.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::UnboundedSender;

use super::flow::{Credit, Inbox};
use super::limits::{CHANNEL_BUFFER, PACKET, STUCK_BUFFER};
use super::transport::Control;
use crate::block::BoxFuture;

/// What the halves need of the session: messages out.
pub(super) trait Outgoing: Send + Sync + 'static {
    /// Sends a payload; returns when the session has taken it.
    fn data(self: Arc<Self>, payload: Bytes) -> BoxFuture<'static, io::Result<()>>;
    /// Gives credit back.
    fn credit(self: Arc<Self>, amount: u32) -> BoxFuture<'static, io::Result<()>>;
    /// Says that no more data comes.
    fn eof(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>>;
    /// Closes the channel.
    fn close(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>>;
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

#[derive(Debug)]
struct State {
    inbox: Inbox,
    credit: Credit,
    end: End,
    reader: Option<Waker>,
    writer: Option<Waker>,
    reader_gone: bool,
    /// The write half waits for the session.
    writing: bool,
    /// The connection is held up on this channel's account.
    holds: bool,
}

/// What the session's task and the halves of one channel share.
#[derive(Debug)]
pub(super) struct Flow {
    own: bool,
    control: Arc<Control>,
    state: Mutex<State>,
}

impl Flow {
    /// A new channel; `own`: the peer is one of ours and keeps the account of [`Credit`].
    pub(super) fn new(own: bool, control: Arc<Control>) -> Self {
        let credit = Credit::new(own);
        let state = State {
            inbox: Inbox::default(),
            credit,
            end: End::Open,
            reader: None,
            writer: None,
            reader_gone: false,
            writing: false,
            holds: false,
        };
        Flow { own, control, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Data came. `false`: a peer of ours sent more than it had credit for.
    pub(super) fn arrived(&self, data: &[u8]) -> bool {
        let mut state = self.lock();
        if state.reader_gone || state.end != End::Open {
            return true;
        }
        state.inbox.put(data);
        if self.own && state.inbox.held() > CHANNEL_BUFFER {
            return false;
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
    }

    /// Takes what there is.
    fn poll_take(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
        state.inbox.take(|part| {
            let n = part.len().min(buf.remaining());
            buf.put_slice(part.get(..n).unwrap_or_default());
            n
        });
        self.settle(&mut state);
        Poll::Ready(Ok(()))
    }

    /// Holds up the connection of a foreign peer, or lets it go on, as the inbox is full or not. While the write half waits, it may be
    /// for a window that the peer can only give if it is heard: then more is taken in.
    fn settle(&self, state: &mut State) {
        if self.own {
            return;
        }
        let held = state.inbox.held();
        let (most, enough) = if state.writing { (STUCK_BUFFER, STUCK_BUFFER) } else { (CHANNEL_BUFFER, CHANNEL_BUFFER / 2) };
        if !state.holds && held > most {
            state.holds = true;
            self.control.hold();
        } else if state.holds && held <= enough {
            state.holds = false;
            self.control.release();
        }
    }

    /// The write half waits for the session, or does not any more.
    fn writing(&self, writing: bool) {
        let mut state = self.lock();
        if state.writing != writing {
            state.writing = writing;
            self.settle(&mut state);
        }
    }

    /// The credit to give back now.
    fn owed(&self) -> Option<u32> {
        if self.own { self.lock().inbox.give_back() } else { None }
    }

    /// How much of `wanted` bytes may be sent now; they are spent.
    fn poll_spend(&self, cx: &Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        match state.end {
            End::Closed => return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the peer closed the channel"))),
            End::Broken => return Poll::Ready(Err(broken())),
            End::Open | End::Eof => {}
        }
        let allowed = state.credit.allows(wanted);
        if allowed == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.credit.spend(allowed);
        Poll::Ready(Ok(allowed))
    }

    fn reader_gone(&self) {
        let mut state = self.lock();
        state.reader_gone = true;
        state.inbox.clear();
        if state.holds {
            state.holds = false;
            self.control.release();
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the tunnel's connection broke")
}

/// A channel whose users are gone: its number, and where to say so.
pub(super) type Unused = (u32, Arc<dyn Outgoing>);

/// Closes the channel when both halves are gone.
struct Lease {
    id: u32,
    outgoing: Arc<dyn Outgoing>,
    closer: UnboundedSender<Unused>,
    /// What must live as long as the channel: a connection that has no other use.
    _keep: Option<Box<dyn Send + Sync>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // When nobody closes any more, the session is ending.
        let _ = self.closer.send((self.id, Arc::clone(&self.outgoing)));
    }
}

/// A channel of a tunnel as a stream. [`split`](TunnelStream::split) gives two halves that can be used at the same time.
pub struct TunnelStream {
    read: ReadHalf,
    write: WriteHalf,
}

impl TunnelStream {
    pub(super) fn new(
        id: u32,
        flow: Arc<Flow>,
        outgoing: Arc<dyn Outgoing>,
        closer: UnboundedSender<Unused>,
        keep: Option<Box<dyn Send + Sync>>,
    ) -> Self {
        let lease = Arc::new(Lease { id, outgoing, closer, _keep: keep });
        let read = ReadHalf { flow: Arc::clone(&flow), lease: Arc::clone(&lease), giving: None };
        let write = WriteHalf { flow, lease, gathered: BytesMut::new(), sending: None, eof_sent: false };
        TunnelStream { read, write }
    }

    /// Two halves; the channel is closed when both are dropped.
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelStream").field("flow", &self.read.flow).finish_non_exhaustive()
    }
}

type Sending = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// The half that is read.
pub struct ReadHalf {
    flow: Arc<Flow>,
    lease: Arc<Lease>,
    giving: Option<Sending>,
}

impl ReadHalf {
    /// Gives credit back, one message at a time; a message that fails is one of a connection that ends, which the next read tells.
    fn give(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(giving) = &mut self.giving {
                if giving.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.giving = None;
            }
            let Some(amount) = self.flow.owed() else { return };
            self.giving = Some(Arc::clone(&self.lease.outgoing).credit(amount));
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.flow.poll_take(cx, buf);
        self.give(cx);
        taken
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.flow.reader_gone();
    }
}

/// The half that is written.
pub struct WriteHalf {
    flow: Arc<Flow>,
    lease: Arc<Lease>,
    gathered: BytesMut,
    sending: Option<Sending>,
    eof_sent: bool,
}

const FULL: usize = PACKET as usize;

impl WriteHalf {
    /// Waits until nothing is being sent.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(sending) = &mut self.sending {
            let Poll::Ready(sent) = sending.as_mut().poll(cx) else {
                self.flow.writing(true);
                return Poll::Pending;
            };
            self.flow.writing(false);
            self.sending = None;
            sent?;
        }
        Poll::Ready(Ok(()))
    }

    /// Begins to send what is gathered; nothing is being sent.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let allowed = ready!(self.flow.poll_spend(cx, self.gathered.len().min(FULL)))?;
        let payload = self.gathered.split_to(allowed).freeze();
        self.sending = Some(Arc::clone(&self.lease.outgoing).data(payload));
        Poll::Ready(Ok(()))
    }

    /// Sends until less than a packet is gathered.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gathered.len() >= FULL {
            ready!(self.poll_sent(cx))?;
            ready!(self.poll_begin(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        if self.gathered.is_empty() {
            self.gathered.reserve(FULL);
        }
        let mut taken = 0;
        for part in parts {
            let room = FULL - self.gathered.len().min(FULL);
            let piece = part.get(..part.len().min(room)).unwrap_or_default();
            self.gathered.extend_from_slice(piece);
            taken += piece.len();
        }
        // A packet that can leave now leaves now; what cannot is driven by the next write or flush.
        if let Poll::Ready(Err(e)) = self.poll_room(cx) {
            return Poll::Ready(Err(e));
        }
        if let Poll::Ready(Err(e)) = self.poll_sent(cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_gather(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_gather(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_sent(cx))?;
            if self.gathered.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_begin(cx))?;
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        if !self.eof_sent {
            self.eof_sent = true;
            self.sending = Some(Arc::clone(&self.lease.outgoing).eof());
        }
        self.poll_sent(cx)
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
