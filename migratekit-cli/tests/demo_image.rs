//! The demo's disk against the real tools of e2fsprogs: what `check` calls right is right, and what is wrong is found.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use migratekit_cli::demo::image::{self, Change, Disk};
use migratekit_core::ErrorKind;
use tempfile::TempDir;

fn replica_of(disk: &Disk, dir: &Path) -> PathBuf {
    let replica = dir.join("replica.img");
    let copied = Command::new("cp").args(["--sparse=always", "--"]).arg(&disk.path).arg(&replica).status().unwrap();
    assert!(copied.success());
    replica
}

#[test]
fn a_made_disk_is_changed_and_checked() {
    let dir = TempDir::new().unwrap();
    let disk = image::make(&dir.path().join("work"), image::MIN_SIZE).unwrap();
    assert_eq!(fs::metadata(&disk.path).unwrap().len(), image::MIN_SIZE);
    assert_eq!(disk.not_shown, None);

    let stale = replica_of(&disk, dir.path());
    let change = image::change(&disk).unwrap();
    assert!(matches!(change, Change::Files { .. }), "{change:?}");
    let error = image::check(&stale, &disk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "a replica of the old state must be found wrong: {error}");

    let fresh = replica_of(&disk, dir.path());
    let checked = image::check(&fresh, &disk).unwrap();
    assert_eq!(checked.tools, ["e2fsck", "debugfs"]);
    assert_eq!(checked.found.len(), 4, "{checked:?}");
}

#[test]
fn a_file_that_was_not_deleted_and_a_broken_file_system_are_found() {
    let dir = TempDir::new().unwrap();
    let disk = image::make(&dir.path().join("work"), image::MIN_SIZE).unwrap();
    image::change(&disk).unwrap();

    let undeleted = replica_of(&disk, dir.path());
    fs::write(dir.path().join("old"), "old").unwrap();
    let target = format!("{}?offset={}", undeleted.display(), disk.file_system.unwrap().offset());
    let script = "write old /migratekit-demo/deleted.txt";
    let debugfs = migratekit_cli::tool::path_of("debugfs").unwrap();
    assert!(Command::new(debugfs).current_dir(dir.path()).args(["-w", "-R", script, &target]).output().unwrap().status.success());
    assert!(image::check(&undeleted, &disk).unwrap_err().to_string().contains("is still there"));

    let broken = replica_of(&disk, dir.path());
    let bytes = fs::OpenOptions::new().write(true).open(&broken).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&bytes, &[0xff; 64 * 1024], disk.file_system.unwrap().offset() + 4096).unwrap();
    let error = image::check(&broken, &disk).unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("e2fsck"), "{error}");
}

#[test]
fn a_users_disk_is_copied_and_never_changed() {
    let dir = TempDir::new().unwrap();
    let theirs = image::make(&dir.path().join("theirs"), image::MIN_SIZE).unwrap();
    let before = fs::read(&theirs.path).unwrap();

    let disk = image::take(&theirs.path, &dir.path().join("work")).unwrap();
    assert_eq!(disk.file_system, theirs.file_system);
    image::change(&disk).unwrap();
    image::check(&replica_of(&disk, dir.path()), &disk).unwrap();
    assert!(fs::read(&theirs.path).unwrap() == before, "the user's disk was changed");
}

#[test]
fn a_disk_without_a_file_system_is_changed_in_bytes() {
    let dir = TempDir::new().unwrap();
    let theirs = dir.path().join("theirs.img");
    fs::File::create(&theirs).unwrap().set_len(3_000_000).unwrap();
    let disk = image::take(&theirs, &dir.path().join("work")).unwrap();
    assert!(disk.not_shown.as_deref().unwrap().contains("no ext2"));
    let stale = replica_of(&disk, dir.path());
    assert!(matches!(image::change(&disk).unwrap(), Change::Blocks { count: 16, bytes: 65536 }));
    assert_eq!(image::check(&stale, &disk).unwrap_err().kind(), ErrorKind::Mismatch);
    let checked = image::check(&replica_of(&disk, dir.path()), &disk).unwrap();
    assert_eq!(checked.tools, ["cmp"]);
}

#[test]
fn what_is_no_raw_disk_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let work = dir.path().join("work");
    let path = dir.path().join("given");
    fs::write(&path, b"QFI\xfb.....").unwrap();
    let error = image::take(&path, &work).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("qcow2"), "{error}");
    fs::write(&path, b"short").unwrap();
    assert!(image::take(&path, &work).unwrap_err().to_string().contains("1 MiB at least"));
    assert_eq!(image::take(&dir.path().join("absent"), &work).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(image::make(&work, 1000).unwrap_err().kind(), ErrorKind::InvalidInput);
}
