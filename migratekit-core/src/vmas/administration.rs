//! What an administrator does: codes, approval, rejection, revocation, and what can be seen of it all.
//!
//! A revocation has two halves. The first is a row: from then on the key does not come in. The second follows when the connections of
//! the VMA, whichever of its keys they showed, and the handlers of their streams have ended: the connection's row, and the line of the
//! history. So once that line is committed nothing of this VMA is written or acknowledged any more. The second half is done by the process
//! that serves the tunnel: at once when it is this one, else at its next look; a process that dies between the halves leaves the second to
//! the next one.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::json;

use super::codes::Code;
use super::enrollment::{SUBJECT, record, step, waiting};
use super::limits::{CODE_TIME, MAX_LIVE_CODES, MAX_REVERSE_PORTS, SERVED_TIMES, TEND_PAUSE};
use super::refusals::TUNNEL;
use super::{Vmas, keys, rotation};
use crate::clock::{self, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{EnrollmentId, PairingId};
use crate::model::{
    AuditEntry, Connection, ConnectionAudit, ConnectionEvent, ConnectionStatus, Enrollment, EnrollmentStatus, EnrollmentTrigger,
    PairingCode,
};
use crate::store::{NewAuditEntry, NewConnectionAudit, Store, Tx};
use crate::tunnels::limits::FIRST_REVERSE_PORT;
use crate::tunnels::{Fingerprint, PublicKey, Server};

const CODE: &str = "make a pairing code";
const APPROVE: &str = "approve a VMA";
const REJECT: &str = "reject a VMA";
const REVOKE: &str = "revoke a VMA";
const LIST: &str = "list the VMAs";

/// A pairing code as it is handed out, once.
#[derive(Debug)]
pub struct NewCode {
    /// Its row.
    pub id: PairingId,
    /// The code.
    pub code: Code,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A VMA that is trusted, and how it is connected.
#[derive(Debug, Clone, Serialize)]
pub struct TrustedVma {
    /// Its enrollment.
    pub enrollment: Enrollment,
    /// Its connection.
    pub connection: Option<Connection>,
}

/// How a revocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// By the process that serves the tunnel: what was connected has ended.
    ByServer,
    /// No process that serves was known, nor answered, and nothing was known to be connected.
    NothingServed,
}

impl Vmas {
    /// Makes a pairing code. It is told here and never again.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when too many hold already.
    pub async fn pairing_code(&self, by: &str) -> Result<NewCode> {
        let code = Code::generate()?;
        let (id, key) = (PairingId::generate(), code.stretch().await?);
        let digest = key.masked(&self.vault, &id);
        let (made, digest) = (&id, &digest);
        let write = |tx: Tx| async move {
            let (all, now) = (tx.enrollments(), tx.now().await?);
            let live = all.live_codes(now).await?.len();
            if live >= MAX_LIVE_CODES {
                return Err(Error::new(ErrorKind::Busy, CODE, "as many codes as may be hold already; use one, or wait").with("codes", live));
            }
            let expires_at = now.plus(CODE_TIME);
            let (id, code_digest, generated_by) = (made.clone(), digest.clone(), by.to_owned());
            all.add_code(&PairingCode { id, code_digest, generated_by, used_by: None, used_at: None, expires_at, created_at: now }).await?;
            audit(&tx, by, "vma.pairing_code", made.as_str(), now).await?;
            Ok(expires_at)
        };
        let expires_at = self.store.write(CODE, write).await?;
        Ok(NewCode { id, code, expires_at })
    }

    /// The VMAs that wait: for an administrator, then those that still have to prove their key.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn pending(&self) -> Result<Vec<Enrollment>> {
        self.store.write(LIST, |tx| async move { waiting(&tx, tx.now().await?).await }).await
    }

    /// The VMAs that are trusted.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn active(&self) -> Result<Vec<TrustedVma>> {
        let read = |tx: Tx| async move {
            let mut active = Vec::new();
            let trusted = tx.enrollments().in_state(EnrollmentStatus::Approved).await?;
            for enrollment in trusted.into_iter().filter(|e| rotation::succeeds(e).is_none()) {
                let connection = tx.enrollments().connection(&enrollment.id).await?;
                active.push(TrustedVma { enrollment, connection });
            }
            Ok(active)
        };
        self.store.read(LIST, read).await
    }

    /// The history of all VMAs, or of one key, newest first.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn history(&self, fingerprint: Option<&Fingerprint>) -> Result<Vec<ConnectionAudit>> {
        let fingerprint = &fingerprint.map(ToString::to_string);
        self.store.read(LIST, |tx| async move { tx.enrollments().history(fingerprint.as_deref()).await }).await
    }

    /// The requests for enrollment that were refused, and what the tunnel refused ([`super::Refusals`]), among the newest 1000 lines of the
    /// general audit.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn refused(&self) -> Result<Vec<AuditEntry>> {
        let lines = self.store.read(LIST, |tx| async move { tx.audit().page(None, 1000).await }).await?;
        Ok(lines.into_iter().filter(|line| [SUBJECT, TUNNEL].contains(&line.subject_kind.as_str()) && !line.success).collect())
    }

    /// The enrollment by its id, or that of a waiting or trusted VMA by its name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] when several have the name.
    pub async fn find(&self, which: &str) -> Result<Enrollment> {
        let fail = |kind, message: &'static str| Error::new(kind, "look for a VMA", message).with("vma", which);
        let all = self.store.read(LIST, |tx| async move { tx.enrollments().all().await }).await?;
        if let Some(found) = all.iter().find(|e| e.id.as_str() == which) {
            return Ok(found.clone());
        }
        let mut named = all.into_iter().filter(|e| e.name == which && !e.status.is_final() && rotation::succeeds(e).is_none());
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(fail(ErrorKind::InvalidInput, "several have this name; give the id")),
            (None, _) => Err(fail(ErrorKind::NotFound, "no VMA of this id or name waits or is trusted")),
        }
    }

    /// Trusts a VMA whose key has the fingerprint that the administrator compared. When this returns, the key comes in.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when the key has another fingerprint; [`ErrorKind::Changed`] when the VMA does not wait for approval (any
    /// more); [`ErrorKind::AlreadyExists`] when another trusted VMA has the name or the key; [`ErrorKind::NoSpace`] when no port is left.
    pub async fn approve(&self, id: &EnrollmentId, compared: &Fingerprint, by: &str) -> Result<Enrollment> {
        let approved = self.store.write(APPROVE, |tx| async move { approve(&tx, id, compared, by).await }).await?;
        let key: PublicKey = approved.public_key.parse()?;
        // What the tunnel asks at a login is asked now: no success before the key can really come in.
        match keys::holder(&self.store, &key).await? {
            Some(_) => Ok(approved),
            None => Err(Error::new(ErrorKind::Changed, APPROVE, "it was revoked at the same time").with("enrollment", id)),
        }
    }

    /// Refuses a VMA that waits.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Changed`] when it does not wait (any more).
    pub async fn reject(&self, id: &EnrollmentId, by: &str) -> Result<Enrollment> {
        let write = |tx: Tx| async move {
            let (mut found, now) = (get(&tx, REJECT, id).await?, tx.now().await?);
            step(&tx, &mut found, EnrollmentTrigger::Reject, now).await?;
            record(&tx, id, ConnectionEvent::Rejection, None, Some(&json!({ "by": by })), now).await?;
            Ok(found)
        };
        self.store.write(REJECT, write).await
    }

    /// Ends the trust in a VMA, cuts what is connected, and writes it into the history when that has ended. `server`: the tunnel's server
    /// when this process serves it; otherwise the process that does is waited for.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Changed`] when it is not trusted (any more); [`ErrorKind::Timeout`] when it is known to be
    /// connected, or a process to serve, and none cut it in time: the key does not come in any more, and the process that serves finishes it.
    pub async fn revoke(&self, id: &EnrollmentId, by: &str, server: Option<&Server>) -> Result<Cut> {
        let write = |tx: Tx| async move {
            let (mut found, now) = (get(&tx, REVOKE, id).await?, tx.now().await?);
            // A new key that has not come in yet goes first, so that the VMA's own line of the history is the last.
            let mut all = rotation::successors(&tx, id).await?;
            found.reverse_port = None;
            all.push(found);
            for one in &mut all {
                step(&tx, one, EnrollmentTrigger::Revoke, now).await?;
                tx.enrollments().revoke_connection(&one.id, by, now).await?;
            }
            Ok(all)
        };
        let (mut cut, all) = (Cut::ByServer, self.store.write(REVOKE, write).await?);
        // By its name, which all these rows have: whichever key a connection showed, one of a rotation that is over too.
        if let (Some(server), Some(revoked)) = (server, all.last()) {
            server.revoke_vma(&revoked.name, &BTreeSet::new()).await;
        }
        for revoked in all {
            if server.is_some() {
                finish(&self.store, &revoked.id, "this process").await?;
            } else {
                cut = self.wait_for_server(&revoked.id).await?;
            }
        }
        Ok(cut)
    }

    /// Waits until the serving process finished a revocation; without one, finishes it here.
    async fn wait_for_server(&self, id: &EnrollmentId) -> Result<Cut> {
        let served = self.is_served().await?;
        let end = clock::now() + if served { self.revoke_time.saturating_mul(SERVED_TIMES) } else { self.revoke_time };
        loop {
            let connection = self.store.read(REVOKE, |tx| async move { tx.enrollments().connection(id).await }).await?;
            match connection.map(|c| c.status) {
                Some(ConnectionStatus::Revoked) => return Ok(Cut::ByServer),
                status if clock::now() >= end && (served || status == Some(ConnectionStatus::Connected)) => {
                    let text = "the key does not come in any more, but no serving process said that its connections have ended";
                    return Err(Error::new(ErrorKind::Timeout, REVOKE, text).with("enrollment", id));
                }
                _ if clock::now() >= end => {
                    finish(&self.store, id, "no process served").await?;
                    return Ok(Cut::NothingServed);
                }
                _ => clock::sleep(TEND_PAUSE / 4).await,
            }
        }
    }
}

/// The second half of a revocation: nothing of the VMA is connected any more. Whoever comes second changes nothing.
pub(super) async fn finish(store: &Store, id: &EnrollmentId, cut_by: &str) -> Result<()> {
    let write = |tx: Tx| async move {
        let now = tx.now().await?;
        if tx.enrollments().end_connection(id).await? {
            let by = tx.enrollments().connection(id).await?.and_then(|c| c.revoked_by);
            record(&tx, id, ConnectionEvent::Revocation, None, Some(&json!({ "by": by, "cut_by": cut_by })), now).await?;
        }
        Ok(())
    };
    store.write("finish a revocation", write).await
}

async fn approve(tx: &Tx, id: &EnrollmentId, compared: &Fingerprint, by: &str) -> Result<Enrollment> {
    let (all, mut found, now) = (tx.enrollments(), get(tx, APPROVE, id).await?, tx.now().await?);
    let fail = |kind, message: &'static str| Error::new(kind, APPROVE, message).with("enrollment", id);
    if found.fingerprint != compared.to_string() {
        let text = "the key that asks has another fingerprint than the one compared; do not approve it";
        return Err(fail(ErrorKind::Mismatch, text).with("asks", &found.fingerprint).with("compared", compared));
    }
    if found.status.is_busy() && found.expires_at <= now {
        return Err(fail(ErrorKind::Changed, "its time is over; it has to enroll again"));
    }
    let trusted = all.in_state(EnrollmentStatus::Approved).await?;
    if trusted.iter().any(|other| other.name == found.name || other.fingerprint == found.fingerprint) {
        let text = "a trusted VMA has this name or key; revoke that one, or enroll by another name";
        return Err(fail(ErrorKind::AlreadyExists, text).with("name", &found.name));
    }
    let taken = |port: &u16| trusted.iter().any(|other| other.reverse_port == Some(*port));
    let mut ports = (FIRST_REVERSE_PORT..).take(usize::from(MAX_REVERSE_PORTS));
    let port = ports.find(|port| !taken(port)).ok_or_else(|| fail(ErrorKind::NoSpace, "as many VMAs as there are ports are trusted"))?;
    (found.reverse_port, found.approved_by, found.approved_at) = (Some(port), Some(by.to_owned()), Some(now));
    step(tx, &mut found, EnrollmentTrigger::Approve, now).await?;
    all.set_connection(&rotation::never_connected(&found)).await?;
    let details = json!({ "reverse_port": port });
    let line = NewConnectionAudit {
        event: ConnectionEvent::Approval,
        source_ip: None,
        user_agent: None,
        approved_by: Some(by),
        details: Some(&details),
    };
    all.record(id, &line, now).await?;
    Ok(found)
}

async fn get(tx: &Tx, operation: &'static str, id: &EnrollmentId) -> Result<Enrollment> {
    let missing = || Error::new(ErrorKind::NotFound, operation, "there is no such enrollment").with("enrollment", id);
    tx.enrollments().get(id).await?.ok_or_else(missing)
}

async fn audit(tx: &Tx, by: &str, action: &str, subject: &str, now: Timestamp) -> Result<()> {
    let entry = NewAuditEntry {
        actor: by,
        action,
        subject_kind: "vma_pairing_code",
        subject_id: subject,
        details: None,
        source_ip: None,
        success: true,
    };
    tx.audit().add(&entry, now).await
}
