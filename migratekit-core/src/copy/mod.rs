//! The mover: bytes of one disk get to another place, fast, once, and provably equal.
//!
//! ```text
//!  source.extents ─┐                       ┌─ read ─ zero scan ─ write ─┐
//!  --extents file ─┼─▶ plan: pieces ──▶ movers (bounded, each one piece) ─▶ target ─▶ flush
//!  ledger (resume)─┘                       └─ zero ─────────────────────┘
//! ```
//!
//! # What it promises
//!
//! - [`Copy::run`] returns a report only when every piece was written and a flush that began after the last write succeeded.
//!   Everything else is an error that names side and offset; nothing partial is called done.
//! - A range is zeroed without being read only where the source certainly reads as zero; zeroing itself is left out only where
//!   the target certainly reads as zero, and never where the target keeps a ledger (a skipped range would not be proven).
//! - Memory is bounded by [`CopyOptions::in_flight`] plus one window of the source's map, whatever the disk's size.
//! - Cancellation works at any moment: movers stop, what was written is flushed, so that a ledger knows it.
//! - A target that lost acknowledged writes (its server died and came back) makes the flush fail; the ranges written since the
//!   last good flush are then copied again.
//!
//! It does not decide *what* changed (that is the caller's, by extents) nor retry what cannot help.

mod assignments;
mod comparison;
mod digest;
mod disk_copy;
mod doubt;
mod endpoint;
mod engine;
mod export;
mod flusher;
mod governor;
mod image;
pub mod ledger;
mod mover;
mod pass;
mod plan;
mod private_folder;
pub mod replica;
mod report;
mod room;
mod served;
mod sides;
pub mod spool;
mod tunnelled;
mod verify;
mod zero;

pub use self::assignments::{Assignments, ExportOwners, ForeignExport, ForeignObserver};
pub use self::comparison::DiskCompare;
pub use self::digest::{
    Algorithm, DEFAULT_PARALLEL, DIGEST_LENGTH, Digest, DigestDisk, Digests, LocalDigests, ReadMode, RemoteDigests, digest_of, zero_digest,
};
pub use self::disk_copy::{DiskCopy, DiskCopyReport, OpenDiskCopy, Verify};
pub use self::endpoint::Endpoint;
pub use self::engine::{
    Copy, CopyOptions, DEFAULT_REQUEST, FIRST_IN_FLIGHT, FIRST_OVER_A_LONG_WAY, LONG_WAY, MAX_IN_FLIGHT, MEASURED_IN_FLIGHT,
    MEASURED_OVER_A_LONG_WAY, PieceRetry, ResumeMap, SMALLEST_REQUEST,
};
pub use self::export::{ExportOptions, INTERVAL_BYTES, INTERVAL_TIME, LedgeredExport, Reopen, StateOf};
pub use self::image::{ImageDisk, ImageFormat, ImageOptions};
pub use self::pass::{Fingerprint, PassName};
pub use self::replica::{
    Decision, END_BLOCK, Ends, FileSite, Holding, PendingPass, Point, PointName, PointReader, Replica, ReplicaOptions, ReplicaPass,
    ReplicaSite, Settled, SideFile, SiteDisk,
};
pub use self::report::{CopyReport, Progress, ProgressSnapshot};
pub use self::served::{LedgerPlace, ServedDisk};
pub use self::sides::DEFAULT_CONNECTIONS;
pub use self::spool::{MOST_CLUSTERS, SMALLEST_CLUSTER, Spool, SpoolName};
pub use self::tunnelled::{TunnelAccess, TunnelExports, TunnelledExport};
pub use self::verify::{CompareOptions, CompareReport, MAX_EXTENTS, SAMPLE_BLOCKS, Side, compare};
pub use self::zero::{Run, ZERO_UNIT, is_zero, split_zero_runs};
