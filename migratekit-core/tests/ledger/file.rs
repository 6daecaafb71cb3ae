//! The ledger's files on a real file system, and what happens when they are damaged, foreign, or cannot be written.

use std::sync::Arc;

use migratekit_core::block::Persist;
use migratekit_core::copy::ledger::{Commit, DiskRecordFile, Ledger, LedgerOptions, Opened, RecordFile, file_identity};
use migratekit_core::copy::{LedgerPlace, ServedDisk};
use migratekit_core::error::ErrorKind;
use migratekit_core::nbd::wire::ledger_state::{PARTIAL, PROVEN, PROVEN_BEFORE, UNKNOWN};
use migratekit_core::testing::volatile::World;
use migratekit_core::units::ByteRange;

const SIZE: u64 = 64 * 4096;

fn options() -> LedgerOptions {
    LedgerOptions { block_size: 4096, ..LedgerOptions::new("volume", SIZE) }
}

async fn prove(ledger: &Arc<Ledger>, pass: &str, range: ByteRange) {
    let pass = ledger.begin_pass(pass).await.unwrap();
    ledger.begin_write(range, Some(pass)).await.unwrap().done();
    ledger.begin_flush();
    ledger.end_flush(true);
    ledger.save(false).await.unwrap();
}

fn flags(ledger: &Ledger, pass: Option<&str>) -> Vec<(u64, u64, u32)> {
    let states = ledger.states(pass, ByteRange::whole(SIZE).unwrap());
    states.into_iter().map(|(r, f)| (r.offset() / 4096, r.end() / 4096, f)).collect()
}

#[tokio::test]
async fn a_ledger_on_a_file_system_continues() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.ledger");
    let file = || Arc::new(DiskRecordFile::new(&path));
    {
        let (ledger, opened) = Ledger::open(file(), None, options()).await.unwrap();
        assert_eq!(opened, Opened::New);
        prove(&ledger, "one", ByteRange::between(0, 8 * 4096)).await;
        prove(&ledger, "two", ByteRange::between(4 * 4096, 6 * 4096)).await;
        let pass = ledger.begin_pass("two").await.unwrap();
        ledger.begin_write(ByteRange::between(20 * 4096, 20 * 4096 + 512), Some(pass)).await.unwrap().done();
        ledger.save(true).await.unwrap();
        ledger.raise_epoch(7).await.unwrap();
        ledger.commit(Commit { pass: "two".to_owned(), first: [3; 32], last: [4; 32] }).await.unwrap();
    }
    let (ledger, opened) = Ledger::open(file(), None, options()).await.unwrap();
    assert_eq!((opened, ledger.highest_epoch(), ledger.last_pass().as_deref()), (Opened::Continued, 7, Some("two")));
    assert_eq!(ledger.committed().unwrap().first, [3; 32]);
    let tail = (21, 64, UNKNOWN);
    let two = [(0, 4, PROVEN_BEFORE), (4, 6, PROVEN), (6, 8, PROVEN_BEFORE), (8, 20, UNKNOWN), (20, 21, PARTIAL), tail];
    assert_eq!(flags(&ledger, None), two);
    assert_eq!(flags(&ledger, Some("two")), two);
    assert_eq!(flags(&ledger, Some("one")), [(0, 4, PROVEN), (4, 6, PROVEN_BEFORE), (6, 8, PROVEN), (8, 64, UNKNOWN)]);
    assert_eq!(flags(&ledger, Some("three")), [(0, 8, PROVEN_BEFORE), (8, 64, UNKNOWN)]);
    assert_eq!(ledger.raise_generation("a test").await.unwrap(), 1);
    assert_eq!((flags(&ledger, None), ledger.committed(), ledger.highest_epoch()), (vec![(0, 64, UNKNOWN)], None, 7));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["disk.ledger"], "nothing else is left behind");
}

#[tokio::test]
async fn a_damaged_file_says_why_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l");
    let file = || Arc::new(DiskRecordFile::new(&path));
    let (ledger, _) = Ledger::open(file(), None, options()).await.unwrap();
    prove(&ledger, "one", ByteRange::whole(SIZE).unwrap()).await;
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 100, 4095, 4096, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let (ledger, opened) = Ledger::open(file(), None, options()).await.unwrap();
        assert!(matches!(opened, Opened::Void(_)), "{cut}: {opened:?}");
        assert_eq!(flags(&ledger, Some("one")), [(0, 64, UNKNOWN)]);
        // And it works on.
        prove(&ledger, "one", ByteRange::between(0, 4096)).await;
        assert_eq!(Ledger::open(file(), None, options()).await.unwrap().1, Opened::Continued);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_replaced_is_voided_and_recovers() {
    let world = World::new(4096, 1);
    let file = Arc::new(world.file("ledger", false));
    let (ledger, _) = Ledger::open(file.clone(), None, options()).await.unwrap();
    prove(&ledger, "one", ByteRange::whole(SIZE).unwrap()).await;
    let pass = ledger.begin_pass("two").await.unwrap();
    world.fail_files(1);
    let writing = ledger.begin_write(ByteRange::between(0, 4096), Some(pass)).await.unwrap();
    let (found, opened) = Ledger::open(file.clone(), None, options()).await.unwrap();
    assert!(matches!(&opened, Opened::Void(why) if why.contains("voided")), "{opened:?}");
    assert_eq!(flags(&found, None), [(0, 64, UNKNOWN)]);
    writing.done();
    ledger.begin_flush();
    ledger.end_flush(true);
    ledger.save(true).await.unwrap();
    let (found, opened) = Ledger::open(file, None, options()).await.unwrap();
    assert_eq!(opened, Opened::Continued);
    assert_eq!(flags(&found, None), [(0, 1, PROVEN), (1, 64, PROVEN_BEFORE)]);
}

#[tokio::test]
async fn a_file_that_can_neither_be_replaced_nor_voided_stops_the_write_and_the_epoch() {
    let world = World::new(4096, 1);
    let (ledger, _) = Ledger::open(Arc::new(world.file("ledger", false)), None, options()).await.unwrap();
    prove(&ledger, "one", ByteRange::whole(SIZE).unwrap()).await;
    let pass = ledger.begin_pass("two").await.unwrap();
    world.fail_files(100);
    let refused = ledger.begin_write(ByteRange::between(0, 4096), Some(pass)).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Io);
    assert!(refused.to_string().contains("neither be written nor voided"), "{refused}");
    assert_eq!(ledger.raise_epoch(3).await.unwrap_err().kind(), ErrorKind::Io);
    world.fail_files(0);
    ledger.raise_epoch(3).await.unwrap();
}

#[tokio::test]
async fn unreasonable_options_are_refused() {
    let world = World::new(4096, 1);
    for wrong in [
        LedgerOptions { block_size: 0, ..options() },
        LedgerOptions { block_size: 3000, ..options() },
        LedgerOptions { size: u64::MAX, ..options() },
        LedgerOptions { volume: "x".repeat(2000), ..options() },
    ] {
        let refused = Ledger::open(Arc::new(world.file("l", false)), None, wrong).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
    let (ledger, _) = Ledger::open(Arc::new(world.file("l", false)), None, options()).await.unwrap();
    for id in ["", "a b", "ü", &"x".repeat(65)] {
        assert_eq!(ledger.begin_pass(id).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let huge = LedgerOptions { block_size: 4096, ..LedgerOptions::new("huge", 1 << 50) };
    let (ledger, _) = Ledger::open(Arc::new(world.file("h", false)), None, huge).await.unwrap();
    assert_eq!(ledger.block_size(), 1 << 26, "so that there are at most 16 Mi blocks");
}

#[test]
fn a_file_made_again_is_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, b"x").unwrap();
    let first = file_identity(&path).unwrap();
    std::fs::write(&path, b"xy").unwrap();
    assert_eq!(file_identity(&path).unwrap(), first, "writing does not change it");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"x").unwrap();
    assert_ne!(file_identity(&path).unwrap(), first);
    assert_eq!(file_identity(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    let record = DiskRecordFile::beside(&path, "ledger");
    assert!(record.name().ends_with("/disk.ledger"));
}

#[tokio::test]
async fn a_volume_has_one_ledger_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, link) = (dir.path().join("volume"), dir.path().join("link"));
    std::fs::write(&volume, vec![0; 1 << 20]).unwrap();
    std::os::unix::fs::symlink(&volume, &link).unwrap();
    // Another ledger beside the link would still call proven what was overwritten under the other name.
    for (path, pass) in [(&link, "one"), (&volume, "two")] {
        let served = ServedDisk::writable(path, &LedgerPlace::Beside).await.unwrap();
        let view = served.export().open(Some(pass)).await.unwrap();
        view.write(0, vec![7; 1 << 20].into(), Persist::Cached).await.unwrap();
        view.flush().await.unwrap();
        drop(view);
        served.close().await.unwrap();
    }
    let served = ServedDisk::writable(&link, &LedgerPlace::Beside).await.unwrap();
    assert_eq!(served.export().last_pass().as_deref(), Some("two"));
    assert!(volume.with_extension("ledger").is_file() && !link.with_extension("ledger").exists());
}
