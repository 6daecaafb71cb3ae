//! Bytes: ranges with checked arithmetic, sizes as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// One kibibyte, in bytes.
pub const KIB: u64 = 1 << 10;
/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte, in bytes.
pub const GIB: u64 = 1 << 30;
/// One tebibyte, in bytes.
pub const TIB: u64 = 1 << 40;

/// The largest offset any disk may have: `2^63 - 1`, the limit of `off_t` and of the NBD protocol.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// `length` bytes from `offset` on. The end never exceeds [`MAX_OFFSET`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "RawRange")]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

#[derive(Deserialize)]
struct RawRange {
    offset: u64,
    length: u64,
}

impl TryFrom<RawRange> for ByteRange {
    type Error = Error;
    fn try_from(raw: RawRange) -> Result<Self> {
        ByteRange::new(raw.offset, raw.length)
    }
}

impl ByteRange {
    /// A range; refused when its end lies beyond [`MAX_OFFSET`].
    pub fn new(offset: u64, length: u64) -> Result<Self> {
        match offset.checked_add(length) {
            Some(end) if end <= MAX_OFFSET => Ok(ByteRange { offset, length }),
            _ => Err(Error::new(ErrorKind::InvalidInput, "use a byte range", "its end lies beyond 2^63-1")
                .with("offset", offset)
                .with("length", length)),
        }
    }

    /// The whole of a disk of `size` bytes (at most [`MAX_OFFSET`]).
    pub fn whole(size: u64) -> Result<Self> {
        ByteRange::new(0, size)
    }

    /// From `start` to `end` (exclusive); empty when `end <= start`. Both at most [`MAX_OFFSET`].
    #[must_use]
    pub fn between(start: u64, end: u64) -> Self {
        let end = end.min(MAX_OFFSET);
        let offset = start.min(end);
        ByteRange { offset, length: end - offset }
    }

    /// The first byte.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// The number of bytes.
    #[must_use]
    pub fn length(self) -> u64 {
        self.length
    }

    /// The first byte after the range.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// What both ranges share; empty when they share nothing.
    #[must_use]
    pub fn intersection(self, other: ByteRange) -> ByteRange {
        ByteRange::between(self.offset.max(other.offset), self.end().min(other.end()))
    }

    /// Whether `other` lies wholly inside.
    #[must_use]
    pub fn contains(self, other: ByteRange) -> bool {
        other.offset >= self.offset && other.end() <= self.end()
    }

    /// The range in pieces that never cross a multiple of `step`; `step` must not be 0 (then the range comes whole).
    pub fn pieces(self, step: u64) -> impl Iterator<Item = ByteRange> {
        let mut at = self.offset;
        let end = self.end();
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let next = at.checked_div(step).map_or(end, |n| (n + 1).saturating_mul(step).min(end));
            let piece = ByteRange::between(at, next);
            at = next;
            Some(piece)
        })
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}

/// A count of bytes as people write it: `512`, `512K`, `64M`, `2G`, `16T` (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::InvalidInput, "read a size", "write it as a whole number with K, M, G or T, such as 64M")
                .with("size", text)
        };
        let trimmed = text.trim();
        let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match trimmed.get(digits.len()..).unwrap_or("").to_ascii_uppercase().as_str() {
            "" | "B" => 1,
            "K" | "KIB" => KIB,
            "M" | "MIB" => MIB,
            "G" | "GIB" => GIB,
            "T" | "TIB" => TIB,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(unit).filter(|n| *n <= MAX_OFFSET).map(ByteSize).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    /// Three significant digits and a binary unit: `4.00 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
            if self.0 >= unit {
                let hundredths = u128::from(self.0) * 100 / u128::from(unit);
                return match hundredths {
                    0..=999 => write!(f, "{}.{:02} {name}", hundredths / 100, hundredths % 100),
                    1000..=9999 => write!(f, "{}.{} {name}", hundredths / 100, hundredths % 100 / 10),
                    _ => write!(f, "{} {name}", hundredths / 100),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in [("0", 0), ("512", 512), ("4k", 4096), ("64M", 64 * MIB), ("2GiB", 2 * GIB), ("16T", 16 * TIB)] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes);
        }
        for text in ["", "K", "1.5G", "-1", "9999999999T", "1X"] {
            assert_eq!(text.parse::<ByteSize>().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(ByteSize(4 * GIB).to_string(), "4.00 GiB");
        assert_eq!(ByteSize(1536).to_string(), "1.50 KiB");
        assert_eq!(ByteSize(7).to_string(), "7 B");
    }

    #[test]
    fn ranges_never_overflow() {
        assert!(ByteRange::new(MAX_OFFSET, 1).is_err());
        assert!(ByteRange::new(u64::MAX, u64::MAX).is_err());
        let r = ByteRange::new(10, 20).unwrap();
        assert_eq!(r.pieces(8).map(|p| (p.offset(), p.length())).collect::<Vec<_>>(), [(10, 6), (16, 8), (24, 6)]);
        assert!(r.intersection(ByteRange::new(40, 4).unwrap()).is_empty());
    }
}
