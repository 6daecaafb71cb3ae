//! The handshake: what the two sides say before the first request ("Newstyle negotiation" in `doc/proto.md`).
//!
//! Pure: bytes and options in, actions out; no I/O. The two sides are state machines of their own ([`server`] and the client's);
//! here is what they share, the data of the options and of their replies:
//!
//! ```text
//! LIST                       -> SERVER (name)*, ACK
//! INFO, GO  InfoRequest      -> INFO (InfoReply)*, ACK | error with a text
//! LIST_META_CONTEXT,
//! SET_META_CONTEXT MetaQuery -> META_CONTEXT (id, name)*, ACK | error with a text
//! ```
//!
//! Every decoder takes any bytes, and allocates no more than the bytes it was given.

pub mod client;
pub mod facts;
pub mod plan;
pub mod server;

use super::limits;
use super::wire::{Reader, info};

/// Why the data of an option cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Its lengths contradict each other, or a string is not UTF-8 (`NBD_REP_ERR_INVALID`).
    Invalid(&'static str),
    /// It is longer than a bound of ours (`NBD_REP_ERR_TOO_BIG`).
    TooBig(&'static str),
}

impl Malformed {
    /// The cause in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Malformed::Invalid(text) | Malformed::TooBig(text) => text,
        }
    }
}

/// The data of INFO and GO: an export and what the client wants to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export.
    pub name: String,
    /// Types of [`info`]; unknown ones are to be ignored.
    pub requests: Vec<u16>,
}

impl InfoRequest {
    /// Reads the data of an INFO or GO option; a name has at most `max_name` bytes.
    pub fn decode(data: &[u8], max_name: u32) -> Result<Self, Malformed> {
        let short = Malformed::Invalid("the data is shorter than its own lengths say");
        let mut r = Reader::new(data);
        let name = read_string(&mut r, max_name)?;
        let count = r.u16().ok_or(short)?;
        if r.rest().len() != usize::from(count) * 2 {
            return Err(Malformed::Invalid("the number of information requests contradicts the length"));
        }
        let mut requests = Vec::with_capacity(usize::from(count));
        while let Some(request) = r.u16() {
            requests.push(request);
        }
        Ok(InfoRequest { name, requests })
    }

    /// The data of the option.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.name.len() + 6 + self.requests.len() * 2);
        put_string(&mut out, &self.name);
        out.extend_from_slice(&u16::try_from(self.requests.len()).unwrap_or(u16::MAX).to_be_bytes());
        for request in &self.requests {
            out.extend_from_slice(&request.to_be_bytes());
        }
        out
    }
}

/// One information about an export (the data of an INFO reply).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InfoReply {
    /// Size in bytes and transmission flags; always sent.
    Export {
        /// Capacity in bytes.
        size: u64,
        /// Flags of [`super::wire::transmission`].
        flags: u16,
    },
    /// The canonical name.
    Name(String),
    /// A line for people.
    Description(String),
    /// Size constraints, in bytes.
    BlockSize {
        /// Alignment of every request.
        minimum: u32,
        /// Alignment that performs well.
        preferred: u32,
        /// The longest payload.
        maximum: u32,
    },
    /// A type this code does not know; to be ignored.
    Unknown(u16),
}

impl InfoReply {
    /// Reads the data of an INFO reply.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let wrong = Malformed::Invalid("an information reply has the wrong length");
        let mut r = Reader::new(data);
        let reply = match r.u16().ok_or(wrong)? {
            info::EXPORT => InfoReply::Export { size: r.u64().ok_or(wrong)?, flags: r.u16().ok_or(wrong)? },
            info::BLOCK_SIZE => {
                InfoReply::BlockSize { minimum: r.u32().ok_or(wrong)?, preferred: r.u32().ok_or(wrong)?, maximum: r.u32().ok_or(wrong)? }
            }
            info::NAME => return Ok(InfoReply::Name(text(r.rest())?)),
            info::DESCRIPTION => return Ok(InfoReply::Description(text(r.rest())?)),
            other => return Ok(InfoReply::Unknown(other)),
        };
        if r.rest().is_empty() { Ok(reply) } else { Err(wrong) }
    }

    /// The data of the reply.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        match self {
            InfoReply::Export { size, flags } => {
                out.extend_from_slice(&info::EXPORT.to_be_bytes());
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
            }
            InfoReply::Name(name) => {
                out.extend_from_slice(&info::NAME.to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            InfoReply::Description(line) => {
                out.extend_from_slice(&info::DESCRIPTION.to_be_bytes());
                out.extend_from_slice(line.as_bytes());
            }
            InfoReply::BlockSize { minimum, preferred, maximum } => {
                out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                for size in [minimum, preferred, maximum] {
                    out.extend_from_slice(&size.to_be_bytes());
                }
            }
            InfoReply::Unknown(kind) => out.extend_from_slice(&kind.to_be_bytes()),
        }
        out
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaQuery {
    /// The export.
    pub export: String,
    /// What is asked for, each `namespace:leaf`.
    pub queries: Vec<String>,
}

impl MetaQuery {
    /// Reads the data of the option; `max_name` bytes of a name or query, `max_queries` queries.
    pub fn decode(data: &[u8], max_name: u32, max_queries: u32) -> Result<Self, Malformed> {
        let mut r = Reader::new(data);
        let export = read_string(&mut r, max_name)?;
        let count = r.u32().ok_or(Malformed::Invalid("the number of queries is missing"))?;
        if count > max_queries {
            return Err(Malformed::TooBig("too many metadata context queries"));
        }
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(read_string(&mut r, max_name)?);
        }
        if r.rest().is_empty() { Ok(MetaQuery { export, queries }) } else { Err(Malformed::Invalid("there is data behind the last query")) }
    }

    /// The data of the option.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, &self.export);
        out.extend_from_slice(&u32::try_from(self.queries.len()).unwrap_or(u32::MAX).to_be_bytes());
        for query in &self.queries {
            put_string(&mut out, query);
        }
        out
    }
}

/// The data of a META_CONTEXT reply.
#[must_use]
pub fn encode_meta_context(id: u32, name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.len());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out
}

/// Reads a META_CONTEXT reply: id and name.
pub fn decode_meta_context(data: &[u8]) -> Result<(u32, String), Malformed> {
    let mut r = Reader::new(data);
    let id = r.u32().ok_or(Malformed::Invalid("a metadata context reply has the wrong length"))?;
    Ok((id, text(r.rest())?))
}

/// The data of a SERVER reply (one entry of LIST).
#[must_use]
pub fn encode_list_entry(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.len());
    put_string(&mut out, name);
    out
}

/// Reads a SERVER reply: the name; details behind it are for people and left out.
pub fn decode_list_entry(data: &[u8]) -> Result<String, Malformed> {
    read_string(&mut Reader::new(data), limits::MAX_NAME)
}

/// Appends a string with its length in front.
fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend_from_slice(&u32::try_from(string.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(string.as_bytes());
}

/// Reads a string with its length in front.
fn read_string(r: &mut Reader<'_>, max: u32) -> Result<String, Malformed> {
    let short = Malformed::Invalid("the data is shorter than its own lengths say");
    let length = r.u32().ok_or(short)?;
    let bytes = usize::try_from(length).ok().and_then(|n| r.take(n)).ok_or(short)?;
    if length > max {
        return Err(Malformed::TooBig("a name is longer than the limit"));
    }
    text(bytes)
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> Result<String, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        Ok(_) => Err(Malformed::Invalid("a string holds a zero byte")),
        Err(_) => Err(Malformed::Invalid("a string is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_data_survives_the_wire() {
        let request = InfoRequest { name: "disk".into(), requests: vec![0, 3, 77] };
        assert_eq!(InfoRequest::decode(&request.encode(), 10), Ok(request));
        let query = MetaQuery { export: "disk".into(), queries: vec!["base:allocation".into(), "x:y".into()] };
        assert_eq!(MetaQuery::decode(&query.encode(), 20, 2), Ok(query));
        assert_eq!(decode_meta_context(&encode_meta_context(7, "a:b")), Ok((7, "a:b".into())));
        assert_eq!(decode_list_entry(&encode_list_entry("a")), Ok("a".into()));
        for reply in [
            InfoReply::Export { size: 1 << 43, flags: 0xfff },
            InfoReply::Name("n".into()),
            InfoReply::Description("d e".into()),
            InfoReply::BlockSize { minimum: 1, preferred: 4096, maximum: 1 << 25 },
            InfoReply::Unknown(99),
        ] {
            assert_eq!(InfoReply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn bounds_hold_at_the_limit_and_fail_beyond() {
        let named = |n: usize| InfoRequest { name: "n".repeat(n), requests: vec![] }.encode();
        assert!(InfoRequest::decode(&named(4096), 4096).is_ok());
        assert!(matches!(InfoRequest::decode(&named(4097), 4096), Err(Malformed::TooBig(_))));
        let asked = |n: usize| MetaQuery { export: String::new(), queries: vec!["a:".into(); n] }.encode();
        assert!(MetaQuery::decode(&asked(32), 4096, 32).is_ok());
        assert!(matches!(MetaQuery::decode(&asked(33), 4096, 32), Err(Malformed::TooBig(_))));
    }

    #[test]
    fn lengths_that_contradict_are_invalid() {
        for data in [&b""[..], b"\0\0\0\x05ab\0\0", b"\0\0\0\0\0\x02\0\0", b"\xff\xff\xff\xff", b"\0\0\0\0\0\0x", b"\0\0\0\x01\xff\0\0"] {
            assert!(matches!(InfoRequest::decode(data, 4096), Err(Malformed::Invalid(_))), "{data:?}");
        }
        for data in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\0\0\0\x01", b"\0\0\0\0\0\0\0\0x", b"\0\0\0\x01\0\0\0\0\0"] {
            assert!(matches!(MetaQuery::decode(data, 4096, 32), Err(Malformed::Invalid(_))), "{data:?}");
        }
    }
}
