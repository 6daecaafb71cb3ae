//! Many at once: one export that stands still harms no other, and fifty VMAs share what there is.
//!
//! In the long suite (`MIGRATEKIT_ROUNDS_TIMES`) one stands still for two minutes, and speeds and times are judged.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::block::{BlockWrite, MemoryDisk};
use migratekit_core::clock::now;
use migratekit_core::copy::{Assignments, DiskCopy, Endpoint, TunnelExports, TunnelledExport};
use migratekit_core::nbd::limits;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::task::Scope;
use migratekit_core::testing::line::{Line, LineOptions};
use migratekit_core::testing::{Gated, Operation, Recorder};
use migratekit_core::tunnels::client::Link;
use migratekit_core::tunnels::{API_PORT, Client, ClientOptions, NBD_PORT, PrivateKey, StreamHandler};
use migratekit_core::units::MIB;
use tokio::sync::watch;

use crate::far_rig::{client_by, content, copied, ledgered, noise};
use crate::rig::{Echo, Rig, soon, there_and_back};

/// What each of the others copies.
const DISK: u64 = 8 * MIB;

fn long() -> bool {
    std::env::var_os("MIGRATEKIT_ROUNDS_TIMES").is_some()
}

fn copy_of(source: &Path, client: &Client, export: &str) -> DiskCopy {
    let far = Endpoint::Tunnel(TunnelledExport::new(client.clone(), export));
    DiskCopy::new(Endpoint::Path(source.to_owned()), far)
}

/// Ten exports, the first of which stands still and is large.
struct Ten {
    rig: Rig,
    exports: nbd::Server,
    disks: Vec<Arc<Gated<MemoryDisk>>>,
    folder: tempfile::TempDir,
    large: Bytes,
    small: Bytes,
    rekey_bytes: usize,
}

impl Ten {
    async fn new(rekey_bytes: usize) -> Self {
        let (large, small) = (noise(64 * MIB, 1), noise(DISK, 2));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("large"), &large).unwrap();
        std::fs::write(folder.path().join("small"), &small).unwrap();
        let exports = nbd::Server::new(ServerConfig::default());
        let mut disks = Vec::new();
        for n in 0..10 {
            let (size, held) = if n == 0 { (64 * MIB, vec![Operation::Write, Operation::Zero]) } else { (DISK, Vec::new()) };
            let disk = Arc::new(Gated::new(MemoryDisk::new("gated", size), &held));
            exports.add(&format!("disk-{n}"), Arc::new(ledgered(Arc::clone(&disk) as Arc<dyn BlockWrite>).await)).unwrap();
            disks.push(disk);
        }
        let owners = Assignments::new();
        (0..10).for_each(|n| owners.assign("vma-1", &format!("disk-{n}")));
        let streams = TunnelExports::new(exports.clone(), Arc::new(owners));
        let handlers: Vec<(u16, Arc<dyn StreamHandler>)> = vec![(NBD_PORT, Arc::new(streams)), (API_PORT, Arc::new(Echo))];
        let rig = Rig::with(handlers, |options| options.rekey_bytes = rekey_bytes).await;
        Ten { rig, exports, disks, folder, large, small, rekey_bytes }
    }

    fn client(&self) -> Client {
        Client::new(ClientOptions { rekey_bytes: self.rekey_bytes, ..self.rig.options(&self.rig.key) })
    }

    /// The nine copy their disk once; gives the bytes a second.
    async fn nine(&self) -> f64 {
        let began = now();
        let mut copies = tokio::task::JoinSet::new();
        for n in 1..10 {
            copies.spawn(copied(240, copy_of(&self.folder.path().join("small"), &self.client(), &format!("disk-{n}"))));
        }
        for report in copies.join_all().await {
            assert!(report.copy.durable, "{report:?}");
        }
        (9 * DISK) as f64 / began.elapsed().as_secs_f64()
    }

    /// The nine for some time.
    async fn nine_for(&self, time: Duration) -> f64 {
        let (began, mut rates) = (now(), Vec::new());
        while rates.is_empty() || began.elapsed() < time {
            rates.push(self.nine().await);
        }
        rates.iter().sum::<f64>() / rates.len() as f64
    }

    /// Asks the API's port and the connection itself, again and again; the longest time it took.
    async fn ask(link: &Link, end: &watch::Sender<bool>) -> Duration {
        let mut longest = Duration::ZERO;
        while !*end.borrow() {
            let began = now();
            there_and_back(soon("a channel", link.open(API_PORT)).await.unwrap(), 1000).await;
            link.ping(Duration::from_secs(30)).await.unwrap();
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        longest
    }
}

async fn one_stands_still(rekey_bytes: usize) {
    let ten = Ten::new(rekey_bytes).await;
    let time = |seconds| Duration::from_secs(if long() { seconds } else { 0 });
    let alone = ten.nine_for(time(30)).await;

    let line = Line::start(ten.rig.address, LineOptions::default()).await;
    let stopped =
        DiskCopy { in_flight: Some(64 * MIB), ..copy_of(&ten.folder.path().join("large"), &client_by(&line, &ten.rig), "disk-0") };
    let mut stopped = tokio::spawn(copied(600, stopped));
    soon("it stands still", async {
        let mut before = 0;
        while before < MIB || before != line.counted().up {
            before = line.counted().up;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;

    let link = ten.client().connect().await.unwrap();
    let end = watch::channel(false).0;
    let beside = async {
        let rate = ten.nine_for(time(120)).await;
        end.send_replace(true);
        rate
    };
    let (rate, longest) = tokio::join!(beside, Ten::ask(&link, &end));
    for disk in &ten.disks[1..] {
        assert!(content(disk.disk()).await == *ten.small);
    }
    // What left the client for the export that takes nothing is what a client may have under way.
    let under_way = line.counted().up;
    assert!(under_way <= u64::from(limits::MAX_CLIENT_BYTES) + MIB, "{under_way} bytes were taken in for an export that stands still");
    assert!(!stopped.is_finished());
    println!("the nine: {:.0} MB/s alone, {:.0} MB/s beside it; the longest answer {longest:?}", alone / 1e6, rate / 1e6);
    if long() {
        assert!(rate >= 0.9 * alone, "the nine had {alone} bytes a second alone, {rate} beside one that stands still");
        assert!(longest <= Duration::from_secs(1), "an answer took {longest:?}");
    }
    ten.disks[0].open();
    soon("the stopped copy ends", &mut stopped).await.unwrap();
    assert!(content(ten.disks[0].disk()).await == *ten.large);
    ten.exports.shutdown().await;
    line.close().await;
    ten.rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_export_that_stands_still_harms_no_other() {
    one_stands_still(migratekit_core::tunnels::limits::REKEY_BYTES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_it_while_keys_are_exchanged() {
    one_stands_still(MIB as usize).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_are_connected_and_ten_share_what_there_is() {
    let exports = nbd::Server::new(ServerConfig::default());
    let owners = Assignments::new();
    (0..10).for_each(|n| owners.assign(&format!("vma-{n}"), &format!("disk-{n}")));
    let streams = TunnelExports::new(exports.clone(), Arc::new(owners));
    let handlers: Vec<(u16, Arc<dyn StreamHandler>)> = vec![(NBD_PORT, Arc::new(streams)), (API_PORT, Arc::new(Echo))];
    let rig = Rig::new(handlers).await;
    let size = if long() { 128 * MIB } else { 16 * MIB };
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = (folder.path().join("source"), noise(size, 3));
    std::fs::write(&source, &bytes).unwrap();

    // Each with a key of its own and a control connection.
    let (mut clients, mut links) = (Vec::new(), Vec::new());
    for n in 0..50 {
        let key = PrivateKey::generate().unwrap();
        rig.keys.allow(&key, &format!("vma-{n}"), None);
        let client = Client::new(rig.options(&key));
        links.push(soon("a connection", client.connect()).await.unwrap());
        clients.push(client);
    }
    let mut disks = Vec::new();
    for n in 0..10 {
        let disk = Arc::new(Recorder::new(MemoryDisk::new("target", size)));
        exports.add(&format!("disk-{n}"), Arc::new(ledgered(Arc::clone(&disk) as Arc<dyn BlockWrite>).await)).unwrap();
        disks.push(disk);
    }
    let mut copies = Scope::new();
    for (n, client) in clients.iter().take(10).enumerate() {
        let copy = copy_of(&source, client, &format!("disk-{n}"));
        copies.spawn(async move { assert!(copied(240, copy).await.copy.durable) });
    }
    // When half of all is written.
    let written = || disks.iter().map(|disk| disk.bytes(Operation::Write)).collect::<Vec<_>>();
    let at_half = soon("half of all", async {
        loop {
            let written = written();
            if written.iter().sum::<u64>() >= 5 * size {
                return written;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let (slowest, fastest) = (at_half.iter().min().unwrap(), at_half.iter().max().unwrap());
    println!("at half: {:?} KiB", at_half.iter().map(|bytes| bytes / 1024).collect::<Vec<_>>());
    // Among other tests a copy may come late for reasons of its own.
    assert!(!long() || slowest * 2 >= *fastest, "the slowest of ten has {slowest} bytes, the fastest {fastest}");
    for link in &links {
        link.ping(Duration::from_secs(30)).await.unwrap();
    }
    soon("the copies", copies.join()).await.unwrap();
    for disk in &disks {
        assert!(content(&**disk).await == *bytes);
    }
    drop(links);
    exports.shutdown().await;
    rig.close().await;
}
