//! A channel as a stream of bytes.
//!
//! The halves lie on a [`Flow`] and never wait for the session themselves; its pump does (see [`super::channel`]). The write half gathers small writes
//! into packets, as a buffered writer does: what is written leaves when a packet is full, or with a flush; a flush is done when the session has all.
//! When both halves are dropped the channel is closed.
//!
//! A stream whose two ends agreed on it carries frames ([`super::compression`]): its users see none of that.

mod framing;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::framing::Framing;
use super::channel::Flow;
use super::compression::Compression;
use super::compression::frame::{Decoder, HEADER, Want};
use super::limits::PACKET;

/// What must live as long as one of the halves: a connection that has no other use.
type Kept = Option<Arc<dyn Send + Sync>>;

/// A channel of a tunnel as a stream. [`split`](TunnelStream::split) gives two halves that can be used at the same time.
pub struct TunnelStream {
    read: ReadHalf,
    write: WriteHalf,
}

impl TunnelStream {
    pub(super) fn new(flow: Arc<Flow>, kept: Kept) -> Self {
        let read = ReadHalf { flow: Arc::clone(&flow), frames: None, _kept: kept.clone() };
        TunnelStream { read, write: WriteHalf { flow, gathered: BytesMut::new(), framing: None, sealed: false, _kept: kept } }
    }

    /// The same stream, in frames both ways; what is sent is packed as `compression` says. To be called before the first byte.
    pub(super) fn in_frames(mut self, compression: Compression) -> Self {
        self.read.frames = Some(Decoder::new());
        self.write.framing = Some(Box::new(Framing::new(compression)));
        self
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

/// The half that is read.
pub struct ReadHalf {
    flow: Arc<Flow>,
    frames: Option<Decoder>,
    _kept: Kept,
}

impl AsyncRead for ReadHalf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match &mut this.frames {
            None => this.flow.poll_take(cx, buf, usize::MAX),
            Some(frames) => poll_frames(&this.flow, frames, cx, buf),
        }
    }
}

/// Reads what the frames carry.
fn poll_frames(flow: &Flow, frames: &mut Decoder, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    while buf.remaining() > 0 {
        let (taken, mine) = match frames.want()? {
            Want::Give(bytes) => {
                let given = bytes.get(..bytes.len().min(buf.remaining())).unwrap_or_default();
                buf.put_slice(given);
                (given.len(), true)
            }
            Want::Pass(most) => {
                let before = buf.filled().len();
                ready!(flow.poll_take(cx, buf, most))?;
                (buf.filled().len() - before, true)
            }
            Want::Fill(space) => {
                let mut space = ReadBuf::new(space);
                ready!(flow.poll_take(cx, &mut space, usize::MAX))?;
                (space.filled().len(), false)
            }
        };
        if taken == 0 {
            let whole = frames.is_between();
            let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ends in the middle of a frame of the tunnel");
            return Poll::Ready(if whole { Ok(()) } else { Err(cut()) });
        }
        frames.did(taken);
        if mine {
            break;
        }
    }
    Poll::Ready(Ok(()))
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.flow.reader_gone();
    }
}

/// The half that is written.
pub struct WriteHalf {
    flow: Arc<Flow>,
    /// What leaves next; in frames, what goes into the next one behind room for its header, until it is sealed.
    gathered: BytesMut,
    framing: Option<Box<Framing>>,
    /// The frame is made: it leaves as it is.
    sealed: bool,
    _kept: Kept,
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.flow.writer_gone();
    }
}

const FULL: usize = PACKET as usize;

impl WriteHalf {
    /// Puts packets until less than one is gathered.
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.framing.is_some() {
            return if self.sealed || self.gathered.len() >= FULL { self.poll_all(cx) } else { Poll::Ready(Ok(())) };
        }
        while self.gathered.len() >= FULL {
            ready!(self.flow.poll_put(cx, &mut self.gathered))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Puts all that is gathered.
    fn poll_all(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(framing) = &mut self.framing
            && !self.sealed
            && !self.gathered.is_empty()
        {
            framing.seal(&mut self.gathered);
            self.sealed = true;
        }
        while !self.gathered.is_empty() {
            let before = self.gathered.len();
            let put = self.flow.poll_put(cx, &mut self.gathered);
            ready!(put)?;
            if let Some(framing) = &mut self.framing {
                framing.sent(before - self.gathered.len());
            }
        }
        self.sealed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, cx: &Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        if parts.iter().all(|part| part.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if self.gathered.is_empty() {
            self.gathered.reserve(FULL);
            if self.framing.is_some() {
                self.gathered.extend_from_slice(&[0; HEADER]);
            }
        }
        let mut taken = 0;
        for part in parts {
            let room = FULL - self.gathered.len().min(FULL);
            let piece = part.get(..part.len().min(room)).unwrap_or_default();
            self.gathered.extend_from_slice(piece);
            taken += piece.len();
        }
        // A packet that can leave now leaves now; what cannot is driven by the next write or flush.
        match self.poll_room(cx) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => Poll::Ready(Ok(taken)),
        }
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
        let this = &mut *self;
        ready!(this.poll_all(cx))?;
        this.flow.poll_sent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.flow.want_eof();
        self.flow.poll_sent(cx)
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
