//! What the tunnel refuses stands in the catalog's audit: each of the ways in that are none, and a flood of them as a few rows.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::block::MemoryDisk;
use migratekit_core::copy::{Assignments, TunnelExports, TunnelledExport};
use migratekit_core::credentials::{Key, Keys, Vault};
use migratekit_core::model::AuditEntry;
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::testing::catalog::change;
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{Client, NBD_PORT, PrivateKey, StreamHandler};
use migratekit_core::units::MIB;
use migratekit_core::vmas::{MAX_FOLDED, RefusalSettings, Refusals, Vmas};
use migratekit_core::{Store, on_both_catalogs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::packets::{packet, wire};
use crate::rig::{Rig, soon, there_and_back};

on_both_catalogs! {
    each_refusal_has_its_row_and_the_server_serves_on,
    a_flood_is_a_few_rows_with_its_number,
    what_is_refused_while_the_catalog_is_away_is_written_later,
}

/// What an administrator sees of the refusals, newest first; by a new process, as it were.
async fn refused(store: &Store) -> Vec<AuditEntry> {
    let vault = Vault::new(Keys::new(Key::generate().unwrap()));
    Vmas::new(store.clone(), vault).refused().await.unwrap()
}

fn detail<'a>(row: &'a AuditEntry, name: &str) -> &'a str {
    row.details.as_ref().and_then(|details| details[name].as_str()).unwrap_or("")
}

/// Waits for a row.
async fn row(store: &Store, what: &str, is: impl Fn(&AuditEntry) -> bool) -> AuditEntry {
    let found = async {
        loop {
            if let Some(row) = refused(store).await.into_iter().find(&is) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match migratekit_core::clock::within(crate::rig::PATIENCE, found).await {
        Some(row) => row,
        None => panic!("no row for {what}: {:#?}", refused(store).await),
    }
}

/// A writer that runs.
fn kept(refusals: &Refusals) -> (Scope, CancellationToken) {
    let (mut tasks, stop, refusals) = (Scope::new(), CancellationToken::new(), refusals.clone());
    let token = stop.clone();
    tasks.spawn(async move { refusals.keep(&token).await });
    (tasks, stop)
}

async fn each_refusal_has_its_row_and_the_server_serves_on(store: Store) {
    // Nothing is folded, so that each is seen by itself.
    let refusals = Refusals::new(store.clone(), RefusalSettings { fold: Duration::ZERO });
    let exports = nbd::Server::new(ServerConfig::default());
    exports.add("one", Arc::new(PlainExport::new(Arc::new(MemoryDisk::new("one", MIB)), "one"))).unwrap();
    let owners = Assignments::of("vma-1", &["one"]).observed(refusals.foreign());
    let streams: Arc<dyn StreamHandler> = Arc::new(TunnelExports::new(exports, Arc::new(owners)));
    let observer = refusals.observer();
    let rig = Rig::with(vec![(NBD_PORT, streams), (8082, Arc::new(crate::rig::Echo))], |options| {
        let seen = options.observer.take().unwrap();
        options.observer = Some(Arc::new(move |event: &Event| {
            seen(event);
            observer(event);
        }));
        (options.bounds.sessions_per_vma, options.bounds.handshakes_per_source) = (2, 8);
        (options.login_time, options.key_look) = (Duration::from_secs(10), Duration::from_millis(20));
    })
    .await;
    let (tasks, stop) = kept(&refusals);

    // Keys: one that nobody knows, one by another name, one that was revoked.
    let (stranger, other, gone) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let print = |key: &PrivateKey| key.public().fingerprint().to_string();
    assert!(Client::new(rig.options(&stranger)).connect().await.is_err());
    let unknown = row(&store, "an unknown key", |row| row.action == "tunnel.key" && detail(row, "key") == print(&stranger)).await;
    assert_eq!((unknown.actor.as_str(), unknown.source_ip.as_deref(), unknown.success), ("stranger", Some("127.0.0.1"), false));
    let mut root = rig.options(&rig.key);
    root.user = "root".to_owned();
    assert!(Client::new(root).connect().await.is_err());
    row(&store, "another name", |row| row.action == "tunnel.key" && detail(row, "user") == "root").await;
    rig.keys.allow(&gone, "vma-gone", None);
    let live = Client::new(rig.options(&gone)).connect().await.unwrap();
    rig.keys.forget(&gone);
    rig.saw("the cut", |e| matches!(e, Event::Revoked { .. })).await;
    assert!(Client::new(rig.options(&gone)).connect().await.is_err());
    row(&store, "a revoked key", |row| row.action == "tunnel.key" && detail(row, "key") == print(&gone)).await;
    drop(live);
    // Another way in than a key.
    (refusals.observer())(&Event::MethodRefused { address: rig.address, method: "password", user: "x".repeat(5000) });
    let method = row(&store, "a password", |row| row.action == "tunnel.method" && detail(row, "method") == "password").await;
    assert_eq!(detail(&method, "user").len(), 200, "no more of a stranger's words than that");

    // A VMA that asks for more than is its own.
    rig.keys.allow(&other, "vma-2", Some(9082));
    let second = Client::new(rig.options(&other));
    let link = second.connect().await.unwrap();
    assert!(link.open(22).await.is_err());
    let wish = row(&store, "a port", |row| row.action == "tunnel.wish").await;
    assert_eq!((wish.actor, wish.subject_id.as_str()), (print(&other), "vma-2"));
    assert!(wish.details.unwrap()["wish"].as_str().unwrap().contains("22"));
    let nothing: migratekit_core::tunnels::client::ReverseHandler = Arc::new(|_| Box::pin(async {}));
    assert!(link.listen(9081, nothing).await.is_err());
    row(&store, "another's listener", |row| row.action == "tunnel.wish" && detail(row, "wish").contains("9081")).await;
    assert!(soon("the refusal", TunnelledExport::new(second.clone(), "one").connect(1)).await.is_err());
    row(&store, "another's export", |row| row.action == "tunnel.export" && detail(row, "export") == "one" && row.subject_id == "vma-2")
        .await;
    // As many as it may have, as soon as that of before is gone; then one more.
    let more = soon("room for a second one", async {
        loop {
            match second.connect().await {
                Ok(link) => break link,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await;
    assert!(second.connect().await.is_err());
    row(&store, "too many connections", |row| row.action == "tunnel.room" && row.subject_id == "vma-2").await;
    drop(more);

    // What is no SSH, before the login and after it.
    let mut socket = TcpStream::connect(rig.address).await.unwrap();
    socket.write_all(&packet(u32::MAX)).await.unwrap();
    let _ = soon("its end", socket.read_to_end(&mut Vec::new())).await;
    row(&store, "an oversized packet of a stranger", |row| row.action == "tunnel.speech" && row.subject_id == "-").await;
    let mut wires = Scope::new();
    let (port, put) = wire(rig.address, &mut wires).await;
    let mut through = rig.options(&rig.key);
    through.port = port;
    let spoiled = soon("the login", Client::new(through).connect()).await.unwrap();
    put.send([&u32::MAX.to_be_bytes()[..], &[0; 4096]].concat()).await.unwrap();
    row(&store, "an oversized packet of a VMA", |row| row.action == "tunnel.speech" && row.subject_id == "vma-1").await;
    drop(spoiled);
    wires.close().await.unwrap();

    // Half-open connections: more than there may be, and their time runs out.
    let mut half_open = Vec::new();
    for _ in 0..20 {
        half_open.push(TcpStream::connect(rig.address).await.unwrap());
    }
    row(&store, "a crowd", |row| row.action == "tunnel.crowd").await;
    row(&store, "no login", |row| row.action == "tunnel.login" && detail(row, "why").contains("too long")).await;
    drop(half_open);

    // After all that it serves on.
    let stream = async {
        loop {
            match rig.client().bulk(8082).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    there_and_back(soon("a stream", stream).await, 10_000).await;
    rig.close().await;
    stop.cancel();
    soon("the last rows", tasks.close()).await.unwrap();
}

fn counted(rows: &[AuditEntry]) -> u64 {
    rows.iter().map(|row| row.details.as_ref().unwrap()["count"].as_u64().unwrap()).sum()
}

async fn a_flood_is_a_few_rows_with_its_number(store: Store) {
    let refusals = Refusals::new(store.clone(), RefusalSettings::default());
    let (tasks, stop) = kept(&refusals);
    let observer = refusals.observer();
    let from = |n: u32| std::net::SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0A00_0000 + n), 1));
    let knock = |n| observer(&Event::KeyRefused { address: from(n), key: None, user: "root".to_owned() });
    // From one address.
    (0..10_000).for_each(|_| knock(1));
    row(&store, "the first, at once", |row| row.action == "tunnel.key").await;
    // From as many addresses.
    (0..10_000).for_each(|n| knock(100 + n));
    stop.cancel();
    soon("the last rows", tasks.close()).await.unwrap();
    let rows = refused(&store).await;
    assert_eq!(counted(&rows), 20_000, "none is forgotten");
    assert!(rows.len() <= 2 * (MAX_FOLDED + 1), "{} rows", rows.len());
    let of_one = rows.iter().filter(|row| row.source_ip.as_deref() == Some("10.0.0.1")).collect::<Vec<_>>();
    assert!(of_one.len() <= 2, "{of_one:?}");
    assert!(rows.iter().any(|row| row.source_ip.is_none() && detail(row, "sources") == "many"), "those for which there was no room");
    println!("20000 refusals, {} rows", rows.len());
}

async fn what_is_refused_while_the_catalog_is_away_is_written_later(store: Store) {
    let refusals = Refusals::new(store.clone(), RefusalSettings::default());
    let observer = refusals.observer();
    change(&store, "ALTER TABLE audit_log RENAME TO audit_log_away").await.unwrap();
    let (tasks, stop) = kept(&refusals);
    for _ in 0..1000 {
        observer(&Event::Crowded { address: ([192, 0, 2, 1], 1).into() });
    }
    // The writer has its turn meanwhile.
    for _ in 0..50 {
        store.read("look", |tx| async move { tx.enrollments().all().await }).await.unwrap();
    }
    change(&store, "ALTER TABLE audit_log_away RENAME TO audit_log").await.unwrap();
    row(&store, "the crowd", |row| row.action == "tunnel.crowd").await;
    stop.cancel();
    soon("the last rows", tasks.close()).await.unwrap();
    assert_eq!(counted(&refused(&store).await), 1000);
}
