//! What a file is, who holds it, what happens when it changes. Reading and writing as such is tested by the contract suite.

use bytes::Bytes;
use tempfile::TempDir;

use super::open::lock_holder;
use super::*;
use crate::block::{ExtentKind, ZeroMode};

/// A folder on storage: beside the test program, for the folder for temporary files may be tmpfs.
fn stored() -> TempDir {
    TempDir::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

/// A folder on tmpfs and one on storage.
fn folders() -> Vec<TempDir> {
    vec![TempDir::new_in("/dev/shm").unwrap(), stored()]
}

async fn create(folder: &TempDir, size: u64) -> FileDisk {
    FileDisk::open(folder.path().join("disk"), OpenOptions { create_size: Some(size), ..OpenOptions::default() }).await.unwrap()
}

fn r(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

#[tokio::test]
async fn bytes_come_back_and_holes_are_found() {
    for folder in folders() {
        let disk = create(&folder, 1_000_001).await;
        assert!(disk.was_created());
        let data = Bytes::from(vec![5; 70_000]);
        disk.write(930_001, data.clone(), Persist::Durable).await.unwrap();
        disk.write(3, data.clone(), Persist::Cached).await.unwrap();
        disk.flush().await.unwrap();
        assert_eq!(disk.read(r(930_001, 70_000)).await.unwrap(), data);
        assert_eq!(disk.read(r(3, 70_000)).await.unwrap(), data);
        let extents = disk.extents(r(0, 1_000_001)).await.unwrap();
        assert!(extents.iter().any(|e| e.kind == ExtentKind::Hole), "{extents:?}");
        for punch in [false, true] {
            disk.write(0, Bytes::from(vec![1; 300_000]), Persist::Cached).await.unwrap();
            disk.zero(r(10, 299_980), ZeroMode { may_punch: punch, only_fast: false }, Persist::Durable).await.unwrap();
            let back = disk.read(r(0, 300_000)).await.unwrap();
            assert!(
                back[..10].iter().all(|b| *b == 1) && back[10..299_990].iter().all(|b| *b == 0) && back[299_990..].iter().all(|b| *b == 1)
            );
        }
        assert_eq!(std::fs::metadata(disk.path()).unwrap().len(), 1_000_001);
    }
}

#[tokio::test]
async fn a_second_writer_is_told_who_holds_the_file_and_readers_are_let_in() {
    for folder in folders() {
        let disk = create(&folder, 4096).await;
        let error = FileDisk::open(disk.path(), OpenOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(error.context_value("pid"), Some(std::process::id().to_string().as_str()), "{error}");
        let reader = FileDisk::open(disk.path(), OpenOptions::read_only()).await.unwrap();
        assert!(reader.same_file(&disk));
        let error = reader.write(0, Bytes::from_static(b"x"), Persist::Cached).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        let path = disk.path().to_path_buf();
        drop((disk, reader));
        FileDisk::open(path, OpenOptions::default()).await.unwrap();
    }
}

#[test]
fn the_lock_table_is_read_right() {
    let table = "1: POSIX  ADVISORY  WRITE 7 08:01:42 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 08:01:42 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 9 08:01:42 0 EOF\n";
    assert_eq!(lock_holder(table, rustix::fs::makedev(8, 1), 42), Some(4711));
    assert_eq!(lock_holder(table, rustix::fs::makedev(8, 1), 43), None);
    assert_eq!(lock_holder("", 1, 1), None);
}

#[tokio::test]
async fn what_is_no_disk_is_refused_each_with_its_own_words() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let cases = [
        (folder.path().to_path_buf(), ErrorKind::InvalidInput),
        (folder.path().join("missing"), ErrorKind::NotFound),
        (folder.path().join("missing/child"), ErrorKind::NotFound),
        (file.join("child"), ErrorKind::InvalidInput),
        (pipe, ErrorKind::InvalidInput),
        (socket, ErrorKind::InvalidInput),
        ("/dev/null".into(), ErrorKind::InvalidInput),
        ("/proc/self/status".into(), ErrorKind::InvalidInput),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (path, kind) in cases {
        let error = FileDisk::open(&path, OpenOptions::read_only()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.context_value("path"), Some(path.display().to_string().as_str()));
        texts.insert(error.message().to_owned());
    }
    assert_eq!(texts.len(), 7, "only the two missing ones share a text: {texts:?}");
}

#[tokio::test]
async fn a_file_too_large_for_its_file_system_is_refused() {
    let folder = stored();
    let options = OpenOptions { create_size: Some(crate::units::MAX_OFFSET), ..OpenOptions::default() };
    let error = FileDisk::open(folder.path().join("disk"), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
}

#[tokio::test]
async fn a_file_that_changes_its_size_is_noticed() {
    for folder in folders() {
        for past_cache in [false, true] {
            let disk = create(&folder, 1 << 20).await;
            let source = FileDisk::open(disk.path(), OpenOptions { past_cache, ..OpenOptions::read_only() }).await.unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(disk.path()).unwrap();
            file.set_len(100_000).unwrap();
            let error = source.read(r(90_000, 20_000)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
            assert_eq!(source.extents(r(500_000, 10)).await.unwrap_err().kind(), ErrorKind::Changed);
            file.set_len(2 << 20).unwrap();
            assert_eq!(source.check_size().await.unwrap_err().kind(), ErrorKind::Changed);
            file.set_len(0).unwrap();
        }
    }
}

#[tokio::test]
async fn past_the_cache_any_range_reads_right() {
    for folder in folders() {
        let disk = create(&folder, 300_001).await;
        let content: Vec<u8> = (0..300_001u32).map(|i| (i % 251) as u8).collect();
        disk.write(0, content.clone().into(), Persist::Durable).await.unwrap();
        let reader = FileDisk::open(disk.path(), OpenOptions { past_cache: true, ..OpenOptions::read_only() }).await.unwrap();
        for (offset, length) in [(0, 300_001), (1, 1), (4095, 2), (4096, 4096), (5000, 200_000), (300_000, 1), (299_000, 1001)] {
            let back = reader.read(r(offset, length)).await.unwrap();
            let start = usize::try_from(offset).unwrap();
            assert_eq!(back, content[start..start + back.len()], "{offset}+{length}");
        }
        assert!(["direct", "dropped cache", "cached (tmpfs)"].contains(&reader.read_mode()));
        assert!(disk.read_mode().starts_with("cached"));
    }
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_called_durable() {
    let folder = TempDir::new_in("/dev/shm").unwrap();
    let disk = create(&folder, 8192).await;
    disk.flush().await.unwrap();
    let first = disk.0.poison("flush", rustix::io::Errno::IO);
    assert_eq!(first.kind(), ErrorKind::Io);
    let again = disk.flush().await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Io);
    assert_ne!(again.message(), first.message());
    assert!(disk.write(0, Bytes::from_static(b"x"), Persist::Durable).await.is_err());
    assert!(disk.zero(r(0, 10), ZeroMode::default(), Persist::Durable).await.is_err());
    disk.write(0, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
    let path = disk.path().to_path_buf();
    drop(disk);
    FileDisk::open(path, OpenOptions::default()).await.unwrap().flush().await.unwrap();
}
