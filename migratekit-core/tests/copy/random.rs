//! Seeded random copies: any mix of data and holes, faults on both sides, a target that dies; the target equals the source.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use migratekit_core::block::{BlockRead, Extent, ExtentKind, MemoryDisk};
use migratekit_core::copy::{Copy, CopyOptions, PieceRetry};
use migratekit_core::testing::Rng;
use migratekit_core::units::ByteRange;

use crate::rig::{Faults, Rig, fill, shared};

const ROUNDS: u64 = 40;

fn seed() -> u64 {
    std::env::var("MIGRATEKIT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7)
}

fn quick_retries() -> PieceRetry {
    PieceRetry { attempts: 40, first_wait: Duration::from_micros(10), longest_wait: Duration::from_micros(100) }
}

fn disk(size: u64, rng: &mut Rng) -> MemoryDisk {
    let block = 1 << (9 * rng.below(2) + 3 * rng.below(2));
    let mut info = MemoryDisk::new("rig", size).info().clone();
    info.min_block = block;
    info.can.extents = rng.chance(70);
    MemoryDisk::with_info(info)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_copy_gives_an_equal_target() {
    for round in 0..ROUNDS {
        let mut rng = Rng::new(seed() * 1000 + round);
        // Sizes of 64 MiB and more, not a multiple of anything; every fourth is a disk of a few requests.
        let size = if round % 4 == 3 { 4096 + rng.below(8 << 20) } else { (64 << 20) + rng.below(8 << 20) };
        let faults = |rng: &mut Rng| Faults { percent: rng.below(4), fail_at: 1, ..Faults::default() };
        let crash_after = if rng.chance(50) { 3 + rng.below(40) } else { 0 };
        let (on_source, on_target) = (faults(&mut rng), Faults { crash_after, ..faults(&mut rng) });
        let source = shared(Rig::of(disk(size, &mut rng), on_source, rng.next_u64()));
        let target = shared(Rig::of(disk(size, &mut rng), on_target, rng.next_u64()));
        fill(&source, &mut rng).await;
        fill(&target, &mut rng).await;
        source.put(0, vec![7; 4096]).await;
        let options = CopyOptions {
            request_size: 4096 << rng.below(8),
            in_flight: rng.chance(50).then(|| 1 << (12 + rng.below(10))),
            explicit_zeros: rng.chance(30),
            retry: quick_retries(),
            ..CopyOptions::default()
        };
        let copy = Copy::new(Arc::clone(&source) as _, Arc::clone(&target) as _, options).unwrap();
        let report = copy.run().await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        for side in [&source, &target] {
            assert!(side.injected.load(Ordering::SeqCst) > 0, "round {round}: a side without a fault");
        }
        assert!(report.counts.retries > 0, "round {round}");
        assert_eq!(report.counts.bytes_done, size, "round {round}");
        assert!(source.contents().await == target.stable().await, "round {round}: the target differs after a flush");
    }
}

#[tokio::test]
async fn an_increment_changes_its_extents_and_reads_no_more() {
    for round in 0..ROUNDS {
        let mut rng = Rng::new(seed() * 2000 + round);
        let size = 4096 * (64 + rng.below(1000));
        let (source, target) = (shared(Rig::new(size, Faults::default(), 1)), shared(Rig::new(size, Faults::default(), 2)));
        fill(&source, &mut rng).await;
        fill(&target, &mut rng).await;
        let before = target.contents().await;
        let mut extents = Vec::new();
        let mut at = rng.below(100_000);
        while at < size {
            let range = ByteRange::between(at, (at + 1 + rng.below(100_000)).min(size));
            extents.push(Extent { range, kind: ExtentKind::Data });
            at = range.end() + 1 + rng.below(300_000);
        }
        let wanted: u64 = extents.iter().map(|e| e.range.length()).sum();
        let options = CopyOptions { extents: Some(extents.clone()), ..CopyOptions::default() };
        let report = Copy::new(Arc::clone(&source) as _, Arc::clone(&target) as _, options).unwrap().run().await.unwrap();
        let read: u64 = source.reads.lock().unwrap().iter().map(|r| r.length()).sum();
        assert_eq!(read, wanted, "round {round}");
        assert_eq!(report.counts.bytes_done, wanted, "round {round}");
        let (from, mut expected) = (source.contents().await, before);
        for extent in &extents {
            let range = extent.range.offset() as usize..extent.range.end() as usize;
            expected[range.clone()].copy_from_slice(&from[range]);
        }
        assert!(expected == target.contents().await, "round {round}: other bytes than the extents changed");
    }
}

#[tokio::test]
async fn a_whole_copy_reads_nothing_that_is_a_hole_and_a_sparse_target_stays_sparse() {
    let size = 256 << 20;
    let (source, target) = (shared(Rig::new(size, Faults::default(), 1)), shared(Rig::new(size, Faults::default(), 2)));
    source.put(100 << 20, vec![1; 300_000]).await;
    source.put(size - 5, vec![2; 5]).await;
    let report = Copy::new(Arc::clone(&source) as _, Arc::clone(&target) as _, CopyOptions::default()).unwrap().run().await.unwrap();
    assert!(report.counts.bytes_read < 1 << 20, "{report:?}");
    assert_eq!(report.counts.bytes_zeroed, 0, "the target read as zero already: {report:?}");
    let data: u64 = target
        .extents(ByteRange::whole(size).unwrap())
        .await
        .unwrap()
        .iter()
        .filter(|e| !e.kind.reads_zero())
        .map(|e| e.range.length())
        .sum();
    assert!(data < 1 << 20, "{data} bytes allocated");
    assert!(source.contents().await == target.contents().await);
}
