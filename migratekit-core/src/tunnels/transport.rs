//! The socket under a session, with what russh does not do by itself.
//!
//! - **It reads while it waits to write.** A session of russh writes what it has gathered and reads nothing meanwhile; two such sessions
//!   that both have much to write wait for each other for ever. Here a write that finds the socket full takes in what the peer sends,
//!   up to [`READ_AHEAD`] and [`READ_AHEAD_PER_CHANNEL`] for each channel that is open: that is all the peer may send before it hears of
//!   the windows again, so the peer's write ends, it reads, and ours goes on.
//! - **It reads in large pieces.** russh asks for four bytes and then for a packet; each would be a system call.
//! - **It tells when the socket has all** that the session had to write ([`Control::batches`]), so that no more than a little is given to the
//!   session meanwhile.
//! - **It can be cut** from outside, whatever the session is busy with ([`Control::cut`]).
//! - **It can be held up** ([`Control::hold`]): while a consumer of a foreign peer takes nothing, nothing more is read. Our own peers need
//!   no such thing (see [`super::flow`]).
//! - **It gives up a write that stands still** for [`WRITE_STALL`], and knows how long the peer has been silent ([`Control::silent`]).

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{fmt, sync::Arc};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::limits::{READ_AHEAD, READ_AHEAD_PER_CHANNEL, SOCKET_READ, WRITE_STALL};
use crate::clock;
use crate::task::CancellationToken;

/// The shortest pause between two looks whether the peer is silent.
const SHORTEST_LOOK: Duration = Duration::from_millis(5);

/// What others may do to a transport, and see of it.
#[derive(Debug)]
pub(super) struct Control {
    cut: CancellationToken,
    is_cut: AtomicBool,
    read: AtomicU64,
    written: AtomicU64,
    began: clock::Instant,
    /// When the socket last brought something, in milliseconds since it began.
    heard: AtomicU64,
    hold: Mutex<Hold>,
    channels: AtomicUsize,
    batches: AtomicU64,
    /// Who waits for the end of a batch.
    waiting: Mutex<Vec<Waker>>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            cut: CancellationToken::new(),
            is_cut: AtomicBool::new(false),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            began: clock::now(),
            heard: AtomicU64::new(0),
            hold: Mutex::default(),
            channels: AtomicUsize::new(0),
            batches: AtomicU64::new(0),
            waiting: Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Hold {
    holders: usize,
    waker: Option<Waker>,
}

impl Control {
    /// Ends the connection where it stands: its next read or write fails.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.cancel();
    }

    /// Whether it was cut.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Nothing is read until as many [`Control::release`]s.
    pub(super) fn hold(&self) {
        self.lock().holders += 1;
    }

    /// See [`Control::hold`].
    pub(super) fn release(&self) {
        let mut hold = self.lock();
        hold.holders = hold.holders.saturating_sub(1);
        if hold.holders > 0 {
            return;
        }
        // What the peer said meanwhile could not be heard.
        self.hear();
        if let Some(waker) = hold.waker.take() {
            waker.wake();
        }
    }

    /// Bytes taken from the socket, and given to it.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }

    /// So many channels are open.
    pub(super) fn set_channels(&self, open: usize) {
        self.channels.store(open, Ordering::Relaxed);
    }

    /// What may be read ahead now.
    fn read_ahead(&self) -> u64 {
        let open = u64::try_from(self.channels.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        READ_AHEAD.saturating_add(open.saturating_mul(READ_AHEAD_PER_CHANNEL))
    }

    /// How often the socket had taken all that the session had written.
    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::SeqCst)
    }

    /// Wakes `cx` when there are more than `seen` of [`Control::batches`]; `true` when there are already.
    pub(super) fn poll_batch(&self, cx: &Context<'_>, seen: u64) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.batches() != seen {
            return true;
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        false
    }

    /// The socket has all that was written.
    pub(super) fn batch_ended(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.batches.fetch_add(1, Ordering::SeqCst);
        waiting.drain(..).for_each(Waker::wake);
    }

    fn hear(&self) {
        self.heard.store(u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long it lives.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// For how long the socket has brought nothing.
    pub(super) fn silence(&self) -> Duration {
        self.age().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// Ends when the peer has been silent for `limit`. While nothing is read because somebody holds it up, that is not the peer's doing.
    pub(super) async fn silent(&self, limit: Duration) {
        loop {
            let held = self.lock().holders > 0;
            let silence = self.silence();
            if silence >= limit && !held {
                return;
            }
            let left = if held { limit } else { limit.saturating_sub(silence) };
            clock::sleep(left.max(SHORTEST_LOOK)).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether reading has to wait; then `cx` is woken when it may go on.
    fn poll_held(&self, cx: &Context<'_>) -> bool {
        let mut hold = self.lock();
        if hold.holders == 0 {
            return false;
        }
        hold.waker = Some(cx.waker().clone());
        true
    }
}

/// See the [module documentation](self).
pub(super) struct Transport<S> {
    socket: S,
    control: Arc<Control>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What the last read of the socket brought; `last.0..last.1` is not handed on yet.
    buffer: Vec<u8>,
    last: (usize, usize),
    /// What earlier reads brought, oldest first.
    ahead: VecDeque<Bytes>,
    ahead_bytes: u64,
    /// How reading ahead ended, to be told when all before it was handed on.
    end: Option<io::Result<()>>,
    /// Runs while a write stands still.
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> fmt::Debug for Transport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("control", &self.control).finish_non_exhaustive()
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut")
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    pub(super) fn new(socket: S, control: Arc<Control>) -> Self {
        let cut = Box::pin(control.cut.clone().cancelled_owned());
        let buffer = vec![0; SOCKET_READ];
        Transport { socket, control, cut, buffer, last: (0, 0), ahead: VecDeque::new(), ahead_bytes: 0, end: None, stalled: None }
    }

    /// Hands on what was read before.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if let Some(part) = self.ahead.front_mut() {
            let taken = part.split_to(part.len().min(buf.remaining()));
            buf.put_slice(&taken);
            self.ahead_bytes = self.ahead_bytes.saturating_sub(u64::try_from(taken.len()).unwrap_or(u64::MAX));
            if part.is_empty() {
                self.ahead.pop_front();
            }
            return true;
        }
        let part = self.buffer.get(self.last.0..self.last.1).unwrap_or_default();
        let n = part.len().min(buf.remaining());
        buf.put_slice(part.get(..n).unwrap_or_default());
        self.last.0 += n;
        n > 0
    }

    /// Fills the buffer, which is empty, by one read of the socket.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(&mut self.buffer);
        let end = Pin::new(&mut self.socket).poll_read(cx, &mut read);
        let n = read.filled().len();
        self.last = (0, n);
        if n > 0 {
            self.control.read.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.control.hear();
        }
        end.map_ok(|()| n)
    }

    /// Takes in what the peer sends, as far as there is room.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() && self.ahead_bytes < self.control.read_ahead() {
            if self.last.0 < self.last.1 {
                let part = Bytes::copy_from_slice(self.buffer.get(self.last.0..self.last.1).unwrap_or_default());
                self.ahead_bytes = self.ahead_bytes.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
                self.ahead.push_back(part);
                self.last = (0, 0);
            }
            match self.poll_fill(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => self.end = Some(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => self.end = Some(Err(e)),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Transport<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.control.is_cut() {
            return Poll::Ready(Err(cut_off()));
        }
        if this.control.poll_held(cx) {
            return if this.cut.as_mut().poll(cx).is_ready() { Poll::Ready(Err(cut_off())) } else { Poll::Pending };
        }
        if this.hand_on(buf) {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = this.end.take() {
            this.end = Some(Ok(()));
            return Poll::Ready(end);
        }
        match this.poll_fill(cx) {
            Poll::Ready(Ok(_)) => {
                this.hand_on(buf);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending if this.cut.as_mut().poll(cx).is_ready() => Poll::Ready(Err(cut_off())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.control.is_cut() {
            return Poll::Ready(Err(cut_off()));
        }
        if let Poll::Ready(end) = Pin::new(&mut this.socket).poll_write(cx, buf) {
            this.stalled = None;
            let n = end?;
            this.control.written.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
            return Poll::Ready(Ok(n));
        }
        this.read_ahead(cx);
        let stalled = this.stalled.get_or_insert_with(|| Box::pin(clock::sleep(WRITE_STALL)));
        if stalled.as_mut().poll(cx).is_ready() {
            this.control.cut();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")));
        }
        if this.cut.as_mut().poll(cx).is_ready() { Poll::Ready(Err(cut_off())) } else { Poll::Pending }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let end = Pin::new(&mut self.socket).poll_flush(cx);
        if end.is_ready() {
            self.control.batch_ended();
        }
        end
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::units::MIB;

    /// A session as russh runs it: writes all of its batch, then reads.
    async fn batch(mut transport: Transport<tokio::io::DuplexStream>, batch: u8) -> Transport<tokio::io::DuplexStream> {
        transport.write_all(&vec![batch; 2 * MIB as usize]).await.unwrap();
        let mut got = vec![0; 2 * MIB as usize];
        for piece in got.chunks_mut(70_000) {
            let (head, body) = piece.split_at_mut(4);
            transport.read_exact(head).await.unwrap();
            transport.read_exact(body).await.unwrap();
        }
        assert!(got.iter().all(|b| *b == 3 - batch));
        transport
    }

    #[tokio::test]
    async fn two_sides_that_write_before_they_read_both_end() {
        // A "socket" that holds 64 KiB, and two batches of 2 MiB: without reading ahead neither write ends.
        let (a, b) = tokio::io::duplex(64 * 1024);
        let (a, b) = (Transport::new(a, Arc::default()), Transport::new(b, Arc::default()));
        a.control.set_channels(1);
        b.control.set_channels(1);
        let both = async { tokio::join!(batch(a, 1), batch(b, 2)) };
        let (a, _b) = clock::within(std::time::Duration::from_secs(20), both).await.expect("they wait for each other");
        assert_eq!(a.control.moved(), (2 * MIB, 2 * MIB));
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_bounded_and_in_order() {
        let (a, mut peer) = tokio::io::duplex(64 * 1024);
        let control = Arc::new(Control::default());
        control.set_channels(1);
        let mut a = Transport::new(a, Arc::clone(&control));
        let pattern: Vec<u8> = (0..12 * MIB).map(|i| (i % 253) as u8).collect();
        let (feed, expected) = (pattern.clone(), pattern);
        let feeder = async { peer.write_all(&feed).await.map(|()| peer) };
        let blocked = async {
            // Nobody reads what we write, so this never ends; it reads ahead up to its bound.
            let stuck = clock::within(std::time::Duration::from_millis(300), a.write_all(&vec![7; MIB as usize])).await;
            assert!(stuck.is_none());
            let (read, _) = a.control.moved();
            let most = READ_AHEAD + READ_AHEAD_PER_CHANNEL;
            assert!(read >= most && read <= most + 2 * SOCKET_READ as u64, "{read}");
            let mut got = vec![0; expected.len()];
            a.read_exact(&mut got).await.unwrap();
            assert!(got == expected, "in order");
        };
        let (fed, ()) = tokio::join!(feeder, blocked);
        fed.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stands_still_is_given_up_and_progress_is_not() {
        let (a, mut peer) = tokio::io::duplex(1024);
        let mut a = Transport::new(a, Arc::default());
        let slow = async {
            // Each piece within the deadline, all of it far beyond.
            let mut piece = [0; 512];
            for _ in 0..8 {
                clock::sleep(WRITE_STALL / 2).await;
                peer.read_exact(&mut piece).await.unwrap();
            }
        };
        let (end, ()) = tokio::join!(a.write_all(&[0; 6 * 1024]), slow);
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(a.control.moved().1, 1024 + 8 * 512, "what the peer took in time was written");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_byte() {
        let (a, mut peer) = tokio::io::duplex(1024);
        let control = Arc::new(Control::default());
        let mut a = Transport::new(a, Arc::clone(&control));
        let (limit, step) = (Duration::from_secs(95), Duration::from_secs(60));
        for _ in 0..3 {
            assert!(clock::within(step, control.silent(limit)).await.is_none(), "something came in time");
            peer.write_all(b"x").await.unwrap();
            a.read_exact(&mut [0]).await.unwrap();
        }
        let began = clock::now();
        control.silent(limit).await;
        let took = began.elapsed();
        assert!(took >= limit - Duration::from_millis(1) && took < limit + Duration::from_secs(1), "{took:?}");
        control.hold();
        assert!(clock::within(step, control.silent(limit)).await.is_none(), "it is we who do not listen");
    }

    #[tokio::test]
    async fn cut_and_held_transports_do_as_told() {
        let (a, mut peer) = tokio::io::duplex(1024);
        let control = Arc::new(Control::default());
        let mut a = Transport::new(a, Arc::clone(&control));
        peer.write_all(b"hello").await.unwrap();
        control.hold();
        let mut got = [0; 5];
        tokio::select! {
            biased;
            _ = a.read_exact(&mut got) => panic!("it is held"),
            () = async { control.release() } => {}
        }
        a.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        let (end, ()) = tokio::join!(a.read(&mut got), async { control.cut() });
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(a.write_all(b"x").await.is_err());
    }
}
