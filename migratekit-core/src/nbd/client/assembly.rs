//! The reply to one request, put together from what the server sends. Pure: headers and bytes in, a result out.
//!
//! ```text
//! header -> Want::Nothing            the header says it all
//!        -> Want::Head(n)            n bytes more tell what follows: give them to Assembly::head
//!        -> Want::Data { at, length} these bytes of the buffer: fill Assembly::space
//! ```
//!
//! Chunks of a structured reply may come in any order, but each byte of a READ must be told exactly once ("Structured reply
//! types"): a gap, an overlap or an excess is a fault of the server, and the buffer is not handed out.

use bytes::Bytes;

use super::coverage::Coverage;
use crate::block::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::handshake::facts::MetaContext;
use crate::nbd::limits::{MAX_REPLY_CHUNKS, MAX_STATUS_REPLY};
use crate::nbd::wire::{Reader, chunk, errno};

const OPERATION: &str = "take a reply of the NBD server";

/// The longest payload of an error chunk: number, length, text (at most 4096 by "String encoding"), offset.
const MAX_ERROR_CHUNK: u32 = 4 + 2 + 4096 + 8;

/// What a request expects in its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// An acknowledgement.
    Done,
    /// This many bytes, read from this offset.
    Data {
        /// Offset of the request, in bytes.
        offset: u64,
        /// Length of the request, in bytes.
        length: u32,
    },
    /// Extents of this many bytes.
    Status {
        /// Length of the request, in bytes.
        length: u32,
    },
}

/// What is needed next to go on with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Nothing: this message is complete.
    Nothing,
    /// This many bytes, for [`Assembly::head`].
    Head(usize),
    /// This run of the buffer, by [`Assembly::space`].
    Data {
        /// Place in the buffer.
        at: usize,
        /// Bytes.
        length: usize,
    },
}

/// Extents of one meta context: its number, then length and flags of each.
pub(crate) type StatusReply = (u32, Vec<(u32, u32)>);
/// The same, by the context's name.
pub(crate) type NamedStatus = (String, Vec<(u32, u32)>);

/// A whole successful reply.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Acknowledged.
    Done,
    /// The bytes.
    Data(Bytes),
    /// The extents, by the name of each context that was told.
    Status(Vec<NamedStatus>),
}

/// An error number of the server, with its text, and the offset of the fault where it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError {
    pub(crate) number: u32,
    pub(crate) text: String,
    pub(crate) offset: Option<u64>,
}

impl ServerError {
    /// As an error of ours.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let (kind, message) = match self.number {
            errno::EPERM => (ErrorKind::Denied, "the server does not permit it (EPERM)"),
            errno::EIO => (ErrorKind::Io, "the server reports an input/output error (EIO)"),
            errno::ENOMEM => (ErrorKind::Busy, "the server is out of memory (ENOMEM)"),
            errno::EINVAL => (ErrorKind::InvalidInput, "the server finds the request invalid (EINVAL)"),
            errno::ENOSPC => (ErrorKind::NoSpace, "the server has no space left (ENOSPC)"),
            errno::EOVERFLOW => (ErrorKind::Unsupported, "the server cannot answer in one piece (EOVERFLOW)"),
            errno::ENOTSUP => (ErrorKind::Unsupported, "the server does not support this, or not fast (ENOTSUP)"),
            errno::ESHUTDOWN => (ErrorKind::Unreachable, "the server is shutting down (ESHUTDOWN)"),
            _ => (ErrorKind::Io, "the server reports an error of a number that the protocol does not know"),
        };
        let mut e = Error::new(kind, operation, message);
        if let Some(offset) = self.offset {
            e = e.with("offset", offset);
        }
        if !matches!(kind, ErrorKind::Denied | ErrorKind::NoSpace | ErrorKind::InvalidInput | ErrorKind::Unsupported) {
            e = e.with("error-number", self.number);
        }
        if self.text.is_empty() { e } else { e.with("server-says", self.text) }
    }
}

/// The state of one reply.
#[derive(Debug)]
pub(crate) struct Assembly {
    expect: Expect,
    buffer: Option<Buffer>,
    coverage: Coverage,
    status: Vec<StatusReply>,
    error: Option<ServerError>,
    chunks: u32,
    /// The chunk whose head is being read: its type and payload length.
    chunk: (u16, u32),
}

impl Assembly {
    pub(crate) fn new(expect: Expect) -> Self {
        Assembly { expect, buffer: None, coverage: Coverage::default(), status: Vec::new(), error: None, chunks: 0, chunk: (0, 0) }
    }

    /// A simple reply came.
    pub(crate) fn simple(&mut self, error: u32, structured: bool) -> Result<Want> {
        if self.chunks != 0 {
            return Err(broken("a simple reply follows chunks of a structured one"));
        }
        if error != 0 {
            self.error = Some(ServerError { number: error, text: String::new(), offset: None });
            return Ok(Want::Nothing);
        }
        match self.expect {
            Expect::Done => Ok(Want::Nothing),
            Expect::Data { .. } if structured => Err(broken("a simple reply answers a read, where structured ones were agreed")),
            Expect::Data { length, .. } => self.data(0, length),
            Expect::Status { .. } => Err(broken("a simple reply answers a request for extents")),
        }
    }

    /// A chunk header came.
    pub(crate) fn chunk(&mut self, kind: u16, length: u32) -> Result<Want> {
        self.chunks += 1;
        if self.chunks > MAX_REPLY_CHUNKS {
            return Err(broken("a reply has more chunks than the client accepts"));
        }
        self.chunk = (kind, length);
        let wrong = |message| Err(broken(message).with("chunk-length", length));
        match (kind, self.expect) {
            (chunk::NONE, _) if length == 0 => Ok(Want::Nothing),
            (chunk::NONE, _) => wrong("a chunk of type NONE has a payload"),
            (chunk::OFFSET_DATA, Expect::Data { .. }) if length > 8 => Ok(Want::Head(8)),
            (chunk::OFFSET_DATA, Expect::Data { .. }) => wrong("a data chunk has no data"),
            (chunk::OFFSET_HOLE, Expect::Data { .. }) if length == 12 => Ok(Want::Head(12)),
            (chunk::OFFSET_HOLE, Expect::Data { .. }) => wrong("a hole chunk is not 12 bytes long"),
            (chunk::BLOCK_STATUS, Expect::Status { .. }) => {
                if length < 12 || length % 8 != 4 {
                    wrong("a chunk of extents has a wrong length")
                } else if length > MAX_STATUS_REPLY {
                    wrong("a chunk of extents is longer than the client accepts")
                } else {
                    Ok(Want::Head(usize_of(length)))
                }
            }
            (kind, _) if kind & chunk::ERROR_BIT != 0 => {
                if (6..=MAX_ERROR_CHUNK).contains(&length) {
                    Ok(Want::Head(usize_of(length)))
                } else {
                    wrong("an error chunk has a wrong length")
                }
            }
            _ => Err(broken("a chunk has a type that does not belong to the request").with("type", kind)),
        }
    }

    /// The bytes of [`Want::Head`].
    pub(crate) fn head(&mut self, bytes: &[u8]) -> Result<Want> {
        let mut r = Reader::new(bytes);
        let (kind, length) = self.chunk;
        match (kind, self.expect) {
            (chunk::OFFSET_DATA, Expect::Data { offset, .. }) => {
                let from = self.relative(offset, r.u64())?;
                self.data(from, length.saturating_sub(8))
            }
            (chunk::OFFSET_HOLE, Expect::Data { offset, .. }) => {
                let from = self.relative(offset, r.u64())?;
                match self.data(from, r.u32().unwrap_or_default())? {
                    Want::Data { at, length } => self.space(at, length)?.fill(0),
                    Want::Nothing | Want::Head(_) => {}
                }
                Ok(Want::Nothing)
            }
            (chunk::BLOCK_STATUS, Expect::Status { length }) => self.extents(r, length),
            _ => self.error_chunk(r),
        }
    }

    /// The run of the buffer that [`Want::Data`] names.
    pub(crate) fn space(&mut self, at: usize, length: usize) -> Result<&mut [u8]> {
        let end = at.saturating_add(length);
        self.buffer
            .as_mut()
            .and_then(|b| b.get_mut(at..end))
            .ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "a reply points outside its buffer"))
    }

    /// The reply is whole: its result. The outer error is a fault of the server against the protocol.
    pub(crate) fn finish(self, contexts: &[MetaContext]) -> Result<std::result::Result<Outcome, ServerError>> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        Ok(Ok(match self.expect {
            Expect::Done => Outcome::Done,
            Expect::Data { length, .. } => match self.buffer {
                Some(buffer) if self.coverage.covers(length) => Outcome::Data(buffer.freeze()),
                _ => return Err(broken("the reply to a read leaves bytes out")),
            },
            Expect::Status { .. } if self.status.is_empty() => return Err(broken("the reply to a request for extents has none")),
            Expect::Status { .. } => Outcome::Status(named(self.status, contexts)?),
        }))
    }

    /// Where in the buffer an offset of the wire lies.
    fn relative(&self, base: u64, offset: Option<u64>) -> Result<u32> {
        offset
            .and_then(|o| o.checked_sub(base))
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| broken("a chunk lies outside the range that was read").with("chunk-offset", offset.unwrap_or_default()))
    }

    /// Claims a run of the buffer, which is made at the first need.
    fn data(&mut self, from: u32, count: u32) -> Result<Want> {
        let Expect::Data { length, .. } = self.expect else {
            return Err(broken("data came for a request that reads none"));
        };
        if count == 0 {
            return Err(broken("a hole chunk is empty"));
        }
        if from.checked_add(count).is_none_or(|end| end > length) {
            return Err(broken("a chunk reaches beyond the range that was read").with("chunk-length", count));
        }
        if !self.coverage.add(from, count) {
            return Err(broken("two chunks of a reply tell the same bytes"));
        }
        self.buffer.get_or_insert_with(|| Buffer::take(usize_of(length)));
        Ok(Want::Data { at: usize_of(from), length: usize_of(count) })
    }

    fn extents(&mut self, mut r: Reader<'_>, asked: u32) -> Result<Want> {
        let id = r.u32().unwrap_or_default();
        if self.status.iter().any(|(other, _)| *other == id) {
            return Err(broken("a reply tells the extents of a meta context twice"));
        }
        let mut told = 0_u32;
        let mut extents: Vec<(u32, u32)> = Vec::new();
        while let (Some(length), Some(flags)) = (r.u32(), r.u32()) {
            if length == 0 {
                return Err(broken("an extent is empty"));
            }
            if told >= asked {
                return Err(broken("extents reach beyond the range that was asked for"));
            }
            // The last one may reach further than asked; the rest is not used.
            let length = length.min(asked - told);
            told += length;
            match extents.last_mut() {
                Some(last) if last.1 == flags => last.0 += length,
                _ => extents.push((length, flags)),
            }
        }
        self.status.push((id, extents));
        Ok(Want::Nothing)
    }

    fn error_chunk(&mut self, mut r: Reader<'_>) -> Result<Want> {
        let number = r.u32().unwrap_or_default();
        let text = r.u16().and_then(|n| r.take(usize::from(n))).ok_or_else(|| broken("the text of an error chunk is cut off"))?;
        if number == 0 {
            return Err(broken("an error chunk has the error number 0"));
        }
        let offset = if self.chunk.0 == chunk::ERROR_OFFSET {
            Some(r.u64().ok_or_else(|| broken("an error chunk lacks its offset"))?)
        } else {
            None
        };
        let text = crate::nbd::handshake::facts::text_of(text);
        self.error.get_or_insert(ServerError { number, text, offset });
        Ok(Want::Nothing)
    }
}

/// Replaces the numbers of the connection by the names they stand for.
fn named(status: Vec<StatusReply>, contexts: &[MetaContext]) -> Result<Vec<NamedStatus>> {
    let name_of = |id| contexts.iter().find(|c| c.id == id).map(|c| c.name.clone());
    status
        .into_iter()
        .map(|(id, extents)| name_of(id).map(|name| (name, extents)))
        .collect::<Option<_>>()
        .ok_or_else(|| broken("the server tells extents of a meta context that was not selected"))
}

fn usize_of(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn broken(message: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, OPERATION, message)
}
