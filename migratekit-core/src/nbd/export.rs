//! What a server serves: an export is a disk, and what the server must know beside its bytes.
//!
//! The plain form ([`PlainExport`]) is a disk and nothing else. The ledgered form lives in `copy`; it hands each connection a
//! view of the disk that records what is written for which pass.

use std::sync::Arc;

use crate::block::{BlockRead, BlockWrite, BoxFuture};
use crate::error::Result;
use crate::units::ByteRange;

/// A disk as served. The disk's [`info`](BlockRead::info) gives size, block sizes and abilities.
pub trait Export: Send + Sync {
    /// The disk, for reading.
    fn disk(&self) -> Arc<dyn BlockWrite>;

    /// A line for people, shown by INFO.
    fn description(&self) -> String {
        String::new()
    }

    /// The disk as one connection writes it. `pass` is the pass the connection named (`migratekit:pass:ID`); without one the
    /// writes belong to nobody's pass. Called once per connection, before its first request.
    fn open(&self, pass: Option<&str>) -> BoxFuture<'_, Result<Arc<dyn BlockWrite>>> {
        let _ = pass;
        let disk = self.disk();
        Box::pin(async move { Ok(disk) })
    }

    /// Whether a ledger is kept (the meta contexts of ours are offered only then).
    fn has_ledger(&self) -> bool {
        false
    }

    /// Ledger flags ([`super::wire::ledger_state`]) of `range`, relative to `pass` or else to the last pass; sorted, without
    /// gaps, covering the range.
    fn ledger(&self, pass: Option<&str>, range: ByteRange) -> Result<Vec<(ByteRange, u32)>> {
        let _ = pass;
        Ok(vec![(range, super::wire::ledger_state::UNKNOWN)])
    }

    /// The id of the pass that wrote last.
    fn last_pass(&self) -> Option<String> {
        None
    }

    /// A disk whose content is the digests of this one, 32 bytes (BLAKE3) for each block of `block_size` bytes, computed when
    /// read, past the page cache. `None`: not offered.
    fn digests(&self, block_size: u32) -> Option<Arc<dyn BlockRead>> {
        let _ = block_size;
        None
    }

    /// The highest epoch ever admitted (0: none).
    fn highest_epoch(&self) -> u64 {
        0
    }

    /// Records a higher epoch durably, before the connection that brought it is answered.
    fn raise_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<()>> {
        let _ = epoch;
        Box::pin(async { Ok(()) })
    }
}

/// A disk served as it is.
pub struct PlainExport {
    disk: Arc<dyn BlockWrite>,
    description: String,
}

impl PlainExport {
    /// Serves `disk`, described to people by a line.
    #[must_use]
    pub fn new(disk: Arc<dyn BlockWrite>, description: impl Into<String>) -> Self {
        PlainExport { disk, description: description.into() }
    }
}

impl Export for PlainExport {
    fn disk(&self) -> Arc<dyn BlockWrite> {
        Arc::clone(&self.disk)
    }

    fn description(&self) -> String {
        self.description.clone()
    }
}
