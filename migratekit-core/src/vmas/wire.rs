//! What travels at an enrollment: JSON over TLS, the same types on both sides. [`proof`](super::proof) says what the proofs are of.
//!
//! Fields that a later version adds are passed over by this one; the version of the proofs is in the labels of the proofs.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::EnrollmentId;
use crate::model::EnrollmentStatus;

/// Where the requests go, below the OMA's address.
pub const ENROLL: &str = "/api/v1/vma/enroll";
/// See [`ENROLL`].
pub const VERIFY: &str = "/api/v1/vma/enroll/verify";
/// See [`ENROLL`]; the enrollment stands in the query, as `id`.
pub const RESULT: &str = "/api/v1/vma/enroll/result";

/// A VMA asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its key, as OpenSSH writes it.
    pub public_key: String,
    /// Its nonce (base64).
    pub nonce: String,
    /// The proof that it knows a code, or the old key's signature (base64).
    pub proof: String,
    /// The enrollment whose key is to be replaced, when that is what it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<EnrollmentId>,
}

/// The answer to a VMA that knows a code, or holds a trusted key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollAnswer {
    /// Its enrollment.
    pub enrollment: EnrollmentId,
    /// The host key, as OpenSSH writes it; to be believed when the proof holds.
    pub host_key: String,
    /// The OMA's nonce (base64).
    pub nonce: String,
    /// The proof that the OMA knows the code, or its host key's signature (base64).
    pub proof: String,
    /// When it ends unless it is approved.
    pub expires_at: Timestamp,
}

/// A VMA proves that it saw the answer, and that it holds its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Its enrollment.
    pub enrollment: EnrollmentId,
    /// The proof that it knows the code and saw the answer, or the old key's signature (base64).
    pub proof: String,
    /// Its key's signature (base64).
    pub signature: String,
}

/// Where an enrollment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentResult {
    /// Its state.
    pub status: EnrollmentStatus,
    /// The VMA's own port at the OMA, when it is approved.
    pub reverse_port: Option<u16>,
}

/// What an error's answer holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// The code of its kind.
    pub error: String,
    /// For people.
    pub message: String,
}
