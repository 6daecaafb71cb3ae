//! Every disk and every layer keeps the contract.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::ErrorKind;
use migratekit_core::block::{BlockInfo, BlockRead, BlockWrite, Capabilities, Checksummed, FileDisk, MemoryDisk, OpenOptions};
use migratekit_core::block::{Overlay, RetryPolicy, Retrying, Throttle, Throttled};
use migratekit_core::testing::{Effect, Fault, Faulty, Operation, Recorder, When, check_contract};
use tempfile::TempDir;

/// Odd, so that there is an unaligned tail.
const SIZE: u64 = 1_500_001;

async fn check(disk: impl BlockWrite + 'static, seed: u64) {
    check_contract(Arc::new(disk), seed).await.unwrap();
}

/// A folder on storage: beside the test program, for the folder for temporary files may be tmpfs.
fn stored() -> TempDir {
    TempDir::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

async fn file(folder: &TempDir, size: u64, past_cache: bool) -> FileDisk {
    let options = OpenOptions { create_size: Some(size), past_cache, ..OpenOptions::default() };
    FileDisk::open(folder.path().join("disk"), options).await.unwrap()
}

fn with_block(block: u32, size: u64) -> MemoryDisk {
    let can = Capabilities { flush: true, ..Capabilities::default() };
    MemoryDisk::with_info(BlockInfo { min_block: block, max_request: 1 << 20, can, ..BlockInfo::plain("blocks", size) })
}

#[tokio::test]
async fn memory() {
    check(MemoryDisk::new("m", SIZE), 1).await;
    check(with_block(512, SIZE / 512 * 512), 2).await;
    check(with_block(4096, SIZE), 3).await;
    let info = BlockInfo { read_only: true, ..BlockInfo::plain("m", SIZE) };
    check(MemoryDisk::with_info(info), 4).await;
}

#[tokio::test]
async fn a_file_on_tmpfs() {
    let folder = TempDir::new_in("/dev/shm").unwrap();
    check(file(&folder, SIZE, false).await, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_on_storage() {
    let folder = stored();
    check(file(&folder, SIZE, false).await, 6).await;
    let disk = FileDisk::open(folder.path().join("disk"), OpenOptions::read_only()).await.unwrap();
    assert!(!disk.was_created());
    check(disk, 7).await;
}

#[tokio::test]
async fn a_file_read_past_the_cache() {
    let folder = stored();
    let disk = file(&folder, SIZE, true).await;
    assert_ne!(disk.read_mode(), "cached");
    check(disk, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlay() {
    let base: Arc<dyn BlockRead> = Arc::new(MemoryDisk::from_bytes("base", &vec![0xa5; 1_500_001]));
    check(Overlay::new(base.clone(), Arc::new(MemoryDisk::new("top", SIZE))).unwrap(), 9).await;
    check(Overlay::with_cluster(base.clone(), Arc::new(MemoryDisk::new("top", SIZE)), 512).unwrap(), 10).await;
    let folder = stored();
    check(Overlay::new(base.clone(), Arc::new(file(&folder, SIZE, false).await)).unwrap(), 11).await;
    check(Overlay::new(base, Arc::new(with_block(4096, SIZE))).unwrap(), 12).await;
}

#[tokio::test]
async fn the_layers_for_tests() {
    check(Recorder::new(MemoryDisk::new("m", SIZE)), 13).await;
    check(Faulty::new(MemoryDisk::new("m", SIZE), 1, Vec::new()), 14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layers() {
    let memory = || MemoryDisk::new("m", SIZE);
    check(Throttled::new(memory(), Throttle::new(Some(10 << 30))), 15).await;
    check(Checksummed::with_block(memory(), 4096), 16).await;
    check(Checksummed::new(memory()), 17).await;
    check(Retrying::new(memory(), RetryPolicy::default()), 18).await;
    let folder = stored();
    check(Checksummed::with_block(Overlay::new(Arc::new(memory()), Arc::new(file(&folder, SIZE, false).await)).unwrap(), 4096), 19).await;
}

/// Faults that may go away, on every kind of request, under a layer that tries again: nothing is wrong in the end.
#[tokio::test]
async fn a_disk_with_faults_under_a_retrying_layer() {
    let on = |on, effect| Fault { on, when: When::Percent(10), effect };
    let kind = ErrorKind::Unreachable;
    let faults = vec![
        on(Operation::Read, Effect::Fail(kind)),
        on(Operation::Extents, Effect::Fail(kind)),
        on(Operation::Write, Effect::Torn(kind)),
        on(Operation::Write, Effect::FailAfter(kind)),
        on(Operation::Zero, Effect::Fail(kind)),
        on(Operation::Discard, Effect::FailAfter(kind)),
        on(Operation::Flush, Effect::Fail(kind)),
    ];
    for seed in 0..5 {
        let policy = RetryPolicy { attempts: 50, flush_again: true, longest_wait: Duration::ZERO, ..RetryPolicy::default() };
        let disk = Arc::new(Retrying::new(Faulty::new(MemoryDisk::new("m", SIZE), seed, faults.clone()), policy));
        check_contract(disk.clone(), seed).await.unwrap();
        assert!(disk.retries() > 50, "{}", disk.retries());
    }
}

/// The suite itself must find faults: each of these lies in one place, and is found.
mod the_suite_finds {
    use super::*;

    async fn finds(on: Operation, when: When, effect: Effect) {
        let disk: Arc<dyn BlockWrite> = Arc::new(Faulty::new(MemoryDisk::new("m", SIZE), 1, vec![Fault { on, when, effect }]));
        let error = check_contract(disk, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    }

    #[tokio::test]
    async fn lies_and_wrong_bits() {
        finds(Operation::Write, When::Nth(120), Effect::Lie).await;
        finds(Operation::Zero, When::Nth(12), Effect::Lie).await;
        finds(Operation::Write, When::Nth(130), Effect::FlipBit).await;
        finds(Operation::Read, When::Nth(100), Effect::FlipBit).await;
    }
}
