//! What the tests stand on: a server on a free port in a runtime of its own, a disk that can be held, and waiting for conditions.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use migratekit_core::Result;
use migratekit_core::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, MemoryDisk, Persist, ZeroMode};
use migratekit_core::nbd::export::{Export, PlainExport};
use migratekit_core::nbd::server::ConnectionStatus;
use migratekit_core::nbd::{Listener, Server, ServerConfig};
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::peer::program;
use migratekit_core::units::ByteRange;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, ready: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A server that listens on the loopback and on a Unix socket.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) port: u16,
    pub(crate) socket: PathBuf,
    pub(crate) stop: CancellationToken,
    pub(crate) runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new(config: ServerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = Server::new(config);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let stop = CancellationToken::new();
        let (tcp, unix) = runtime.block_on(async { (Listener::tcp("127.0.0.1:0").await.unwrap(), Listener::unix(&socket).unwrap()) });
        let port = tcp.port().unwrap();
        for listener in [tcp, unix] {
            let (server, stop) = (server.clone(), stop.clone());
            runtime.spawn(async move { server.serve(listener, stop).await.unwrap() });
        }
        Rig { server, port, socket, stop, runtime, _folder: folder }
    }

    /// A server with one memory disk named `disk`.
    pub(crate) fn with_disk(config: ServerConfig, disk: impl BlockWrite + 'static) -> Self {
        let rig = Rig::new(config);
        rig.add("disk", disk);
        rig
    }

    pub(crate) fn add(&self, name: &str, disk: impl BlockWrite + 'static) {
        self.server.add(name, plain(disk)).unwrap();
    }

    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd://127.0.0.1:{}/{export}", self.port)
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionStatus> {
        self.server.connections()
    }
}

/// A disk as an export.
pub(crate) fn plain(disk: impl BlockWrite + 'static) -> Arc<dyn Export> {
    Arc::new(PlainExport::new(Arc::new(disk), "a disk of a test"))
}

/// Runs a program; it must succeed. Its output.
pub(crate) fn run(name: &str, args: &[&str]) -> String {
    let output = attempt(name, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {args:?}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a program, whatever comes of it.
pub(crate) fn attempt(name: &str, args: &[&str]) -> Output {
    Command::new(program(name)).args(args).output().unwrap()
}

/// Runs Python statements with `h` connected to `uri` and the module `nbd` at hand (libnbd's own shell is such a program).
pub(crate) fn python(uri: &str, statements: &str) -> String {
    let script =
        format!("import nbd\nh = nbd.NBD()\nh.add_meta_context('base:allocation')\nh.connect_uri('{uri}')\n{statements}\nh.shutdown()\n");
    // Debian's, which has the module.
    let output = Command::new("/usr/bin/python3").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{statements}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A memory disk whose writes, and if wanted reads, wait for permission.
pub(crate) struct Gated {
    disk: MemoryDisk,
    open: watch::Sender<bool>,
    /// Requests that wait.
    pub(crate) waiting: AtomicU64,
    /// Writes that ended.
    pub(crate) written: AtomicU64,
    hold_reads: bool,
}

impl Gated {
    pub(crate) fn new(size: u64, open: bool, hold_reads: bool) -> Arc<Self> {
        let (open, _) = watch::channel(open);
        let (waiting, written) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Gated { disk: MemoryDisk::new("gated", size), open, waiting, written, hold_reads })
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn pass(&self) {
        let mut open = self.open.subscribe();
        if !*open.borrow() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _ = open.wait_for(|open| *open).await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A gated disk that the test keeps a hand on.
pub(crate) struct Shared(pub(crate) Arc<Gated>);

impl BlockRead for Shared {
    fn info(&self) -> &BlockInfo {
        self.0.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            if self.0.hold_reads {
                self.0.pass().await;
            }
            self.0.disk.read(range).await
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.0.disk.extents(range)
    }
}

impl BlockWrite for Shared {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.0.pass().await;
            let end = self.0.disk.write(offset, data, persist).await;
            self.0.written.fetch_add(1, Ordering::SeqCst);
            end
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.0.disk.zero(range, mode, persist)
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.0.disk.discard(range, persist)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.0.disk.flush()
    }
}
