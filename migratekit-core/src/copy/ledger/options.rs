//! What a ledger is about: which volume, in blocks of which size.

use super::format::MAX_VOLUME;
use super::{DEFAULT_BLOCK, MOST_BLOCKS};
use crate::error::{Error, ErrorKind, Result};

/// What a ledger is about.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// The name of the volume, at most 1024 bytes: its uuid, or [`file_identity`](super::file_identity). A file of another
    /// volume is void.
    pub volume: String,
    /// The size of the volume in bytes.
    pub size: u64,
    /// The size of a block in bytes; a power of two, at least 512. Raised so that there are at most [`MOST_BLOCKS`].
    pub block_size: u32,
    /// The generation of the volume, where somebody else counts it (a catalog); a file of another one is void.
    pub generation: Option<u64>,
}

impl LedgerOptions {
    /// For a volume, with blocks of the default size.
    #[must_use]
    pub fn new(volume: impl Into<String>, size: u64) -> Self {
        LedgerOptions { volume: volume.into(), size, block_size: DEFAULT_BLOCK, generation: None }
    }

    /// The block size as a power of two, raised where the disk is large.
    pub(crate) fn block_bits(&self) -> Result<u32> {
        let refuse = |message| {
            Err(Error::new(ErrorKind::InvalidInput, "open a ledger", message)
                .with("volume", &self.volume)
                .with("block size", self.block_size)
                .with("size", self.size))
        };
        if !self.block_size.is_power_of_two() || self.block_size < 512 {
            return refuse("the block size must be a power of two of at least 512 bytes");
        }
        if self.volume.len() > MAX_VOLUME {
            return refuse("the name of the volume is too long");
        }
        if self.size > crate::units::MAX_OFFSET {
            return refuse("the volume is larger than 2^63-1 bytes");
        }
        let mut bits = self.block_size.trailing_zeros();
        while self.size.div_ceil(1 << bits) > MOST_BLOCKS {
            bits += 1;
        }
        Ok(bits)
    }
}
