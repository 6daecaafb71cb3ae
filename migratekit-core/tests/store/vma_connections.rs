//! Rows of VMAs' connections: they change by what happens, and an ended one never again.

use migratekit_core::id::ConnectionId;
use migratekit_core::model::{Connection, ConnectionStatus};
use migratekit_core::{Store, on_both_catalogs};

use crate::others::enrollment;
use crate::rows::{at, call};

on_both_catalogs! {
    a_connection_comes_and_goes_until_it_is_ended,
}

async fn a_connection_comes_and_goes_until_it_is_ended(store: Store) {
    let vma = &enrollment("a", None);
    call!(store, |tx| tx.enrollments().add(vma)).unwrap();
    let row = &Connection {
        id: ConnectionId::generate(),
        enrollment: vma.id.clone(),
        name: "a".into(),
        fingerprint: vma.fingerprint.clone(),
        ssh_user: "vma_tunnel".into(),
        status: ConnectionStatus::Disconnected,
        last_seen_at: None,
        connected_at: None,
        revoked_at: None,
        revoked_by: None,
    };
    call!(store, |tx| tx.enrollments().set_connection(row)).unwrap();
    assert_eq!(call!(store, |tx| tx.vma_connections().of_key(&vma.fingerprint)).unwrap(), std::slice::from_ref(row));
    assert_eq!(call!(store, |tx| tx.vma_connections().connected()).unwrap(), []);
    assert!(!call!(store, |tx| tx.vma_connections().disconnect(&vma.id, Some(at(1)))).unwrap(), "it was not connected");
    assert!(!call!(store, |tx| tx.vma_connections().seen(&vma.fingerprint, at(1))).unwrap(), "nor can it be seen");

    assert!(call!(store, |tx| tx.vma_connections().connect(&vma.id, at(2))).unwrap());
    let connected =
        &Connection { status: ConnectionStatus::Connected, last_seen_at: Some(at(2)), connected_at: Some(at(2)), ..row.clone() };
    assert_eq!(call!(store, |tx| tx.vma_connections().connected()).unwrap(), std::slice::from_ref(connected));
    assert!(call!(store, |tx| tx.vma_connections().seen(&vma.fingerprint, at(5))).unwrap());
    assert!(!call!(store, |tx| tx.vma_connections().seen(&vma.fingerprint, at(4))).unwrap(), "it never goes back");
    assert!(!call!(store, |tx| tx.vma_connections().seen("another", at(9))).unwrap());

    assert!(call!(store, |tx| tx.vma_connections().disconnect(&vma.id, None)).unwrap());
    let gone = Connection { status: ConnectionStatus::Disconnected, last_seen_at: Some(at(5)), ..connected.clone() };
    assert_eq!(call!(store, |tx| tx.vma_connections().of_key(&vma.fingerprint)).unwrap(), [gone]);

    let ended = &Connection { status: ConnectionStatus::Revoked, revoked_at: Some(at(6)), revoked_by: Some("ann".into()), ..row.clone() };
    call!(store, |tx| tx.enrollments().set_connection(ended)).unwrap();
    assert_eq!(call!(store, |tx| tx.vma_connections().of_key(&vma.fingerprint)).unwrap(), []);
    assert!(!call!(store, |tx| tx.vma_connections().connect(&vma.id, at(7))).unwrap());
    assert!(!call!(store, |tx| tx.vma_connections().disconnect(&vma.id, Some(at(7)))).unwrap());
    assert_eq!(call!(store, |tx| tx.enrollments().connection(&vma.id)).unwrap().as_ref(), Some(ended));
}
