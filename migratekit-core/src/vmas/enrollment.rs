//! The OMA's side of an enrollment: a VMA asks, proves, and waits.
//!
//! ```text
//!  enroll ─▶ pending_verification ─ verify ─▶ awaiting_approval ─ approve ─▶ approved ─ revoke ─▶ revoked
//!               │        └─ wrong proof ─▶ rejected ◀─ reject ─┘
//!               └────────── too late ─▶ expired ◀──────────────┘
//! ```
//!
//! A code is used up by the request that proves it, in the transaction that writes the enrollment down: two at once cannot both. The
//! transcript is there to be signed once: right or wrong, it is gone after that. Each of it is a line of the history; a request without a
//! code that holds is a line of the general audit, up to so many in ten minutes; the next line says how many were left out.

use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::codes::CodeKey;
use super::guesses::{GuessBounds, Guesses, Try, source};
use super::limits::{ENROLLMENT_TIME, MAX_GUESSES, MAX_NAME, MAX_VERSION, MAX_WAITING};
use super::proof::{self, Asked, Bytes32, SIGNATURE, Side, Signer, Transcript};
use super::rotation;
use super::wire::{EnrollAnswer, EnrollRequest, EnrollmentResult, VerifyRequest};
use crate::clock::Timestamp;
use crate::credentials::Vault;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::{EnrollmentId, PairingId};
use crate::model::{ConnectionEvent, Enrollment, EnrollmentStatus, EnrollmentTrigger};
use crate::store::{NewAuditEntry, NewConnectionAudit, Store, Tx};
use crate::tunnels::{PrivateKey, PublicKey};

const ENROLL: &str = "enroll a VMA";
const VERIFY: &str = "verify an enrollment";
const RESULT: &str = "look at an enrollment";

/// The kind of thing that the audit's lines about refused requests are about.
pub(super) const SUBJECT: &str = "vma_enrollment";

/// Who sent a request, and on what connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where from.
    pub address: IpAddr,
    /// What it calls itself.
    pub user_agent: Option<String>,
    /// The exporter of its TLS connection ([`proof::EXPORTER_LABEL`]).
    pub exporter: Bytes32,
}

/// Takes the requests of VMAs. One for each process that serves them: it counts the guesses.
pub struct Reception {
    pub(super) store: Store,
    vault: Vault,
    pub(super) host_key: PrivateKey,
    pub(super) bounds: GuessBounds,
    /// Wrong codes and proofs, by where they came from.
    guesses: Mutex<Guesses>,
    /// Wrong signatures of who asks for a new key: they keep nobody from enrolling.
    pub(super) strangers: Mutex<Guesses>,
    /// New keys that trusted VMAs asked for.
    pub(super) rotations: Mutex<Guesses<EnrollmentId>>,
    /// Lines of the audit about refused requests.
    listed: Mutex<Guesses<()>>,
    not_listed: AtomicU64,
}

impl fmt::Debug for Reception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reception").field("host_key", &self.host_key.public()).finish_non_exhaustive()
    }
}

impl Reception {
    /// For the tunnel whose host key this is.
    #[must_use]
    pub fn new(store: Store, vault: Vault, host_key: PrivateKey) -> Self {
        Reception {
            store,
            vault,
            host_key,
            bounds: GuessBounds::default(),
            guesses: Mutex::default(),
            strangers: Mutex::default(),
            rotations: Mutex::default(),
            listed: Mutex::default(),
            not_listed: AtomicU64::new(0),
        }
    }

    /// With other bounds of guesses.
    #[must_use]
    pub fn bounds(mut self, bounds: GuessBounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// A VMA asks to be enrolled.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]; [`ErrorKind::Denied`] when no code that holds gives its proof (which of the reasons is not told), or
    /// its key was revoked once; [`ErrorKind::Busy`] after too many wrong codes, when too many VMAs wait already, or when this one asked for
    /// too many new keys; [`ErrorKind::AlreadyExists`] when its key is enrolled.
    pub async fn enroll(&self, request: &EnrollRequest, from: &Caller) -> Result<EnrollAnswer> {
        let key: PublicKey = request.public_key.parse()?;
        check_text("name", &request.name, 1, MAX_NAME)?;
        check_text("version", &request.version, 0, MAX_VERSION)?;
        let vma_nonce = proof::bytes("nonce", &request.nonce)?;
        let asked =
            Asked { exporter: &from.exporter, vma_key: &key, name: &request.name, version: &request.version, vma_nonce: &vma_nonce };
        if let Some(replaces) = &request.replaces {
            return self.rotate(request, replaces, &asked, from).await;
        }
        let given = proof::bytes("proof", &request.proof)?;
        let guess = may_try(ENROLL, &self.guesses, from, &self.bounds)?;
        let Some((pairing, digest, code)) = self.code_of(&asked, &given).await? else {
            guess.counts();
            let why =
                json!({ "name": request.name, "fingerprint": key.fingerprint().to_string(), "why": "no code that holds gives its proof" });
            self.refused("vma.enroll", "-", &why, from).await?;
            return Err(Error::new(ErrorKind::Denied, ENROLL, "the code does not hold"));
        };
        drop(guess);
        let (id, oma_nonce) = (EnrollmentId::generate(), proof::nonce()?);
        let host_key = self.host_key.public();
        let seen = asked.answered(&host_key, &oma_nonce, &id);
        let reason = Reason::Code { pairing: &pairing, digest: &digest };
        let expires_at = self.write_new(&NewEnrollment { id: &id, reason, key: &key, request, from, transcript: seen.text() }).await?;
        Ok(EnrollAnswer {
            enrollment: id,
            host_key: host_key.to_string(),
            nonce: proof::text(&oma_nonce),
            proof: proof::text(&seen.prove(Side::Oma, &code)),
            expires_at,
        })
    }

    /// A VMA proves that it saw the answer and holds its key.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when there is nothing (any more) to prove, or the proof is wrong: then the enrollment is over;
    /// [`ErrorKind::Busy`] after too many wrong tries; [`ErrorKind::InvalidInput`].
    pub async fn verify(&self, request: &VerifyRequest, from: &Caller) -> Result<EnrollmentResult> {
        let signature = &proof::bytes("signature", &request.signature)?;
        let guess = may_try(VERIFY, &self.guesses, from, &self.bounds)?;
        let judged = self.store.write(VERIFY, |tx| async move { judge(&tx, &self.vault, request, signature, from).await }).await?;
        match judged {
            Ok(result) => Ok(result),
            Err(why) => {
                guess.counts();
                self.refused("vma.verify", request.enrollment.as_str(), &json!({ "why": why }), from).await?;
                Err(Error::new(ErrorKind::Denied, VERIFY, "the enrollment does not hold").with("enrollment", &request.enrollment))
            }
        }
    }

    /// What became of an enrollment.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub async fn result(&self, id: &EnrollmentId) -> Result<EnrollmentResult> {
        self.store
            .read(RESULT, |tx| async move {
                let found = tx.enrollments().get(id).await?;
                let found =
                    found.ok_or_else(|| Error::new(ErrorKind::NotFound, RESULT, "there is no such enrollment").with("enrollment", id))?;
                let late = found.status.is_busy() && found.expires_at <= tx.now().await?;
                let status = if late { EnrollmentStatus::Expired } else { found.status };
                Ok(EnrollmentResult { status, reverse_port: found.reverse_port })
            })
            .await
    }

    /// Writes a new enrollment down. What the catalog refuses is a refused request.
    pub(super) async fn write_new(&self, new: &NewEnrollment<'_>) -> Result<Timestamp> {
        match self.store.write(ENROLL, |tx| async move { new.write(&tx).await }).await {
            Err(error) => {
                let fingerprint = new.key.fingerprint().to_string();
                let why = json!({ "name": new.request.name, "fingerprint": fingerprint, "why": error.message() });
                self.refused("vma.enroll", "-", &why, new.from).await?;
                Err(error)
            }
            written => written,
        }
    }

    /// The code whose key gives this proof. All that hold are tried, so that the time does not tell which.
    async fn code_of(&self, asked: &Asked<'_>, given: &Bytes32) -> Result<Option<(PairingId, String, CodeKey)>> {
        let codes = self.store.read(ENROLL, |tx| async move { tx.enrollments().live_codes(tx.now().await?).await }).await?;
        // Another process may have changed the key, and masks new codes with that one.
        if let Err(error) = self.vault.refresh().await {
            tracing::warn!(%error, "the key file cannot be read again; the key at hand is used");
        }
        let mut found = None;
        for code in codes {
            let key = CodeKey::unmasked(&code.code_digest, &self.vault, &code.id)?;
            if asked.holds(&key, given) {
                found = Some((code.id, code.code_digest, key));
            }
        }
        Ok(found)
    }

    /// A refused request, for the general audit: it may have no enrollment to whose history it could belong. Of a flood of them only so many
    /// get a line; the next one that does says how many did not.
    pub(super) async fn refused(&self, action: &str, subject: &str, why: &serde_json::Value, from: &Caller) -> Result<()> {
        let lines = GuessBounds { per_source: MAX_GUESSES, few: MAX_GUESSES, ..self.bounds };
        let Ok(line) = Try::begin(&self.listed, (), &lines) else {
            tracing::warn!(action, address = %from.address, "a request was refused, and is not listed in the audit: there are too many");
            self.not_listed.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        };
        line.counts();
        let mut why = why.clone();
        let not_listed = self.not_listed.swap(0, Ordering::SeqCst);
        if let (Some(why), true) = (why.as_object_mut(), not_listed > 0) {
            why.insert("not_listed_before".to_owned(), json!(not_listed));
        }
        let (why, address) = (&why, from.address.to_string());
        let entry = NewAuditEntry {
            actor: "vma",
            action,
            subject_kind: SUBJECT,
            subject_id: subject,
            details: Some(why),
            source_ip: Some(&address),
            success: false,
        };
        let entry = &entry;
        self.store.write("audit an enrollment", |tx| async move { tx.audit().add(entry, tx.now().await?).await }).await
    }
}

/// A try begins, or is refused: there were too many wrong ones.
pub(super) fn may_try<'g>(
    operation: &'static str,
    guesses: &'g Mutex<Guesses>,
    from: &Caller,
    bounds: &GuessBounds,
) -> Result<Try<'g, IpAddr>> {
    Try::begin(guesses, source(from.address), bounds).map_err(|time| {
        tracing::warn!(address = %from.address, "an enrollment is refused: too many wrong codes");
        wait(operation, "there were too many wrong codes; wait", time)
    })
}

/// A refusal that passes.
pub(super) fn wait(operation: &'static str, message: &'static str, time: Duration) -> Error {
    let error = Error::new(ErrorKind::Busy, operation, message);
    error.with("seconds", time.as_secs().saturating_add(1)).with_retry(Retry::After(time))
}

/// Why a VMA may ask.
#[derive(Clone, Copy)]
pub(super) enum Reason<'a> {
    /// It knows this code.
    Code { pairing: &'a PairingId, digest: &'a str },
    /// It holds the key of this trusted enrollment.
    Replaces(&'a EnrollmentId),
}

/// What a request becomes.
pub(super) struct NewEnrollment<'a> {
    pub(super) id: &'a EnrollmentId,
    pub(super) reason: Reason<'a>,
    pub(super) key: &'a PublicKey,
    pub(super) request: &'a EnrollRequest,
    pub(super) from: &'a Caller,
    pub(super) transcript: String,
}

impl NewEnrollment<'_> {
    /// Writes it down and uses the code up. When it ends.
    async fn write(&self, tx: &Tx) -> Result<Timestamp> {
        let (all, now, fingerprint) = (tx.enrollments(), tx.now().await?, self.key.fingerprint().to_string());
        for other in all.of_key(&fingerprint).await? {
            let refuse = |kind, message: &'static str| Error::new(kind, ENROLL, message).with("fingerprint", &fingerprint);
            match other.status {
                EnrollmentStatus::Approved => return Err(refuse(ErrorKind::AlreadyExists, "this key is enrolled")),
                EnrollmentStatus::Revoked => return Err(refuse(ErrorKind::Denied, "this key was revoked; make a new one")),
                _ => {}
            }
        }
        let waiting = waiting(tx, now).await?;
        let (pairing, approved_by) = match self.reason {
            Reason::Code { pairing, .. } => {
                // Keys that are to replace others wait for nobody, and keep nobody out.
                let waiting = waiting.iter().filter(|one| rotation::succeeds(one).is_none()).count();
                if waiting >= MAX_WAITING {
                    return Err(Error::new(ErrorKind::Busy, ENROLL, "as many VMAs as may be wait for approval").with("waiting", waiting));
                }
                (Some(pairing.clone()), None)
            }
            Reason::Replaces(trusted) => {
                rotation::forget_waiting(tx, &waiting, trusted, now).await?;
                (None, Some(trusted.to_string()))
            }
        };
        let new = Enrollment {
            id: self.id.clone(),
            pairing,
            public_key: self.key.to_string(),
            name: self.request.name.clone(),
            version: Some(self.request.version.clone()).filter(|version| !version.is_empty()),
            fingerprint,
            ip_address: Some(self.from.address.to_string()),
            challenge_nonce: Some(self.transcript.clone()),
            status: EnrollmentStatus::PendingVerification,
            reverse_port: None,
            approved_by,
            approved_at: None,
            expires_at: now.plus(ENROLLMENT_TIME),
            created_at: now,
            updated_at: now,
        };
        all.add(&new).await?;
        if let Reason::Code { digest, .. } = self.reason {
            all.use_code(digest, self.id, now).await?;
        }
        record(tx, self.id, ConnectionEvent::Enrollment, Some(self.from), None, now).await?;
        Ok(new.expires_at)
    }
}

/// The enrollments that wait at `now`; those whose time is over are written down as expired on the way.
pub(super) async fn waiting(tx: &Tx, now: Timestamp) -> Result<Vec<Enrollment>> {
    let mut waiting = Vec::new();
    for status in [EnrollmentStatus::AwaitingApproval, EnrollmentStatus::PendingVerification] {
        for mut one in tx.enrollments().in_state(status).await? {
            if one.expires_at <= now {
                step(tx, &mut one, EnrollmentTrigger::Expire, now).await?;
            } else {
                waiting.push(one);
            }
        }
    }
    Ok(waiting)
}

/// Takes an enrollment one step on. What was to be signed is gone after each.
pub(super) async fn step(tx: &Tx, enrollment: &mut Enrollment, on: EnrollmentTrigger, now: Timestamp) -> Result<()> {
    let from = enrollment.status;
    enrollment.status = from.next(on).map_err(|refused| {
        let text = "it is in another state; look at it again";
        Error::new(ErrorKind::Changed, "change an enrollment", text).with("enrollment", &enrollment.id).with_source(refused)
    })?;
    enrollment.challenge_nonce = None;
    enrollment.updated_at = now;
    tx.enrollments().advance(enrollment, from).await
}

/// A line of an enrollment's history.
pub(super) async fn record(
    tx: &Tx,
    id: &EnrollmentId,
    event: ConnectionEvent,
    from: Option<&Caller>,
    details: Option<&serde_json::Value>,
    now: Timestamp,
) -> Result<()> {
    let address = from.map(|from| from.address.to_string());
    let agent = from.and_then(|from| from.user_agent.as_deref()).map(|agent| agent.chars().take(200).collect::<String>());
    let line = NewConnectionAudit { event, source_ip: address.as_deref(), user_agent: agent.as_deref(), approved_by: None, details };
    tx.enrollments().record(id, &line, now).await
}

/// Judges the proof of a VMA and writes down what follows. Inside: why it is refused.
async fn judge(
    tx: &Tx,
    vault: &Vault,
    request: &VerifyRequest,
    signature: &[u8; SIGNATURE],
    from: &Caller,
) -> Result<Result<EnrollmentResult, &'static str>> {
    let (id, all, now) = (&request.enrollment, tx.enrollments(), tx.now().await?);
    let Some(mut found) = all.get(id).await? else { return Ok(Err("there is no such enrollment")) };
    let (EnrollmentStatus::PendingVerification, Some(transcript)) = (found.status, found.challenge_nonce.clone()) else {
        return Ok(Err("there is nothing to be proven any more"));
    };
    if found.expires_at <= now {
        step(tx, &mut found, EnrollmentTrigger::Expire, now).await?;
        return Ok(Err("it came too late"));
    }
    let (seen, key): (_, PublicKey) = (Transcript::of_text(&transcript)?, found.public_key.parse()?);
    let code = match &found.pairing {
        Some(pairing) => all.code(pairing).await?,
        None => None,
    };
    let knows = match code {
        Some(code) => {
            let code = CodeKey::unmasked(&code.code_digest, vault, &code.id)?;
            seen.holds(Side::Vma, &code, &proof::bytes("proof", &request.proof)?)
        }
        None => rotation::is_signed_by_old(tx, &found, &seen, &proof::bytes("proof", &request.proof)?).await?,
    };
    let why = match (knows, seen.is_signed(Signer::Vma, &key, signature)) {
        (true, true) => {
            step(tx, &mut found, EnrollmentTrigger::Verify, now).await?;
            record(tx, id, ConnectionEvent::Verification, Some(from), None, now).await?;
            rotation::approve(tx, &mut found, from, now).await?;
            return Ok(Ok(EnrollmentResult { status: found.status, reverse_port: None }));
        }
        (false, _) => "the proof is wrong",
        (true, false) => "the signature is wrong",
    };
    step(tx, &mut found, EnrollmentTrigger::Reject, now).await?;
    record(tx, id, ConnectionEvent::Rejection, Some(from), Some(&json!({ "why": why })), now).await?;
    Ok(Err(why))
}

/// A name or version as the catalog and a terminal can bear it.
fn check_text(field: &'static str, text: &str, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&text.len()) && text.trim() == text && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let message = "a field is too short, too long, or has signs that cannot be shown";
    Err(Error::new(ErrorKind::InvalidInput, ENROLL, message).with("field", field).with("max_bytes", most))
}
