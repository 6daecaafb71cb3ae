//! Replies on their way to the socket: headers and payloads in order, written with as few system calls as possible and without
//! copying payloads.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::budget::Share;
use crate::nbd::stream::WriteHalf;

/// Parts handed to one system call.
const PARTS: usize = 64;

/// Payloads up to this many bytes are copied behind their header: cheaper than a part of their own.
const COPY: usize = 512;

/// Replies not yet written.
pub(super) struct Outbox {
    parts: VecDeque<Part>,
    /// How much of the first part is written.
    written: usize,
    bytes: usize,
    /// Bytes were written and are not flushed yet.
    wanted: bool,
}

enum Part {
    Head(Vec<u8>),
    Payload(Bytes),
    /// Nothing to write: the share of the budget that the payloads before it held, given back when they are gone.
    Release(Share),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Head(head) => head,
            Part::Payload(payload) => payload,
            Part::Release(_) => &[],
        }
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        Outbox { parts: VecDeque::new(), written: 0, bytes: 0, wanted: false }
    }

    /// Bytes not yet written.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is left to write or to flush.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && !self.wanted
    }

    /// Appends a head; `fill` writes it behind what is already gathered.
    pub(super) fn head(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.parts.back(), Some(Part::Head(head)) if head.len() < 4096) {
            self.parts.push_back(Part::Head(Vec::with_capacity(64)));
        }
        if let Some(Part::Head(head)) = self.parts.back_mut() {
            let before = head.len();
            fill(head);
            self.bytes += head.len() - before;
        }
    }

    /// Appends a payload.
    pub(super) fn payload(&mut self, payload: Bytes) {
        if payload.len() <= COPY {
            self.head(|head| head.extend_from_slice(&payload));
        } else {
            self.bytes += payload.len();
            self.parts.push_back(Part::Payload(payload));
        }
    }

    /// Gives `share` back when everything before it is written.
    pub(super) fn release(&mut self, share: Share) {
        if share.is_some() && !self.parts.is_empty() {
            self.parts.push_back(Part::Release(share));
        }
    }

    /// Writes until empty and flushed, or until the socket takes no more; `true` when bytes were written.
    pub(super) fn poll(&mut self, writer: &mut WriteHalf, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut moved = false;
        while self.bytes > 0 {
            let n = match self.poll_once(writer, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(n) => n?,
                Poll::Pending if moved => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            };
            moved = true;
            self.wanted = true;
            self.advance(n);
        }
        self.parts.clear();
        self.written = 0;
        if self.wanted {
            // TLS and tunnels keep bytes back until flushed; a socket has nothing to do.
            match Pin::new(writer).poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending if moved => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            }
            self.wanted = false;
        }
        Poll::Ready(Ok(moved))
    }

    fn poll_once(&self, writer: &mut WriteHalf, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        let mut skip = self.written;
        for (part, slice) in self.parts.iter().filter(|p| !p.bytes().is_empty()).zip(slices.iter_mut()) {
            *slice = IoSlice::new(part.bytes().get(skip..).unwrap_or(&[]));
            skip = 0;
            count += 1;
        }
        Pin::new(writer).poll_write_vectored(cx, slices.get(..count).unwrap_or(&[]))
    }

    fn advance(&mut self, n: usize) {
        self.bytes -= n.min(self.bytes);
        self.written += n;
        while let Some(part) = self.parts.front() {
            let length = part.bytes().len();
            if self.written < length {
                break;
            }
            self.written -= length;
            if let Some(Part::Release(share)) = self.parts.pop_front() {
                drop(share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything, and does not have it away before it was asked a second time.
    #[derive(Default)]
    struct SlowToFlush {
        asked: u32,
    }

    impl AsyncWrite for SlowToFlush {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.asked += 1;
            if self.asked < 2 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_not_flushed_is_not_gone() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut writer: WriteHalf = Box::<SlowToFlush>::default();
        let mut out = Outbox::new();
        out.head(|head| head.extend_from_slice(b"reply"));
        assert!(matches!(out.poll(&mut writer, &mut cx), Poll::Ready(Ok(true))), "the bytes moved");
        assert_eq!(out.len(), 0);
        assert!(!out.is_empty(), "they must be flushed still");
        assert!(matches!(out.poll(&mut writer, &mut cx), Poll::Ready(Ok(false))));
        assert!(out.is_empty());
    }
}
