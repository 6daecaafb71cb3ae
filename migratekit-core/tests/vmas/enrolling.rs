//! What a reception takes and refuses; each refusal is written down.

use std::time::Duration;

use migratekit_core::model::{ConnectionEvent as Did, EnrollmentStatus};
use migratekit_core::testing::catalog::{ask, change};
use migratekit_core::vmas::limits::{MAX_GUESSES, MAX_GUESSES_PER_SOURCE, MAX_LIVE_CODES};
use migratekit_core::vmas::proof;
use migratekit_core::vmas::wire::VerifyRequest;
use migratekit_core::vmas::{Applicant, Caller, Code, GuessBounds, Reception};
use migratekit_core::{ErrorKind, Store, on_both_catalogs};

use crate::rig::{Site, caller, new_key};

on_both_catalogs! {
    a_vma_enrolls_and_the_history_tells_it,
    a_code_serves_once_and_ten_minutes,
    codes_are_not_to_be_guessed,
    what_could_not_be_judged_is_no_guess,
    a_flood_of_wrong_codes_gets_few_lines_and_says_how_many_it_was,
    a_man_in_the_middle_has_nothing_that_either_side_takes,
    a_proof_serves_once_and_a_wrong_one_ends_it,
    what_cannot_be_shown_or_is_known_already_is_refused,
    the_catalog_does_not_hold_a_code,
}

async fn a_vma_enrolls_and_the_history_tells_it(store: Store) {
    let (site, key) = (Site::new(store), new_key());
    let (answer, answered) = site.asked(&key, "vma-1").await;
    assert_eq!(answered.host_key, site.host_key.public(), "the key to pin");
    assert_eq!(site.reception.result(&answer.enrollment).await.unwrap().status, EnrollmentStatus::PendingVerification);
    let result = site.reception.verify(&answered.verify, &caller(1)).await.unwrap();
    assert_eq!((result.status, result.reverse_port), (EnrollmentStatus::AwaitingApproval, None));
    assert!(!site.comes_in(&key).await, "a code alone lets nobody in");
    let waiting = site.vmas.pending().await.unwrap();
    assert_eq!((waiting.len(), &waiting[0].fingerprint), (1, &key.public().fingerprint().to_string()));
    assert_eq!((waiting[0].name.as_str(), waiting[0].ip_address.as_deref()), ("vma-1", Some("192.0.2.1")));

    let approved = site.vmas.approve(&answer.enrollment, &key.public().fingerprint(), "ann").await.unwrap();
    assert_eq!((approved.status, approved.reverse_port), (EnrollmentStatus::Approved, Some(9081)));
    assert!(site.comes_in(&key).await, "as soon as the approval returns");
    let result = site.reception.result(&answer.enrollment).await.unwrap();
    assert_eq!((result.status, result.reverse_port), (EnrollmentStatus::Approved, Some(9081)));
    assert_eq!(site.history(&key).await, [Did::Enrollment, Did::Verification, Did::Approval]);
    assert!(site.refusals().await.is_empty());
}

async fn a_code_serves_once_and_ten_minutes(store: Store) {
    let site = Site::new(store);
    let code = site.code().await;
    let (one, two) = (site.applicant(&new_key(), &code, "one").await, site.applicant(&new_key(), &code, "two").await);
    // Two at once: exactly one.
    let (one, two) = (one.request(), two.request());
    let (from_one, from_two) = (caller(1), caller(2));
    let (a, b) = tokio::join!(site.reception.enroll(&one, &from_one), site.reception.enroll(&two, &from_two));
    let refused = match (a, b) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        both => panic!("not exactly one: {both:?}"),
    };
    assert_eq!(refused.kind(), ErrorKind::Denied);
    // One after the other.
    let late = site.applicant(&new_key(), &code, "three").await;
    assert_eq!(site.reception.enroll(&late.request(), &caller(3)).await.unwrap_err().kind(), ErrorKind::Denied);
    // Too late.
    let old = site.applicant(&new_key(), &site.code().await, "four").await;
    site.let_expire("vma_pairing_codes").await;
    assert_eq!(site.reception.enroll(&old.request(), &caller(3)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(site.refusals().await.len(), 3, "each is written down: {:?}", site.refusals().await);
    assert_eq!(site.vmas.pending().await.unwrap().len(), 1);
}

async fn codes_are_not_to_be_guessed(store: Store) {
    let site = Site::new(store);
    let code = site.code().await;
    for _ in 0..MAX_GUESSES_PER_SOURCE {
        let guess = site.applicant(&new_key(), &Code::generate().unwrap(), "guess").await;
        assert_eq!(site.reception.enroll(&guess.request(), &caller(9)).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    // Now even the right one is refused from there, before it is looked at; from elsewhere it is taken.
    let right = site.applicant(&new_key(), &code, "right").await;
    assert_eq!(site.reception.enroll(&right.request(), &caller(9)).await.unwrap_err().kind(), ErrorKind::Busy);
    assert!(site.reception.enroll(&right.request(), &caller(8)).await.is_ok());
    assert_eq!(site.refusals().await.len(), MAX_GUESSES_PER_SOURCE);

    // Many who guess from everywhere leave each other fewer tries, and keep nobody out.
    let bounds = GuessBounds { all: 4, few: 1, ..GuessBounds::default() };
    let reception = Reception::new(site.store.clone(), site.vault.clone(), site.host_key.clone()).bounds(bounds);
    let right = site.applicant(&new_key(), &site.code().await, "right").await;
    let guess = site.applicant(&new_key(), &Code::generate().unwrap(), "guess").await;
    for source in [1, 1, 2, 3, 4, 5, 6] {
        assert_eq!(reception.enroll(&guess.request(), &caller(source)).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    for source in [1, 2, 6] {
        assert_eq!(reception.enroll(&guess.request(), &caller(source)).await.unwrap_err().kind(), ErrorKind::Busy);
    }
    assert!(reception.enroll(&right.request(), &caller(7)).await.is_ok(), "an honest person among them");

    // And there are never many to guess from.
    let mut codes = 0;
    let full = loop {
        match site.vmas.pairing_code("ann").await {
            Ok(_) => codes += 1,
            Err(full) => break full,
        }
        assert!(codes <= MAX_LIVE_CODES);
    };
    assert_eq!(full.kind(), ErrorKind::Busy);
}

async fn what_could_not_be_judged_is_no_guess(store: Store) {
    let site = Site::new(store.clone());
    let (key, code) = (new_key(), site.code().await);
    let vma = site.applicant(&key, &code, "vma-1").await;
    // The catalog does not answer: many tries, none of which says anything of the code.
    change(&store, "ALTER TABLE vma_pairing_codes RENAME TO vma_pairing_codes_away").await.unwrap();
    for _ in 0..3 * MAX_GUESSES_PER_SOURCE {
        let failed = site.reception.enroll(&vma.request(), &caller(1)).await.unwrap_err();
        assert!(!matches!(failed.kind(), ErrorKind::Denied | ErrorKind::Busy), "{failed}");
    }
    change(&store, "ALTER TABLE vma_pairing_codes_away RENAME TO vma_pairing_codes").await.unwrap();
    let answer = site.reception.enroll(&vma.request(), &caller(1)).await.unwrap();
    site.reception.verify(&vma.answered(&answer).unwrap().verify, &caller(1)).await.unwrap();
}

async fn a_flood_of_wrong_codes_gets_few_lines_and_says_how_many_it_was(store: Store) {
    let site = Site::new(store);
    // Each of its guesses is one of its own source.
    let bounds = GuessBounds { per_source: usize::MAX, all: usize::MAX, time: Duration::from_secs(3600), ..GuessBounds::default() };
    let reception = Reception::new(site.store.clone(), site.vault.clone(), site.host_key.clone()).bounds(bounds);
    let guess = site.applicant(&new_key(), &Code::generate().unwrap(), "guess").await;
    for _ in 0..MAX_GUESSES + 50 {
        assert_eq!(reception.enroll(&guess.request(), &caller(9)).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    assert_eq!(site.refusals().await.len(), MAX_GUESSES);
    // When the time is over the next line says how many had none.
    let shorter = GuessBounds { time: Duration::ZERO, ..bounds };
    let reception = reception.bounds(shorter);
    assert_eq!(reception.enroll(&guess.request(), &caller(9)).await.unwrap_err().kind(), ErrorKind::Denied);
    let lines = site.vmas.refused().await.unwrap();
    assert_eq!((lines.len(), &lines[0].details.as_ref().unwrap()["not_listed_before"]), (MAX_GUESSES + 1, &50.into()));
}

async fn a_man_in_the_middle_has_nothing_that_either_side_takes(store: Store) {
    let site = Site::new(store);
    let (key, code) = (new_key(), site.code().await);
    let vma = site.applicant(&key, &code, "vma-1").await;

    // He hands the request on, on a connection of his own: its exporter is another.
    let elsewhere = Caller { exporter: [8; 32], ..caller(66) };
    assert_eq!(site.reception.enroll(&vma.request(), &elsewhere).await.unwrap_err().kind(), ErrorKind::Denied);
    // He puts his own key into it.
    let mut changed = vma.request();
    changed.public_key = new_key().public().to_string();
    assert_eq!(site.reception.enroll(&changed, &caller(66)).await.unwrap_err().kind(), ErrorKind::Denied);
    let mut renamed = vma.request();
    renamed.name = "vma-2".into();
    assert_eq!(site.reception.enroll(&renamed, &caller(66)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(site.refusals().await.len(), 3);

    // He answers by himself: the VMA pins nothing.
    let real = site.reception.enroll(&vma.request(), &caller(1)).await.unwrap();
    let mut own_key = real.clone();
    own_key.host_key = new_key().public().to_string();
    let mut own_nonce = real.clone();
    own_nonce.nonce = proof::text(&[1; 32]);
    let mut echoed = real.clone();
    echoed.proof = vma.request().proof;
    for forged in [own_key, own_nonce, echoed] {
        assert_eq!(vma.answered(&forged).unwrap_err().kind(), ErrorKind::Denied);
    }
    // The answer to a VMA on one connection is none on another.
    let stretched = code.stretch().await.unwrap();
    let other = Applicant::new(key.clone(), stretched, "vma-1", "1.0", [8; 32]).unwrap();
    assert_eq!(other.answered(&real).unwrap_err().kind(), ErrorKind::Denied);
    assert!(vma.answered(&real).is_ok(), "and the true one holds");
}

async fn a_proof_serves_once_and_a_wrong_one_ends_it(store: Store) {
    let site = Site::new(store);
    // Replayed: nothing changes.
    let key = new_key();
    let (_, answered) = site.asked(&key, "vma-1").await;
    site.reception.verify(&answered.verify, &caller(1)).await.unwrap();
    assert_eq!(site.reception.verify(&answered.verify, &caller(1)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(site.reception.result(&answered.enrollment).await.unwrap().status, EnrollmentStatus::AwaitingApproval);

    // Another's signature, another's proof: the enrollment is over, and the right one comes too late.
    let thief = new_key();
    let (_, other) = site.asked(&thief, "thief").await;
    for wrong in [
        |mine: &VerifyRequest, theirs: &VerifyRequest| VerifyRequest { signature: theirs.signature.clone(), ..mine.clone() },
        |mine: &VerifyRequest, theirs: &VerifyRequest| VerifyRequest { proof: theirs.proof.clone(), ..mine.clone() },
    ] {
        let key = new_key();
        let (_, answered) = site.asked(&key, "vma-2").await;
        let wrong = wrong(&answered.verify, &other.verify);
        assert_eq!(site.reception.verify(&wrong, &caller(2)).await.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(site.reception.verify(&answered.verify, &caller(2)).await.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(site.history(&key).await, [Did::Enrollment, Did::Rejection]);
    }
    // Too late, and never asked.
    let (_, late) = site.asked(&new_key(), "late").await;
    site.let_expire("vma_enrollments").await;
    assert_eq!(site.reception.verify(&late.verify, &caller(3)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(site.reception.result(&late.enrollment).await.unwrap().status, EnrollmentStatus::Expired);
    let never = VerifyRequest { enrollment: migratekit_core::id::EnrollmentId::generate(), ..late.verify.clone() };
    assert_eq!(site.reception.verify(&never, &caller(3)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(site.reception.result(&never.enrollment).await.unwrap_err().kind(), ErrorKind::NotFound);
    let refused = site.refusals().await;
    let once = "there is nothing to be proven any more";
    let all = [once, "the signature is wrong", once, "the proof is wrong", once, "it came too late", "there is no such enrollment"];
    assert_eq!(refused, all);
}

async fn what_cannot_be_shown_or_is_known_already_is_refused(store: Store) {
    let (site, key) = (Site::new(store), new_key());
    for name in ["", " vma", "a\u{1b}[2J", &"x".repeat(65)] {
        let request = site.applicant(&key, &site.code().await, name).await.request();
        let refused = site.reception.enroll(&request, &caller(1)).await.unwrap_err();
        assert_eq!((refused.kind(), refused.context_value("field")), (ErrorKind::InvalidInput, Some("name")), "{name:?}");
    }
    let mut rsa = site.applicant(&key, &site.code().await, "vma").await.request();
    rsa.public_key = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQDF".into();
    assert_eq!(site.reception.enroll(&rsa, &caller(1)).await.unwrap_err().kind(), ErrorKind::InvalidInput);

    // A key that is enrolled, and one that was revoked; their codes are not used up.
    site.trusted(&key, "vma-1").await;
    let code = site.code().await;
    let again = site.applicant(&key, &code, "vma-2").await.request();
    assert_eq!(site.reception.enroll(&again, &caller(1)).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let revoked = site.vmas.find("vma-1").await.unwrap();
    site.vmas.revoke(&revoked.id, "ann", None).await.unwrap();
    assert_eq!(site.reception.enroll(&again, &caller(1)).await.unwrap_err().kind(), ErrorKind::Denied);
    let other = site.applicant(&new_key(), &code, "vma-2").await.request();
    assert!(site.reception.enroll(&other, &caller(1)).await.is_ok());
}

async fn the_catalog_does_not_hold_a_code(store: Store) {
    let site = Site::new(store);
    let code = site.code().await;
    let shown = code.shown();
    let plain = shown.expose().replace('-', "");
    let digests = ask(&site.store, "SELECT code_digest AS value FROM vma_pairing_codes").await.unwrap();
    let digest = digests[0].clone().unwrap();
    assert_eq!(digest.len(), 64);

    for text in [shown.expose().clone(), plain.clone(), plain.to_lowercase()] {
        assert!(!digest.eq_ignore_ascii_case(&text) && !digest.contains(&text), "{digest}");
    }
    let audit = ask(&site.store, "SELECT CONCAT(subject_id, COALESCE(details, '')) AS value FROM audit_log").await.unwrap();
    assert!(!audit.is_empty() && audit.iter().flatten().all(|line| !line.contains(&plain) && !line.contains(shown.expose())));
}
