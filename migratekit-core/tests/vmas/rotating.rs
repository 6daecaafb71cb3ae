//! A trusted VMA changes its key: one after the other proven, both good until the new one came in.

use migratekit_core::id::EnrollmentId;
use migratekit_core::model::{ConnectionEvent as Did, Enrollment, EnrollmentStatus};
use migratekit_core::tunnels::PrivateKey;
use migratekit_core::vmas::limits::{MAX_GUESSES_PER_SOURCE, MAX_ROTATIONS_PER_VMA, MAX_WAITING};
use migratekit_core::vmas::wire::{EnrollAnswer, VerifyRequest};
use migratekit_core::vmas::{Rotating, proof};
use migratekit_core::{ErrorKind, Result, Store, on_both_catalogs};

use crate::rig::{EXPORTER, Site, caller, new_key};

on_both_catalogs! {
    a_key_is_replaced_by_one_that_it_signed,
    nobody_else_replaces_a_key,
    a_revocation_takes_the_new_key_along,
    many_wishes_for_new_keys_keep_nobody_out,
}

const NONCE: [u8; 32] = [5; 32];

async fn ask(site: &Site, rotating: &Rotating<'_>) -> Result<EnrollAnswer> {
    site.reception.enroll(&rotating.request(&EXPORTER, &NONCE).unwrap(), &caller(1)).await
}

/// A rotation up to where both keys come in.
pub(crate) async fn rotate(site: &Site, rotating: &Rotating<'_>) -> VerifyRequest {
    let answer = ask(site, rotating).await.unwrap();
    let verify = rotating.answered(&EXPORTER, &NONCE, &answer).unwrap();
    let result = site.reception.verify(&verify, &caller(1)).await.unwrap();
    assert_eq!(result.status, EnrollmentStatus::Approved);
    verify
}

async fn a_key_is_replaced_by_one_that_it_signed(store: Store) {
    let site = Site::new(store);
    let (old, new, newer) = (new_key(), new_key(), new_key());
    let trusted = site.trusted(&old, "vma-1").await;
    let host_key = site.host_key.public();
    let rotating = |new| Rotating { host_key: &host_key, enrollment: &trusted.id, name: "vma-1", version: "2", old: &old, new };
    let verify = rotate(&site, &rotating(&new)).await;
    assert!(site.comes_in(&old).await && site.comes_in(&new).await, "both, as one VMA");
    assert_eq!(site.holder(&old).await, site.holder(&new).await);
    assert_eq!(site.reception.verify(&verify, &caller(1)).await.unwrap_err().kind(), ErrorKind::Denied, "a proof serves once");
    // Another one before that came in: only the last counts.
    rotate(&site, &rotating(&newer)).await;
    assert!(site.comes_in(&old).await && !site.comes_in(&new).await && site.comes_in(&newer).await);
    let active = site.vmas.active().await.unwrap();
    assert_eq!((active.len(), &active[0].enrollment.id), (1, &trusted.id), "it is one VMA");
    assert_eq!(site.vmas.find("vma-1").await.unwrap().id, trusted.id);
    assert_eq!(site.history(&newer).await, [Did::Enrollment, Did::Verification, Did::Approval]);
    let line = &site.vmas.history(Some(&newer.public().fingerprint())).await.unwrap()[0];
    assert_eq!(line.approved_by.as_deref(), Some(trusted.id.as_str()), "the VMA's own key vouched for it");
}

async fn nobody_else_replaces_a_key(store: Store) {
    let site = Site::new(store);
    let (old, new, thief) = (new_key(), new_key(), new_key());
    let trusted = site.trusted(&old, "vma-1").await;
    let host_key = site.host_key.public();
    let right = Rotating { host_key: &host_key, enrollment: &trusted.id, name: "vma-1", version: "2", old: &old, new: &new };
    let waiting = site.waiting(&thief, "thief").await;
    for wrong in [
        Rotating { old: &thief, ..right },
        Rotating { old: &thief, enrollment: &waiting, name: "thief", ..right },
        Rotating { name: "other", ..right },
    ] {
        assert_eq!(ask(&site, &wrong).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    // On another connection than the one that was signed for, and by an OMA that is another.
    let request = right.request(&[9; 32], &NONCE).unwrap();
    assert_eq!(site.reception.enroll(&request, &caller(2)).await.unwrap_err().kind(), ErrorKind::Denied);
    let answer = ask(&site, &right).await.unwrap();
    let other = PrivateKey::generate().unwrap().public();
    let elsewhere = Rotating { host_key: &other, ..right };
    assert_eq!(elsewhere.answered(&EXPORTER, &NONCE, &answer).unwrap_err().kind(), ErrorKind::Denied);
    let forged = EnrollAnswer { proof: proof::text(&[0; 64]), ..answer.clone() };
    assert_eq!(right.answered(&EXPORTER, &NONCE, &forged).unwrap_err().kind(), ErrorKind::Denied);
    // Who cannot sign by both keys ends the rotation; the old key stays.
    let verify = right.answered(&EXPORTER, &NONCE, &answer).unwrap();
    let half = VerifyRequest { proof: verify.signature.clone(), ..verify.clone() };
    assert_eq!(site.reception.verify(&half, &caller(1)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(site.reception.verify(&verify, &caller(1)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(site.comes_in(&old).await && !site.comes_in(&new).await && !site.comes_in(&thief).await);
    assert_eq!(site.refusals().await.len(), 6, "{:?}", site.refusals().await);
}

async fn a_revocation_takes_the_new_key_along(store: Store) {
    let site = Site::new(store);
    let (old, new) = (new_key(), new_key());
    let trusted = site.trusted(&old, "vma-1").await;
    let host_key = site.host_key.public();
    let rotating = Rotating { host_key: &host_key, enrollment: &trusted.id, name: "vma-1", version: "2", old: &old, new: &new };
    rotate(&site, &rotating).await;
    site.vmas.revoke(&trusted.id, "ann", None).await.unwrap();
    assert!(!site.comes_in(&old).await && !site.comes_in(&new).await);
    for key in [&old, &new] {
        assert_eq!(site.history(key).await.last(), Some(&Did::Revocation));
    }
    assert_eq!(ask(&site, &rotating).await.unwrap_err().kind(), ErrorKind::Denied);
}

async fn many_wishes_for_new_keys_keep_nobody_out(store: Store) {
    let site = Site::new(store.clone());
    let (old, other_old) = (new_key(), new_key());
    let (trusted, other) = (site.trusted(&old, "vma-1").await, site.trusted(&other_old, "vma-2").await);
    let host_key = site.host_key.public();
    let rotating = |new| Rotating { host_key: &host_key, enrollment: &trusted.id, name: "vma-1", version: "2", old: &old, new };
    // One after the other: only the last waits, and after some the VMA has to.
    let wished: Vec<PrivateKey> = (0..=MAX_ROTATIONS_PER_VMA).map(|_| new_key()).collect();
    let (one_more, wished) = wished.split_last().unwrap();
    for new in wished {
        ask(&site, &rotating(new)).await.unwrap();
    }
    let last = wished.last().unwrap();
    let waiting = site.vmas.pending().await.unwrap();
    assert_eq!((waiting.len(), &waiting[0].fingerprint), (1, &last.public().fingerprint().to_string()));
    let too_many = ask(&site, &rotating(one_more)).await.unwrap_err();
    assert_eq!((too_many.kind(), too_many.message()), (ErrorKind::Busy, "this VMA asked for too many new keys; wait"));
    // Another one is not hindered by it, nor by strangers who sign for it from the same address as often as they may.
    let thief = new_key();
    let theirs = Rotating { old: &thief, ..rotating(last) };
    for _ in 0..MAX_GUESSES_PER_SOURCE {
        assert_eq!(ask(&site, &theirs).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    assert_eq!(ask(&site, &theirs).await.unwrap_err().kind(), ErrorKind::Busy);
    let next = new_key();
    let second = Rotating { enrollment: &other.id, name: "vma-2", old: &other_old, new: &next, ..rotating(last) };
    site.reception.enroll(&second.request(&EXPORTER, &NONCE).unwrap(), &caller(2)).await.unwrap();
    // Keys that are to replace others take no room from those who enroll.
    for n in 0..MAX_WAITING {
        let one = &Enrollment { id: EnrollmentId::generate(), fingerprint: format!("SHA256:{n}"), ..waiting[0].clone() };
        store.write("add", |tx| async move { tx.enrollments().add(one).await }).await.unwrap();
    }
    site.waiting(&new_key(), "vma-3").await;
}
