//! A disk of your own kind: one trait, and the rest of the library works with it. This one is computed, and never stored: a
//! 16 TiB pattern, of which one increment is copied into memory.

use std::sync::Arc;

use bytes::Bytes;
use migratekit_core::block::BoxFuture;
use migratekit_core::copy::{Copy, CopyOptions};
use migratekit_core::units::{KIB, TIB};
use migratekit_core::{BlockInfo, BlockRead, ByteRange, Error, ErrorKind, Extent, ExtentKind, MemoryDisk, Result};

/// Each byte is the number of its 64 KiB block, modulo 251.
struct Pattern(BlockInfo);

impl BlockRead for Pattern {
    fn info(&self) -> &BlockInfo {
        &self.0
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            // Refuses what no disk may serve. A read is whole or it fails: it never comes short.
            self.0.check_transfer("read the pattern", range)?;
            Ok(content(range))
        })
    }
}

fn content(range: ByteRange) -> Bytes {
    (range.offset()..range.end()).map(|at| u8::try_from(at / (64 * KIB) % 251).unwrap_or(0)).collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let size = 16 * TIB;
    let source = Arc::new(Pattern(BlockInfo::plain("a pattern", size)));
    let target = Arc::new(MemoryDisk::new("memory", size));

    // What changed since the last pass: the caller knows, and says so by extents.
    let changed = ByteRange::new(TIB + 64 * KIB, 256 * KIB)?;
    let extents = Some(vec![Extent { range: changed, kind: ExtentKind::Data }]);
    let report = Copy::new(source, Arc::clone(&target) as _, CopyOptions { extents, ..CopyOptions::default() })?.run().await?;
    println!("{} bytes read of {size}", report.counts.bytes_read);

    if target.read(changed).await? != content(changed) || report.counts.bytes_read != changed.length() {
        return Err(Error::new(ErrorKind::Mismatch, "check the copy", "the target does not hold the pattern, or more was read"));
    }
    Ok(())
}
