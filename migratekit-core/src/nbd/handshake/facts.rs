//! What a client learns in the handshake, as plain data: for `nbd info`, and for the client's own decisions.

use serde::Serialize;

use super::client::broken;
use crate::error::Result;
use crate::nbd::wire::{Reader, transmission};

/// The longest text of a server that is kept, in bytes; more is cut off.
const MAX_TEXT: usize = 4096;

/// Everything a server told of itself and of the export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct Negotiated {
    /// Capacity in bytes, at most 2^63-1.
    pub size: u64,
    /// Transmission flags ([`transmission`]); 0 when the server has none.
    pub flags: u16,
    /// Whether the server speaks fixed newstyle.
    pub fixed_newstyle: bool,
    /// Whether the export was opened by GO (else by EXPORT_NAME).
    pub by_go: bool,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whether structured replies were agreed.
    pub structured: bool,
    /// Block sizes, where the server announces them.
    pub block_sizes: Option<BlockSizes>,
    /// The name the server itself uses for the export, without the proof of an epoch: for people.
    pub canonical_name: Option<String>,
    /// The server's line for people.
    pub description: Option<String>,
    /// The meta contexts selected.
    pub contexts: Vec<MetaContext>,
    /// The meta contexts the server listed, where it was asked.
    pub offered_contexts: Vec<String>,
    /// The exports listed, where they were asked for.
    pub exports: Vec<ListedExport>,
}

impl Negotiated {
    /// Whether a transmission flag is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The names of the transmission flags that are set, in the protocol's words.
    #[must_use]
    pub fn flag_names(&self) -> Vec<&'static str> {
        [
            (transmission::READ_ONLY, "READ_ONLY"),
            (transmission::SEND_FLUSH, "SEND_FLUSH"),
            (transmission::SEND_FUA, "SEND_FUA"),
            (transmission::ROTATIONAL, "ROTATIONAL"),
            (transmission::SEND_TRIM, "SEND_TRIM"),
            (transmission::SEND_WRITE_ZEROES, "SEND_WRITE_ZEROES"),
            (transmission::SEND_DF, "SEND_DF"),
            (transmission::CAN_MULTI_CONN, "CAN_MULTI_CONN"),
            (transmission::SEND_RESIZE, "SEND_RESIZE"),
            (transmission::SEND_CACHE, "SEND_CACHE"),
            (transmission::SEND_FAST_ZERO, "SEND_FAST_ZERO"),
        ]
        .into_iter()
        .filter_map(|(flag, name)| self.has(flag).then_some(name))
        .collect()
    }
}

/// The block sizes a server announces ("Size constraints"), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BlockSizes {
    /// Alignment of every request; a power of two, at most 65536.
    pub minimum: u32,
    /// The alignment that performs well; a power of two, at least `minimum`.
    pub preferred: u32,
    /// The longest payload; a multiple of `minimum`.
    pub maximum: u32,
}

impl BlockSizes {
    /// The most a server may ask for as alignment, in bytes.
    const MOST_MINIMUM: u32 = 64 * 1024;

    pub(super) fn decode(data: &[u8]) -> Result<Self> {
        let mut r = Reader::new(data);
        let (Some(minimum), Some(preferred), Some(maximum), []) = (r.u32(), r.u32(), r.u32(), r.rest()) else {
            return Err(broken("the block sizes have a wrong length"));
        };
        let refuse = |message| Err(broken(message).with("minimum", minimum).with("preferred", preferred).with("maximum", maximum));
        if !minimum.is_power_of_two() || minimum > Self::MOST_MINIMUM {
            return refuse("the server's minimum block size is not a power of two up to 64 KiB");
        }
        if !preferred.is_power_of_two() || preferred < minimum {
            return refuse("the server's preferred block size is not a power of two, or below the minimum");
        }
        if maximum < minimum {
            return refuse("the server's maximum block size is below its minimum");
        }
        Ok(BlockSizes { minimum, preferred, maximum: maximum - maximum % minimum })
    }
}

/// A meta context and the number the server gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetaContext {
    /// The server's number, valid for one connection.
    pub id: u32,
    /// The name, such as `base:allocation`.
    pub name: String,
}

impl MetaContext {
    pub(super) fn decode(data: &[u8]) -> Result<Self> {
        let mut r = Reader::new(data);
        let id = r.u32().ok_or_else(|| broken("a meta context reply is too short"))?;
        let name = std::str::from_utf8(r.rest()).ok().filter(|n| !n.is_empty() && n.len() <= MAX_TEXT);
        Ok(MetaContext { id, name: name.ok_or_else(|| broken("a meta context has no proper name"))?.to_owned() })
    }
}

/// An entry of the server's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// The server's line for people, often empty.
    pub description: String,
}

impl ListedExport {
    pub(super) fn decode(data: &[u8]) -> Result<Self> {
        let mut r = Reader::new(data);
        let name = r.u32().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MAX_TEXT).and_then(|n| r.take(n));
        let name = name.ok_or_else(|| broken("an entry of the export list has a wrong length"))?;
        let name = std::str::from_utf8(name).map_err(|e| broken("the name of a listed export is not UTF-8").with_source(e))?;
        Ok(ListedExport { name: name.to_owned(), description: text_of(r.rest()) })
    }
}

/// Text of a server, made safe to print: control characters replaced, cut to [`MAX_TEXT`] bytes.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let head = bytes.get(..MAX_TEXT).unwrap_or(bytes);
    String::from_utf8_lossy(head).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
