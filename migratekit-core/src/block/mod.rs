//! Bytes of a disk: how they are read and written, whatever the disk is.
//!
//! [`BlockRead`] and [`BlockWrite`] are the two roles. A file, a block device, memory, an overlay, an NBD export: each takes one
//! or both; layers ([`Throttled`], [`Checksummed`], [`Retrying`]) wrap one and are one. What a disk can do is plain data: [`BlockInfo`].
//!
//! # The ordering contract
//!
//! - Requests may be under way at the same time, and complete in any order. Two requests that overlap, one of them a write, have
//!   no order unless the first was completed before the second was made.
//! - A completed write is seen by every later read through the same disk object.
//! - A completed write is *durable* only after a [`BlockWrite::flush`] that **began after** the write completed has succeeded, or
//!   when it was made with [`Persist::Durable`]. A crash may lose any subset of the others, in any order.
//! - A failed flush leaves everything since the last good one in doubt. It must not be retried as if nothing had happened.
//! - A failed or cancelled (dropped) write may have written all, part, or nothing of its range, and no other byte.
//! - Every request is complete or failed: a read never comes short.
//!
//! Requests reach at most to [`BlockInfo::size`], are not empty, and not longer than [`BlockInfo::max_request`]; both offset and
//! length are multiples of [`BlockInfo::min_block`], but for a tail that ends at the end of the disk.
//!
//! Dropping a future cancels the wait, not always the work: a write that was handed to the kernel or the wire may still happen.

mod buffer;
mod extent;
mod extent_map;
mod file;
mod layer;
mod memory;
mod overlay;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use serde::Serialize;

pub use self::buffer::Buffer;
pub use self::extent::{Extent, ExtentKind};
pub use self::extent_map::ExtentMap;
pub use self::file::{FileDisk, OpenOptions};
pub use self::layer::{Checksummed, RetryPolicy, Retrying, Throttle, Throttled};
pub use self::memory::MemoryDisk;
pub use self::overlay::Overlay;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ByteRange, MIB};

/// A boxed future, so that the traits can be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The longest request any disk of ours takes, in bytes. It bounds the buffer one request needs.
pub const MAX_REQUEST: u32 = 32 * 1024 * 1024;

/// The block size that suits most storage, in bytes.
pub const PREFERRED_BLOCK: u32 = 4096;

/// What a disk is and can do: plain data, printed by `nbd info` and sent over the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockInfo {
    /// What people call it: a path, a URI. Errors name it.
    pub name: String,
    /// Capacity in bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Alignment of every request, in bytes; a power of two.
    pub min_block: u32,
    /// The alignment that performs well, in bytes; a power of two, at least `min_block`.
    pub preferred_block: u32,
    /// The longest read or write, in bytes.
    pub max_request: u32,
    /// What else it can do.
    pub can: Capabilities,
}

/// What a disk can do beyond reading (and, unless read-only, writing).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct Capabilities {
    /// Flush makes completed writes durable. Without it, durability cannot be promised.
    pub flush: bool,
    /// A single request can be made durable ([`Persist::Durable`]).
    pub fua: bool,
    /// Ranges can be given back (their content is then undefined).
    pub discard: bool,
    /// Zeros can be written without sending them.
    pub zero: bool,
    /// Zeroing that would be as slow as writing can be refused quickly ([`ZeroMode::only_fast`]).
    pub fast_zero: bool,
    /// [`BlockRead::extents`] tells more than "all data".
    pub extents: bool,
    /// Several connections see each other's completed writes, and a flush on one covers all.
    pub multi_conn: bool,
    /// Ranges can be brought into the cache.
    pub cache: bool,
}

/// Whether a request returns before or after its effect is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Persist {
    /// Durable after a later flush.
    #[default]
    Cached,
    /// Durable when the request completes (FUA).
    Durable,
}

/// How zeros are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroMode {
    /// The range may become a hole (it still reads as zero).
    pub may_punch: bool,
    /// Fail with [`ErrorKind::Unsupported`], leaving the range as it was, unless it is faster than writing zeros.
    pub only_fast: bool,
}

/// Reading a disk. See the [ordering contract](self).
pub trait BlockRead: Send + Sync {
    /// What this disk is and can do.
    fn info(&self) -> &BlockInfo;

    /// Reads all of `range`; never short.
    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>>;

    /// Where in `range` is data, and where certainly zeros: sorted, without gaps, covering `range` exactly. Neighbours may be of
    /// the same kind. `range` may be the whole disk (`max_request` does not apply). By default all is data.
    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(vec![Extent { range, kind: ExtentKind::Data }]) })
    }
}

/// Writing a disk. See the [ordering contract](self).
pub trait BlockWrite: BlockRead {
    /// Writes all of `data` at `offset`.
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>>;

    /// Makes `range` read as zero. `max_request` does not apply; implementations split.
    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>>;

    /// Gives `range` back; what it reads as afterwards is undefined. A disk that cannot discard does nothing and succeeds.
    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>>;

    /// Makes every write completed before this call durable.
    fn flush(&self) -> BoxFuture<'_, Result<()>>;
}

impl BlockInfo {
    /// The description of a disk that can nothing but read and write bytes; callers set what it can do more.
    #[must_use]
    pub fn plain(name: impl Into<String>, size: u64) -> Self {
        BlockInfo {
            name: name.into(),
            size,
            read_only: false,
            min_block: 1,
            preferred_block: PREFERRED_BLOCK,
            max_request: MAX_REQUEST,
            can: Capabilities::default(),
        }
    }

    /// Refuses a request that lies outside the disk, is empty, or not aligned.
    pub fn check(&self, operation: &'static str, range: ByteRange) -> Result<()> {
        let refuse = |message: &'static str| {
            Err(Error::new(ErrorKind::InvalidInput, operation, message)
                .with("disk", &self.name)
                .with("offset", range.offset())
                .with("length", range.length())
                .with("size", self.size))
        };
        let block = u64::from(self.min_block.max(1));
        if range.is_empty() {
            refuse("the request is empty")
        } else if range.end() > self.size {
            refuse("the request reaches beyond the end of the disk")
        } else if !range.offset().is_multiple_of(block) || (!range.length().is_multiple_of(block) && range.end() != self.size) {
            refuse("the request is not aligned to the disk's block size")
        } else {
            Ok(())
        }
    }

    /// As [`BlockInfo::check`], and refuses a request longer than `max_request`.
    pub fn check_transfer(&self, operation: &'static str, range: ByteRange) -> Result<()> {
        self.check(operation, range)?;
        if range.length() > u64::from(self.max_request) {
            return Err(Error::new(ErrorKind::InvalidInput, operation, "the request is longer than the disk's limit")
                .with("disk", &self.name)
                .with("length", range.length())
                .with("limit", self.max_request));
        }
        Ok(())
    }

    /// As [`BlockInfo::check_transfer`], and refuses a read-only disk.
    pub fn check_write(&self, operation: &'static str, range: ByteRange) -> Result<()> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation, "the disk is read-only").with("disk", &self.name));
        }
        self.check(operation, range)
    }
}

/// The step by which long zeroing is split where a single call could block for long: 1 GiB.
pub const ZERO_STEP: u64 = 1024 * MIB;
