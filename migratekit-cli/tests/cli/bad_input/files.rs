//! Files that are no disks, targets that do not fit, options and addresses that make no sense.

use std::fs::File;
use std::os::unix::net::UnixListener;

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::program;

use super::{SIZE, Table, arg};
use crate::run::{Served, random_image, succeed};

/// Sources and targets by path.
pub(super) fn places(t: &mut Table) {
    let (source, target, folder) = (t.text("source"), t.text("target"), t.text("folder"));
    std::fs::create_dir(&folder).unwrap();
    let (pipe, socket) = (t.text("pipe"), t.text("socket"));
    assert!(std::process::Command::new(program("mkfifo")).arg(&pipe).status().unwrap().success());
    let _listener = UnixListener::bind(&socket).unwrap();

    t.copy("source missing", 4, &t.text("absent"), &target, &["absent", "source", "does not exist"]);
    t.copy("source below a file", 3, &format!("{source}/x"), &target, &["source/x", "not a directory"]);
    for (cause, path) in [
        ("source is a directory", folder.as_str()),
        ("source is a pipe", &pipe),
        ("source is a socket", &socket),
        ("source is a character device", "/dev/null"),
        ("source has no size", "/proc/cpuinfo"),
    ] {
        t.copy(cause, 3, path, &target, &[path, "side source"]);
    }
    assert!(!t.path("target").exists(), "a target was made for a source that cannot be read");
    for (cause, path) in [
        ("target is a directory", folder.as_str()),
        ("target is a pipe", &pipe),
        ("target is a socket", &socket),
        ("target is a character device", "/dev/null"),
    ] {
        t.copy(cause, 3, &source, path, &[path, "side target"]);
    }
    t.copy("target in a missing folder", 4, &source, &t.text("absent/target"), &["absent/target", "side target"]);
    t.copy("target below a file", 3, &source, &format!("{source}/x"), &["source/x", "side target"]);

    t.copy("source is target", 3, &source, &source, &["the same", &source]);
    let (link, hard) = (t.path("link"), t.path("hard"));
    std::os::unix::fs::symlink(&source, &link).unwrap();
    std::fs::hard_link(&source, &hard).unwrap();
    for other in [&link, &hard] {
        t.copy("same file", 3, &source, arg(other), &["the same disk", arg(other)]);
    }

    for (cause, size, code) in [("target smaller", SIZE - 512, 10), ("target file larger", SIZE + 512, 3)] {
        random_image(&t.path("target"), size, 10, &mut Rng::new(9));
        let before = std::fs::read(t.path("target")).unwrap();
        t.copy(cause, code, &source, &target, &[&target, "source size", "target size"]);
        assert!(before == std::fs::read(t.path("target")).unwrap(), "{cause}: the target was touched");
    }

    let served = Served::start(&t.path("target"), &[]);
    std::fs::remove_file(t.path("source")).unwrap();
    random_image(&t.path("source"), SIZE + 512, 10, &mut Rng::new(4));
    let pid = served.pid().to_string();
    t.copy("target held by another writer", 6, &source, &target, &[&target, &format!("pid {pid}"), "another process writes to it"]);
}

/// Options of `copy` and `diff`; nothing is made or moved.
pub(super) fn options(t: &mut Table) {
    let file = t.path("extents");
    let size = SIZE.to_string();
    t.options("extents file missing", 4, &["--extents", &t.text("absent")], &["absent", "extents"]);
    let beyond = format!(r#"[{{"offset":0,"length":512}},{{"offset":{},"length":1024}}]"#, SIZE - 512);
    for (cause, json, says) in [
        ("extents not JSON", "what", &["not a JSON list"][..]),
        ("extents of another form", r#"[{"offset":0,"size":512}]"#, &["not a JSON list"]),
        ("extents empty entry", r#"[{"offset":0,"length":512},{"offset":4096,"length":0}]"#, &["entry 1", "offset 4096", "empty"]),
        ("extents beyond the largest disk", r#"[{"offset":9223372036854775000,"length":65536}]"#, &["entry 0", "2^63"]),
        ("extents beyond the end", &beyond, &["beyond the end of the source", "offset", &size]),
    ] {
        std::fs::write(&file, json).unwrap();
        t.options(cause, 3, &["--extents", arg(&file)], says);
    }
    t.options("request size odd", 3, &["--request-size", "100K"], &["request size 100 KiB", "power of two"]);
    t.options("request size small", 3, &["--request-size", "2K"], &["request size 2.00 KiB", "4 KiB"]);
    t.options("request size large", 3, &["--request-size", "8G"], &["request size", "8.00 GiB"]);
    t.options("in flight large", 3, &["--in-flight", "512M"], &["in flight 512 MiB", "256 MiB"]);
    t.options("in flight none", 3, &["--in-flight", "0"], &["in flight 0 B"]);
    t.options("bandwidth none", 3, &["--bandwidth", "0"], &["bandwidth 0 B", "64K"]);
    t.options("no such way to verify", 2, &["--verify=half"], &["--verify", "half"]);
    t.options("no size", 2, &["--in-flight", "many"], &["--in-flight", "many"]);
    t.options("unknown option", 2, &["--no-such"], &["--no-such"]);
    t.options("resume without ledger", 3, &["--resume"], &["keeps no ledger", "never-made"]);
    let source = t.text("source");
    t.case(&super::Case::new("diff block odd", 3, &["diff", &source, &source, "--block", "3K"], &["block", "power of two"]));
    own_files(t, &source);
    let absent = t.text("absent");
    t.case(&super::Case::new("source missing", 4, &["diff", &absent, &source], &["absent", "side source"]));
    t.case(&super::Case::new("diff target missing", 4, &["diff", &source, &absent], &["absent", "side target"]));
    t.case(&super::Case::new("serve without a name", 3, &["nbd", "serve", &source], &["NAME=PATH", &source]));
    t.case(&super::Case::new("serve missing", 4, &["nbd", "serve", &format!("a={absent}"), "--listen", "127.0.0.1:0"], &["absent"]));

    // Not errors: what is not believed is said, and the copy is made from the start.
    let (target, ledger) = (t.text("copied"), t.text("ledger"));
    std::fs::write(&ledger, [0xEE; 5000]).unwrap();
    let out = crate::run::run_within(30, &["copy", &source, &target, "--ledger", &ledger, "--resume"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("copying from the start") && said.contains("ledger"), "{said}");
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap());
    // Overlapping extents are one: data wins.
    std::fs::write(&file, r#"[{"offset":0,"length":8192},{"offset":4096,"length":8192,"zero":true}]"#).unwrap();
    File::create(t.path("part")).unwrap().set_len(SIZE).unwrap();
    succeed(&["copy", &source, &t.text("part"), "--extents", arg(&file)]);
    assert!(std::fs::read(&source).unwrap()[..8192] == std::fs::read(t.path("part")).unwrap()[..8192]);
}

/// Ledgers and reports that could not be written, or would overwrite a disk.
fn own_files(t: &mut Table, source: &str) {
    let before = std::fs::read(source).unwrap();
    let (link, made, folder) = (t.path("link"), t.text("never-made"), t.path("a-folder"));
    std::os::unix::fs::symlink(source, &link).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let (absent, folder) = (t.text("absent/file"), arg(&folder));
    for (option, missing, disk, directory) in [
        ("--ledger", "ledger's folder missing", "ledger is a disk", "ledger is a directory"),
        ("--report", "report's folder missing", "report is a disk", "report is a directory"),
    ] {
        t.options(missing, 4, &[option, &absent], &[&absent, "folder"]);
        t.options(directory, 3, &[option, folder], &[folder, "is a directory"]);
        for file in [source, arg(&link), &made] {
            t.options(disk, 3, &[option, file], &[file, "would overwrite it"]);
        }
    }
    t.options("ledger is no file", 3, &["--ledger", "/dev/null"], &["/dev/null", "not a regular file"]);
    assert!(before == std::fs::read(source).unwrap(), "the source was overwritten");
}

/// Disk images that are not whole.
pub(super) fn images(t: &mut Table) {
    let (source, image, target) = (t.text("source"), t.text("image"), t.text("target"));
    let made = |args: &[&str]| assert!(std::process::Command::new(program("qemu-img")).args(args).output().unwrap().status.success());
    made(&["convert", "-f", "raw", "-O", "qcow2", &source, &image]);
    succeed(&["copy", &image, &target]);
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap(), "a whole image");
    std::fs::remove_file(&target).unwrap();
    let whole = std::fs::read(&image).unwrap();
    std::fs::write(&image, &whole[..whole.len() / 2]).unwrap();
    t.copy("truncated image", 15, &image, &target, &[&image, "side source"]);
    std::fs::write(&image, &whole[..100]).unwrap();
    t.copy("image of its first bytes", 15, &image, &target, &[&image, "side source"]);
    let other = t.text("overlay");
    made(&["create", "-f", "qcow2", "-F", "raw", "-b", &source, &other]);
    t.copy("image that names another file", 7, &other, &target, &[&other, "side source"]);
    assert!(!t.path("target").exists(), "a target was made without a source");
}

/// Addresses that cannot be read.
pub(super) fn addresses(t: &mut Table) {
    for (cause, uri, says) in [
        ("empty address", "", "it is empty"),
        ("http address", "http://host/disk", "unknown kind of address"),
        ("bad port", "nbd://127.0.0.1:99999/x", "port"),
        ("bad port", "nbd://127.0.0.1:one/x", "port"),
        ("no host", "nbd:///x", "host"),
        ("bracket open", "nbd://[::1/x", "closing bracket"),
        ("bracket content", "nbd://[zz]/x", "IPv6"),
        ("IPv6 without brackets", "nbd://::1/x", "brackets"),
        ("fragment", "nbd://host/x#y", "fragment"),
        ("socket for TCP", "nbd://host/x?socket=/s", "nbd+unix"),
        ("no socket", "nbd+unix:///x", "socket=PATH"),
        ("host for a socket", "nbd+unix://host/x?socket=/s", "three slashes"),
        ("unknown parameter", "nbd://host/x?speed=high", "speed"),
        ("TLS parameter without TLS", "nbd://host/x?tls-hostname=a", "nbds"),
        ("bad escape", "nbd://host/%zz", "%"),
    ] {
        let source = t.text("source");
        t.copy(cause, 3, &source, uri, &[says, uri]);
    }
    let source = t.text("source");
    t.copy("ssh address", 3, &source, "ssh://host/disk", &["ssh://host/disk", "--ssh-key", "--ssh-host-key"]);
    t.copy("password", 3, &source, "nbd://me:secret@host/x", &["user or password"]);
    let shown = t.answers.iter().any(|(_, answer)| answer.contains("secret"));
    assert!(!shown, "a password is repeated");
}
