//! The spool against a plain model: random requests, flushes, reopenings, an apply; its memory; damage.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::core::{Core, MOST_PENDING};
use super::format::Layout;
use super::*;
use crate::block::{ExtentKind, MemoryDisk, ZeroMode};
use crate::copy::ledger::pages::PAGE_BLOCKS;
use crate::copy::ledger::{DiskRecordFile, Ledger, LedgerOptions};
use crate::task::{CancellationToken, Passed};
use crate::testing::check_contract;
use crate::units::{KIB, TIB};

const SIZE: u64 = 5 * 64 * KIB + 1000;

fn name(size: u64) -> SpoolName {
    SpoolName { volume: "v".to_owned(), size, base: "a".parse().unwrap(), point: "b".parse().unwrap() }
}

fn base_content(size: u64) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8 + 1).collect()
}

/// A spool over a volume with content, and the file it lies in.
async fn spool(size: u64) -> (Spool, Arc<MemoryDisk>, Arc<MemoryDisk>) {
    let base = Arc::new(MemoryDisk::from_bytes("volume", &base_content(size)));
    let file = Arc::new(MemoryDisk::new("spool", Spool::file_size(size)));
    let spool = Spool::create(Arc::clone(&file) as _, Arc::clone(&base) as _, &name(size)).await.unwrap();
    (spool, base, file)
}

async fn contents(disk: &dyn BlockRead) -> Vec<u8> {
    disk.read(ByteRange::whole(disk.info().size).unwrap()).await.unwrap().to_vec()
}

async fn apply(spool: &Spool, volume: &Arc<MemoryDisk>) -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let file = Arc::new(DiskRecordFile::new(folder.path().join("ledger")));
    let (ledger, _) = Ledger::open(file, None, LedgerOptions::new("v", volume.info().size)).await?;
    let pass = ledger.begin_pass("b").await?;
    spool.apply(ApplyTo { volume: Arc::clone(volume) as _, ledger, pass }, &Passed::default(), &CancellationToken::new()).await
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..SIZE, prop_oneof![1..2000_u64, 1..200_000_u64], any::<bool>());
    let aligned = |at: u64, length: u64, aligned: bool| {
        let at = if aligned { at / 65_536 * 65_536 } else { at };
        let length = if aligned { length.next_multiple_of(65_536) } else { length };
        (at, length.min(SIZE - at))
    };
    let step = prop_oneof![
        4 => (place(), any::<u8>()).prop_map(move |((at, length, a), value)| { let (at, length) = aligned(at, length, a); Step::Write(at, length, value) }),
        2 => place().prop_map(move |(at, length, a)| { let (at, length) = aligned(at, length, a); Step::Zero(at, length) }),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_spool_is_the_volume_with_the_changes(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut spool, volume, file) = spool(SIZE).await;
            let mut model = base_content(SIZE);
            for step in &steps {
                match step {
                    Step::Write(at, length, value) => {
                        let data: Vec<u8> = (0..*length).map(|i| value.wrapping_add(i as u8)).collect();
                        model[*at as usize..(at + length) as usize].copy_from_slice(&data);
                        spool.write(*at, Bytes::from(data), Persist::Cached).await.unwrap();
                    }
                    Step::Zero(at, length) => {
                        model[*at as usize..(at + length) as usize].fill(0);
                        spool.zero(ByteRange::new(*at, *length).unwrap(), ZeroMode::default(), Persist::Cached).await.unwrap();
                    }
                    Step::Flush => spool.flush().await.unwrap(),
                    Step::Reopen => {
                        spool.flush().await.unwrap();
                        spool = Spool::open(Arc::clone(&file) as _, Arc::clone(&volume) as _, &name(SIZE)).await.unwrap().unwrap();
                    }
                }
                assert!(contents(&spool).await == model, "after {step:?}");
            }
            let zeros = spool.extents(ByteRange::whole(SIZE).unwrap()).await.unwrap();
            for part in zeros.iter().filter(|e| e.kind != ExtentKind::Data) {
                assert!(model[part.range.offset() as usize..part.range.end() as usize].iter().all(|b| *b == 0));
            }
            assert!(contents(&*volume).await == base_content(SIZE), "the volume was touched");
            let ends = spool.complete().await.unwrap();
            assert_eq!(spool.complete().await.unwrap(), ends);
            assert_eq!(spool.write(0, Bytes::from_static(b"x"), Persist::Cached).await.unwrap_err().kind(), ErrorKind::ReadOnly);
            let again = Spool::open(Arc::clone(&file) as _, Arc::clone(&volume) as _, &name(SIZE)).await.unwrap().unwrap();
            assert!(again.is_sealed() && again.ends().unwrap() == Some(ends));
            assert!(contents(&again).await == model);
            again.verify(&Passed::default(), &CancellationToken::new()).await.unwrap();
            for _ in 0..2 {
                apply(&again, &volume).await.unwrap();
                assert!(contents(&*volume).await == model && contents(&again).await == model);
            }
            assert_eq!(Ends::of(&*volume).await.unwrap(), ends);
        });
    }
}

#[tokio::test]
async fn a_spool_is_a_disk() {
    let size = 700 * KIB + 512;
    let (spool, volume, _) = spool(size).await;
    check_contract(Arc::new(spool), 7).await.unwrap();
    assert!(contents(&*volume).await == base_content(size));
}

#[tokio::test]
async fn zeros_and_rewrites_cost_nothing() {
    let size = 64 * MIB;
    let base = Arc::new(MemoryDisk::new("volume", size));
    let file = Arc::new(MemoryDisk::new("spool", Spool::file_size(size)));
    let spool = Spool::create(Arc::clone(&file) as _, base, &name(size)).await.unwrap();
    spool.zero(ByteRange::whole(size).unwrap(), ZeroMode::default(), Persist::Cached).await.unwrap();
    spool.flush().await.unwrap();
    assert!(file.allocated() <= 128 * KIB, "{} bytes for zeros", file.allocated());
    for value in 0..20 {
        spool.write(3 * MIB, Bytes::from(vec![value; 256 * 1024]), Persist::Durable).await.unwrap();
    }
    assert!(file.allocated() <= 128 * KIB + 256 * KIB, "{} bytes for a quarter MiB", file.allocated());
    assert_eq!(spool.holds(), (256 * KIB, size - 256 * KIB));
}

#[tokio::test]
async fn a_huge_spool_is_bounded_and_goes_to_its_end() {
    let size = 16 * TIB;
    let base = Arc::new(MemoryDisk::new("volume", size));
    let file = Arc::new(MemoryDisk::new("spool", Spool::file_size(size)));
    let spool = Spool::create(Arc::clone(&file) as _, Arc::clone(&base) as _, &name(size)).await.unwrap();
    spool.write(size - 5, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
    let back = spool.read(ByteRange::new(size - 6, 3).unwrap()).await.unwrap();
    assert_eq!(back, [0, b'x', 0][..]);
    spool.flush().await.unwrap();
    assert!(spool.memory_bytes() < 512 * 1024, "{}", spool.memory_bytes());
    // The worst pattern, in one page of the map: every other cluster.
    let layout = Layout::new(size);
    let pages = layout.clusters() / PAGE_BLOCKS;
    let mut core = Core::new(layout.clusters());
    let before = core.memory_bytes();
    for cluster in (0..PAGE_BLOCKS).step_by(2) {
        core.end_data(cluster, Some([1; 32]));
        if core.is_crowded() {
            assert!(core.begin_flush().is_empty());
            assert_eq!(core.flushed().0.len(), MOST_PENDING + 1);
        }
    }
    core.begin_flush();
    core.flushed();
    assert_eq!(core.counts(), (PAGE_BLOCKS / 2, 0));
    let page = core.memory_bytes() - before;
    assert!(page * pages as usize <= 33 * 1024 * 1024, "{page} bytes for each of {pages} pages");
}

#[tokio::test]
async fn a_byte_changed_anywhere_in_a_sealed_spool_is_found_before_the_volume_is_touched() {
    let size = 4 * 64 * KIB;
    let (spool, volume, file) = spool(size).await;
    spool.write(70_000, Bytes::from(vec![9; 100_000]), Persist::Cached).await.unwrap();
    spool.zero(ByteRange::new(0, 64 * KIB).unwrap(), ZeroMode::default(), Persist::Cached).await.unwrap();
    spool.complete().await.unwrap();
    let layout = Layout::new(size);
    let data = layout.data(ByteRange::new(100_000, 1).unwrap()).offset();
    let places = [
        ("header", 20),
        ("table, data", layout.entry_at(1)),
        ("table, zero", layout.entry_at(0) + 3),
        ("table, nothing", layout.entry_at(3)),
        ("data", data),
    ];
    for (what, at) in places {
        let old = file.read(ByteRange::new(at, 1).unwrap()).await.unwrap();
        file.write(at, Bytes::from(vec![old[0] ^ 4]), Persist::Cached).await.unwrap();
        let found = match Spool::open(Arc::clone(&file) as _, Arc::clone(&volume) as _, &name(size)).await {
            Err(e) => e.kind() == ErrorKind::Mismatch,
            Ok(None) => what == "header",
            Ok(Some(spool)) => {
                let read = spool.read(ByteRange::new(99_000, 2000).unwrap()).await.unwrap_err();
                let error = spool.verify(&Passed::default(), &CancellationToken::new()).await.unwrap_err();
                assert_eq!(error.context_value("offset"), Some("65536"), "{error}");
                what == "data" && read.kind() == ErrorKind::Mismatch && error.kind() == ErrorKind::Mismatch
            }
        };
        assert!(found, "{what}");
        file.write(at, old, Persist::Cached).await.unwrap();
    }
    // A footer that is damaged is none: the spool is not complete.
    file.write(super::format::FOOTER_AT + 9, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
    let open = Spool::open(Arc::clone(&file) as _, Arc::clone(&volume) as _, &name(size)).await.unwrap().unwrap();
    assert!(!open.is_sealed());
    assert!(contents(&*volume).await == base_content(size));
}

#[tokio::test]
async fn a_spool_of_another_name_is_none() {
    let (_, volume, file) = spool(SIZE).await;
    let own = name(SIZE);
    let others = [
        SpoolName { volume: "w".to_owned(), ..own.clone() },
        SpoolName { base: "x".parse().unwrap(), ..own.clone() },
        SpoolName { point: "x".parse().unwrap(), ..own.clone() },
    ];
    for other in others {
        assert!(Spool::open(Arc::clone(&file) as _, Arc::clone(&volume) as _, &other).await.unwrap().is_none());
    }
    assert!(Spool::open(Arc::clone(&file) as _, Arc::clone(&volume) as _, &own).await.unwrap().is_some());
    let error = Spool::check_room("/place", 1 << 30, 1 << 20).unwrap_err();
    assert_eq!(
        (error.kind(), error.context_value("at"), error.context_value("free")),
        (ErrorKind::NoSpace, Some("/place"), Some("1.00 MiB"))
    );
    assert!(error.context_value("needs").is_some());
    Spool::check_room("/place", 1 << 30, 2 << 30).unwrap();
}
