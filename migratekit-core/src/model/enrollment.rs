//! How a VMA becomes trusted, and stops being so.

use serde::{Deserialize, Serialize};

use super::{ConnectionStatus, EnrollmentStatus};
use crate::clock::Timestamp;
use crate::id::{AuditId, ConnectionId, EnrollmentId, PairingId};

/// A VMA that asks for trust, or has it (`vma_enrollments`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrollment {
    /// Its id.
    pub id: EnrollmentId,
    /// The pairing code's row that it came with.
    pub pairing: Option<PairingId>,
    /// Its public key (Ed25519, as OpenSSH writes it).
    pub public_key: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
    /// The key's fingerprint, which the administrator compares.
    pub fingerprint: String,
    /// Where it came from.
    pub ip_address: Option<String>,
    /// What it has to sign, once: all that both sides saw, the nonces in it (base64 of its SHA-256).
    pub challenge_nonce: Option<String>,
    /// Where it is.
    pub status: EnrollmentStatus,
    /// The port here at which it is reached; one for each VMA.
    pub reverse_port: Option<u16>,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// When.
    pub approved_at: Option<Timestamp>,
    /// When it ends unless it is approved.
    pub expires_at: Timestamp,
    /// When it asked.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A pairing code (`vma_pairing_codes`): one use, ten minutes. The catalog does not tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingCode {
    /// Its row.
    pub id: PairingId,
    /// The key of the code's proofs under a mask of the vault's, in lower-case hex; the code cannot be told from it.
    pub code_digest: String,
    /// Who made it.
    pub generated_by: String,
    /// The enrollment that used it.
    pub used_by: Option<EnrollmentId>,
    /// When that was.
    pub used_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A VMA's connection (`vma_active_connections`); one for each enrollment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The enrollment.
    pub enrollment: EnrollmentId,
    /// The VMA's name.
    pub name: String,
    /// Its key's fingerprint.
    pub fingerprint: String,
    /// The SSH user.
    pub ssh_user: String,
    /// Where it is.
    pub status: ConnectionStatus,
    /// When something was last received.
    pub last_seen_at: Option<Timestamp>,
    /// When it last connected.
    pub connected_at: Option<Timestamp>,
    /// When its trust ended.
    pub revoked_at: Option<Timestamp>,
    /// Who ended it.
    pub revoked_by: Option<String>,
}

codes! {
    /// What happened to a VMA's trust.
    ConnectionEvent ("kind of connection event") {
        /// It asked.
        Enrollment => "enrollment",
        /// It proved to hold its key.
        Verification => "verification",
        /// An administrator approved it.
        Approval => "approval",
        /// An administrator refused it.
        Rejection => "rejection",
        /// It connected.
        Connection => "connection",
        /// It disconnected.
        Disconnection => "disconnection",
        /// Its trust ended.
        Revocation => "revocation",
    }
}

/// A line of a VMA's history (`vma_connection_audit`); it survives the enrollment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionAudit {
    /// Its row.
    pub id: AuditId,
    /// The enrollment, by its id; that may be gone.
    pub enrollment: Option<EnrollmentId>,
    /// What happened.
    pub event: ConnectionEvent,
    /// The key's fingerprint.
    pub fingerprint: Option<String>,
    /// Where it came from.
    pub source_ip: Option<String>,
    /// What the other side called itself.
    pub user_agent: Option<String>,
    /// Who approved.
    pub approved_by: Option<String>,
    /// What belongs to it.
    pub details: Option<serde_json::Value>,
    /// When.
    pub created_at: Timestamp,
}
