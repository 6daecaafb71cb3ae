//! The rows and the history of VMAs' connections follow what happens in the tunnel, on both databases.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::clock::Timestamp;
use migratekit_core::id::{ConnectionId, EnrollmentId};
use migratekit_core::model::{Connection, ConnectionAudit, ConnectionEvent, ConnectionStatus, Enrollment, EnrollmentStatus};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{NBD_PORT, PrivateKey};
use migratekit_core::vmas::{ConnectionSettings, Connections};
use migratekit_core::{Store, Tx, on_both_catalogs};

use crate::hole::Path;
use crate::rig::{Rig, soon};
use crate::standing_rig::{Kept, both, options, quick};

on_both_catalogs! {
    rows_and_history_follow_what_happens,
    what_a_process_that_died_left_behind_is_corrected,
}

/// A VMA of the catalog, with its connection.
pub(crate) async fn enrolled(store: &Store, key: &PrivateKey, port: u16, now: (EnrollmentStatus, ConnectionStatus)) -> EnrollmentId {
    approved(store, key, Some(port), "ann", now).await
}

/// As [`enrolled`], approved by whomever; with the id of a VMA it is that one's successor.
pub(crate) async fn approved(
    store: &Store,
    key: &PrivateKey,
    reverse_port: Option<u16>,
    by: &str,
    now: (EnrollmentStatus, ConnectionStatus),
) -> EnrollmentId {
    let (id, at) = (EnrollmentId::generate(), Timestamp::now());
    let enrollment = &Enrollment {
        id: id.clone(),
        pairing: None,
        public_key: key.public().to_string(),
        name: "vma-1".into(),
        version: None,
        fingerprint: key.public().fingerprint().to_string(),
        ip_address: None,
        challenge_nonce: None,
        status: now.0,
        reverse_port,
        approved_by: Some(by.into()),
        approved_at: Some(at),
        expires_at: at,
        created_at: at,
        updated_at: at,
    };
    let connection = &Connection {
        id: ConnectionId::generate(),
        enrollment: id.clone(),
        name: "vma-1".into(),
        fingerprint: enrollment.fingerprint.clone(),
        ssh_user: "vma_tunnel".into(),
        status: now.1,
        last_seen_at: None,
        connected_at: None,
        revoked_at: None,
        revoked_by: None,
    };
    let write = |tx: Tx| async move {
        tx.enrollments().add(enrollment).await?;
        tx.enrollments().set_connection(connection).await
    };
    store.write("enroll for a test", write).await.unwrap();
    id
}

pub(crate) async fn row(store: &Store, id: &EnrollmentId) -> Connection {
    store.read("look", |tx| async move { tx.enrollments().connection(id).await }).await.unwrap().unwrap()
}

/// Oldest first.
pub(crate) async fn history(store: &Store) -> Vec<ConnectionAudit> {
    let mut all = store.read("look", |tx| async move { tx.enrollments().history(None).await }).await.unwrap();
    all.reverse();
    all
}

/// Waits until the row is as wanted.
pub(crate) async fn becomes(store: &Store, id: &EnrollmentId, what: &str, is: impl Fn(&Connection) -> bool) -> Connection {
    soon(what, async {
        loop {
            let now = row(store, id).await;
            if is(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

async fn rows_and_history_follow_what_happens(store: Store) {
    let connections = Connections::open(store.clone(), ConnectionSettings { seen: Duration::from_millis(100) }).await.unwrap();
    let observer = connections.observer();
    let rig = Rig::with(both(), |options| {
        quick(options);
        let seen = options.observer.take().unwrap();
        options.observer = Some(Arc::new(move |event: &Event| {
            seen(event);
            observer(event);
        }));
    })
    .await;
    let (mut tasks, stop) = (Scope::new(), CancellationToken::new());
    let (kept_up, server, token) = (connections.clone(), rig.server.clone(), stop.clone());
    tasks.spawn(async move { kept_up.keep(&server, &token).await });
    let id = enrolled(&store, &rig.key, 9081, (EnrollmentStatus::Approved, ConnectionStatus::Disconnected)).await;

    // It comes, with a control connection and one for data; that is one coming.
    let path = Path::to(rig.address).await;
    let tunnel = Kept::start(options(&rig, &path)).await;
    tunnel.stands().await;
    let bulk = tunnel.tunnel.client().bulk(NBD_PORT).await.unwrap();
    let first = becomes(&store, &id, "it is connected", |row| row.status == ConnectionStatus::Connected).await;
    let later = becomes(&store, &id, "it was heard since", |row| row.last_seen_at > first.connected_at).await;
    assert_eq!(later.connected_at, first.connected_at);
    drop(bulk);
    let events = |lines: &[ConnectionAudit]| lines.iter().map(|line| line.event).collect::<Vec<_>>();
    let lines = history(&store).await;
    assert_eq!(events(&lines), [ConnectionEvent::Connection]);
    assert_eq!((lines[0].source_ip.as_deref(), lines[0].enrollment.as_ref()), (Some("127.0.0.1"), Some(&id)));

    // It is lost, and comes again: each is a line, in order, and the row is what the last one says.
    path.close(true);
    path.cut();
    becomes(&store, &id, "it is lost", |row| row.status == ConnectionStatus::Disconnected).await;
    path.close(false);
    tunnel.stood(2).await;
    becomes(&store, &id, "it is connected anew", |row| row.connected_at > first.connected_at).await;
    // It leaves.
    tunnel.close().await;
    let gone = becomes(&store, &id, "it is gone", |row| row.status == ConnectionStatus::Disconnected).await;
    assert!(gone.last_seen_at >= later.last_seen_at && gone.connected_at > first.connected_at, "{gone:?}");
    let lines = history(&store).await;
    use ConnectionEvent::{Connection as Came, Disconnection as Went};
    assert_eq!(events(&lines), [Came, Went, Came, Went]);
    assert!(lines[1].details.as_ref().unwrap().get("last_heard").is_some());

    // Its trust has ended: nothing of it is written any more, though the key still comes in.
    let ended = &Connection { status: ConnectionStatus::Revoked, ..gone.clone() };
    store.write("end it", |tx| async move { tx.enrollments().set_connection(ended).await }).await.unwrap();
    drop(soon("it comes in", rig.client().connect()).await.unwrap());
    // A key that the catalog does not know comes and goes too.
    let stranger = PrivateKey::generate().unwrap();
    rig.keys.allow(&stranger, "file", None);
    drop(migratekit_core::tunnels::Client::new(rig.options(&stranger)).connect().await.unwrap());
    rig.close().await;
    stop.cancel();
    soon("the last is written", tasks.close()).await.unwrap();
    assert_eq!((history(&store).await.len(), row(&store, &id).await.status), (4, ConnectionStatus::Revoked));
}

async fn what_a_process_that_died_left_behind_is_corrected(store: Store) {
    let (one, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let id = enrolled(&store, &one, 9081, (EnrollmentStatus::Approved, ConnectionStatus::Connected)).await;
    let ended = enrolled(&store, &other, 9082, (EnrollmentStatus::Revoked, ConnectionStatus::Revoked)).await;
    let _ = Connections::open(store.clone(), ConnectionSettings::default()).await.unwrap();
    assert_eq!(row(&store, &id).await.status, ConnectionStatus::Disconnected);
    assert_eq!(row(&store, &ended).await.status, ConnectionStatus::Revoked);
    let lines = history(&store).await;
    assert_eq!((lines.len(), lines[0].event, lines[0].enrollment.as_ref()), (1, ConnectionEvent::Disconnection, Some(&id)));
    assert_eq!(lines[0].details.as_ref().unwrap()["found_at_start"], true);
    // Once: the next start finds nothing to correct.
    let _ = Connections::open(store.clone(), ConnectionSettings::default()).await.unwrap();
    assert_eq!(history(&store).await.len(), 1);
}
