//! Points: what a replica is a replica of, and what it is recognized by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::block::BlockRead;
use crate::copy::Digest;
use crate::copy::digest::digest_of;
use crate::copy::ledger::MAX_PASS_ID;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ByteRange, MIB};

/// The first and the last block, in bytes, whose digests recognize a volume.
pub const END_BLOCK: u64 = MIB;

/// The name of a point: one complete state of all disks of a VM. 1 to 64 letters, digits, dots, dashes or underscores.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PointName(String);

impl PointName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PointName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if letters && (1..=MAX_PASS_ID).contains(&text.len()) {
            return Ok(PointName(text.to_owned()));
        }
        Err(Error::new(ErrorKind::InvalidInput, "name a point", "a point's name is 1 to 64 letters, digits, dots, dashes or underscores")
            .with("point", text))
    }
}

impl TryFrom<String> for PointName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PointName> for String {
    fn from(name: PointName) -> String {
        name.0
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digests (BLAKE3) of the first and the last block of a volume, [`END_BLOCK`] bytes each, fewer where it is shorter. A commit
/// records them; they tell the volume from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Of the first block.
    pub first: Digest,
    /// Of the last block.
    pub last: Digest,
}

impl Ends {
    /// The ends of a disk, read now.
    ///
    /// # Errors
    /// As reading fails.
    pub async fn of(disk: &dyn BlockRead) -> Result<Self> {
        let size = disk.info().size;
        let last = size.saturating_sub(1) / END_BLOCK * END_BLOCK;
        let first = digest_of(disk, ByteRange::between(0, size.min(END_BLOCK))).await?;
        Ok(Ends { first, last: digest_of(disk, ByteRange::between(last, size)).await? })
    }

    /// Both as 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> (String, String) {
        let hex = |digest: Digest| blake3::Hash::from_bytes(digest).to_hex().to_string();
        (hex(self.first), hex(self.last))
    }

    /// From hexadecimal digits.
    ///
    /// # Errors
    /// `InvalidInput`: one of them is no digest.
    pub fn from_hex(first: &str, last: &str) -> Result<Self> {
        let read = |text: &str| {
            blake3::Hash::from_hex(text).map(|hash| *hash.as_bytes()).map_err(|e| {
                Error::new(ErrorKind::InvalidInput, "read a digest", "it is not 64 hexadecimal digits").with("digest", text).with_source(e)
            })
        };
        Ok(Ends { first: read(first)?, last: read(last)? })
    }
}

/// A point of one disk: its name, and what the volume is recognized by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The name.
    pub name: PointName,
    /// The digests of the volume's ends.
    pub ends: Ends,
}
