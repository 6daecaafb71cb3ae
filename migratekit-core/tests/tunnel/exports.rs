//! Whose an export is: VMA B with VMA A's export name, by whatever way it asks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use migratekit_core::ErrorKind;
use migratekit_core::block::{BlockRead as _, BlockWrite as _, MemoryDisk, Persist};
use migratekit_core::copy::{Assignments, ForeignExport, TunnelExports, TunnelledExport};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::handshake::{InfoRequest, encode_list_entry};
use migratekit_core::nbd::wire::{OPTION_REPLY_LENGTH, decode_option_reply, encode_option, option, option_reply};
use migratekit_core::nbd::{self, EpochKey, ServerConfig};
use migratekit_core::tunnels::{Client, NBD_PORT, PrivateKey, TunnelStream};
use migratekit_core::units::{ByteRange, MIB};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, soon};

/// A server with an export of `vma-1`, one of `vma-2`, and a fenced one that a job of `vma-1` writes.
struct Two {
    rig: Rig,
    owners: Assignments,
    streams: TunnelExports,
    second: Client,
    foreign: Arc<Mutex<Vec<ForeignExport>>>,
}

fn key() -> EpochKey {
    EpochKey::new([3; 32])
}

fn disk(name: &str) -> Arc<PlainExport> {
    Arc::new(PlainExport::new(Arc::new(MemoryDisk::new(name, 4 * MIB)), name))
}

async fn two() -> Two {
    let server = nbd::Server::new(ServerConfig::default());
    server.add("one", disk("one")).unwrap();
    server.add("two", disk("two")).unwrap();
    server.add_fenced("vol", disk("vol"), key()).unwrap();
    let foreign = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&foreign);
    let owners = Assignments::new().observed(Arc::new(move |refused: &ForeignExport| seen.lock().unwrap().push(refused.clone())));
    owners.assign("vma-1", "one");
    owners.assign("vma-2", "two");
    owners.assign_to_job("vma-1", "vol", "job-1");
    let streams = TunnelExports::new(server.clone(), Arc::new(owners.clone()));
    let rig = Rig::new(vec![(NBD_PORT, Arc::new(streams.clone()))]).await;
    let other = PrivateKey::generate().unwrap();
    rig.keys.allow(&other, "vma-2", None);
    let second = Client::new(rig.options(&other));
    Two { rig, owners, streams, second, foreign }
}

/// A client that has said which flags it knows.
async fn greeted(client: &Client) -> TunnelStream {
    let mut stream = soon("a stream", client.bulk(NBD_PORT)).await.unwrap();
    let mut greeting = [0; 18];
    soon("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
    stream.write_all(&3_u32.to_be_bytes()).await.unwrap();
    stream
}

/// The replies to one option: code and data.
async fn ask(client: &Client, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut stream = greeted(client).await;
    stream.write_all(&encode_option(code, data)).await.unwrap();
    stream.flush().await.unwrap();
    let mut replies = Vec::new();
    loop {
        let mut header = [0; OPTION_REPLY_LENGTH];
        soon("a reply", stream.read_exact(&mut header)).await.unwrap();
        let (_, reply, length) = decode_option_reply(&header).unwrap();
        let mut data = vec![0; length as usize];
        soon("its data", stream.read_exact(&mut data)).await.unwrap();
        replies.push((reply, data));
        if reply == option_reply::ACK || reply & option_reply::ERROR_BIT != 0 {
            return replies;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vma_sees_its_own_exports_and_learns_nothing_of_others() {
    let two = two().await;
    let first = two.rig.client();
    let listed = |names: &[&str]| {
        let mut all: Vec<_> = names.iter().map(|n| (option_reply::SERVER, encode_list_entry(n))).collect();
        all.push((option_reply::ACK, Vec::new()));
        all
    };
    assert_eq!(ask(&first, option::LIST, b"").await, listed(&["one", "vol"]));
    assert_eq!(ask(&two.second, option::LIST, b"").await, listed(&["two"]));

    // The name of another's, with whatever proof: as if it were not there. Then it is told who asked.
    let proven = key().name("vol", 1, "job-1").unwrap();
    for (name, export) in [("one", "one"), (proven.as_str(), "vol"), ("vol", "vol")] {
        for code in [option::INFO, option::GO] {
            let info = |name: &str| InfoRequest { name: name.to_owned(), requests: Vec::new() }.encode();
            let nobodys = name.replace(export, "nob");
            assert_eq!(ask(&two.second, code, &info(name)).await, ask(&two.second, code, &info(&nobodys)).await, "{name}");
        }
        let told = std::mem::take(&mut *two.foreign.lock().unwrap());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|f| f.export == export && f.peer.vma.name == "vma-2"), "{told:?}");
        assert!(!format!("{told:?}{}", told[0]).contains(proven.rsplit('/').next().unwrap()), "the proof is not told");
    }
    let refused = soon("a refusal", TunnelledExport::new(two.second.clone(), "one").connect(1)).await.err().unwrap();
    let unknown = soon("a refusal", TunnelledExport::new(two.second.clone(), "nob").connect(1)).await.err().unwrap();
    assert_eq!((refused.kind(), refused.message()), (unknown.kind(), unknown.message()), "{refused}");

    // The owner works, and another job's proof does not open what was given to one job.
    let client = soon("the owner", TunnelledExport::new(first.clone(), "one").connect(2)).await.unwrap();
    client.write(0, vec![1; 4096].into(), Persist::Durable).await.unwrap();
    assert!(client.read(ByteRange::between(0, 4096)).await.unwrap().iter().all(|b| *b == 1));
    client.close().await.unwrap();
    let other_job = key().name("vol", 1, "job-2").unwrap();
    assert!(soon("another job", TunnelledExport::new(first.clone(), &other_job).connect(1)).await.is_err());
    let client = soon("its job", TunnelledExport::new(first, &proven).connect(1)).await.unwrap();
    client.write(0, vec![2; 4096].into(), Persist::Durable).await.unwrap();
    client.close().await.unwrap();
    two.rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_job_ends_its_export_is_closed_and_the_connection_lives_on() {
    let two = two().await;
    let link = two.rig.client().connect().await.unwrap();
    let name = key().name("vol", 1, "job-1").unwrap();
    let client = soon("the export", TunnelledExport::new(two.rig.client(), &name).connect(1)).await.unwrap();
    client.write(0, vec![1; 4096].into(), Persist::Durable).await.unwrap();
    two.owners.end_job("job-1");
    soon("the review", two.streams.review()).await;
    // Its client comes again, and is told as whoever asks for what does not exist.
    let late = soon("a write after the end", client.write(4096, vec![1; 4096].into(), Persist::Durable)).await.unwrap_err();
    let unknown = soon("a refusal", TunnelledExport::new(two.rig.client(), "nob").connect(1)).await.err().unwrap();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert_eq!(late.kind(), unknown.kind(), "{late}");
    link.ping(Duration::from_secs(30)).await.unwrap();
    assert_eq!(two.foreign.lock().unwrap().last().map(|f| f.export.clone()).as_deref(), Some("vol"));
    two.rig.close().await;
}
