//! Numbers of the protocol, and its headers of fixed size. Pure: bytes in, values out; every decoder takes any bytes.
//!
//! Source: the NBD project's `doc/proto.md`, sections "Values" and "Protocol phases". All integers are big-endian.

use crate::units::ByteRange;

/// `NBDMAGIC`, the first eight bytes of a server.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the second eight bytes of a newstyle server, and the head of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Head of an option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Head of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Head of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Head of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags (server): `FIXED_NEWSTYLE`.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flags (server): `NO_ZEROES`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flags mirror the two above, in 32 bits.
pub const CLIENT_FIXED_NEWSTYLE: u32 = 1 << 0;
/// See [`FLAG_NO_ZEROES`].
pub const CLIENT_NO_ZEROES: u32 = 1 << 1;

/// Transmission flags.
pub mod transmission {
    #![allow(missing_docs)]
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const ROTATIONAL: u16 = 1 << 4;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_RESIZE: u16 = 1 << 9;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Option codes.
pub mod option {
    #![allow(missing_docs)]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Option reply codes; errors have bit 31.
pub mod option_reply {
    #![allow(missing_docs)]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR_BIT: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    pub const ERR_PLATFORM: u32 = ERROR_BIT | 4;
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
}

/// Information types of INFO and GO.
pub mod info {
    #![allow(missing_docs)]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Commands.
pub mod command {
    #![allow(missing_docs)]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
pub mod command_flag {
    #![allow(missing_docs)]
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Chunk types of structured replies; errors have bit 15.
pub mod chunk {
    #![allow(missing_docs)]
    pub const FLAG_DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT | 1;
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Error values.
pub mod errno {
    #![allow(missing_docs)]
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const ENOMEM: u32 = 12;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;
    pub const ESHUTDOWN: u32 = 108;
}

/// Flags of the meta context `base:allocation`.
pub const STATE_HOLE: u32 = 1 << 0;
/// See [`STATE_HOLE`].
pub const STATE_ZERO: u32 = 1 << 1;
/// The standard meta context.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Our meta context: which blocks the ledger of the export knows as current. Flags: see [`ledger_state`].
pub const LEDGER_CONTEXT: &str = "migratekit:ledger";
/// Prefix of our meta context that names the pass a connection writes for: `migratekit:pass:ID`. Selected, it makes the
/// connection's writes belong to pass ID and makes `migratekit:ledger` speak relative to it. LIST_META_CONTEXT with query
/// `migratekit:` shows the export's last pass in this form. ID: 1 to 64 of `[0-9a-zA-Z._-]`.
pub const PASS_CONTEXT_PREFIX: &str = "migratekit:pass:";

/// Prefix of the export name under which our server offers the digests of an export as a read-only disk:
/// `migratekit:digest:blake3:BLOCKSIZE:NAME` (see [`super::export::Export::digests`]). NAME is the name as a writer would give it.
pub const DIGEST_NAME_PREFIX: &str = "migratekit:digest:blake3:";

/// Flags of `migratekit:ledger`, relative to the pass of the connection (without one: to the export's last pass).
pub mod ledger_state {
    /// Every byte of the range was written by this pass and flushed.
    pub const PROVEN: u32 = 1 << 0;
    /// This pass wrote to a part of the block, or not yet flushed what it wrote.
    pub const PARTIAL: u32 = 1 << 1;
    /// An earlier pass proved it, this one did not touch it.
    pub const PROVEN_BEFORE: u32 = 1 << 2;
    /// None of the three: unknown.
    pub const UNKNOWN: u32 = 0;
}

/// Length of a request header.
pub const REQUEST_LENGTH: usize = 28;
/// Length of a simple reply header.
pub const SIMPLE_REPLY_LENGTH: usize = 16;
/// Length of a structured chunk header.
pub const CHUNK_LENGTH: usize = 20;
/// Length of an option header (client to server).
pub const OPTION_LENGTH: usize = 16;
/// Length of an option reply header.
pub const OPTION_REPLY_LENGTH: usize = 20;

/// A request header (without the payload of a WRITE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Flags of [`command_flag`].
    pub flags: u16,
    /// One of [`command`], or unknown.
    pub command: u16,
    /// The client's mark, returned in replies.
    pub cookie: u64,
    /// Offset in bytes. Any value.
    pub offset: u64,
    /// Length in bytes.
    pub length: u32,
}

impl Request {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_LENGTH] {
        let mut w = Writer::<REQUEST_LENGTH>::new();
        w.put(&REQUEST_MAGIC.to_be_bytes());
        w.put(&self.flags.to_be_bytes());
        w.put(&self.command.to_be_bytes());
        w.put(&self.cookie.to_be_bytes());
        w.put(&self.offset.to_be_bytes());
        w.put(&self.length.to_be_bytes());
        w.bytes
    }

    /// Reads a header; `None` when the magic is wrong.
    #[must_use]
    pub fn decode(bytes: &[u8; REQUEST_LENGTH]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        if r.u32()? != REQUEST_MAGIC {
            return None;
        }
        Some(Request { flags: r.u16()?, command: r.u16()?, cookie: r.u64()?, offset: r.u64()?, length: r.u32()? })
    }

    /// Offset and length as a checked range.
    pub fn range(&self) -> crate::Result<ByteRange> {
        ByteRange::new(self.offset, u64::from(self.length))
    }
}

/// The header of a reply, simple or structured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    /// `error` is 0 or one of [`errno`]; payload of a READ follows when it is 0.
    Simple {
        /// Error value.
        error: u32,
        /// The request's mark.
        cookie: u64,
    },
    /// One chunk; `length` bytes of payload follow.
    Chunk {
        /// `chunk::FLAG_DONE` or 0, unknown bits possible.
        flags: u16,
        /// One of [`chunk`].
        kind: u16,
        /// The request's mark.
        cookie: u64,
        /// Payload length.
        length: u32,
    },
}

impl ReplyHeader {
    /// How many bytes the header has that begins with these four; `None` when no reply begins so.
    #[must_use]
    pub fn length_of(magic: u32) -> Option<usize> {
        match magic {
            SIMPLE_REPLY_MAGIC => Some(SIMPLE_REPLY_LENGTH),
            STRUCTURED_REPLY_MAGIC => Some(CHUNK_LENGTH),
            _ => None,
        }
    }

    /// Reads a header from at least [`ReplyHeader::length_of`] bytes; `None` when the magic is wrong or bytes are missing.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        match r.u32()? {
            SIMPLE_REPLY_MAGIC => Some(ReplyHeader::Simple { error: r.u32()?, cookie: r.u64()? }),
            STRUCTURED_REPLY_MAGIC => Some(ReplyHeader::Chunk { flags: r.u16()?, kind: r.u16()?, cookie: r.u64()?, length: r.u32()? }),
            _ => None,
        }
    }

    /// Appends the wire form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            ReplyHeader::Simple { error, cookie } => {
                out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
                out.extend_from_slice(&error.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
            }
            ReplyHeader::Chunk { flags, kind, cookie, length } => {
                out.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
    }
}

/// An option as its sender writes it: header and data.
#[must_use]
pub fn encode_option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(OPTION_LENGTH + data.len());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// An option header: code and length of the data that follows; `None` when the magic is wrong.
#[must_use]
pub fn decode_option(bytes: &[u8; OPTION_LENGTH]) -> Option<(u32, u32)> {
    let mut r = Reader::new(bytes);
    (r.u64()? == OPTION_MAGIC).then_some(())?;
    Some((r.u32()?, r.u32()?))
}

/// An option reply as the server writes it.
#[must_use]
pub fn encode_option_reply(option: u32, reply: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(OPTION_REPLY_LENGTH + data.len());
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// An option reply header: option, reply code, length of the data that follows; `None` when the magic is wrong.
#[must_use]
pub fn decode_option_reply(bytes: &[u8; OPTION_REPLY_LENGTH]) -> Option<(u32, u32, u32)> {
    let mut r = Reader::new(bytes);
    (r.u64()? == OPTION_REPLY_MAGIC).then_some(())?;
    Some((r.u32()?, r.u32()?, r.u32()?))
}

/// Reads big-endian numbers and byte runs off the front of a slice; never panics.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    fn new() -> Self {
        Writer { bytes: [0; N], at: 0 }
    }

    fn put(&mut self, part: &[u8]) {
        if let Some(to) = self.bytes.get_mut(self.at..self.at + part.len()) {
            to.copy_from_slice(part);
            self.at += part.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire() {
        let request = Request { flags: 3, command: command::WRITE, cookie: 0x0123_4567_89ab_cdef, offset: 1 << 43, length: 65536 };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        for reply in
            [ReplyHeader::Simple { error: 5, cookie: 9 }, ReplyHeader::Chunk { flags: 1, kind: chunk::OFFSET_DATA, cookie: 7, length: 12 }]
        {
            let mut out = Vec::new();
            reply.encode(&mut out);
            assert_eq!(ReplyHeader::decode(&out), Some(reply));
            assert_eq!(ReplyHeader::decode(&out[..out.len() - 1]), None);
        }
    }
}
