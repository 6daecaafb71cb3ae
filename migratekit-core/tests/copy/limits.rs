//! What a copy refuses, and how it ends when it cannot go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, ExtentKind, MemoryDisk, Persist, ZeroMode};
use migratekit_core::copy::{Copy, CopyOptions, PieceRetry};
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::Rng;
use migratekit_core::units::ByteRange;
use migratekit_core::{Error, ErrorKind, Result};

use crate::rig::{Faults, Rig, shared};

const MIB: u64 = 1 << 20;

fn memory(size: u64) -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new("disk", size))
}

fn refused(source: u64, target: MemoryDisk, options: CopyOptions) -> ErrorKind {
    Copy::new(memory(source), Arc::new(target), options).err().expect("a refusal").kind()
}

#[test]
fn what_cannot_succeed_is_refused_before_anything_is_written() {
    let disk = |size| MemoryDisk::new("target", size);
    let read_only = MemoryDisk::with_info(BlockInfo { read_only: true, ..BlockInfo::plain("target", MIB) });
    assert_eq!(refused(MIB, disk(MIB - 1), CopyOptions::default()), ErrorKind::NoSpace);
    assert_eq!(refused(MIB, read_only, CopyOptions::default()), ErrorKind::ReadOnly);
    assert_eq!(refused(MIB, disk(MIB), CopyOptions { request_size: 5000, ..CopyOptions::default() }), ErrorKind::InvalidInput);
    assert_eq!(refused(MIB, disk(MIB), CopyOptions { request_size: 2048, ..CopyOptions::default() }), ErrorKind::InvalidInput);
    assert_eq!(refused(MIB, disk(MIB), CopyOptions { in_flight: Some(1 << 40), ..CopyOptions::default() }), ErrorKind::InvalidInput);
    for ranges in [&[(0, MIB + 1)][..], &[(10, 0)], &[(10, 10), (15, 10)], &[(50, 10), (10, 10)]] {
        let extents = ranges.iter().map(|(o, l)| Extent { range: ByteRange::new(*o, *l).unwrap(), kind: ExtentKind::Data }).collect();
        let options = CopyOptions { extents: Some(extents), ..CopyOptions::default() };
        assert_eq!(refused(MIB, disk(MIB), options), ErrorKind::InvalidInput, "{ranges:?}");
    }
}

#[tokio::test]
async fn an_error_names_side_and_offset() {
    let bad = Faults { bad_from: Some(600_000), ..Faults::default() };
    for (side, faults) in [("source", [bad, Faults::default()]), ("target", [Faults::default(), bad])] {
        let source = shared(Rig::new(MIB, faults[0], 1));
        source.put(0, vec![1; MIB as usize]).await;
        let target = shared(Rig::new(MIB, faults[1], 2));
        let retry = PieceRetry { attempts: 3, first_wait: Duration::from_micros(1), longest_wait: Duration::from_micros(1) };
        let options = CopyOptions { request_size: 4096, retry, ..CopyOptions::default() };
        let error = Copy::new(source, target, options).unwrap().run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.context_value("side"), Some(side), "{error}");
        let offset: u64 = error.context_value("offset").unwrap().parse().unwrap();
        assert!((600_000 - 4096..MIB).contains(&offset), "{error}");
        assert_eq!(error.context_value("attempts"), Some("3"), "{error}");
    }
}

#[tokio::test]
async fn requests_fit_the_coarser_block_size_of_both_sides() {
    for block in [512_u32, 4096, 65_536] {
        for (from, to) in [(1, block), (block, 1), (block, block)] {
            let disk = |name, min_block| {
                let can = MemoryDisk::new(name, 0).info().can;
                Arc::new(MemoryDisk::with_info(BlockInfo {
                    min_block,
                    preferred_block: min_block.max(4096),
                    can,
                    ..BlockInfo::plain(name, 2 * MIB + 512)
                }))
            };
            let (source, target) = (disk("source", from), disk("target", to));
            let mut rng = Rng::new(7);
            for at in (0..2 * MIB).step_by(65_536) {
                // Data at the end of each block, zeros before: runs that would be cut at 4 KiB.
                let mut data = vec![0; 65_536];
                if rng.chance(50) {
                    let from = 4096 * rng.below(16) as usize;
                    rng.fill(&mut data[from..]);
                }
                source.write(at, data.into(), Persist::Cached).await.unwrap();
            }
            source.write(2 * MIB, vec![9; 512].into(), Persist::Cached).await.unwrap();
            target.write(0, vec![0xff; 2 * MIB as usize].into(), Persist::Cached).await.unwrap();
            let copy = Copy::new(source.clone(), target.clone(), CopyOptions::default()).unwrap();
            copy.run().await.unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
            let whole = ByteRange::whole(2 * MIB + 512).unwrap();
            assert!(source.read(whole).await.unwrap() == target.read(whole).await.unwrap(), "{from} to {to}");
        }
    }
}

/// A target whose zeros are those of an earlier writer, not flushed; it dies at the first flush and comes back without them.
struct Forgetful {
    before: MemoryDisk,
    after: MemoryDisk,
    died: AtomicBool,
}

impl Forgetful {
    fn now(&self) -> &MemoryDisk {
        if self.died.load(Ordering::SeqCst) { &self.after } else { &self.before }
    }
}

impl BlockRead for Forgetful {
    fn info(&self) -> &BlockInfo {
        self.before.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        self.now().read(range)
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.now().extents(range)
    }
}

impl BlockWrite for Forgetful {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.now().write(offset, data, persist)
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.now().zero(range, mode, persist)
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.now().discard(range, persist)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            match self.died.swap(true, Ordering::SeqCst) {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Unreachable, "flush", "it died and came back")),
            }
        })
    }
}

#[tokio::test]
async fn zeros_that_were_not_sent_are_in_doubt_too() {
    for promised in [false, true] {
        let (before, after) = (MemoryDisk::new("target", 4 * MIB), MemoryDisk::from_bytes("target", &vec![0xff; 4 * MIB as usize]));
        let target = Arc::new(Forgetful { before, after, died: AtomicBool::new(false) });
        let source = memory(4 * MIB);
        // A hole that is known, and zeros found in data.
        source.write(0, vec![0; 64 * 1024].into(), Persist::Cached).await.unwrap();
        source.write(64 * 1024, vec![7; 64 * 1024].into(), Persist::Cached).await.unwrap();
        let options = CopyOptions { target_is_zero: promised, ..CopyOptions::default() };
        Copy::new(source.clone(), target.clone(), options).unwrap().run().await.unwrap();
        let whole = ByteRange::whole(4 * MIB).unwrap();
        assert!(source.read(whole).await.unwrap() == target.read(whole).await.unwrap(), "promised: {promised}");
    }
}

#[tokio::test]
async fn a_hanging_side_ends_in_a_timeout() {
    let source = shared(Rig::new(MIB, Faults { hang: true, ..Faults::default() }, 1));
    source.put(0, vec![1; 4096]).await;
    let options = CopyOptions { stall: Duration::from_millis(300), ..CopyOptions::default() };
    let error = Copy::new(source, memory(MIB), options).unwrap().run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn a_cancelled_copy_ends_and_says_so() {
    let source = shared(Rig::new(MIB, Faults { hang: true, ..Faults::default() }, 1));
    source.put(0, vec![1; 4096]).await;
    let cancel = CancellationToken::new();
    let options = CopyOptions { cancel: cancel.clone(), ..CopyOptions::default() };
    let run = tokio::spawn(Copy::new(source, memory(MIB), options).unwrap().run());
    tokio::task::yield_now().await;
    cancel.cancel();
    assert_eq!(run.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn an_empty_disk_is_copied() {
    let report = Copy::new(memory(0), memory(0), CopyOptions::default()).unwrap().run().await.unwrap();
    assert_eq!(report.counts.bytes_total, 0);
}
