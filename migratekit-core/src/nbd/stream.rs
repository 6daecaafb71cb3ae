//! What a connection needs of a byte stream: two halves that can be used at the same time.
//!
//! TCP and Unix sockets split without cost; anything else that is `AsyncRead + AsyncWrite` (TLS, an SSH channel, a pipe in
//! memory) goes through [`split_any`].

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The half that is read.
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The half that is written.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A byte stream in two halves.
pub trait ByteStream: Send {
    /// Splits it.
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf);
}

impl ByteStream for TcpStream {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (r, w) = (*self).into_split();
        (Box::new(r), Box::new(w))
    }
}

impl ByteStream for UnixStream {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (r, w) = (*self).into_split();
        (Box::new(r), Box::new(w))
    }
}

impl ByteStream for (ReadHalf, WriteHalf) {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        *self
    }
}

/// Splits any stream that is both.
pub fn split_any(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Box<dyn ByteStream> {
    let (r, w) = tokio::io::split(stream);
    let halves: (ReadHalf, WriteHalf) = (Box::new(r), Box::new(w));
    Box::new(halves)
}
