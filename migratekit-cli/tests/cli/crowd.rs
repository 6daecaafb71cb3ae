//! A thousand connections that never show a key, silent, dribbling and talking nonsense, while a copy goes on: others are still served, and
//! the memory of the server stays bounded. The crowd is a process of its own; memory is measured from outside.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::program;
use rustix::process::{Pid, Signal, kill_process};

use crate::run::{allocated, random_image, start, succeed, wait_allocated};
use crate::tunnel::{Serving, keys};

/// The most the server may hold: what a copy holds (64 MiB), and half a MiB for each of the 256 half-open connections that it bears.
const MOST: u64 = 192 << 20;

/// Connects a thousand times from sixteen addresses, tells `there`, goes on sending until its input ends, then tells how many of the
/// connections the server had closed.
const CROWD: &str = r#"
import select, socket, struct, sys, time
port = int(sys.argv[1])
crowd, closed = [], 0
for i in range(1000):
    s = socket.socket()
    s.bind((f"127.0.1.{i % 16 + 1}", 0))
    s.connect(("127.0.0.1", port))
    s.setblocking(False)
    crowd.append((s, i % 5))
def send(s, data):
    try:
        s.send(data)
        return True
    except BlockingIOError:
        return True
    except OSError:
        return False
def gone(s):
    try:
        while True:
            if not s.recv(4096):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True
for s, kind in crowd:
    if kind == 1: send(s, b"SSH-2.0-half\r\n")
    if kind == 2: send(s, b"SSH-2.0-half\r\n" + struct.pack(">I", 200000) + b"\x04" * 1000)
    if kind == 3: send(s, b"GET / HTTP/1.1\r\n")
print("there", flush=True)
start = time.monotonic()
while not select.select([sys.stdin], [], [], 0.2)[0]:
    left = []
    for s, kind in crowd:
        # The slow ones send a byte each time; the others wait.
        alive = not gone(s) and (kind not in (2, 4) or send(s, b"S"))
        if alive: left.append((s, kind))
        else:
            closed += 1
            s.close()
    crowd = left
print(f"closed {closed} of 1000 after {time.monotonic() - start:.1f} s", flush=True)
"#;

/// A number of `/proc/PID/status`, in bytes.
fn status(child: &Child, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key} in {text}"));
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line
}

#[test]
fn a_thousand_half_open_connections_keep_nobody_out_and_cost_little() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (source, small) = (path("source"), path("small-source"));
    random_image(&source, 48 << 20, 100, &mut Rng::new(8));
    random_image(&small, 4 << 20, 100, &mut Rng::new(9));
    for (name, size) in [("target", 48 << 20), ("small", 4 << 20)] {
        std::fs::File::create(path(name)).unwrap().set_len(size).unwrap();
    }
    let key = keys(folder.path());
    let exports = [format!("disk={}", path("target").display()), format!("small={}", path("small").display())];
    let serving = Serving::start(folder.path(), &[&exports[0], &exports[1]]);
    let enter = ["--ssh-key", key.as_str(), "--ssh-host-key", serving.fingerprint.as_str()];
    let text = |path: &std::path::Path| path.display().to_string();

    // A copy that takes a while.
    let (from, to) = (text(&source), serving.address("disk"));
    let mut copy = start(&[&["copy", &from, &to, "--bandwidth", "6M"], &enter[..]].concat());
    assert!(wait_allocated(&path("target"), 4 << 20, &mut copy), "the copy ended too early");
    // It stands still until the crowd is there, however long that takes on a machine that is busy.
    kill_process(Pid::from_child(&copy), Signal::STOP).unwrap();
    let before = status(&serving.child, "VmRSS:");

    let mut crowd = Command::new(program("setpriv"));
    crowd.args(["--pdeathsig", "KILL", "--", "/usr/bin/python3", "-c", CROWD, &serving.port]);
    let mut crowd = crowd.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(crowd.stdout.take().unwrap());
    assert_eq!(line(&mut told).trim(), "there");
    kill_process(Pid::from_child(&copy), Signal::CONT).unwrap();

    // Who has a key comes in beside them, again and again, and the copy goes on.
    let (from, to) = (text(&small), serving.address("small"));
    for _ in 0..3 {
        succeed(&[&["copy", &from, &to], &enter[..]].concat());
        assert!(succeed(&[&["diff", &from, &to], &enter[..]].concat()).trim() == "[]");
    }
    let (grown, during) = (allocated(&path("target")), status(&serving.child, "VmRSS:"));
    assert!(copy.wait().unwrap().success(), "the copy failed beside the crowd");
    assert!(std::fs::read(&source).unwrap() == std::fs::read(path("target")).unwrap(), "target equals source");
    let peak = status(&serving.child, "VmHWM:");
    crowd.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let end = line(&mut told);
    crowd.wait().unwrap();
    println!(
        "{}; resident {} MiB before, {} MiB beside the crowd, {} MiB at most; {grown} bytes copied by then",
        end.trim(),
        before >> 20,
        during >> 20,
        peak >> 20
    );
    let closed: u64 = end.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(closed >= 744, "at most 256 are held at a time: {end}");
    assert!(peak <= MOST, "{peak} bytes at most, {before} before");
    serving.stop();
}
