//! An OMA's reception and a VMA that asks it, joined by hand.

use std::time::Duration;

use migratekit_core::Store;
use migratekit_core::credentials::{Key, Keys, Vault};
use migratekit_core::id::EnrollmentId;
use migratekit_core::model::{ConnectionEvent, Enrollment};
use migratekit_core::testing::catalog::change;
use migratekit_core::tunnels::{KeySource as _, PrivateKey, Vma};
use migratekit_core::vmas::wire::EnrollAnswer;
use migratekit_core::vmas::{Answered, Applicant, Caller, Code, Reception, Vmas};

/// The exporter of a test's connection.
pub(crate) const EXPORTER: [u8; 32] = [7; 32];

pub(crate) struct Site {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) vmas: Vmas,
    pub(crate) reception: Reception,
    pub(crate) host_key: PrivateKey,
}

/// Where a test's requests come from.
pub(crate) fn caller(last: u8) -> Caller {
    Caller { address: [192, 0, 2, last].into(), user_agent: Some("a test".into()), exporter: EXPORTER }
}

impl Site {
    pub(crate) fn new(store: Store) -> Self {
        let (host_key, vault) = (PrivateKey::generate().unwrap(), Vault::new(Keys::new(Key::generate().unwrap())));
        let reception = Reception::new(store.clone(), vault.clone(), host_key.clone());
        Site { vmas: Vmas::new(store.clone(), vault.clone()).revoke_time(Duration::from_millis(200)), store, vault, reception, host_key }
    }

    pub(crate) async fn code(&self) -> Code {
        self.vmas.pairing_code("ann").await.unwrap().code
    }

    pub(crate) async fn applicant(&self, key: &PrivateKey, code: &Code, name: &str) -> Applicant {
        Applicant::new(key.clone(), code.stretch().await.unwrap(), name, "1.0", EXPORTER).unwrap()
    }

    /// A VMA that asked by a fresh code and was answered.
    pub(crate) async fn asked(&self, key: &PrivateKey, name: &str) -> (EnrollAnswer, Answered) {
        let applicant = self.applicant(key, &self.code().await, name).await;
        let answer = self.reception.enroll(&applicant.request(), &caller(1)).await.unwrap();
        let answered = applicant.answered(&answer).unwrap();
        (answer, answered)
    }

    /// A VMA that waits for its approval.
    pub(crate) async fn waiting(&self, key: &PrivateKey, name: &str) -> EnrollmentId {
        let (_, answered) = self.asked(key, name).await;
        self.reception.verify(&answered.verify, &caller(1)).await.unwrap();
        answered.enrollment
    }

    /// A VMA that is trusted.
    pub(crate) async fn trusted(&self, key: &PrivateKey, name: &str) -> Enrollment {
        let id = self.waiting(key, name).await;
        self.vmas.approve(&id, &key.public().fingerprint(), "ann").await.unwrap()
    }

    /// Whether the key comes in.
    pub(crate) async fn comes_in(&self, key: &PrivateKey) -> bool {
        self.holder(key).await.is_some()
    }

    /// As whom the key comes in.
    pub(crate) async fn holder(&self, key: &PrivateKey) -> Option<Vma> {
        self.vmas.keys().holder(&key.public()).await.unwrap()
    }

    /// What happened to a key, oldest first.
    pub(crate) async fn history(&self, key: &PrivateKey) -> Vec<ConnectionEvent> {
        let mut lines = self.vmas.history(Some(&key.public().fingerprint())).await.unwrap();
        lines.reverse();
        lines.iter().map(|line| line.event).collect()
    }

    /// Why requests were refused, oldest first.
    pub(crate) async fn refusals(&self) -> Vec<String> {
        let mut lines = self.vmas.refused().await.unwrap();
        lines.reverse();
        lines.iter().map(|line| line.details.as_ref().unwrap()["why"].as_str().unwrap().to_owned()).collect()
    }

    /// The time of everything in a table is over.
    pub(crate) async fn let_expire(&self, table: &str) {
        change(&self.store, &format!("UPDATE {table} SET expires_at = 1")).await.unwrap();
    }
}

pub(crate) fn new_key() -> PrivateKey {
    PrivateKey::generate().unwrap()
}
