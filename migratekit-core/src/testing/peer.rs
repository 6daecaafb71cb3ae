//! Real programs as test peers: started on free loopback ports, ended always.
//!
//! A peer runs under `setpriv --pdeathsig KILL`, so it does not outlive a test process that dies; dropping it ends it by
//! SIGTERM, then SIGKILL, by its pid. A missing program fails with the command that installs it.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What installs every peer.
pub const INSTALL: &str = "scripts/install-test-peers";

/// How long a peer may take until it listens.
pub const START_TIME: Duration = Duration::from_secs(20);

/// The path of a program; fails the test, with the command that installs it, when it is missing.
///
/// # Panics
/// When the program is not installed.
#[must_use]
#[allow(clippy::panic)]
pub fn program(name: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    for dir in path.split(':').chain(["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"]) {
        let candidate = Path::new(dir).join(name);
        if candidate.is_file() {
            return candidate.display().to_string();
        }
    }
    panic!("{name} is not installed; run: {INSTALL}");
}

/// The ports that tests are given. They lie below those that the kernel gives to whoever asks for any (32768 and up, unless it was told
/// otherwise): a program that is to listen there later, or again, finds its port, and who tries to reach it meanwhile does not come out at
/// itself, as on the loopback happens with a port of the kernel's choice.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port of the loopback that nobody listens on, and that is given to nobody else on this host while this process lives.
///
/// # Panics
/// When there is no free port.
#[allow(clippy::expect_used, clippy::panic)]
pub fn free_port() -> u16 {
    /// What keeps others from the ports of this process: a name that no two sockets can have, and that goes with the process.
    static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that start at once do not all begin at the same place.
    let (all, first) = (PORTS.end - PORTS.start, std::process::id().wrapping_mul(7919));
    let tries = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take(usize::from(all));
    for n in tries {
        let offset = u16::try_from(first.wrapping_add(u32::from(n)) % u32::from(all)).unwrap_or(0);
        let port = PORTS.start + offset;
        let name = SocketAddr::from_abstract_name(format!("migratekit-test-port-{port}")).expect("the name of a socket");
        let Ok(held) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(held);
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// A running program.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    name: String,
}

impl Peer {
    /// Starts `name` with `args`; its output goes to the test's.
    ///
    /// # Panics
    /// When it is not installed or cannot be started.
    #[allow(clippy::expect_used)]
    pub fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program("setpriv"));
        command.args(["--pdeathsig", "KILL", "--"]).arg(program(name)).args(args);
        Peer::spawn(name, command)
    }

    /// Starts a prepared command.
    ///
    /// # Panics
    /// When it cannot be started.
    #[allow(clippy::expect_used)]
    pub fn spawn(name: &str, mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn().expect("start a test peer");
        Peer { child, name: name.to_owned() }
    }

    /// Waits until something listens on `port` of the loopback, without connecting (a connection would be counted).
    ///
    /// # Panics
    /// When the peer ends, or does not listen within [`START_TIME`].
    #[must_use]
    #[allow(clippy::panic)]
    pub fn wait_port(mut self, port: u16) -> Self {
        let want = format!(":{port:04X}");
        self.wait_until(&format!("listen on port {port}"), || {
            ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
                fs::read_to_string(table).unwrap_or_default().lines().any(|line| {
                    let mut words = line.split_whitespace();
                    words.nth(1).is_some_and(|local| local.ends_with(&want)) && words.nth(1) == Some("0A")
                })
            })
        });
        self
    }

    /// Waits until `path` exists (a pid file), and is listened at if it is a Unix socket: between `bind` and `listen` it refuses.
    ///
    /// # Panics
    /// When the peer ends, or the path is not there within [`START_TIME`].
    #[must_use]
    pub fn wait_path(mut self, path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The fourth word of a line of a socket that listens (__SO_ACCEPTCON).
        let listens = |line: &str| line.ends_with(&name) && line.split_whitespace().nth(3) == Some("00010000");
        self.wait_until(&format!("make {}", path.display()), || match fs::metadata(path) {
            Err(_) => false,
            Ok(found) if !found.file_type().is_socket() => true,
            Ok(_) => fs::read_to_string("/proc/net/unix").unwrap_or_default().lines().any(listens),
        });
        self
    }

    #[allow(clippy::panic)]
    fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) {
        let end = Instant::now() + START_TIME;
        while !ready() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended with {status} before it did {what}", self.name);
            }
            assert!(Instant::now() < end, "{} did not {what} within {START_TIME:?}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end and tells the exit code (`None`: by a signal).
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[allow(clippy::expect_used)]
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("wait for a test peer").code()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        self.signal(Signal::TERM);
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
