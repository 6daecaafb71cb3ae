//! A source whose reads are counted, a line, a tunnel at its end, and a target with a ledger behind it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::block::{BlockRead, BlockWrite, MemoryDisk, Persist};
use migratekit_core::copy::ledger::{Ledger, LedgerOptions};
use migratekit_core::copy::{
    Assignments, DiskCopy, DiskCopyReport, Endpoint, ExportOptions, LedgeredExport, TunnelExports, TunnelledExport,
};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::{self, Listener, ServerConfig};
use migratekit_core::task::Scope;
use migratekit_core::testing::line::{Line, LineOptions};
use migratekit_core::testing::volatile::World;
use migratekit_core::testing::{Operation, Recorder, Rng};
use migratekit_core::tunnels::{Client, ClientOptions, NBD_PORT, StreamHandler};
use migratekit_core::units::{ByteRange, MIB};

use crate::rig::{Rig, soon};

/// Bytes that the target's export takes and has not proven, at most.
pub(crate) const INTERVAL: u64 = 4 * MIB;
/// Bytes under way in a copy.
pub(crate) const IN_FLIGHT: u64 = 4 * MIB;
/// The time between two keepalives; three without an answer end a connection.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(1);

/// Random bytes: no zeros to find, nothing to press together.
pub(crate) fn noise(bytes: u64, seed: u64) -> Bytes {
    let mut noise = vec![0; bytes as usize];
    Rng::new(seed).fill(&mut noise);
    noise.into()
}

pub(crate) async fn memory(name: &str, content: Bytes) -> MemoryDisk {
    let disk = MemoryDisk::new(name, content.len() as u64);
    fill(&disk, content).await;
    disk
}

pub(crate) async fn fill(disk: &MemoryDisk, content: Bytes) {
    for piece in ByteRange::between(0, content.len() as u64).pieces(MIB) {
        let part = content.slice(piece.offset() as usize..piece.end() as usize);
        disk.write(piece.offset(), part, Persist::Cached).await.unwrap();
    }
}

pub(crate) async fn content(disk: &dyn BlockRead) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in ByteRange::between(0, disk.info().size).pieces(MIB) {
        all.extend_from_slice(&disk.read(piece).await.unwrap());
    }
    all
}

/// An export with a ledger in memory, with [`INTERVAL`].
pub(crate) async fn ledgered(disk: Arc<dyn BlockWrite>) -> LedgeredExport {
    // Only its files are used.
    let about = LedgerOptions::new("volume", disk.info().size);
    ledgered_in(&World::new(512, 1), about, disk).await
}

/// An export with [`INTERVAL`], whose ledger lies in this world.
pub(crate) async fn ledgered_in(world: &World, about: LedgerOptions, disk: Arc<dyn BlockWrite>) -> LedgeredExport {
    let files = (Arc::new(world.file("ledger", false)), Arc::new(world.file("digests", false)));
    let (ledger, _) = Ledger::open(files.0, Some(files.1), about).await.unwrap();
    LedgeredExport::new(disk, ledger, ExportOptions { interval_bytes: INTERVAL, ..ExportOptions::default() }).unwrap()
}

pub(crate) struct Far {
    pub(crate) rig: Rig,
    pub(crate) line: Line,
    pub(crate) source: Arc<Recorder<MemoryDisk>>,
    pub(crate) target: Arc<MemoryDisk>,
    pub(crate) exports: nbd::Server,
    pub(crate) noise: Bytes,
    source_uri: String,
    tasks: Scope,
}

impl Far {
    /// A disk of random bytes at this end of such a line, and an empty one at the other.
    pub(crate) async fn new(bytes: u64, options: LineOptions) -> Self {
        Far::of(noise(bytes, 7), options).await
    }

    /// As [`Far::new`], with this content.
    pub(crate) async fn of(noise: Bytes, options: LineOptions) -> Self {
        let bytes = noise.len() as u64;
        let source = Arc::new(Recorder::new(memory("source", noise.clone()).await));
        let target = Arc::new(MemoryDisk::new("target", bytes));
        let exports = nbd::Server::new(ServerConfig::default());
        exports.add("disk", Arc::new(ledgered(Arc::clone(&target) as Arc<dyn BlockWrite>).await)).unwrap();
        let owners = Assignments::of("vma-1", &["disk"]);
        let handlers: Vec<(u16, Arc<dyn StreamHandler>)> =
            vec![(NBD_PORT, Arc::new(TunnelExports::new(exports.clone(), Arc::new(owners))))];
        let rig = Rig::with(handlers, |options| options.keepalive = KEEPALIVE).await;
        let line = Line::start(rig.address, options).await;

        let sources = nbd::Server::new(ServerConfig::default());
        sources.add("disk", Arc::new(PlainExport::new(Arc::clone(&source) as Arc<dyn BlockWrite>, "counted"))).unwrap();
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let source_uri = format!("nbd://{}/disk", listener.address());
        let mut tasks = Scope::new();
        let token = tasks.token().clone();
        tasks.spawn(async move { sources.serve(listener, token).await.unwrap() });
        Far { rig, line, source, target, exports, noise, source_uri, tasks }
    }

    /// A client that comes by the line.
    pub(crate) fn client(&self) -> Client {
        client_by(&self.line, &self.rig)
    }

    pub(crate) fn far(&self) -> Endpoint {
        Endpoint::Tunnel(TunnelledExport::new(self.client(), "disk"))
    }

    pub(crate) fn near(&self) -> Endpoint {
        self.source_uri.parse().unwrap()
    }

    /// A copy from the source through the tunnel, with [`IN_FLIGHT`].
    pub(crate) fn copy(&self) -> DiskCopy {
        DiskCopy { in_flight: Some(IN_FLIGHT), ..DiskCopy::new(self.near(), self.far()) }
    }

    /// Bytes the source was asked for.
    pub(crate) fn read(&self) -> u64 {
        self.source.bytes(Operation::Read)
    }

    /// Bytes that have entered the line on the way to the target.
    pub(crate) async fn carried(&self, bytes: u64) {
        soon("bytes on the line", async {
            while self.line.counted().up < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    pub(crate) async fn assert_equal(&self) {
        assert!(content(&*self.target).await == *self.noise, "target equals source");
    }

    pub(crate) async fn close(self) {
        self.exports.shutdown().await;
        self.line.close().await;
        self.rig.close().await;
        self.tasks.close().await.unwrap();
    }
}

/// A client of `rig` that comes by `line`.
pub(crate) fn client_by(line: &Line, rig: &Rig) -> Client {
    Client::new(ClientOptions { port: line.address().port(), keepalive: KEEPALIVE, ..rig.options(&rig.key) })
}

/// The copy's report, within `seconds`.
pub(crate) async fn copied(seconds: u64, copy: DiskCopy) -> DiskCopyReport {
    let run = async { copy.open().await.unwrap().run().await.unwrap() };
    migratekit_core::clock::within(Duration::from_secs(seconds), run).await.expect("the copy ends")
}
