//! A revocation of a VMA that is connected: written down when all its streams have ended, whichever key they came by, and without waiting
//! for anybody else's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migratekit_core::block::BoxFuture;
use migratekit_core::clock::within;
use migratekit_core::model::ConnectionEvent as Did;
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::tunnels::{Client, ClientOptions, NBD_PORT, Peer, PrivateKey, Server, ServerOptions, StreamHandler, TunnelStream};
use migratekit_core::vmas::{Cut, Rotating};
use migratekit_core::{ErrorKind, Store, on_both_catalogs};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::rig::{Site, new_key};
use crate::rotating::rotate;

on_both_catalogs! {
    a_revocation_waits_for_the_streams_of_a_key_that_was_replaced,
    a_revocation_waits_for_the_streams_of_an_overtaken_key,
    a_stuck_vma_keeps_no_other_revocation_waiting,
    a_stuck_revocation_leaves_who_bears_the_name_now_alone,
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Handlers that hold their streams, and end some time after they were told to: as one does that waits for a disk.
#[derive(Default)]
struct Held {
    /// By which key each stream came that has begun, was told to end, has ended.
    begun: Mutex<Vec<String>>,
    told: Mutex<Vec<String>>,
    ended: Mutex<Vec<String>>,
    /// The VMAs that do not end yet.
    stuck: watch::Sender<Vec<String>>,
}

struct Holding(Arc<Held>);

impl StreamHandler for Holding {
    fn serve(&self, stream: TunnelStream, peer: Peer, end: CancellationToken) -> BoxFuture<'static, ()> {
        let held = Arc::clone(&self.0);
        Box::pin(async move {
            let (key, mut stuck) = (peer.key.fingerprint().to_string(), held.stuck.subscribe());
            held.begun.lock().unwrap().push(key.clone());
            end.cancelled().await;
            held.told.lock().unwrap().push(key.clone());
            let _ = stuck.wait_for(|stuck| !stuck.contains(&peer.vma.name)).await;
            held.ended.lock().unwrap().push(key);
            drop(stream);
        })
    }
}

/// An OMA that serves the tunnel of a site. Its own look at the keys never comes: what is cut is cut by the revocation.
struct Serving {
    server: Server,
    address: SocketAddr,
    held: Arc<Held>,
    tasks: Scope,
}

impl Serving {
    async fn new(site: &Site) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, held) = (listener.local_addr().unwrap(), Arc::new(Held::default()));
        let options = ServerOptions::new(site.host_key.clone(), Arc::new(site.vmas.keys()));
        let mut options = options.serve(NBD_PORT, Arc::new(Holding(Arc::clone(&held))));
        options.key_look = Duration::from_secs(3600);
        let server = Server::new(options);
        let mut tasks = Scope::new();
        let (serving, token) = (server.clone(), tasks.token().clone());
        tasks.spawn(async move { serving.serve(listener, token).await.unwrap() });
        Serving { server, address, held, tasks }
    }

    /// A stream of the VMA with this key, which its handler holds.
    async fn stream(&self, key: &PrivateKey) -> TunnelStream {
        let options = ClientOptions::new("127.0.0.1", self.address.port(), key.clone(), self.server.fingerprint().clone());
        let stream = soon("a stream", Client::new(options).bulk(NBD_PORT)).await.unwrap();
        let print = key.public().fingerprint().to_string();
        until("its handler", || self.held.begun.lock().unwrap().contains(&print)).await;
        stream
    }

    /// Does what is left to do, until it is closed.
    fn tend(&self, site: &Site) -> Scope {
        let (vmas, server, mut tasks) = (site.vmas.clone(), self.server.clone(), Scope::new());
        let token = tasks.token().clone();
        tasks.spawn(async move { vmas.tend(&server, &token).await });
        tasks
    }

    fn was_told(&self, key: &PrivateKey) -> bool {
        self.held.told.lock().unwrap().contains(&key.public().fingerprint().to_string())
    }
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    within(PATIENCE, work).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} for: {what}"))
}

async fn until(what: &str, ready: impl Fn() -> bool) {
    soon(what, async {
        while !ready() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn is_revoked(site: &Site, key: &PrivateKey) -> bool {
    site.history(key).await.last() == Some(&Did::Revocation)
}

async fn becomes_revoked(site: &Site, key: &PrivateKey) {
    soon("the line of the history", async {
        while !is_revoked(site, key).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn a_revocation_waits_for_the_streams_of_a_key_that_was_replaced(store: Store) {
    let (site, old, new) = (Site::new(store), new_key(), new_key());
    let trusted = site.trusted(&old, "vma-1").await;
    let serving = Serving::new(&site).await;
    let _by_old = serving.stream(&old).await;
    let host_key = site.host_key.public();
    rotate(&site, &Rotating { host_key: &host_key, enrollment: &trusted.id, name: "vma-1", version: "2", old: &old, new: &new }).await;
    let by_new = serving.stream(&new).await;
    let tending = serving.tend(&site);
    soon("the old key is out", async {
        while site.comes_in(&old).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    tending.close().await.unwrap();
    drop(by_new);

    serving.held.stuck.send_replace(vec!["vma-1".to_owned()]);
    let (vmas, server, id) = (site.vmas.clone(), serving.server.clone(), trusted.id.clone());
    let revoking = tokio::spawn(async move { vmas.revoke(&id, "ann", Some(&server)).await });
    until("the stream of the old key is told to end", || serving.was_told(&old)).await;
    assert!(!is_revoked(&site, &new).await && !revoking.is_finished(), "its handler has not ended, so it is not written down");
    serving.held.stuck.send_replace(Vec::new());
    assert_eq!(soon("the revocation", revoking).await.unwrap().unwrap(), Cut::ByServer);
    assert!(is_revoked(&site, &new).await && serving.server.connected().is_empty());
    assert_eq!(serving.held.ended.lock().unwrap().len(), 2, "both handlers had ended");
    serving.tasks.close().await.unwrap();
}

async fn a_revocation_waits_for_the_streams_of_an_overtaken_key(store: Store) {
    let facts = store.clone();
    let (site, old, first, second) = (Site::new(store), new_key(), new_key(), new_key());
    let trusted = site.trusted(&old, "vma-1").await;
    let serving = Serving::new(&site).await;
    let host_key = site.host_key.public();
    let rotating = |new| Rotating { host_key: &host_key, enrollment: &trusted.id, name: "vma-1", version: "2", old: &old, new };
    rotate(&site, &rotating(&first)).await;
    let _by_first = serving.stream(&first).await;
    rotate(&site, &rotating(&second)).await;
    assert!(!site.comes_in(&first).await);

    // By another process, which gives up: it does not claim that nobody was connected, though no row says that somebody is.
    serving.held.stuck.send_replace(vec!["vma-1".to_owned()]);
    let tending = serving.tend(&site);
    soon("the sign that it serves", async {
        while facts.read("look", |tx| async move { tx.facts().get("tunnel_served_at").await }).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let impatient = site.vmas.clone().revoke_time(Duration::from_secs(1));
    let unsure = soon("its answer", impatient.revoke(&trusted.id, "ann", None)).await.unwrap_err();
    assert_eq!(unsure.kind(), ErrorKind::Timeout);
    until("the stream of the overtaken key is told to end", || serving.was_told(&first)).await;
    assert!(!is_revoked(&site, &old).await);
    serving.held.stuck.send_replace(Vec::new());
    becomes_revoked(&site, &old).await;
    assert!(serving.server.connected().is_empty());
    tending.close().await.unwrap();
    serving.tasks.close().await.unwrap();
}

async fn a_stuck_vma_keeps_no_other_revocation_waiting(store: Store) {
    let (site, keys) = (Site::new(store), [new_key(), new_key()]);
    let serving = Serving::new(&site).await;
    let mut vmas = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        vmas.push((site.trusted(key, &format!("vma-{n}")).await, key, serving.stream(key).await));
    }
    // They are looked at in this order.
    vmas.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    let [(stuck, stuck_key, _), (other, other_key, _)] = &vmas[..] else { panic!("two") };
    serving.held.stuck.send_replace(vec![stuck.name.clone()]);
    let mut revoking = Scope::new();
    for vma in [stuck, other] {
        let (patient, id) = (site.vmas.clone().revoke_time(PATIENCE * 2), vma.id.clone());
        revoking.spawn(async move { assert_eq!(patient.revoke(&id, "ann", None).await.unwrap(), Cut::ByServer) });
    }
    let half = async {
        while site.comes_in(stuck_key).await || site.comes_in(other_key).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("both rows", half).await;
    let tending = serving.tend(&site);
    becomes_revoked(&site, other_key).await;
    assert!(serving.was_told(stuck_key) && !is_revoked(&site, stuck_key).await);
    serving.held.stuck.send_replace(Vec::new());
    becomes_revoked(&site, stuck_key).await;
    soon("both revocations", revoking.join()).await.unwrap();
    tending.close().await.unwrap();
    serving.tasks.close().await.unwrap();
}

async fn a_stuck_revocation_leaves_who_bears_the_name_now_alone(store: Store) {
    let (site, old, new, other) = (Site::new(store), new_key(), new_key(), new_key());
    let (stuck, another) = (site.trusted(&old, "vma-1").await, site.trusted(&other, "vma-2").await);
    let serving = Serving::new(&site).await;
    let (_by_old, _by_other) = (serving.stream(&old).await, serving.stream(&other).await);
    serving.held.stuck.send_replace(vec!["vma-1".to_owned()]);
    let tending = serving.tend(&site);
    let mut revoking = Scope::new();
    let revoke = |id| {
        let patient = site.vmas.clone().revoke_time(PATIENCE * 2);
        async move { assert_eq!(patient.revoke(&id, "ann", None).await.unwrap(), Cut::ByServer) }
    };
    revoking.spawn(revoke(stuck.id));
    until("the stream of the old key is told to end", || serving.was_told(&old)).await;
    // The site enrolls again, by the same name, and is trusted; then somebody else's revocation is begun and finished.
    site.trusted(&new, "vma-1").await;
    let _by_new = serving.stream(&new).await;
    revoking.spawn(revoke(another.id));
    becomes_revoked(&site, &other).await;
    assert!(!serving.was_told(&new) && !is_revoked(&site, &old).await, "the new key's stream lives");
    serving.held.stuck.send_replace(Vec::new());
    becomes_revoked(&site, &old).await;
    soon("both revocations", revoking.join()).await.unwrap();
    assert!(!serving.was_told(&new) && serving.server.connected().len() == 1);
    tending.close().await.unwrap();
    serving.tasks.close().await.unwrap();
}
