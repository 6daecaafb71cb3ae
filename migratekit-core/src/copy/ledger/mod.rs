//! The ledger: for each block of a volume, which pass wrote it and whether that is proven.
//!
//! A [`Ledger`] belongs to the target and is kept by the party that flushes it ([`LedgeredExport`](super::LedgeredExport)). The
//! copier asks it what need not be sent again; verify fills in digests. It does not decide anything.
//!
//! ```text
//!  code       the state of a block in four bits, and how it changes
//!  pages      the states of all blocks, paged and run-length coded
//!  coverage   intervals of the blocks a pass is in the middle of
//!  inflight   requests under way, digest readings under way
//!  regions    what the file must stop claiming before a write may begin
//!  passes     pass names
//!  core       all of these together, without input and output
//!  format     the file; storage: small files that survive crashes
//!  keeper     Ledger: core + file
//!  digests    the side file of digests
//! ```
//!
//! # What the file says, and why it is true after any crash
//!
//! 1. *"Block b is proven by pass P"*: every byte of b on the stable storage is one that a completed request of P wrote, and no
//!    request touched it since. Memory says so only when (a) completed requests of P covered b, (b) no other request touched b when
//!    the last of them completed, and none began later, (c) a flush that began after that succeeded. Only then can a snapshot say
//!    it. Later requests take it back: the request marks b in memory first, and does not touch the disk before a snapshot taken
//!    after that mark is durable (unless the durable one does not say it already: region masked, or never proven). So at every
//!    moment what the durable file says is a subset of what is true of the stable storage.
//! 2. *"P wrote to b, or not all of it" (partial)* and *unknown* claim nothing about bytes. A block whose coverage was forgotten
//!    (bounds, restart) is partial: it is copied again.
//! 3. *"Its digest is in the side file"*: the entry was synced before the snapshot that says so, was computed from bytes read
//!    while the block was proven and not touched, and is not overwritten while a durable snapshot refers to it.
//! 4. *The epoch* is the highest ever admitted, durable before [`Ledger::raise_epoch`] returns. It survives a damaged body.
//! 5. *The commit* (first and last block's digests) is what the last committed pass recorded; a new generation removes it.
//!
//! Every snapshot replaces the whole file atomically; a file that is truncated, changed in any byte, of another volume, size,
//! block size or generation says nothing at all ([`Opened::Void`]). A snapshot that cannot be written is answered by voiding the
//! file in place; if not even that succeeds, the request that needed it fails before it touches the disk.
//!
//! # Memory
//!
//! At most 16 MiB for 16 TiB: 8 MiB of states in the worst pattern, 2 MiB of regions, 4.5 MiB of open blocks; usually some
//! kilobytes. [`Ledger::memory_bytes`] counts it. Larger disks, and smaller blocks, get a larger block size than asked for, so that
//! a disk has at most [`MOST_BLOCKS`].

mod code;
mod core;
mod coverage;
mod digests;
mod format;
mod inflight;
mod keeper;
mod options;
pub(in crate::copy) mod pages;
mod passes;
mod regions;
mod storage;
#[cfg(test)]
mod tests;

pub use self::digests::Reading;
pub use self::keeper::{Ledger, Opened, PassId, Writing};
pub use self::options::LedgerOptions;
pub use self::passes::MAX_PASS_ID;
pub use self::storage::{DiskRecordFile, Fill, RecordFile, file_identity};

/// Blocks of one disk at most.
pub const MOST_BLOCKS: u64 = 16 * 1024 * 1024;

/// The default size of a block, in bytes.
pub const DEFAULT_BLOCK: u32 = 1024 * 1024;

/// What the last committed pass recorded: enough to recognize the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The pass.
    pub pass: String,
    /// BLAKE3 of the first block.
    pub first: [u8; 32],
    /// BLAKE3 of the last block.
    pub last: [u8; 32],
}
