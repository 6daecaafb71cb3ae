//! What an administrator does: approval, rejection, revocation, and what is left of each.

use std::sync::Arc;

use migratekit_core::id::EnrollmentId;
use migratekit_core::model::{ConnectionEvent as Did, ConnectionStatus, EnrollmentStatus};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::testing::catalog::change;
use migratekit_core::tunnels::{PrivateKey, Server, ServerOptions};
use migratekit_core::vmas::Cut;
use migratekit_core::{ErrorKind, Store, on_both_catalogs};

use crate::rig::{Site, new_key};

on_both_catalogs! {
    only_what_was_compared_and_waits_is_approved,
    a_rejected_an_expired_and_a_revoked_key_do_not_come_in,
    each_vma_has_its_port_and_its_name,
    a_revocation_is_finished_by_the_process_that_serves,
    the_history_survives_what_it_tells,
}

async fn only_what_was_compared_and_waits_is_approved(store: Store) {
    let (site, key, other) = (Site::new(store), new_key(), new_key());
    let id = site.waiting(&key, "vma-1").await;
    let wrong = site.vmas.approve(&id, &other.public().fingerprint(), "ann").await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Mismatch);
    assert!(!site.comes_in(&key).await && !site.comes_in(&other).await);
    let (unproven, _) = site.asked(&other, "vma-2").await;
    let early = site.vmas.approve(&unproven.enrollment, &other.public().fingerprint(), "ann").await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Changed, "a key that was not proven is not approved");
    assert!(!site.comes_in(&other).await);
    let nobody = site.vmas.approve(&EnrollmentId::generate(), &key.public().fingerprint(), "ann").await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    site.vmas.approve(&id, &key.public().fingerprint(), "ann").await.unwrap();
    let twice = site.vmas.approve(&id, &key.public().fingerprint(), "ann").await.unwrap_err();
    assert!(matches!(twice.kind(), ErrorKind::Changed | ErrorKind::AlreadyExists), "{twice}");
    let active = site.vmas.active().await.unwrap();
    let connection = active[0].connection.as_ref().unwrap();
    assert_eq!((active.len(), connection.status), (1, ConnectionStatus::Disconnected), "it was never here");
    assert_eq!((connection.connected_at, connection.last_seen_at), (None, None));
}

async fn a_rejected_an_expired_and_a_revoked_key_do_not_come_in(store: Store) {
    let site = Site::new(store);
    let rejected = new_key();
    let id = site.waiting(&rejected, "rejected").await;
    site.vmas.reject(&id, "ann").await.unwrap();
    assert_eq!(site.reception.result(&id).await.unwrap().status, EnrollmentStatus::Rejected);
    let late = site.vmas.approve(&id, &rejected.public().fingerprint(), "ann").await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Changed);
    assert_eq!(site.history(&rejected).await, [Did::Enrollment, Did::Verification, Did::Rejection]);

    let expired = new_key();
    let id = site.waiting(&expired, "expired").await;
    site.let_expire("vma_enrollments").await;
    let late = site.vmas.approve(&id, &expired.public().fingerprint(), "ann").await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Changed);
    assert!(site.vmas.pending().await.unwrap().is_empty());
    assert_eq!(site.reception.result(&id).await.unwrap().status, EnrollmentStatus::Expired);

    let revoked = new_key();
    let trusted = site.trusted(&revoked, "revoked").await;
    assert!(site.comes_in(&revoked).await);
    assert_eq!(site.vmas.revoke(&trusted.id, "bob", None).await.unwrap(), Cut::NothingServed);
    let again = site.vmas.revoke(&trusted.id, "bob", None).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Changed);
    assert_eq!(site.history(&revoked).await, [Did::Enrollment, Did::Verification, Did::Approval, Did::Revocation]);
    let line = &site.vmas.history(Some(&revoked.public().fingerprint())).await.unwrap()[0];
    assert_eq!(line.details.as_ref().unwrap()["by"], "bob");
    for key in [&rejected, &expired, &revoked] {
        assert!(!site.comes_in(key).await);
    }
    assert!(site.vmas.active().await.unwrap().is_empty());
}

async fn each_vma_has_its_port_and_its_name(store: Store) {
    let site = Site::new(store);
    let keys: Vec<PrivateKey> = (0..3).map(|_| new_key()).collect();
    let mut ports = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        ports.push(site.trusted(key, &format!("vma-{n}")).await.reverse_port.unwrap());
    }
    assert_eq!(ports, [9081, 9082, 9083]);
    // A name that is taken is refused, and the port of one that goes is free again.
    let other = new_key();
    let id = site.waiting(&other, "vma-1").await;
    let taken = site.vmas.approve(&id, &other.public().fingerprint(), "ann").await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(site.vmas.find("vma-1").await.unwrap_err().kind(), ErrorKind::InvalidInput, "two have this name");
    let second = site.vmas.active().await.unwrap().into_iter().find(|vma| vma.enrollment.name == "vma-1").unwrap();
    site.vmas.revoke(&second.enrollment.id, "ann", None).await.unwrap();
    let approved = site.vmas.approve(&id, &other.public().fingerprint(), "ann").await.unwrap();
    assert_eq!(approved.reverse_port, Some(9082));
    assert_eq!(site.vmas.find("vma-1").await.unwrap().id, id);
}

async fn a_revocation_is_finished_by_the_process_that_serves(store: Store) {
    let (site, key) = (Site::new(store.clone()), new_key());
    let trusted = site.trusted(&key, "vma-1").await;
    // It is known to be connected, and nobody serves: the key is out, and the end is not claimed.
    change(&store, "UPDATE vma_active_connections SET connection_status = 'connected'").await.unwrap();
    let unsure = site.vmas.revoke(&trusted.id, "ann", None).await.unwrap_err();
    assert_eq!(unsure.kind(), ErrorKind::Timeout);
    assert!(!site.comes_in(&key).await);
    assert_eq!(site.history(&key).await.last(), Some(&Did::Approval), "nothing is claimed before it is so");
    // A process that serves finishes it, once.
    let server = Server::new(ServerOptions::new(PrivateKey::generate().unwrap(), Arc::new(site.vmas.keys())));
    let mut tasks = Scope::new();
    let (vmas, end) = (site.vmas.clone(), tasks.token().clone());
    tasks.spawn(async move { vmas.tend(&server, &end).await });
    let finished = async {
        while site.history(&key).await.last() != Some(&Did::Revocation) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    migratekit_core::clock::within(std::time::Duration::from_secs(30), finished).await.expect("nobody finished it");
    // One that is revoked while it serves: the other process sees that it was cut.
    let other = new_key();
    let trusted = site.trusted(&other, "vma-2").await;
    let patient = site.vmas.clone().revoke_time(std::time::Duration::from_secs(30));
    assert_eq!(patient.revoke(&trusted.id, "ann", None).await.unwrap(), Cut::ByServer);
    tasks.close().await.unwrap();
    assert!(store.read("look", |tx| async move { tx.facts().get("tunnel_served_at").await }).await.unwrap().is_none(), "it ended in order");
    for key in [&key, &other] {
        let ends = site.history(key).await.iter().filter(|did| **did == Did::Revocation).count();
        assert_eq!(ends, 1, "it is told once");
    }
    // One that ended in order is not waited for; one that stands still, or was killed a moment ago, is, and nothing is claimed for it.
    let slow = new_key();
    let trusted = site.trusted(&slow, "vma-4").await;
    let (vmas, server) = (site.vmas.clone(), Server::new(ServerOptions::new(PrivateKey::generate().unwrap(), Arc::new(site.vmas.keys()))));
    let killed = tokio::spawn(async move { vmas.tend(&server, &CancellationToken::new()).await });
    let served = || store.read("look", |tx| async move { tx.facts().get("tunnel_served_at").await });
    migratekit_core::clock::within(std::time::Duration::from_secs(30), async {
        while served().await.unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it does not say that it serves");
    killed.abort();
    let _ = killed.await;
    assert_eq!(site.vmas.revoke(&trusted.id, "ann", None).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(site.history(&slow).await.last(), Some(&Did::Approval));
    // In one process: the server is asked at once.
    let third = new_key();
    let trusted = site.trusted(&third, "vma-3").await;
    let server = Server::new(ServerOptions::new(PrivateKey::generate().unwrap(), Arc::new(site.vmas.keys())));
    assert_eq!(site.vmas.revoke(&trusted.id, "ann", Some(&server)).await.unwrap(), Cut::ByServer);
    assert_eq!(site.history(&third).await.last(), Some(&Did::Revocation));
}

async fn the_history_survives_what_it_tells(store: Store) {
    let (site, key) = (Site::new(store.clone()), new_key());
    let trusted = site.trusted(&key, "vma-1").await;
    site.vmas.revoke(&trusted.id, "ann", None).await.unwrap();
    let before = site.history(&key).await;
    let id = &trusted.id;
    store.write("test", |tx| async move { tx.enrollments().remove(id).await }).await.unwrap();
    assert_eq!(site.history(&key).await, before);
    assert_eq!(before.len(), 4);
}
