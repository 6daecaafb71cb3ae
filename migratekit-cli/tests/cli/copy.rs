//! `migratekit copy` from end to end: every pair of ends, every option, what it prints.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::{Peer, free_port};
use serde_json::Value;
use tempfile::TempDir;

use crate::run::{
    Foreign, Served, allocated, assert_equal, command, copy_report, number, random_image, roomy_dir, run, run_within, succeed,
    wait_allocated,
};

const MIB: u64 = 1 << 20;

/// A folder with a source image of `size` bytes of which `percent` are data.
fn scene(size: u64, percent: u64) -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    random_image(&source, size, percent, &mut Rng::new(size + percent));
    (dir, source, target)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn file_to_file_of_any_size() {
    for size in [0, 1, 511, 512, 4097, MIB - 1, MIB + 7, 5 * MIB] {
        let (_dir, source, target) = scene(size, 60);
        let report = copy_report(&[text(&source), text(&target)]);
        assert_eq!((number(&report, "size"), number(&report, "bytes_done")), (size, size));
        assert_equal(&source, &target, &format!("{size} bytes"));
    }
}

#[test]
fn a_sparse_file_stays_sparse() {
    let (_dir, source, target) = scene(256 * MIB + 3, 5);
    let report = copy_report(&[text(&source), text(&target)]);
    assert_equal(&source, &target, "sparse");
    assert!(allocated(&target) <= allocated(&source) + MIB, "{} of {}", allocated(&target), allocated(&source));
    assert!(number(&report, "bytes_read") <= allocated(&source) + MIB, "holes were read: {report}");
}

#[test]
fn a_target_file_with_other_bytes_becomes_the_source() {
    let (_dir, source, target) = scene(32 * MIB + 5, 30);
    random_image(&target, 32 * MIB + 5, 90, &mut Rng::new(7));
    copy_report(&[text(&source), text(&target)]);
    assert_equal(&source, &target, "over other bytes");
}

#[test]
fn file_to_nbd_and_back() {
    let (dir, source, target) = scene(24 * MIB, 40);
    let memory = Foreign::nbdkit(&["memory", "24M"]);
    succeed(&["copy", text(&source), &memory.uri()]);
    succeed(&["copy", &memory.uri(), text(&target)]);
    assert_equal(&source, &target, "through nbdkit");
    let volume = dir.path().join("volume");
    File::create(&volume).unwrap().set_len(24 * MIB).unwrap();
    let ours = Served::start(&volume, &[]);
    let report = copy_report(&[text(&source), &ours.uri()]);
    assert!(report["pass"].is_string(), "{report}");
    let again = dir.path().join("again");
    succeed(&["copy", &ours.uri(), text(&again)]);
    assert_equal(&source, &again, "through ours");
}

#[test]
fn nbd_to_nbd_by_unix_sockets() {
    let (dir, source, target) = scene(16 * MIB + 512, 50);
    File::create(&target).unwrap().set_len(16 * MIB + 512).unwrap();
    let mut ends = Vec::new();
    for (name, path, more) in [("from", &source, &["--read-only"][..]), ("to", &target, &[])] {
        let socket = dir.path().join(name);
        let export = format!("a disk={}", path.display());
        let mut args = vec!["nbd", "serve", &export, "--unix", text(&socket)];
        args.extend(more);
        let peer = Peer::spawn("migratekit", command(&args)).wait_path(&socket);
        ends.push((peer, format!("nbd+unix:///a%20disk?socket={}", socket.display())));
    }
    succeed(&["copy", &ends[0].1, &ends[1].1]);
    assert_equal(&source, &target, "by sockets");
}

#[test]
fn diff_prints_what_copy_takes_as_extents() {
    let (dir, source, target) = scene(64 * MIB, 50);
    succeed(&["copy", text(&source), text(&target)]);
    let file = OpenOptions::new().write(true).open(&source).unwrap();
    for block in [0, 3, 4, 500, 1023] {
        file.write_all_at(&[0xA5; 100], block * 65536 + 17).unwrap();
    }
    drop(file);
    let extents = dir.path().join("extents");
    std::fs::write(&extents, succeed(&["diff", text(&source), text(&target), "--quiet"])).unwrap();
    let list: Value = serde_json::from_slice(&std::fs::read(&extents).unwrap()).unwrap();
    let bytes: u64 = list.as_array().unwrap().iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(bytes, 5 * 65536, "{list}");
    let report = copy_report(&[text(&source), text(&target), "--extents", text(&extents), "--verify"]);
    assert_eq!((number(&report, "bytes_total"), number(&report, "bytes_done")), (bytes, bytes));
    assert_equal(&source, &target, "after the increment");
    assert_eq!(succeed(&["diff", text(&source), text(&target)]).trim(), "[]");
}

#[test]
fn the_report_holds_what_is_promised_in_file_and_output() {
    let (dir, source, target) = scene(20 * MIB, 50);
    let file = dir.path().join("report.json");
    let report = copy_report(&[text(&source), text(&target), "--verify", "--report", text(&file)]);
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written, report);
    for key in ["size", "bytes_total", "bytes_done", "bytes_read", "bytes_written", "bytes_zeroed", "bytes_skipped", "retries", "flushes"] {
        number(&report, key);
    }
    assert!(report["seconds"].is_f64() && report["bytes_per_second"].is_f64() && report["durable"] == true, "{report}");
    assert_eq!((report["source"].as_str(), report["target"].as_str()), (source.to_str(), target.to_str()));
    assert_eq!(report["verified"]["digest"].as_str().unwrap().len(), 64);
    assert_eq!((&report["verified"]["equal"], &report["verified"]["full"]), (&true.into(), &true.into()));
    assert_eq!(number(&report["verified"], "bytes_compared"), 20 * MIB);
    let moved = number(&report, "bytes_written") + number(&report, "bytes_zeroed") + number(&report, "bytes_skipped");
    assert_eq!(moved, 20 * MIB, "{report}");
    assert_eq!(number(&report, "flushes"), 1);
}

#[test]
fn a_sample_is_a_part() {
    let (_dir, source, target) = scene(300 * MIB, 1);
    let report = copy_report(&[text(&source), text(&target), "--verify=sample"]);
    assert_eq!(report["verified"]["full"], false);
    let compared = number(&report["verified"], "bytes_compared");
    assert!(compared > 0 && compared < 300 * MIB, "{compared}");
}

#[test]
fn quiet_is_silent_and_loud_tells() {
    let (_dir, source, target) = scene(MIB, 50);
    let out = run(&["copy", text(&source), text(&target)]);
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
    let told = succeed(&["copy", text(&source), text(&target), "--verify"]);
    assert!(told.starts_with("copied 1.00 MiB in ") && told.contains("verified") && told.contains("equal"), "{told}");
}

#[test]
fn holes_are_zeroed_unless_the_target_is_known_to_be_zero() {
    let (_dir, source, _) = scene(16 * MIB, 0);
    let target = Foreign::nbdkit(&["--filter=noextents", "memory", "16M"]);
    let report = copy_report(&[text(&source), &target.uri()]);
    assert_eq!((number(&report, "bytes_zeroed"), number(&report, "bytes_skipped")), (16 * MIB, 0));
    let report = copy_report(&[text(&source), &target.uri(), "--target-is-zero"]);
    assert_eq!((number(&report, "bytes_zeroed"), number(&report, "bytes_skipped")), (0, 16 * MIB));
}

/// What the target's server saw of writes: connections that wrote, the longest write, the most at a time.
fn writes(log: &Path) -> (usize, u64, i64) {
    let (mut connections, mut longest, mut open, mut most) = (std::collections::BTreeSet::new(), 0, 0, 0);
    for line in std::fs::read_to_string(log).unwrap().lines() {
        if line.contains(" ...Write ") {
            open -= 1;
        } else if line.contains(" Write ") {
            let word = |key: &str| line.split_whitespace().find_map(|w| w.strip_prefix(key)).unwrap().to_owned();
            connections.insert(word("connection="));
            longest = longest.max(u64::from_str_radix(&word("count=0x"), 16).unwrap());
            open += 1;
            most = most.max(open);
        }
    }
    (connections.len(), longest, most)
}

#[test]
fn connections_and_sizes_are_as_asked() {
    let (dir, source, _) = scene(16 * MIB, 95);
    let log = dir.path().join("log");
    let logfile = format!("logfile={}", log.display());
    let target = Foreign::nbdkit(&["--filter=log", "--filter=delay", "memory", "16M", &logfile, "wdelay=3ms"]);
    let ask = ["--connections", "1", "--request-size", "64K", "--in-flight", "64K"];
    let mut args = vec!["copy", text(&source)];
    let uri = target.uri();
    args.push(&uri);
    args.extend(ask);
    succeed(&args);
    assert_eq!(writes(&log), (1, 65536, 1));
    succeed(&["copy", text(&source), &uri, "--connections", "4", "--request-size", "1M", "--in-flight", "8M"]);
    let (connections, longest, most) = writes(&log);
    assert!(
        (2..=5).contains(&connections) && longest > 65536 && longest <= MIB && (2..=8).contains(&most),
        "{connections} {longest} {most}"
    );
}

/// Kills or interrupts a copy in its middle, then finishes it by `--resume`.
fn interrupted(target_is_foreign: bool, kill: bool) {
    // In memory where there is room, so that a flush is answered soon; and slow enough to be met in its middle.
    let dir = roomy_dir(1600 * MIB);
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    random_image(&source, 768 * MIB, 60, &mut Rng::new(768));
    let (ledger, report) = (dir.path().join("ledger"), dir.path().join("report"));
    let from = Served::start(&source, &["--read-only"]);
    let foreign = target_is_foreign.then(|| {
        File::create(&target).unwrap().set_len(768 * MIB).unwrap();
        Foreign::qemu_nbd_at(free_port(), &target, &[])
    });
    let to = foreign.as_ref().map_or(target.display().to_string(), Foreign::uri);
    let (from, ledger_text) = (from.uri(), text(&ledger));
    let args = ["copy", &from, &to, "--ledger", ledger_text, "--bandwidth", "200M"];
    let mut child = std::process::Command::new(crate::run::MIGRATEKIT)
        .args(args)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(File::create(&report).unwrap())
        .spawn()
        .unwrap();
    assert!(wait_allocated(&target, allocated(&source) / 2, &mut child), "the copy was too fast to be interrupted");
    if kill {
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None);
    } else {
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(13), "{}", std::fs::read_to_string(&report).unwrap());
        let said = std::fs::read_to_string(&report).unwrap();
        assert!(said.contains("it was cancelled") && said.contains(" next: ") && said.contains("--resume"), "{said}");
    }
    let report = copy_report(&[&from, &to, "--ledger", ledger_text, "--resume"]);
    assert_eq!(report["resumed"], true);
    let known = number(&report, "bytes_resumed");
    assert!(known > 0, "nothing was known of the first run: {report}");
    if !kill {
        assert!(known >= allocated(&source) / 2, "what was flushed at the end of an interrupted copy is known: {report}");
    }
    assert_equal(&source, &target, "after the resume");
}

#[test]
fn a_killed_copy_to_a_file_is_resumed() {
    interrupted(false, true);
}

#[test]
fn a_killed_copy_to_a_foreign_server_is_resumed() {
    interrupted(true, true);
}

#[test]
fn an_interrupted_copy_leaves_with_13_and_is_resumed() {
    interrupted(false, false);
}

#[test]
fn what_a_guest_wrote_into_its_first_sector_makes_no_image_of_the_target() {
    let (_dir, source, target) = scene(4 * MIB, 50);
    let file = OpenOptions::new().write(true).open(&source).unwrap();
    file.write_all_at(b"QFI\xfb\0\0\0\x03", 0).unwrap();
    let from = Served::start(&source, &["--read-only"]);
    let report = copy_report(&[&from.uri(), text(&target), "--verify"]);
    assert_eq!(number(&report["verified"], "bytes_compared"), 4 * MIB);
    assert_equal(&source, &target, "a disk that looks like an image");
}

#[test]
fn a_flipped_byte_is_found() {
    let (dir, source, target) = scene(32 * MIB, 50);
    succeed(&["copy", text(&source), text(&target), "--verify"]);
    let file = OpenOptions::new().read(true).write(true).open(&target).unwrap();
    let mut byte = [0];
    let at = 21 * MIB + 77;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    drop(file);
    let found: Value = serde_json::from_str(&succeed(&["diff", text(&source), text(&target), "--block", "4K"])).unwrap();
    assert_eq!((found.as_array().unwrap().len(), &found[0]["offset"]), (1, &(at / 4096 * 4096).into()), "{found}");
    // An increment elsewhere must not be called a good copy.
    let (extents, report) = (dir.path().join("extents"), dir.path().join("report"));
    std::fs::write(&extents, r#"[{"offset":0,"length":65536,"zero":false}]"#).unwrap();
    let out = run_within(60, &["copy", text(&source), text(&target), "--extents", text(&extents), "--verify", "--report", text(&report)]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(16), "{said}");
    assert!(said.contains("offset") && said.contains(text(&target)) && said.contains(" next: "), "{said}");
    assert!(out.stdout.is_empty() && !report.exists(), "a report was made of a copy that is none");
}
