//! Starting our binary, and images for it.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::{Peer, free_port, program};

/// The binary under test.
pub const MIGRATEKIT: &str = env!("CARGO_BIN_EXE_migratekit");

/// A command of ours that dies with the test.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(program("setpriv"));
    command.args(["--pdeathsig", "KILL", "--", MIGRATEKIT, "--quiet"]).args(args);
    command
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> Output {
    command(args).stdin(Stdio::null()).output().unwrap()
}

/// As [`run`], loud, and killed after `seconds`: a status without an exit code is a hang.
pub fn run_within(seconds: u64, args: &[&str]) -> Output {
    let mut command = Command::new(program("timeout"));
    command.args(["--signal=KILL", &seconds.to_string(), &program("setpriv"), "--pdeathsig", "KILL", "--", MIGRATEKIT]);
    command.args(args).env_remove("DISK").stdin(Stdio::null()).output().unwrap()
}

/// Loud, must succeed; what it printed on stdout.
pub fn succeed(args: &[&str]) -> String {
    let out = run_within(120, args);
    assert!(out.status.success(), "{args:?}: {:?}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// `copy ARGS --output json`, its report.
pub fn copy_report(args: &[&str]) -> serde_json::Value {
    let mut all = vec!["copy", "--output", "json"];
    all.extend(args);
    serde_json::from_str(&succeed(&all)).unwrap()
}

/// A number of a report.
pub fn number(report: &serde_json::Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("{key} is no number in {report}"))
}

/// Starts a command of ours, silent, in the background.
pub fn start(args: &[&str]) -> Child {
    command(args).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// Bytes a file takes on its file system.
pub fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.blocks() * 512)
}

/// Waits until `path` takes at least `bytes`, or `child` ended; tells which (true: the bytes are there and it still runs).
pub fn wait_allocated(path: &Path, bytes: u64, child: &mut Child) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if allocated(path) >= bytes {
            return true;
        }
        assert!(Instant::now() < end, "{} did not grow to {bytes} bytes", path.display());
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Waits for what must happen.
pub fn until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is() {
        assert!(Instant::now() < end, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A folder in memory if there is room for `bytes`, else where temporary files go.
pub fn roomy_dir(bytes: u64) -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |s| s.f_bavail * s.f_frsize);
    if free > bytes { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A foreign server on a loopback port.
pub struct Foreign {
    pub peer: Peer,
    pub port: u16,
}

impl Foreign {
    /// nbdkit with these arguments.
    pub fn nbdkit(args: &[&str]) -> Self {
        Foreign::nbdkit_at(free_port(), args)
    }

    pub fn nbdkit_at(port: u16, args: &[&str]) -> Self {
        let text = port.to_string();
        let mut all = vec!["-f", "-i", "127.0.0.1", "-p", &text];
        all.extend(args);
        Foreign { peer: Peer::start("nbdkit", &all).wait_port(port), port }
    }

    /// qemu-nbd for a raw file; it bears clients that are killed.
    pub fn qemu_nbd_at(port: u16, path: &Path, more: &[&str]) -> Self {
        let (text, path) = (port.to_string(), path.display().to_string());
        let mut all = vec!["-f", "raw", "-t", "-e", "16", "-b", "127.0.0.1", "-p", &text];
        all.extend(more);
        all.push(&path);
        Foreign { peer: Peer::start("qemu-nbd", &all).wait_port(port), port }
    }

    pub fn uri(&self) -> String {
        format!("nbd://127.0.0.1:{}", self.port)
    }

    /// Ends it by SIGTERM and waits, so that it writes what it writes at its end.
    pub fn end(self) {
        self.peer.signal(rustix::process::Signal::TERM);
        self.peer.wait();
    }
}

/// A server of ours for one file.
pub struct Served {
    peer: Peer,
    args: Vec<String>,
    port: u16,
}

impl Served {
    pub fn start(path: &Path, more: &[&str]) -> Self {
        let port = free_port();
        let mut args: Vec<String> = ["nbd", "serve", &format!("disk={}", path.display()), "--listen", &format!("127.0.0.1:{port}")]
            .iter()
            .map(ToString::to_string)
            .collect();
        args.extend(more.iter().map(ToString::to_string));
        Served { peer: spawn(&args).wait_port(port), args, port }
    }

    pub fn uri(&self) -> String {
        format!("nbd://127.0.0.1:{}/disk", self.port)
    }

    /// Its process id, as people write it.
    pub fn pid(&self) -> i32 {
        self.peer.pid().as_raw_nonzero().get()
    }

    /// `kill -9`, then the same server again.
    pub fn kill_and_restart(self) -> Self {
        let Served { peer, args, port } = self;
        peer.kill();
        Served { peer: spawn(&args).wait_port(port), args, port }
    }
}

fn spawn(args: &[String]) -> Peer {
    Peer::spawn("migratekit", command(&args.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Writes random runs of data over a sparse file of `size` bytes; about `percent` of it becomes data.
pub fn random_image(path: &Path, size: u64, percent: u64, rng: &mut Rng) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    scribble(&file, size, size * percent / 100, rng);
}

/// Overwrites about `bytes` bytes at random places.
pub fn scribble(file: &File, size: u64, bytes: u64, rng: &mut Rng) {
    let mut left = bytes;
    let mut run = vec![0; 1 << 20];
    while left > 0 {
        let length = (1 + rng.below(run.len() as u64)).min(left);
        let part = &mut run[..length as usize];
        rng.fill(part);
        file.write_all_at(part, rng.below(size - length + 1)).unwrap();
        left -= length;
    }
}

/// Fails at the first byte that differs. Reads a piece at a time: some images are larger than what the machine can spare.
pub fn assert_equal(a: &Path, b: &Path, context: &str) {
    let (a, b) = (File::open(a).unwrap(), File::open(b).unwrap());
    let size = a.metadata().unwrap().len();
    assert_eq!(size, b.metadata().unwrap().len(), "{context}: sizes");
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for offset in (0..size).step_by(1 << 20) {
        let length = (size - offset).min(1 << 20) as usize;
        let (left, right) = (&mut left[..length], &mut right[..length]);
        a.read_exact_at(left, offset).unwrap();
        b.read_exact_at(right, offset).unwrap();
        if left != right {
            let at = left.iter().zip(right.iter()).position(|(x, y)| x != y).unwrap();
            panic!("{context}: source and target differ, first at {}", offset + at as u64);
        }
    }
}
