//! A trusted VMA changes its key without an administrator, and without a moment in which none of its keys comes in.
//!
//! ```text
//!  VMA ── ASK with the new key, signed by the old one ──────────▶ OMA   a successor's row, pending
//!      ◀─ transcript, signed by the host key (pinned) ───────────
//!      ── transcript, signed by the new key and by the old one ─▶       the successor is approved: both keys come in, as one VMA
//!      ══ comes in by the new key ══════════════════════════════▶       the VMA's row takes the new key; the old one is out
//! ```
//!
//! The enrollment stays the same, with its name, its port and whatever refers to it. Until the new key came in, its row is a **successor**:
//! approved, without a port, and approved by the enrollment it succeeds. A revocation of the VMA revokes its successor with it.
//!
//! On the VMA the new key takes the old one's place in its file between the second and the last step, while both come in. Clients
//! [read it at each login](crate::tunnels::LoginKey): when the old one is out its connections are cut, and come back by the new one.

use serde_json::json;

use super::enrollment::{Caller, NewEnrollment, Reason, may_try, record, step, wait};
use super::guesses::{GuessBounds, Try};
use super::limits::MAX_ROTATIONS_PER_VMA;
use super::proof::{self, Asked, SIGNATURE, Signer, Transcript};
use super::wire::{EnrollAnswer, EnrollRequest};
use super::{Reception, Vmas};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, EnrollmentId};
use crate::model::{Connection, ConnectionEvent, ConnectionStatus, Enrollment, EnrollmentStatus, EnrollmentTrigger};
use crate::store::{NewConnectionAudit, Tx};
use crate::tunnels::{PublicKey, Server, USER};

const ROTATE: &str = "rotate a VMA's key";

/// The enrollment that this one succeeds, if it is a successor.
pub(super) fn succeeds(enrollment: &Enrollment) -> Option<EnrollmentId> {
    // Nobody else's name is the id of an enrollment.
    enrollment.approved_by.as_ref().and_then(|by| by.parse().ok())
}

/// The trusted enrollment of this id.
pub(super) async fn trusted(tx: &Tx, id: &EnrollmentId) -> Result<Option<Enrollment>> {
    Ok(tx.enrollments().get(id).await?.filter(|found| found.status == EnrollmentStatus::Approved && succeeds(found).is_none()))
}

/// The successors of an enrollment that are approved.
pub(super) async fn successors(tx: &Tx, id: &EnrollmentId) -> Result<Vec<Enrollment>> {
    let all = tx.enrollments().in_state(EnrollmentStatus::Approved).await?;
    Ok(all.into_iter().filter(|other| succeeds(other).as_ref() == Some(id)).collect())
}

/// Of the keys that wait to replace one there is the last only.
pub(super) async fn forget_waiting(tx: &Tx, waiting: &[Enrollment], replaces: &EnrollmentId, now: Timestamp) -> Result<()> {
    for earlier in waiting.iter().filter(|one| succeeds(one).as_ref() == Some(replaces)) {
        let why = json!({ "why": "another key was asked for before this one was proven" });
        record(tx, &earlier.id, ConnectionEvent::Rejection, None, Some(&why), now).await?;
        tx.enrollments().remove(&earlier.id).await?;
    }
    Ok(())
}

impl Reception {
    /// A trusted VMA asks for a new key.
    pub(super) async fn rotate(
        &self,
        request: &EnrollRequest,
        replaces: &EnrollmentId,
        asked: &Asked<'_>,
        from: &Caller,
    ) -> Result<EnrollAnswer> {
        let given: [u8; SIGNATURE] = proof::bytes("proof", &request.proof)?;
        let guess = may_try(ROTATE, &self.strangers, from, &self.bounds)?;
        let found = self.store.read(ROTATE, |tx| async move { trusted(&tx, replaces).await }).await?;
        let old = match found {
            Some(found) if found.name == request.name => Some(found.public_key.parse::<PublicKey>()?),
            _ => None,
        };
        if !old.is_some_and(|old| asked.is_rotation_signed(replaces, &old, &given)) {
            guess.counts();
            let why = json!({ "name": request.name, "why": "no trusted VMA's key signed it", "replaces": replaces });
            self.refused("vma.rotate", replaces.as_str(), &why, from).await?;
            return Err(Error::new(ErrorKind::Denied, ROTATE, "the key it is to replace does not hold"));
        }
        drop(guess);
        let bounds = GuessBounds { per_source: MAX_ROTATIONS_PER_VMA, all: usize::MAX, ..self.bounds };
        let too_many = |time| wait(ROTATE, "this VMA asked for too many new keys; wait", time);
        let asked_for = Try::begin(&self.rotations, replaces.clone(), &bounds).map_err(too_many)?;
        let (id, oma_nonce) = (EnrollmentId::generate(), proof::nonce()?);
        let host_key = self.host_key.public();
        let seen = asked.answered(&host_key, &oma_nonce, &id);
        let reason = Reason::Replaces(replaces);
        let new = NewEnrollment { id: &id, reason, key: asked.vma_key, request, from, transcript: seen.text() };
        let expires_at = self.write_new(&new).await?;
        asked_for.counts();
        Ok(EnrollAnswer {
            enrollment: id,
            host_key: host_key.to_string(),
            nonce: proof::text(&oma_nonce),
            proof: proof::text(&seen.sign(Signer::Oma, &self.host_key)?),
            expires_at,
        })
    }
}

/// Whether the key that is to be replaced, if it is trusted still, signed what both sides saw.
pub(super) async fn is_signed_by_old(tx: &Tx, successor: &Enrollment, seen: &Transcript, given: &[u8; SIGNATURE]) -> Result<bool> {
    let Some(replaces) = succeeds(successor) else { return Ok(false) };
    let Some(replaced) = trusted(tx, &replaces).await? else { return Ok(false) };
    Ok(seen.is_signed(Signer::OldKey, &replaced.public_key.parse()?, given))
}

/// Trusts a successor that proved both keys; an enrollment by a code is left as it is, for an administrator.
pub(super) async fn approve(tx: &Tx, successor: &mut Enrollment, from: &Caller, now: Timestamp) -> Result<()> {
    let Some(replaces) = succeeds(successor) else { return Ok(()) };
    for earlier in successors(tx, &replaces).await? {
        let why = json!({ "why": "another key was asked for before this one came in" });
        record(tx, &earlier.id, ConnectionEvent::Revocation, None, Some(&why), now).await?;
        tx.enrollments().remove(&earlier.id).await?;
    }
    successor.approved_at = Some(now);
    step(tx, successor, EnrollmentTrigger::Approve, now).await?;
    tx.enrollments().set_connection(&never_connected(successor)).await?;
    let (details, address) = (json!({ "succeeds": replaces }), from.address.to_string());
    let line = NewConnectionAudit {
        event: ConnectionEvent::Approval,
        source_ip: Some(&address),
        user_agent: None,
        approved_by: Some(replaces.as_str()),
        details: Some(&details),
    };
    tx.enrollments().record(&successor.id, &line, now).await
}

/// A connection of a VMA that was never here.
pub(super) fn never_connected(enrollment: &Enrollment) -> Connection {
    Connection {
        id: ConnectionId::generate(),
        enrollment: enrollment.id.clone(),
        name: enrollment.name.clone(),
        fingerprint: enrollment.fingerprint.clone(),
        ssh_user: USER.to_owned(),
        status: ConnectionStatus::Disconnected,
        last_seen_at: None,
        connected_at: None,
        revoked_at: None,
        revoked_by: None,
    }
}

impl Vmas {
    /// Finishes the rotations whose new key came in.
    pub(super) async fn finish_rotations(&self, server: &Server) -> Result<()> {
        let waiting = self.store.read(ROTATE, |tx| async move { tx.enrollments().in_state(EnrollmentStatus::Approved).await }).await?;
        for successor in waiting.into_iter().filter(|e| succeeds(e).is_some()) {
            let print = successor.fingerprint.as_str();
            if server.connected().iter().any(|peer| peer.key.fingerprint().to_string() == print) {
                let id = &successor.id;
                self.store.write(ROTATE, |tx| async move { succeed(&tx, id).await }).await?;
            }
        }
        Ok(())
    }
}

/// The VMA's row takes the successor's key, and the successor goes. Whoever comes second changes nothing.
///
/// Whether the VMA is connected is from here on what is known of the new key: what was written of it so far stands in the successor's row,
/// and what is written later finds the VMA's by the new key. Nobody finds a row by the old key any more, so its end is never written. Of a
/// new key whose coming is not written yet nothing is known; that follows.
async fn succeed(tx: &Tx, successor: &EnrollmentId) -> Result<()> {
    let (all, now) = (tx.enrollments(), tx.now().await?);
    let Some(new) = all.get(successor).await?.filter(|new| new.status == EnrollmentStatus::Approved) else { return Ok(()) };
    let Some(replaces) = succeeds(&new) else { return Ok(()) };
    let Some(replaced) = trusted(tx, &replaces).await? else { return Ok(()) };
    let known = (tx.vma_connections().of_key(&replaced.fingerprint).await?, tx.vma_connections().of_key(&new.fingerprint).await?);
    all.remove(successor).await?;
    all.replace_key(&replaces, &new.public_key, &new.fingerprint, now).await?;
    let details = json!({ "rotated": true, "old_fingerprint": replaced.fingerprint });
    record(tx, &replaces, ConnectionEvent::Connection, None, Some(&details), now).await?;
    let (Some(by_old), Some(by_new)) = (known.0.into_iter().next(), known.1.into_iter().next()) else { return Ok(()) };
    if by_new.connected_at.is_none() {
        return Ok(());
    }
    let (id, name, fingerprint) = (by_old.id, replaced.name, new.fingerprint);
    let last_seen_at = by_old.last_seen_at.max(by_new.last_seen_at);
    all.set_connection(&Connection { id, enrollment: replaces.clone(), name, fingerprint, last_seen_at, ..by_new }).await?;
    if (by_old.status, by_new.status) != (ConnectionStatus::Connected, ConnectionStatus::Disconnected) {
        return Ok(());
    }
    let details = json!({ "why": "its key was replaced, and by the new one it is not there" });
    record(tx, &replaces, ConnectionEvent::Disconnection, None, Some(&details), now).await
}
