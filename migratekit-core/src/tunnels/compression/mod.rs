//! Compression of a stream: frames of our own inside a channel, each packed or as it was.
//!
//! ```text
//!  write half ─▶ gathers up to MAX_FRAME ─▶ Choice: worth it? ─┬─ no ──▶ 00 length, the bytes      ─▶ one SSH packet
//!                                                              └─ yes ─▶ 01 length, zstd of them   ─▶ one SSH packet
//!  read half ◀─ Decoder ◀── the frames, in order; stored bytes go straight into the reader's buffer
//! ```
//!
//! - **The sender alone decides**, for each frame ([`choice`]): it packs while the data shrinks and the processor packs much
//!   faster than the stream gets on. Nothing is agreed for a whole connection, so data and links may change.
//! - **Each frame stands by itself** ([`frame`]): no state lives from one to the next, in neither side's memory.
//! - **The receiver is bounded**: a frame has at most [`frame::MAX_FRAME`] bytes, packed and unpacked, and no window of zstd's beside
//!   its result. What is no frame ends the stream with an error that says what was wrong.
//! - **Who knows nothing of it goes on without**: a server says by its first line (version 2 of the tunnel's protocol) that it reads
//!   frames, a client asks for them when it opens a stream. OpenSSH, older peers and [`Compression::Off`] at either end mean plain bytes.
//!
//! Why it is built so, with figures: docs/adr (compression).

pub(super) mod choice;
pub(super) mod frame;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// The originator that a client names when it wants frames on a stream. Every other means plain bytes.
pub(super) const FRAMES: &str = "migratekit-frames";

/// Whether streams of data are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Where it pays, frame by frame.
    #[default]
    Auto,
    /// Never, in neither direction.
    Off,
    /// Whatever shrinks.
    Always,
}

impl Compression {
    /// All of them, in the order in which they are told.
    pub const ALL: [Compression; 3] = [Compression::Auto, Compression::Off, Compression::Always];
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Auto => "auto",
            Compression::Off => "off",
            Compression::Always => "always",
        })
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Compression::ALL.into_iter().find(|c| c.to_string() == text);
        found.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read a kind of compression", "it is none of: auto, off, always").with("text", text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_read_back() {
        for kind in Compression::ALL {
            assert_eq!(kind.to_string().parse::<Compression>().unwrap(), kind);
        }
        assert_eq!("zip".parse::<Compression>().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
