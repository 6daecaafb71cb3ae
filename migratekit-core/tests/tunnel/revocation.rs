//! A key is taken away while 32 MiB of its writes are under way: the connections are closed at once, and when the revocation has returned
//! (so that its audit may be written) none of its writes reaches the volume or is acknowledged any more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migratekit_core::block::{BlockWrite, BoxFuture, MemoryDisk, Persist};
use migratekit_core::copy::{Assignments, TunnelExports, TunnelledExport};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::task::Scope;
use migratekit_core::testing::{Gated, Operation, Recorder};
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{Client, KeySource, NBD_PORT, PrivateKey, PublicKey, Server, Vma};
use migratekit_core::units::{KIB, MIB};
use migratekit_core::{ErrorKind, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{Keys, Rig, soon, there_and_back};

const REQUEST: u64 = 512 * KIB;
/// What is asked for in all: 96 MiB, more than server, tunnel and client hold together.
const REQUESTS: u64 = 192;
/// Writes that the disk lets through before the key is taken away.
const FIRST: u64 = 16;
/// 32 MiB.
const IN_FLIGHT: u64 = 32 * MIB / REQUEST;
/// Within which the live connection is closed, says the issue.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A machine that is busy with other things may miss a second once, and does not three times.
const ROUNDS: usize = 3;

/// The wire between the two, watched from outside: when the server closed each of its connections.
struct Wire {
    port: u16,
    closed: Arc<Mutex<Vec<Instant>>>,
    open: Arc<AtomicU64>,
    tasks: Scope,
}

impl Wire {
    async fn to(server: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (closed, open) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let mut tasks = Scope::new();
        let (token, closed_by, open_by) = (tasks.token().clone(), Arc::clone(&closed), Arc::clone(&open));
        tasks.spawn(async move {
            let mut connections = Scope::child_of(&token);
            while let Some(Ok((near, _))) = token.run_until_cancelled(listener.accept()).await {
                let (token, closed, open) = (token.clone(), Arc::clone(&closed_by), Arc::clone(&open_by));
                let Ok(far) = TcpStream::connect(server).await else { continue };
                connections.spawn(async move {
                    open.fetch_add(1, Ordering::SeqCst);
                    token.run_until_cancelled(relay(near, far, &closed)).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
            let _ = connections.close().await;
        });
        Wire { port, closed, open, tasks }
    }
}

/// Carries both ways until the server's side ends, and notes when that was.
async fn relay(near: TcpStream, far: TcpStream, closed: &Mutex<Vec<Instant>>) {
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.into_split(), far.into_split());
    let there = async {
        let _ = tokio::io::copy(&mut near_read, &mut far_write).await;
        // Only the server's end counts.
        std::future::pending::<()>().await;
    };
    let back = async {
        let _ = tokio::io::copy(&mut far_read, &mut near_write).await;
        closed.lock().unwrap().push(Instant::now());
        let _ = near_write.shutdown().await;
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn until(what: &str, ready: impl Fn() -> bool) {
    soon(what, async {
        while !ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// How a key is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// By this process: its row, then `Server::revoke`.
    Revoke,
    /// Its row by another process; the server finds out.
    RowOnly,
}

/// One round; how long it took until the last connection was closed.
async fn round(way: Way) -> Duration {
    let gate = Arc::new(Gated::new(MemoryDisk::new("disk", REQUESTS * REQUEST), &[Operation::Write]));
    gate.allow(FIRST);
    let disk = Arc::new(Recorder::new(Arc::clone(&gate)));
    let exporting = nbd::Server::new(ServerConfig::default());
    exporting.add("disk", Arc::new(PlainExport::new(Arc::clone(&disk) as Arc<dyn BlockWrite>, ""))).unwrap();
    exporting.add("other", Arc::new(PlainExport::new(Arc::new(MemoryDisk::new("other", MIB)), ""))).unwrap();
    let owners = Assignments::new();
    owners.assign("vma-1", "disk");
    owners.assign("vma-2", "other");
    let rig = Rig::new(vec![(NBD_PORT, Arc::new(TunnelExports::new(exporting.clone(), Arc::new(owners))))]).await;
    let other = PrivateKey::generate().unwrap();
    rig.keys.allow(&other, "vma-2", None);

    // The writes, over sixteen connections, with a control connection beside them.
    let wire = Wire::to(rig.address).await;
    let mut options = rig.options(&rig.key);
    options.port = wire.port;
    let control = Client::new(options.clone()).connect().await.unwrap();
    let client = Arc::new(soon("the client", TunnelledExport::new(Client::new(options), "disk").connect(16)).await.unwrap());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut writes = Scope::new();
    for i in 0..REQUESTS {
        let (client, acknowledged) = (Arc::clone(&client), Arc::clone(&acknowledged));
        writes.spawn(async move {
            if client.write(i * REQUEST, vec![1; REQUEST as usize].into(), Persist::Cached).await.is_ok() {
                acknowledged.lock().unwrap().push(i * REQUEST);
            }
        });
    }
    until("the first writes", || acknowledged.lock().unwrap().len() as u64 == FIRST).await;
    until("32 MiB in flight", || gate.begun() >= FIRST + IN_FLIGHT).await;
    assert_eq!(wire.open.load(Ordering::SeqCst), 17);

    rig.keys.forget(&rig.key);
    let began = Instant::now();
    let (server, print, returned) = (rig.server.clone(), rig.key.public().fingerprint(), Arc::new(AtomicBool::new(false)));
    let (mut tasks, told) = (Scope::new(), Arc::clone(&returned));
    tasks.spawn(async move {
        if way == Way::Revoke {
            server.revoke(&print).await;
        } else {
            while !server.connected().iter().all(|peer| peer.key.fingerprint() != print) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        told.store(true, Ordering::SeqCst);
    });
    until("the server closes all its connections", || wire.closed.lock().unwrap().len() == 17).await;
    let took = *wire.closed.lock().unwrap().iter().max().unwrap() - began;
    assert!(!returned.load(Ordering::SeqCst), "what was begun on the volume has not ended, and the revocation is not over");

    // The volume goes on; what was begun on it ends, and then the revocation does.
    gate.open();
    until("the revocation", || returned.load(Ordering::SeqCst)).await;
    let at_return = disk.requests();
    assert!(at_return.iter().filter(|r| r.operation == Operation::Write).all(|r| r.ended.is_some()), "each write on the volume has ended");
    assert!(exporting.connections().iter().all(|c| !c.client.starts_with("vma-1")), "{:?}", exporting.connections());

    // Others work on, and nothing of it came or was acknowledged meanwhile.
    let second = soon("the other VMA", TunnelledExport::new(Client::new(rig.options(&other)), "other").connect(1)).await.unwrap();
    second.write(0, vec![2; 4096].into(), Persist::Durable).await.unwrap();
    second.close().await.unwrap();
    soon("the end of the writes", writes.join()).await.unwrap();
    assert_eq!(acknowledged.lock().unwrap().len() as u64, FIRST, "none was acknowledged after the key was taken away");
    let written = |offset| at_return.iter().any(|r| r.operation == Operation::Write && r.range.offset() == offset && r.succeeded);
    assert!(acknowledged.lock().unwrap().iter().all(|offset| written(*offset)));
    assert_eq!(disk.requests(), at_return, "none reached the volume after the revocation had returned");
    let writes = at_return.iter().filter(|r| r.operation == Operation::Write).count() as u64;
    assert!(writes < REQUESTS, "what the tunnel still held was not written");
    until("the control connection is gone", || control.is_closed()).await;
    rig.saw("the revocation", |e| matches!(e, Event::Revoked { peer } if peer.vma.name == "vma-1")).await;
    tasks.join().await.unwrap();
    wire.tasks.close().await.unwrap();
    rig.close().await;
    println!("{way:?}: {} MiB in flight, {} of {REQUESTS} writes reached the volume, closed after {took:?}", 32, writes);
    took
}

async fn rounds(way: Way) {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        took.push(round(way).await);
        if took.last().is_some_and(|t| *t <= AT_ONCE) {
            return;
        }
    }
    panic!("the connections were closed after {took:?}, which is more than {AT_ONCE:?} each time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_cut_at_once_and_none_of_its_writes_comes_after_the_revocation() {
    rounds(Way::Revoke).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_row_another_process_takes_away_is_cut_within_a_second_too() {
    rounds(Way::RowOnly).await;
}

/// A source in which the key is revoked while it logs in: after the signature was judged, before the connection is known.
struct RevokedMeanwhile {
    keys: Arc<Keys>,
    key: PrivateKey,
    asked: AtomicU64,
    server: Mutex<Option<Server>>,
}

impl KeySource for RevokedMeanwhile {
    fn holder<'a>(&'a self, key: &'a PublicKey) -> BoxFuture<'a, Result<Option<Vma>>> {
        Box::pin(async move {
            let holder = self.keys.holder(key).await;
            // First the key is offered, then it has signed.
            if self.asked.fetch_add(1, Ordering::SeqCst) == 1 {
                self.keys.forget(&self.key);
                let server = self.server.lock().unwrap().clone();
                server.unwrap().revoke(&self.key.public().fingerprint()).await;
            }
            holder
        })
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_while_it_logs_in_does_not_get_in() {
    let (keys, key) = (Arc::new(Keys::default()), PrivateKey::generate().unwrap());
    keys.allow(&key, "vma-1", None);
    let source = Arc::new(RevokedMeanwhile { keys, key: key.clone(), asked: AtomicU64::new(0), server: Mutex::default() });
    let given = Arc::clone(&source);
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(crate::rig::Echo))], |options| {
        options.keys = given;
        // The look at live connections would find it too, later.
        options.key_look = Duration::from_secs(3600);
    })
    .await;
    *source.server.lock().unwrap() = Some(rig.server.clone());
    let refused = soon("the refusal", Client::new(rig.options(&key)).connect()).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Denied | ErrorKind::Unreachable | ErrorKind::Protocol), "{refused}");
    until("it is gone", || rig.server.connected().is_empty()).await;
    rig.saw("the refused key", |e| matches!(e, Event::KeyRefused { key: Some(k), .. } if *k == key.public())).await;
    assert!(!rig.events.lock().unwrap().iter().any(|e| matches!(e, Event::Connected { .. })));
    *source.server.lock().unwrap() = None;
    rig.close().await;
}

#[tokio::test]
async fn an_entry_that_runs_out_ends_its_connections() {
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(crate::rig::Echo))], |options| options.key_look = Duration::from_millis(20)).await;
    let short = PrivateKey::generate().unwrap();
    let expires = Instant::now() + Duration::from_millis(500);
    rig.keys.allow_until(&short, "vma-short", expires);
    let before = Client::new(rig.options(&short)).connect().await;
    if let Ok(link) = before {
        there_and_back(link.open(NBD_PORT).await.unwrap(), 1000).await;
        until("its end", || link.is_closed()).await;
        assert!(Instant::now() >= expires, "it was cut before its time");
    }
    until("the time", || Instant::now() >= expires).await;
    assert_eq!(Client::new(rig.options(&short)).connect().await.unwrap_err().kind(), ErrorKind::Denied);
    there_and_back(rig.client().bulk(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}
