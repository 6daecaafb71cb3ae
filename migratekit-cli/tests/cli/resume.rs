//! A resume and an increment are cheap: the bytes that are read are counted at the source, by nbdkit's filter stats.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::free_port;
use serde_json::Value;

use crate::run::{Foreign, Served, allocated, assert_equal, copy_report, number, random_image, roomy_dir, start, succeed, wait_allocated};

const MIB: u64 = 1 << 20;
/// The most bytes in flight, when their number is chosen by measurement.
const IN_FLIGHT: u64 = 16 * MIB;
/// What a ledger may not know of a target that was not asked to flush.
const LEDGER_INTERVAL: u64 = 64 * MIB;

/// A raw file served by nbdkit, which counts what is read. The counts are rounded to hundredths of a unit.
fn counted(port: u16, path: &Path, stats: &Path) -> Foreign {
    let (file, stats) = (format!("file={}", path.display()), format!("statsfile={}", stats.display()));
    Foreign::nbdkit_at(port, &["-r", "--filter=stats", "file", &file, &stats])
}

/// Bytes in a line such as `read: 1520 ops, 0.2 s, 380.00 MiB, ..`, rounded down; no line: nothing was read.
fn bytes_read(stats: &Path) -> u64 {
    let text = std::fs::read_to_string(stats).unwrap();
    assert!(text.contains("total:"), "no counts in {text:?}");
    let Some(line) = text.lines().find(|l| l.starts_with("read:")) else { return 0 };
    let words: Vec<&str> = line.split(',').nth(2).unwrap().split_whitespace().collect();
    let unit = match words[1] {
        "bytes" => 1,
        "KiB" => 1 << 10,
        "MiB" => MIB,
        "GiB" => 1 << 30,
        other => panic!("unit {other}"),
    };
    let (whole, part) = words[0].split_once('.').unwrap_or((words[0], "0"));
    whole.parse::<u64>().unwrap() * unit + part.parse::<u64>().unwrap() * unit / 100
}

#[test]
fn a_resume_reads_little_more_than_what_remains() {
    const SIZE: u64 = 1024 * MIB;
    let dir = roomy_dir(3 * SIZE);
    let (source, target, stats) = (dir.path().join("source"), dir.path().join("target"), dir.path().join("stats"));
    random_image(&source, SIZE, 90, &mut Rng::new(80));
    File::create(&target).unwrap().set_len(SIZE).unwrap();
    let data = allocated(&source);
    assert!(data >= 512 * MIB, "{data}");
    let to = Served::start(&target, &[]);
    let port = free_port();

    // The first run's source is another program: nbdkit can abort when its client is killed.
    let from = Foreign::qemu_nbd_at(port, &source, &["-r"]);
    let mut copier = start(&["copy", &from.uri(), &to.uri(), "--bandwidth", "400M"]);
    assert!(wait_allocated(&target, data / 10 * 8, &mut copier), "the copy was too fast to be killed");
    copier.kill().unwrap();
    copier.wait().unwrap();
    from.end();
    let remaining = data - allocated(&target).min(data);

    let from = counted(port, &source, &stats);
    let report = copy_report(&[&from.uri(), &to.uri(), "--resume"]);
    from.end();
    assert_eq!(report["resumed"], true);
    let (read, most) = (bytes_read(&stats), remaining + IN_FLIGHT + LEDGER_INTERVAL);
    println!("{data} bytes of data, {remaining} remained, {read} were read, at most {most} allowed");
    assert!(most < data * 6 / 10, "the copy was killed too early for this bound to say anything: {remaining} of {data} remained");
    assert!(read <= most, "{read} bytes were read, {most} would do");
    assert!(number(&report, "bytes_resumed") > 0);
    drop(to);
    assert_equal(&source, &target, "after the resume");
}

#[test]
fn an_increment_reads_what_changed() {
    const SIZE: u64 = 1024 * MIB;
    const BLOCK: u64 = 64 << 10;
    let mut rng = Rng::new(1);
    let dir = roomy_dir(2 * SIZE);
    let path = |name: &str| dir.path().join(name);
    let (source, target, stats, extents) = (path("source"), path("target"), path("stats"), path("extents"));
    random_image(&source, SIZE, 20, &mut rng);
    File::create(&target).unwrap().set_len(SIZE).unwrap();
    let to = Served::start(&target, &[]);
    succeed(&["copy", source.to_str().unwrap(), &to.uri()]);

    let file = OpenOptions::new().write(true).open(&source).unwrap();
    let mut block = vec![0; usize::try_from(BLOCK).unwrap()];
    for _ in 0..SIZE / BLOCK / 100 {
        rng.fill(&mut block);
        file.write_all_at(&block, rng.below(SIZE / BLOCK) * BLOCK).unwrap();
    }
    drop(file);
    std::fs::write(&extents, succeed(&["diff", source.to_str().unwrap(), &to.uri(), "--quiet"])).unwrap();
    let list: Value = serde_json::from_slice(&std::fs::read(&extents).unwrap()).unwrap();
    let lengths: Vec<u64> = list.as_array().unwrap().iter().map(|e| e["length"].as_u64().unwrap()).collect();
    let changed: u64 = lengths.iter().sum();
    assert!(changed > SIZE / 100 * 9 / 10 && changed <= SIZE / 100, "{changed}");

    let from = counted(free_port(), &source, &stats);
    let report = copy_report(&[&from.uri(), &to.uri(), "--extents", extents.to_str().unwrap()]);
    from.end();
    let (read, most) = (bytes_read(&stats), changed + BLOCK * lengths.len() as u64);
    assert!(read <= most, "{read} bytes were read, {most} would do");
    assert!(read >= changed / 10 * 9, "{read} of {changed}: the counts are wrong");
    assert_eq!(number(&report, "bytes_total"), changed);
    drop(to);
    assert_equal(&source, &target, "after the increment");
}
