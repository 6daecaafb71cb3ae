//! NBD servers that refuse, fail, are too small, or are no NBD servers.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migratekit_core::ErrorKind;
use migratekit_core::nbd::client::Timeouts;
use migratekit_core::nbd::{Client, ConnectOptions};
use migratekit_core::testing::peer::{Peer, START_TIME, free_port};

use super::{Case, SIZE, Table};
use crate::run::{Foreign, Served, command, run, run_within, wait_allocated};

/// Servers that say no, or whose disk does.
pub(super) fn refusing(t: &mut Table) {
    let (source, target) = (t.text("source"), t.text("target"));
    let size = format!("{SIZE}");
    let small = Foreign::nbdkit(&["memory", "7M"]);
    t.copy("target smaller", 10, &source, &small.uri(), &[&small.uri(), "source size 8.00 MiB", "target size 7.00 MiB"]);
    let fixed = Foreign::nbdkit(&["-r", "memory", &size]);
    t.copy("target export read-only", 9, &source, &fixed.uri(), &[&fixed.uri(), "read-only"]);
    t.copy("source is target", 3, &fixed.uri(), &fixed.uri(), &["the same", &fixed.uri()]);
    for (cause, errno, code) in [
        ("target full while writing", "ENOSPC", 10),
        ("target broken while writing", "EIO", 15),
        ("target denies while writing", "EPERM", 7),
    ] {
        let errno = format!("error-pwrite={errno}");
        let broken = Foreign::nbdkit(&["--filter=error", "memory", &size, &errno, "error-pwrite-rate=100%"]);
        t.copy(cause, code, &source, &broken.uri(), &["side target", &broken.uri(), "offset", "length"]);
    }
    for (cause, errno, code) in [("source broken while reading", "EIO", 15), ("source denies while reading", "EPERM", 7)] {
        let errno = format!("error-pread={errno}");
        let broken = Foreign::nbdkit(&["--filter=error", "memory", &size, &errno, "error-pread-rate=100%", "--filter=noextents"]);
        t.copy(cause, code, &broken.uri(), &target, &["side source", &broken.uri(), "offset", "length"]);
        let _ = std::fs::remove_file(&target);
    }
    let served = Served::start(&t.path("source"), &["--read-only"]);
    let unknown = served.uri().replace("/disk", "/other");
    t.copy("unknown export", 4, &unknown, &target, &[&unknown, "side source"]);
    t.copy("target export read-only", 9, &source, &served.uri(), &[&served.uri()]);
    t.case(&Case::new("unknown export shown", 4, &["nbd", "info", &unknown], &[&unknown]));
    t.case(&Case::new(
        "more connections than allowed",
        3,
        &["copy", &served.uri(), &target, "--connections", "99"],
        &["connections", "1 and 16"],
    ));
    std::fs::write(t.path("volume"), vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    let keeps = Served::start(&t.path("volume"), &[]);
    let ledger = t.text("ledger");
    t.case(&Case::new("two ledgers", 3, &["copy", &source, &keeps.uri(), "--ledger", &ledger], &[&keeps.uri(), &ledger, "keeps its own"]));
    let text = format!("127.0.0.1:{}", keeps.uri().split([':', '/']).nth(4).unwrap());
    let export = format!("a={}", t.text("source"));
    let (socket, plain) = (t.text("socket"), t.text("source"));
    let serve = ["nbd", "serve", &export, "--read-only", "--unix", &socket];
    let first = Peer::spawn("migratekit", command(&serve)).wait_path(&t.path("socket"));
    t.case(&Case::new("socket taken", 6, &serve, &[&socket, "another server listens"]));
    t.case(&Case::new("socket's path taken", 5, &["nbd", "serve", &export, "--read-only", "--unix", &plain], &[&plain, "not a socket"]));
    assert!(t.path("source").exists() && t.path("socket").exists(), "what lay there was removed");
    // One left behind by a server that was killed does not stand in the way.
    first.kill();
    let uri = format!("nbd+unix:///a?socket={socket}");
    assert!(!run(&["nbd", "info", &uri]).status.success());
    let _second = Peer::spawn("migratekit", command(&serve));
    let end = std::time::Instant::now() + START_TIME;
    while !run(&["nbd", "info", &uri]).status.success() {
        assert!(std::time::Instant::now() < end, "a socket left behind stands in the way");
    }
    t.case(&Case::new("address taken", 6, &["nbd", "serve", &export, "--read-only", "--listen", &text], &[&text]));
}

/// A listener that gives each client the same bytes, and then closes or falls silent.
struct Listener {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Listener {
    fn new(says: &'static [u8], close: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                // The client may be gone already.
                let _ = stream.write_all(says);
                if !close {
                    open.push(stream);
                }
            }
        });
        Listener { port, stop, thread: Some(thread) }
    }

    fn uri(&self) -> String {
        format!("nbd://127.0.0.1:{}/x", self.port)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// What is at the address is no NBD server, or none at all.
pub(super) fn strange(t: &mut Table) {
    let (source, target) = (t.text("source"), t.text("target"));
    let nobody = format!("nbd://127.0.0.1:{}/x", free_port());
    t.copy("nobody listens", 11, &nobody, &target, &[&nobody, "side source", "nobody listens"]);
    t.copy("nobody listens for the target", 11, &source, &nobody, &[&nobody, "side target", "nobody listens"]);
    t.copy("no such host", 4, "nbd://no-such-host.invalid/x", &target, &["no-such-host.invalid", "not known"]);
    let (socket, file) = (format!("nbd+unix:///x?socket={}", t.text("absent")), format!("nbd+unix:///x?socket={source}"));
    t.copy("no such socket", 4, &socket, &target, &[&socket, "does not exist"]);
    t.copy("socket is a file", 11, &file, &target, &[&file]);
    for (cause, says, code, text) in [
        ("an HTTP server", &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..], 14, "does not speak NBD"),
        ("closes at once", b"", 11, "before its greeting"),
        ("closes in its greeting", b"NBDMAGICIHAVEOPT", 11, "in the middle of its greeting"),
        ("unknown greeting", b"NBDMAGICIHAVEOPS", 14, "greeting"),
        ("oldstyle", b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53", 8, "oldstyle"),
        ("closes after its greeting", b"NBDMAGICIHAVEOPT\x00\x03", 4, "closed the connection when asked for the export"),
    ] {
        let peer = Listener::new(says, true);
        t.copy(cause, code, &peer.uri(), &target, &[&peer.uri(), text]);
    }
    assert!(!t.path("target").exists(), "a target was made without a source");
}

/// A server that never answers: the library with a short deadline; the command with its own of 30 s in the long suite.
#[test]
fn a_server_that_never_answers_ends_at_the_deadline() {
    for says in [&b""[..], b"NBDMAGIC", b"NBDMAGICIHAVEOPT\x00\x03"] {
        let peer = Listener::new(says, false);
        let timeouts = Timeouts { handshake: Duration::from_millis(300), ..Timeouts::default() };
        let options = ConnectOptions { timeouts, ..ConnectOptions::new(peer.uri().parse().unwrap()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connected = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), Client::connect(options)).await });
        let error = connected.expect("no end at the deadline").err().expect("connected to nothing");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains(&peer.uri()) && error.to_string().contains("deadline-seconds 0.3"), "{error}");
        if std::env::var_os("MIGRATEKIT_ROUNDS_TIMES").is_some() {
            let out = run_within(100, &["nbd", "info", &peer.uri()]);
            assert_eq!(out.status.code(), Some(12), "{}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

/// A source that goes away for good: the copy ends after the time for reconnecting (two minutes, so in the long suite), and leaves
/// what a resume needs. In the short suite the server comes back, and the copy goes on by itself.
#[test]
fn a_source_that_vanishes_is_waited_for() {
    let table = Table::new();
    let (source, target) = (table.path("source"), table.path("target"));
    let file = std::fs::OpenOptions::new().write(true).open(&source).unwrap();
    crate::run::scribble(&file, SIZE, 2 * SIZE, &mut migratekit_core::testing::Rng::new(5));
    let to = slow_target(&target);
    let from = Served::start(&source, &["--read-only"]);
    let mut child = crate::run::start(&["copy", &from.uri(), &to.uri(), "--request-size", "64K", "--in-flight", "64K"]);
    assert!(wait_allocated(&target, SIZE / 8, &mut child));
    if std::env::var_os("MIGRATEKIT_ROUNDS_TIMES").is_some() {
        drop(from);
        assert_eq!(child.wait().unwrap().code(), Some(11));
        return;
    }
    let _from = from.kill_and_restart();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    crate::run::assert_equal(&source, &target, "the source came back");
}

/// A target that takes 10 ms for each write.
pub(super) fn slow_target(path: &std::path::Path) -> Foreign {
    std::fs::File::create(path).unwrap().set_len(SIZE).unwrap();
    Foreign::nbdkit(&["--filter=delay", "file", &format!("file={}", path.display()), "wdelay=10ms"])
}
