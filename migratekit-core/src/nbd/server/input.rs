//! The bytes a connection sends: a small buffer in front of the socket, out of which many small requests come with one system
//! call, while long payloads go straight to where they are kept.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::nbd::stream::ReadHalf;
use crate::nbd::wire::{REQUEST_LENGTH, Request};

/// The buffer of a connection that sends long payloads: what is read with a header must be copied, so little is read.
const SMALL: usize = 4 * 1024;
/// The buffer of a connection that sends many small requests.
const LARGE: usize = 64 * 1024;
/// A payload from here on is long.
const LONG: usize = 32 * 1024;

/// What the header buffer holds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Request(Request),
    /// Too few bytes yet.
    Short,
    /// What comes is no request.
    Garbage,
}

/// The buffer in front of the socket.
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    window: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Input { buffer: vec![0; SMALL], start: 0, end: 0, window: SMALL }
    }

    /// What was read and not yet taken.
    pub(super) fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or(&[])
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Takes the next request header.
    pub(super) fn next(&mut self) -> Next {
        let Some(bytes) = self.buffered().first_chunk::<REQUEST_LENGTH>() else { return Next::Short };
        match Request::decode(bytes) {
            Some(request) => {
                self.consume(REQUEST_LENGTH);
                Next::Request(request)
            }
            None => Next::Garbage,
        }
    }

    /// Learns from a payload's length how much to read ahead.
    pub(super) fn learn(&mut self, payload: usize) {
        if payload >= LONG {
            self.window = SMALL;
        }
    }

    /// Reads more behind what is buffered; 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, reader: &mut ReadHalf, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.window {
            self.buffer.resize(self.window, 0);
        }
        let window = self.window.max(self.end + 1).min(self.buffer.len());
        let space = self.buffer.get_mut(self.end..window).unwrap_or(&mut []);
        let room = space.len();
        let n = ready!(poll_read(reader, space, cx))?;
        self.end += n;
        if n == room {
            // There was more: this client sends faster than one small buffer.
            self.window = LARGE;
        }
        Poll::Ready(Ok(n))
    }
}

/// Reads some bytes; 0 at the end of the stream.
pub(super) fn poll_read(reader: &mut ReadHalf, space: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut space = ReadBuf::new(space);
    ready!(Pin::new(reader).poll_read(cx, &mut space))?;
    Poll::Ready(Ok(space.filled().len()))
}
