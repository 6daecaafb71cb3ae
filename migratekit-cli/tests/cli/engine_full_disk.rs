//! Disks that become full while VMs are replicated: the pass fails and says so, the VM is free and keeps its point, and when there is room the
//! next pass ends equal.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use migratekit_core::testing::Rng;
use rustix::process::Signal;

use crate::engine_rig::{Home, Running, shown};
use crate::run::assert_equal;
use crate::small_disk::SmallDisk;

const MIB: u64 = 1 << 20;

/// A home whose replicas lie on a disk of `bytes` bytes.
fn volumes_on_small_disk(bytes: u64, disks: &[u64]) -> Home {
    let mut home = Home::new();
    home.make_machine("web-01", disks, 21);
    let small = home.path("small");
    fs::create_dir(&small).unwrap();
    home.disk = Some(SmallDisk::at(&small, bytes));
    let (site, volumes) = (home.path("site"), small.display().to_string());
    home.succeed(&["credential", "add", "local", "lab", "--path", site.to_str().unwrap(), "--volumes", &volumes]);
    home.succeed(&["vm", "add", "lab", "--all"]);
    home
}

fn disk(home: &Home) -> &SmallDisk {
    home.disk.as_ref().unwrap()
}

/// How much is in use there.
fn used(home: &Home) -> u64 {
    let stat = rustix::fs::statvfs(disk(home).outside()).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

/// The file of a volume as the test sees it.
fn outside(home: &Home, inside: &Path) -> PathBuf {
    match inside.strip_prefix(home.path("small")) {
        Ok(below) => disk(home).outside().join(below),
        Err(_) => inside.to_owned(),
    }
}

fn assert_replica(home: &Home, context: &str) {
    let replicas = home.replicas("web-01");
    assert!(!replicas.is_empty(), "{context}: there is no replica");
    for (number, replica) in replicas.iter().enumerate() {
        assert_equal(&home.machine("web-01").join(format!("{number}.img")), &outside(home, replica), context);
    }
}

/// Nothing holds the VM, and nothing of the pass is left at the source.
fn assert_free(home: &Home, context: &str) {
    let active = home.json(&["job", "list", "--active"]);
    assert!(active["items"].as_array().unwrap().is_empty(), "{context}: {active}");
    let snapshots: Vec<_> = fs::read_dir(home.machine("web-01").join("snapshots")).into_iter().flatten().collect();
    assert!(snapshots.is_empty(), "{context}: {snapshots:?}");
}

/// Overwrites the beginning of disk 0 with what was not there.
fn change(home: &Home, bytes: u64, seed: u64) {
    let mut data = vec![0; usize::try_from(bytes).unwrap()];
    Rng::new(seed).fill(&mut data);
    OpenOptions::new().write(true).open(home.machine("web-01").join("0.img")).unwrap().write_all_at(&data, 0).unwrap();
}

#[test]
fn what_does_not_fit_fails_and_leaves_the_vm_free_and_its_point_alone() {
    let home = volumes_on_small_disk(4 * MIB, &[32 * MIB]);
    home.refuse(&["replicate", "web-01"], 10, &["error: ", "space", " next: "]);
    assert_free(&home, "a first pass without room");
    disk(&home).resize(256 * MIB);
    home.succeed(&["replicate", "web-01"]);
    assert_replica(&home, "with room");

    // An increment has no room for what it must keep beside the volume: the point stays as it was, and is ready.
    disk(&home).resize(used(&home) + 2 * MIB);
    let before: Vec<_> = home.replicas("web-01").iter().map(|file| fs::read(outside(&home, file)).unwrap()).collect();
    change(&home, 16 * MIB, 5);
    home.refuse(&["replicate", "web-01"], 10, &["error: ", "space", " next: "]);
    assert_free(&home, "an increment without room");
    let after: Vec<_> = home.replicas("web-01").iter().map(|file| fs::read(outside(&home, file)).unwrap()).collect();
    assert!(before == after, "the replica is as it was");
    let vm = home.json(&["vm", "show", "web-01"]);
    assert_eq!(vm["ready_for_failover"], true, "{vm}");
    disk(&home).resize(256 * MIB);
    home.succeed(&["replicate", "web-01"]);
    assert_replica(&home, "after room was made");
}

/// A pass that has moved bytes, stopped in its middle.
fn stopped(home: &Home, name: &str) -> Running {
    let mut pass = home.start(&["replicate", "web-01", "--full", "--watch"], name);
    assert!(pass.wait_for("Copying"), "{}", pass.said());
    pass.signal(Signal::STOP);
    pass
}

#[test]
fn room_that_others_take_meanwhile_fails_the_pass_and_frees_the_vm() {
    let home = volumes_on_small_disk(512 * MIB, &[256 * MIB]);
    let mut pass = stopped(&home, "full");
    disk(&home).resize(used(&home).max(MIB));
    pass.signal(Signal::CONT);
    assert_eq!(pass.wait(), Some(10), "{}", pass.said());
    assert!(pass.said().contains(" next: "), "{}", pass.said());
    assert_free(&home, "a pass that ran out of room");
    disk(&home).resize(512 * MIB);
    home.succeed(&["replicate", "web-01"]);
    assert_replica(&home, "after room was made");
}

/// The catalog itself cannot grow: nothing can be written down, so the process waits and says for what; with room it goes on by itself.
#[test]
fn a_catalog_without_room_loses_no_job() {
    let mut home = Home::new();
    home.make_machine("web-01", &[256 * MIB], 22);
    let small = home.path("migratekit");
    fs::create_dir(&small).unwrap();
    home.disk = Some(SmallDisk::at(&small, 64 * MIB));
    home.manage_all();
    let mut pass = stopped(&home, "catalog");
    disk(&home).resize(used(&home).max(MIB));
    pass.signal(Signal::CONT);
    let mut looks = 0;
    while !pass.said().contains("the disk that holds the catalog is full") {
        looks += 1;
        assert!(looks < 6000, "nothing is said of the full disk: {}", pass.said());
        std::thread::sleep(Duration::from_millis(10));
    }
    disk(&home).resize(64 * MIB);
    // Its lease may have run out meanwhile: then it was laid down, and is continued below.
    pass.wait();
    let out = home.run(&["vm", "list"]);
    assert!(out.status.success(), "{}", shown(&out));
    let active = home.json(&["job", "list", "--active"]);
    match active["items"].as_array().unwrap().as_slice() {
        [] => home.succeed(&["replicate", "web-01"]),
        [job] => {
            assert_eq!(job["status"], "paused", "{active}");
            home.succeed(&["replicate", "resume", "web-01"])
        }
        _ => panic!("two jobs of one VM: {active}"),
    };
    assert_replica(&home, "after room was made");
    assert_free(&home, "after all");
}
