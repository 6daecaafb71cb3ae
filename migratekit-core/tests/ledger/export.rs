//! Exports with a ledger: what connections see, the interval, failed flushes; digests, verify, diff.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::block::{BlockRead, BlockWrite, ExtentKind, MemoryDisk, Persist, ZeroMode};
use migratekit_core::copy::ledger::{Ledger, LedgerOptions};
use migratekit_core::copy::{
    CompareOptions, DigestDisk, ExportOptions, LedgeredExport, LocalDigests, ReadMode, RemoteDigests, Side, compare, digest_of,
};
use migratekit_core::error::ErrorKind;
use migratekit_core::nbd::export::Export;
use migratekit_core::nbd::wire::ledger_state::{PARTIAL, PROVEN, UNKNOWN};
use migratekit_core::task::{self, Scope};
use migratekit_core::testing::volatile::World;
use migratekit_core::testing::{Gated, Operation};
use migratekit_core::units::{ByteRange, MIB};

const BLOCK: u32 = 4096;
const SIZE: usize = 64 * 4096 + 512;

fn range(from: usize, to: usize) -> ByteRange {
    ByteRange::between(from as u64, to as u64)
}

async fn export(world: &World, options: ExportOptions) -> LedgeredExport {
    let about = LedgerOptions { block_size: BLOCK, ..LedgerOptions::new("v", world.disk().info().size) };
    let (ledger, _) = Ledger::open(Arc::new(world.file("ledger", true)), Some(Arc::new(world.file("digests", true))), about).await.unwrap();
    LedgeredExport::new(Arc::new(world.disk()), ledger, options).unwrap()
}

fn quiet() -> ExportOptions {
    ExportOptions { interval_time: Duration::from_secs(3600), ..ExportOptions::default() }
}

fn flags(export: &LedgeredExport, pass: Option<&str>, from: usize, to: usize) -> Vec<u32> {
    Export::ledger(export, pass, range(from, to)).unwrap().into_iter().map(|(_, f)| f).collect()
}

/// Waits until something holds, letting other tasks work.
async fn until(what: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(60), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it never came");
}

#[tokio::test]
async fn what_a_pass_wrote_is_proven_after_its_flush_and_not_before() {
    let world = World::new(SIZE, 1);
    let export = export(&world, quiet()).await;
    let view = export.open(Some("p")).await.unwrap();
    view.write(0, Bytes::from(vec![1; 4096]), Persist::Durable).await.unwrap();
    view.write(4096, Bytes::from(vec![1; 512]), Persist::Cached).await.unwrap();
    view.zero(range(8192, 3 * 4096), ZeroMode::default(), Persist::Cached).await.unwrap();
    assert_eq!(flags(&export, Some("p"), 0, 3 * 4096), [PARTIAL]);
    view.flush().await.unwrap();
    assert_eq!(flags(&export, Some("p"), 0, 3 * 4096), [PROVEN, PARTIAL, PROVEN]);
    assert_eq!(flags(&export, None, 0, 4096), [PROVEN], "without a pass: the last");
    // Another connection of the same pass completes the block; the tail block is short.
    let second = export.open(Some("p")).await.unwrap();
    second.write(4096 + 512, Bytes::from(vec![1; 4096 - 512]), Persist::Cached).await.unwrap();
    second.write(64 * 4096, Bytes::from(vec![1; 512]), Persist::Cached).await.unwrap();
    view.flush().await.unwrap();
    assert_eq!(flags(&export, Some("p"), 0, 3 * 4096), [PROVEN]);
    assert_eq!(flags(&export, Some("p"), 64 * 4096, SIZE), [PROVEN]);
    // Nobody's write, and a discard, make it unknown.
    export.open(None).await.unwrap().write(100, Bytes::from(vec![2; 8]), Persist::Cached).await.unwrap();
    view.discard(range(4096, 8192), Persist::Cached).await.unwrap();
    view.flush().await.unwrap();
    assert_eq!(flags(&export, Some("p"), 0, 3 * 4096), [UNKNOWN, PROVEN]);
    // A writer of an older pass is stopped: its bytes would be mixed with the new pass's. Nor does it come back by connecting anew.
    export.open(Some("q")).await.unwrap();
    let error = view.write(8192, Bytes::from(vec![3; 4096]), Persist::Cached).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(view.discard(range(0, 4096), Persist::Cached).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(export.open(Some("p")).await.err().unwrap().kind(), ErrorKind::Fenced);
    assert_eq!(flags(&export, Some("p"), 8192, 3 * 4096), [PROVEN], "what it proved stays");
    assert_eq!(export.last_pass().as_deref(), Some("q"));
    export.close().await.unwrap();
    assert!(view.flush().await.is_err(), "a closed export does not flush");
}

/// Lets everything that can go on go on. Nothing here waits for a thread.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_new_pass_is_answered_when_the_last_write_of_the_old_one_has_ended() {
    let world = World::new(SIZE, 5);
    let about = LedgerOptions { block_size: BLOCK, ..LedgerOptions::new("v", SIZE as u64) };
    let (ledger, _) = Ledger::open(Arc::new(world.file("ledger", false)), None, about).await.unwrap();
    let held = Arc::new(Gated::new(MemoryDisk::new("held", SIZE as u64), &[Operation::Write]));
    let export = LedgeredExport::new(Arc::clone(&held) as _, ledger, quiet()).unwrap();
    let mut scope = Scope::new();
    let ended = Arc::new(AtomicUsize::new(0));
    for at in [0, 4096] {
        let (old, ended) = (export.open(Some("old")).await.unwrap(), Arc::clone(&ended));
        scope.spawn(async move {
            old.write(at, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap();
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
    settle().await;
    assert_eq!(held.begun(), 2);

    // The first newcomer gives up while it waits; the second of the same pass waits all the same.
    let gone = tokio::select! {
        biased;
        _ = export.open(Some("new")) => false,
        () = settle() => true,
    };
    assert!(gone, "the new pass was answered while two writes of the old one were on the disk");
    assert_eq!(export.last_pass().as_deref(), Some("new"));
    let newcomer = export.open(Some("new"));
    tokio::pin!(newcomer);
    for left in [2, 1] {
        tokio::select! {
            biased;
            _ = &mut newcomer => panic!("the new pass was answered while {left} writes of the old one were on the disk"),
            () = settle() => {}
        }
        held.allow(1);
        settle().await;
    }
    let new = newcomer.await.unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 2);
    held.allow(1);
    new.write(0, Bytes::from(vec![2; 4096]), Persist::Cached).await.unwrap();
    new.flush().await.unwrap();
    assert_eq!(flags(&export, Some("new"), 0, 8192), [PROVEN, UNKNOWN], "the late bytes prove nothing");
    assert_eq!(held.read(range(0, 4096)).await.unwrap(), vec![2; 4096]);
}

#[tokio::test]
async fn the_interval_flushes_by_itself_by_bytes_and_by_time_and_then_rests() {
    let world = World::new(SIZE, 2);
    let by_bytes = export(&world, ExportOptions { interval_bytes: 16_384, ..quiet() }).await;
    let view = by_bytes.open(Some("p")).await.unwrap();
    view.write(0, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap();
    assert_eq!(world.flushes(), 0);
    view.write(4096, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap();
    until(|| flags(&by_bytes, None, 0, 8192) == [PROVEN]).await;
    by_bytes.close().await.unwrap();

    let by_time = export(&world, ExportOptions { interval_time: Duration::from_millis(5), ..ExportOptions::default() }).await;
    let view = by_time.open(Some("p")).await.unwrap();
    view.write(0, Bytes::from(vec![2; 4096]), Persist::Cached).await.unwrap();
    until(|| flags(&by_time, None, 0, 4096) == [PROVEN] && !by_time.ledger().is_unsettled()).await;
    // Nothing is dirty: some intervals later nothing more was flushed or written.
    let rested = (world.flushes(), world.replaced());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((world.flushes(), world.replaced()), rested);
}

#[tokio::test]
async fn a_failed_flush_is_told_to_every_view_and_voids_what_came_after_the_last_good_one() {
    let world = World::new(SIZE, 3);
    let again = world.clone();
    let reopen: migratekit_core::copy::Reopen = Box::new(move || {
        let disk = again.disk();
        Box::pin(async move { Ok(Arc::new(disk) as Arc<dyn BlockWrite>) })
    });
    let export = export(&world, ExportOptions { reopen: Some(reopen), ..quiet() }).await;
    let (one, two) = (export.open(Some("p")).await.unwrap(), export.open(Some("p")).await.unwrap());
    one.write(0, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap();
    one.flush().await.unwrap();
    one.write(4096, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap();
    world.fail_next_flush();
    assert!(export.flush_now().await.is_err(), "as the interval would");
    assert_eq!(flags(&export, Some("p"), 0, 8192), [PROVEN, UNKNOWN]);
    for view in [&one, &two] {
        let told = view.flush().await.unwrap_err();
        assert!(told.to_string().contains("an earlier flush"), "{told}");
        view.flush().await.unwrap();
    }
    export.open(Some("p")).await.unwrap().flush().await.unwrap();
    assert_eq!(flags(&export, Some("p"), 0, 8192), [PROVEN, UNKNOWN]);
    one.write(4096, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap();
    one.flush().await.unwrap();
    assert_eq!(flags(&export, Some("p"), 0, 8192), [PROVEN]);
}

#[tokio::test]
async fn without_a_way_to_reopen_a_failed_flush_ends_the_disk() {
    let world = World::new(SIZE, 4);
    let export = export(&world, quiet()).await;
    let view = export.open(Some("p")).await.unwrap();
    view.write(0, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap();
    world.fail_next_flush();
    assert_eq!(view.flush().await.unwrap_err().kind(), ErrorKind::Io);
    let refused = view.write(0, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap_err();
    assert!(refused.to_string().contains("could not be opened again"), "{refused}");
    assert!(view.flush().await.is_err());
    assert_eq!(flags(&export, Some("p"), 0, 4096), [UNKNOWN]);
}

#[tokio::test]
async fn digests_read_through_the_export_are_kept_for_blocks_that_stay_as_they_are() {
    let world = World::new(SIZE, 5);
    let export = export(&world, quiet()).await;
    let view = export.open(Some("p")).await.unwrap();
    view.write(0, Bytes::from(vec![7; 8192]), Persist::Cached).await.unwrap();
    view.flush().await.unwrap();
    let disk = export.digests(BLOCK).unwrap();
    assert_eq!(disk.info().size, 65 * 32);
    let all = disk.read(ByteRange::whole(disk.info().size).unwrap()).await.unwrap();
    assert_eq!(all[..32], *blake3::hash(&[7; 4096]).as_bytes());
    assert_eq!(all[64 * 32..], *blake3::hash(&[0; 512]).as_bytes(), "the tail is short");
    assert_eq!(disk.read(range(30, 40)).await.unwrap(), all[30..40]);
    let ledger = export.ledger();
    assert_eq!(ledger.digest(0).await.unwrap().unwrap(), *blake3::hash(&[7; 4096]).as_bytes());
    assert_eq!(ledger.digest(2).await.unwrap(), None, "never proven");
    // A reading that a write disturbs is not kept.
    let reading = ledger.begin_digests(range(4096, 8192));
    view.write(4096, Bytes::from(vec![8; 4096]), Persist::Cached).await.unwrap();
    view.flush().await.unwrap();
    assert_eq!(ledger.digest(1).await.unwrap(), None, "a write drops the digest");
    assert_eq!(ledger.end_digests(reading, 1, vec![*blake3::hash(&[7; 4096]).as_bytes()]).await.unwrap(), 0);
    assert_eq!(ledger.digest(1).await.unwrap(), None);
    // It survives the file; a damaged entry is none.
    export.close().await.unwrap();
    let about = LedgerOptions { block_size: BLOCK, ..LedgerOptions::new("v", SIZE as u64) };
    let side = world.file("digests", true);
    let (again, _) = Ledger::open(Arc::new(world.file("ledger", true)), Some(Arc::new(side.clone())), about).await.unwrap();
    assert!(again.digest(0).await.unwrap().is_some());
    let mut bytes = side.bytes();
    bytes[3] ^= 1;
    side.set_bytes(&bytes);
    assert_eq!(again.digest(0).await.unwrap(), None);
}

/// Two disks of the same content, but for what `change` does to the second.
async fn sides(size: (usize, usize), change: impl AsyncFnOnce(&dyn BlockWrite)) -> (Side, Side) {
    let mut content = vec![0_u8; size.0.max(size.1)];
    migratekit_core::testing::Rng::new(9).fill(&mut content[..size.0.min(size.1) / 2]);
    let mut sides = Vec::new();
    for (number, size) in [size.0, size.1].into_iter().enumerate() {
        let disk: Arc<dyn BlockWrite> = Arc::new(World::new(size, number as u64).disk());
        disk.write(0, Bytes::copy_from_slice(&content[..size]), Persist::Cached).await.unwrap();
        sides.push(disk);
    }
    change(&*sides[1]).await;
    let local: Arc<dyn BlockRead> = sides[0].clone();
    let remote: Arc<dyn BlockRead> = sides[1].clone();
    let digest_disk = Arc::new(DigestDisk::new(Arc::clone(&remote), 65_536).unwrap());
    (
        Side { digests: Arc::new(LocalDigests::new(Arc::clone(&local), ReadMode::Cached)), disk: local },
        Side { digests: Arc::new(RemoteDigests::new(digest_disk, remote.info(), 65_536).unwrap()), disk: remote },
    )
}

fn options() -> CompareOptions {
    CompareOptions { block_size: 65_536, ..CompareOptions::default() }
}

#[tokio::test]
async fn equal_disks_move_only_digests() {
    let size = 64 * 65_536 + 1000;
    let (source, target) = sides((size, size), async |_| {}).await;
    let report = compare(&source, &target, &options()).await.unwrap();
    assert!(report.equal && report.full && report.differing.is_empty());
    assert_eq!((report.bytes_compared, report.bytes_moved), (size as u64, 65 * 32));
    assert_eq!((report.source_read, report.target_read), (ReadMode::Cached, ReadMode::Remote));
    let back = compare(&target, &source, &options()).await.unwrap();
    assert_eq!(back.digest, report.digest);
}

#[tokio::test]
async fn differences_are_found_to_the_byte_and_the_last_one_too() {
    let size = 64 * 65_536 + 1000;
    let (source, target) = sides((size, size), async |disk| {
        disk.write(65_536 * 3 + 5000, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
        disk.write(size as u64 - 1, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
    })
    .await;
    let blocks = compare(&source, &target, &options()).await.unwrap();
    assert!(!blocks.equal);
    assert_eq!(blocks.differing.iter().map(|e| e.range).collect::<Vec<_>>(), [range(3 * 65_536, 4 * 65_536), range(64 * 65_536, size)]);
    let exact = compare(&source, &target, &CompareOptions { exact: Some(4096), ..options() }).await.unwrap();
    let found: Vec<_> = exact.differing.iter().map(|e| (e.range.offset(), e.range.length(), e.kind)).collect();
    assert_eq!(found, [(65_536 * 3 + 4096, 4096, ExtentKind::Data), (64 * 65_536, 1000, ExtentKind::Zero)]);
    assert_eq!(exact.bytes_moved, 65 * 32 + 2 * (65_536 + 1000));
    let error = exact.demand_equal("a", "b").unwrap_err();
    assert_eq!((error.kind(), error.context_value("offset")), (ErrorKind::Mismatch, Some("200704")));
}

#[tokio::test]
async fn disks_of_unequal_size_are_compared_as_far_as_both_reach() {
    let (small, large) = (20 * 65_536 + 1000, 30 * 65_536);
    let (source, target) = sides((small, large), async |_| {}).await;
    let report = compare(&source, &target, &options()).await.unwrap();
    assert!(report.equal, "{report:?}");
    assert_eq!(report.bytes_compared, small as u64);
    let (source, target) = sides((large, small), async |_| {}).await;
    let report = compare(&source, &target, &options()).await.unwrap();
    assert!(!report.equal && report.differing.is_empty());
    assert!(report.demand_equal("a", "b").unwrap_err().to_string().contains("the source is larger"));
    let (source, target) = sides((small, large), async |disk| {
        disk.write(small as u64 - 1, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
    })
    .await;
    assert!(!compare(&source, &target, &options()).await.unwrap().equal);
}

#[tokio::test]
async fn a_sample_holds_the_ends_and_its_seed_decides_the_rest() {
    let size = 300 * 65_536;
    let (source, target) = sides((size, size), async |disk| {
        disk.write(size as u64 - 1, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
    })
    .await;
    for seed in 0..5 {
        let report = compare(&source, &target, &CompareOptions { sample: Some(seed), ..options() }).await.unwrap();
        assert!(!report.equal && !report.full);
        assert_eq!(report.bytes_compared, 64 * 65_536);
    }
}

#[tokio::test]
async fn a_cancelled_comparison_ends_and_wrong_requests_are_refused() {
    let (source, target) = sides((MIB as usize, MIB as usize), async |_| {}).await;
    let cancel = task::CancellationToken::new();
    cancel.cancel();
    let cancelled = compare(&source, &target, &CompareOptions { cancel, ..options() }).await.unwrap_err();
    assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
    let wrong = compare(&source, &target, &CompareOptions { block_size: 3, ..options() }).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
    let wrong = compare(&source, &target, &CompareOptions { block_size: 4096, ..options() }).await.unwrap_err();
    assert_eq!((wrong.kind(), wrong.context_value("side")), (ErrorKind::InvalidInput, Some("target")));
    assert!(DigestDisk::new(Arc::clone(&source.disk), 100).is_err());
    let short = Arc::new(DigestDisk::new(Arc::clone(&source.disk), 65_536).unwrap());
    assert_eq!(RemoteDigests::new(short, source.disk.info(), 4096).err().unwrap().kind(), ErrorKind::Mismatch);
    let whole = digest_of(&*source.disk, range(0, MIB as usize)).await.unwrap();
    let one = source.digests.digests(range(0, MIB as usize), MIB as u32, migratekit_core::copy::Algorithm::Blake3).await.unwrap();
    assert_eq!(one, [whole]);
}
