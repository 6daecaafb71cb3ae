//! Rows of VMAs: their codes and keys; their connections, which change by what happens, and an ended one never again.

use migratekit_core::id::{ConnectionId, PairingId};
use migratekit_core::model::{Connection, ConnectionStatus, Enrollment, EnrollmentStatus, PairingCode};
use migratekit_core::{Store, on_both_catalogs};

use crate::others::enrollment;
use crate::rows::{at, call};

on_both_catalogs! {
    a_connection_comes_and_goes_until_it_is_ended,
    codes_are_found_while_they_hold_and_vmas_by_their_key,
    a_revocation_is_half_done_until_its_connection_has_ended,
}

fn connection(vma: &Enrollment) -> Connection {
    Connection {
        id: ConnectionId::generate(),
        enrollment: vma.id.clone(),
        name: vma.name.clone(),
        fingerprint: vma.fingerprint.clone(),
        ssh_user: "vma_tunnel".into(),
        status: ConnectionStatus::Disconnected,
        last_seen_at: None,
        connected_at: None,
        revoked_at: None,
        revoked_by: None,
    }
}

async fn a_connection_comes_and_goes_until_it_is_ended(store: Store) {
    let vma = &enrollment("a", None);
    call!(store, |tx| tx.enrollments().add(vma)).unwrap();
    let row = &connection(vma);
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

async fn codes_are_found_while_they_hold_and_vmas_by_their_key(store: Store) {
    let code = |digest: &str, ends: i64| PairingCode {
        id: PairingId::generate(),
        code_digest: digest.into(),
        generated_by: "ann".into(),
        used_by: None,
        used_at: None,
        expires_at: at(ends),
        created_at: at(1),
    };
    let (short, long) = (&code("short", 10), &code("long", 100));
    call!(store, |tx| tx.enrollments().add_code(short)).unwrap();
    call!(store, |tx| tx.enrollments().add_code(long)).unwrap();
    assert_eq!(call!(store, |tx| tx.enrollments().live_codes(at(9))).unwrap().len(), 2);
    assert_eq!(call!(store, |tx| tx.enrollments().live_codes(at(10))).unwrap(), std::slice::from_ref(long), "a code ends on time");
    let vma = &enrollment("a", Some(long.id.clone()));
    call!(store, |tx| tx.enrollments().add(vma)).unwrap();
    call!(store, |tx| tx.enrollments().use_code("long", &vma.id, at(20))).unwrap();
    assert_eq!(call!(store, |tx| tx.enrollments().live_codes(at(20))).unwrap(), []);
    let used = call!(store, |tx| tx.enrollments().code(&long.id)).unwrap().unwrap();
    assert_eq!((used.used_by, used.used_at), (Some(vma.id.clone()), Some(at(20))));
    assert_eq!(call!(store, |tx| tx.enrollments().code(&PairingId::generate())).unwrap(), None);

    let row = &connection(vma);
    call!(store, |tx| tx.enrollments().set_connection(row)).unwrap();
    assert_eq!(call!(store, |tx| tx.enrollments().of_key("SHA256:a")).unwrap(), std::slice::from_ref(vma));
    assert_eq!(call!(store, |tx| tx.enrollments().of_key("SHA256:b")).unwrap(), []);
    call!(store, |tx| tx.enrollments().replace_key(&vma.id, "ssh-ed25519 BBBB", "SHA256:b", at(30))).unwrap();
    assert_eq!(call!(store, |tx| tx.enrollments().of_key("SHA256:a")).unwrap(), []);
    let found = call!(store, |tx| tx.enrollments().of_key("SHA256:b")).unwrap();
    assert_eq!((found.len(), found[0].public_key.as_str(), &found[0].id), (1, "ssh-ed25519 BBBB", &vma.id));
    assert_eq!(call!(store, |tx| tx.enrollments().connection(&vma.id)).unwrap().unwrap().fingerprint, "SHA256:b");
    let nobody = call!(store, |tx| tx.enrollments().replace_key(&enrollment("x", None).id, "k", "f", at(30)));
    assert!(nobody.is_err(), "whose key is not known is not given another");
}

async fn a_revocation_is_half_done_until_its_connection_has_ended(store: Store) {
    let vma = &enrollment("a", None);
    let row = &connection(vma);
    call!(store, |tx| tx.enrollments().add(vma)).unwrap();
    call!(store, |tx| tx.enrollments().set_connection(row)).unwrap();
    let approved = &Enrollment { status: EnrollmentStatus::Approved, ..vma.clone() };
    call!(store, |tx| tx.enrollments().advance(approved, EnrollmentStatus::PendingVerification)).unwrap();
    let approved = &call!(store, |tx| tx.enrollments().in_state(EnrollmentStatus::Approved)).unwrap()[0];
    assert_eq!(approved.id, vma.id);
    assert_eq!(call!(store, |tx| tx.enrollments().half_revoked()).unwrap(), []);

    let revoked = &Enrollment { status: EnrollmentStatus::Revoked, ..approved.clone() };
    call!(store, |tx| tx.enrollments().advance(revoked, EnrollmentStatus::Approved)).unwrap();
    call!(store, |tx| tx.enrollments().revoke_connection(&vma.id, "ann", at(7))).unwrap();
    assert_eq!(call!(store, |tx| tx.enrollments().in_state(EnrollmentStatus::Approved)).unwrap(), []);
    assert_eq!(call!(store, |tx| tx.enrollments().half_revoked()).unwrap()[0].id, vma.id);
    assert!(call!(store, |tx| tx.enrollments().end_connection(&vma.id)).unwrap());
    assert!(!call!(store, |tx| tx.enrollments().end_connection(&vma.id)).unwrap(), "once");
    assert_eq!(call!(store, |tx| tx.enrollments().half_revoked()).unwrap(), []);
    let ended = call!(store, |tx| tx.enrollments().connection(&vma.id)).unwrap().unwrap();
    assert_eq!((ended.status, ended.revoked_by.as_deref(), ended.revoked_at), (ConnectionStatus::Revoked, Some("ann"), Some(at(7))));
}
