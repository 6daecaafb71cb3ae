//! `kill -9` of either process of a copy through the tunnel: the copy goes on by itself, or the next run continues it; the source is asked
//! again for what no ledger knows, and for no more.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use migratekit_core::block::{BlockWrite, MemoryDisk, Persist};
use migratekit_core::copy::{INTERVAL_BYTES, MEASURED_IN_FLIGHT};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::{Listener, Server, ServerConfig};
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::peer::free_port;
use migratekit_core::testing::{Operation, Recorder, Rng};

use crate::run::{allocated, command, roomy_dir, run_within, wait_allocated};
use crate::tunnel::{Serving, keys};

/// The disk: several times what a fault may cost.
const SIZE: u64 = 256 << 20;
/// What one fault may cost: an interval of the ledger, and what was in flight.
const ONE_FAULT: u64 = INTERVAL_BYTES + MEASURED_IN_FLIGHT;

/// A source in this process, whose reads are counted.
struct Source {
    disk: Arc<Recorder<MemoryDisk>>,
    uri: String,
    content: Vec<u8>,
    runtime: tokio::runtime::Runtime,
}

impl Source {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut content = vec![0; SIZE as usize];
        Rng::new(11).fill(&mut content);
        let (disk, uri) = runtime.block_on(async {
            let memory = MemoryDisk::new("source", SIZE);
            for (n, piece) in content.chunks(1 << 20).enumerate() {
                memory.write((n as u64) << 20, piece.to_vec().into(), Persist::Cached).await.unwrap();
            }
            let disk = Arc::new(Recorder::new(memory));
            let server = Server::new(ServerConfig::default());
            server.add("disk", Arc::new(PlainExport::new(Arc::clone(&disk) as Arc<dyn BlockWrite>, "counted"))).unwrap();
            let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
            let uri = format!("nbd://{}/disk", listener.address());
            tokio::spawn(async move { server.serve(listener, CancellationToken::new()).await });
            (disk, uri)
        });
        disk.clear();
        Source { disk, uri, content, runtime }
    }

    fn read(&self) -> u64 {
        self.disk.bytes(Operation::Read)
    }
}

/// The two ends on one host, before a copy.
struct Scene {
    folder: tempfile::TempDir,
    target: PathBuf,
    source: Source,
    key: String,
}

impl Scene {
    fn new() -> Self {
        // In memory, where a flush is short: what is written while it lasts is not in the ledger either.
        let folder = roomy_dir(2 * SIZE);
        let target = folder.path().join("target");
        std::fs::File::create(&target).unwrap().set_len(SIZE).unwrap();
        let key = keys(folder.path());
        Scene { source: Source::new(), target, folder, key }
    }

    fn serve(&self, listen: &str) -> Serving {
        Serving::start_at(listen, self.folder.path(), &[&format!("disk={}", self.target.display())])
    }

    fn copier<'a>(&'a self, far: &'a str, print: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        // So slow that the fault comes in time, on a busy machine too.
        [&["copy", &self.source.uri, far, "--bandwidth", "64M", "--ssh-key", &self.key, "--ssh-host-key", print], more].concat()
    }

    /// The end of a copy that met `faults`.
    fn check(self, faults: u64) {
        let again = self.source.read() - SIZE;
        println!("{} MiB were read again after {faults} faults", again >> 20);
        assert!(again <= faults * ONE_FAULT, "{} MiB were read again after {faults} faults", again >> 20);
        assert!(std::fs::read(&self.target).unwrap() == self.source.content, "target equals source");
        self.source.runtime.shutdown_background();
    }
}

fn ledger_of(target: &Path) -> PathBuf {
    target.with_file_name("target.ledger")
}

#[test]
fn the_tunnels_server_is_killed_and_the_copy_goes_on() {
    let scene = Scene::new();
    // A port that nobody else is given while the server is away.
    let listen = format!("127.0.0.1:{}", free_port());
    let serving = scene.serve(&listen);
    let (far, print) = (serving.address("disk"), serving.fingerprint.clone());
    let mut copier = command(&scene.copier(&far, &print, &[])).stdin(Stdio::null()).spawn().unwrap();
    assert!(wait_allocated(&scene.target, SIZE / 4 * 3, &mut copier), "the copy ended before the fault");
    serving.kill();
    let again = scene.serve(&listen);
    assert!(copier.wait().unwrap().success(), "the copy goes on by itself");
    again.stop();
    scene.check(1);
}

#[test]
fn the_copier_is_killed_and_the_next_run_goes_on() {
    let scene = Scene::new();
    let serving = scene.serve("127.0.0.1:0");
    let (far, print) = (serving.address("disk"), serving.fingerprint.clone());
    let mut copier = command(&scene.copier(&far, &print, &[])).stdin(Stdio::null()).spawn().unwrap();
    assert!(wait_allocated(&scene.target, SIZE / 4 * 3, &mut copier), "the copy ended before the fault");
    copier.kill().unwrap();
    copier.wait().unwrap();
    assert!(allocated(&ledger_of(&scene.target)) > 0, "a ledger lies beside the target");
    let out = run_within(120, &scene.copier(&far, &print, &["--resume"]));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serving.stop();
    scene.check(1);
}
