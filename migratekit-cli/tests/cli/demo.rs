//! The demo, as a newcomer runs it.

use std::path::Path;
use std::process::{Command, Stdio};

use migratekit_cli::demo::image;

use crate::run::{MIGRATEKIT, assert_equal};

/// Runs the demo with its temporary folders in `temp`; what it printed.
fn demo(temp: &Path, args: &[&str]) -> String {
    let mut command = Command::new(MIGRATEKIT);
    command.arg("demo").args(args).env("TMPDIR", temp).env_remove("DISK").stdin(Stdio::null());
    let out = command.output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The text with each word that holds a digit, and each unit of bytes, masked.
fn without_numbers(text: &str) -> String {
    let mask = |word: &str| word.contains(|c: char| c.is_ascii_digit()) || ["B", "KiB", "MiB"].contains(&word);
    let line = |line: &str| line.split_whitespace().map(|word| if mask(word) { "#" } else { word }).collect::<Vec<_>>().join(" ");
    text.trim().lines().map(line).collect::<Vec<_>>().join("\n")
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn it_tells_its_chapters_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let told = demo(temp.path(), &[]);
    let mut rest = told.as_str();
    for needed in [
        "1. A machine with a disk",
        "ext4",
        "managed",
        "2. First replication",
        "written",
        "applied",
        "3. The disk changes",
        "planted",
        "changed",
        "deleted",
        "4. Second replication",
        "written",
        "applied",
        "proven",
        "equal",
        "5. The same disk through the tunnel",
        "listens at 127.0.0.1:",
        "pinned     SHA256:",
        "copied",
        "proven",
        "equal",
        "6. Seen by others",
        "found",
        "by         e2fsck, debugfs",
        "7. What the catalog keeps of it",
        "ready_for_failover",
        "Replication of demo, completed",
    ] {
        let at = rest.find(needed).unwrap_or_else(|| panic!("no {needed:?} in {rest}\nof\n{told}"));
        rest = &rest[at + needed.len()..];
    }
    assert!(!told.contains("not shown"), "{told}");
    // What the README shows is what is told, but for ids, sizes and times.
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let shown = readme.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(without_numbers(shown), without_numbers(&told));
    assert!(is_empty(temp.path()), "the demo left something behind");
}

#[test]
fn it_takes_a_disk_without_touching_it_and_keeps_what_it_made() {
    let (temp, mine) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = image::make(&mine.path().join("made"), image::MIN_SIZE).unwrap();
    let (given, before, kept) = (disk.path, mine.path().join("before"), mine.path().join("kept"));
    std::fs::copy(&given, &before).unwrap();
    let modified = std::fs::metadata(&given).unwrap().modified().unwrap();

    let told = demo(temp.path(), &["--disk", given.to_str().unwrap(), "--keep", kept.to_str().unwrap()]);
    assert_equal(&before, &given, "the user's disk");
    assert_eq!(std::fs::metadata(&given).unwrap().modified().unwrap(), modified);
    assert!(told.contains(&format!("Kept in {}", kept.display())), "{told}");
    let disk = kept.join("site/machines/demo/disk.img");
    let volumes: Vec<_> = std::fs::read_dir(kept.join("site/volumes")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    assert_equal(&disk, &volumes[0].join("disk.img"), "disk and replica");
    assert_equal(&disk, &kept.join("oma/disk.img"), "disk and what went through the tunnel");
    let changed = std::fs::read(&disk).unwrap() != std::fs::read(&given).unwrap();
    assert!(changed, "the disk did not change between the passes");
    assert!(is_empty(temp.path()), "the demo left something behind");
}

#[test]
fn a_disk_that_is_missing_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let out = Command::new(MIGRATEKIT)
        .args(["demo", "--disk", "/no/such/disk.img"])
        .env("TMPDIR", temp.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(4), "{said}");
    assert!(said.contains("/no/such/disk.img") && said.contains(" next: "), "{said}");
    assert!(is_empty(temp.path()), "the demo left something behind");
}
