//! Whether a VMA is connected, while its key is replaced: what the row says is so, on both databases.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::clock::Timestamp;
use migratekit_core::credentials::{Key, Keys, Vault};
use migratekit_core::id::EnrollmentId;
use migratekit_core::model::ConnectionEvent::{Connection as Came, Disconnection as Went};
use migratekit_core::model::{Connection, ConnectionEvent, ConnectionStatus as Is, EnrollmentStatus};
use migratekit_core::task::Scope;
use migratekit_core::tunnels::client::Link;
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{Client, PrivateKey};
use migratekit_core::vmas::{ConnectionSettings, Connections, Vmas};
use migratekit_core::{Store, Tx, on_both_catalogs};

use crate::rig::{Rig, soon};
use crate::rows::{approved, becomes, enrolled, history, row};
use crate::standing_rig::both;

on_both_catalogs! {
    who_comes_by_the_new_key_alone_is_connected,
    who_was_there_by_the_old_key_leaves_by_the_new_one,
    who_is_not_there_by_the_new_key_any_more_is_not_connected,
}

/// A server whose keys are those of the catalog, with what it has to do there.
struct Serving {
    rig: Rig,
    store: Store,
    vma: EnrollmentId,
    old: PrivateKey,
    new: PrivateKey,
    tasks: Scope,
}

impl Serving {
    /// With a VMA that is connected or not as far as the catalog knows, and its successor, which is not. `observed`: what happens in the
    /// tunnel is written down; else that the successor came and went was written before.
    async fn start(store: Store, was: Is, observed: bool) -> Self {
        let (old, new) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let connections = Connections::open(store.clone(), ConnectionSettings { seen: Duration::from_secs(60) }).await.unwrap();
        let vma = enrolled(&store, &old, 9081, (EnrollmentStatus::Approved, was)).await;
        let successor = &approved(&store, &new, None, vma.as_str(), (EnrollmentStatus::Approved, Is::Disconnected)).await;
        if !observed {
            let write = |tx: Tx| async move {
                assert!(tx.vma_connections().connect(successor, Timestamp::now()).await?);
                tx.vma_connections().disconnect(successor, None).await
            };
            assert!(store.write("come and go for a test", write).await.unwrap());
        }
        let vmas = Vmas::new(store.clone(), Vault::new(Keys::new(Key::generate().unwrap())));
        let observer = connections.observer();
        let rig = Rig::with(both(), |options| {
            options.keys = Arc::new(vmas.keys());
            options.key_look = Duration::from_millis(20);
            let seen = options.observer.take().unwrap();
            options.observer = Some(Arc::new(move |event: &Event| {
                seen(event);
                if observed {
                    observer(event);
                }
            }));
        })
        .await;
        let mut tasks = Scope::new();
        let (server, token) = (rig.server.clone(), tasks.token().clone());
        tasks.spawn(async move {
            tokio::join!(vmas.tend(&server, &token), connections.keep(&server, &token));
        });
        Serving { rig, store, vma, old, new, tasks }
    }

    async fn comes(&self, key: &PrivateKey) -> Link {
        soon("it comes in", Client::new(self.rig.options(key)).connect()).await.unwrap()
    }

    async fn becomes(&self, what: &str, is: impl Fn(&Connection) -> bool) -> Connection {
        becomes(&self.store, &self.vma, what, is).await
    }

    /// What happened to the VMA by its new key, as far as it is the VMA's.
    async fn events(&self) -> Vec<(ConnectionEvent, bool)> {
        let all = history(&self.store).await;
        let own = all.iter().filter(|line| line.enrollment.as_ref() == Some(&self.vma));
        own.map(|line| (line.event, line.details.as_ref().is_some_and(|details| details.get("rotated").is_some()))).collect()
    }

    async fn close(self) {
        self.rig.close().await;
        soon("the last is written", self.tasks.close()).await.unwrap();
    }
}

async fn who_comes_by_the_new_key_alone_is_connected(store: Store) {
    let serving = Serving::start(store, Is::Disconnected, true).await;
    let print = serving.new.public().fingerprint().to_string();
    let link = serving.comes(&serving.new).await;
    let now =
        serving.becomes("its key is the new one, and it is connected", |row| row.fingerprint == print && row.status == Is::Connected).await;
    assert!(now.connected_at.is_some() && now.name == "vma-1", "{now:?}");
    link.cut();
    serving.becomes("it is gone", |row| row.status == Is::Disconnected).await;
    assert_eq!(serving.events().await.last(), Some(&(Went, false)));
    serving.close().await;
}

async fn who_was_there_by_the_old_key_leaves_by_the_new_one(store: Store) {
    let serving = Serving::start(store, Is::Disconnected, true).await;
    let print = serving.new.public().fingerprint().to_string();
    let before = serving.comes(&serving.old).await;
    serving.becomes("it is connected", |row| row.status == Is::Connected).await;
    let after = serving.comes(&serving.new).await;
    serving.becomes("its key is the new one", |row| row.fingerprint == print).await;
    soon("the old key's connection is cut", before.ended()).await;
    // Its end was told before that of another connection, which is written; the row says what holds all the same.
    serving.rig.saw("its end", |e| matches!(e, Event::Disconnected { peer: Some(peer), .. } if peer.key == serving.old.public())).await;
    let second = serving.comes(&serving.new).await;
    assert_eq!(serving.becomes("it is connected", |row| row.status == Is::Connected).await.fingerprint, print);
    drop((after, second));
    serving.becomes("it is gone", |row| row.status == Is::Disconnected).await;
    let events = serving.events().await;
    assert!(events.starts_with(&[(Came, false)]) && events.contains(&(Came, true)), "{events:?}");
    assert_eq!(events.iter().position(|(event, _)| *event == Went), Some(events.len() - 1), "it went once, at the end: {events:?}");
    serving.close().await;
}

async fn who_is_not_there_by_the_new_key_any_more_is_not_connected(store: Store) {
    // Coming and going by the new key were written before the server saw to the rotation; the old key's connection is cut by it, and
    // its end finds no row.
    let serving = Serving::start(store, Is::Connected, false).await;
    assert_eq!(row(&serving.store, &serving.vma).await.status, Is::Connected);
    let print = serving.new.public().fingerprint().to_string();
    let link = serving.comes(&serving.new).await;
    let now = serving.becomes("its key is the new one", |row| row.fingerprint == print).await;
    assert_eq!(now.status, Is::Disconnected, "nobody says any more that it is");
    assert_eq!(serving.events().await, [(Came, true), (Went, false)]);
    drop(link);
    serving.close().await;
}
