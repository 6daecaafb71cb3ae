//! Who may sign in, with what, and what they did.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{AuditId, TokenId, UserId};

codes! {
    /// What somebody may do.
    Role ("role") {
        /// Everything.
        Admin => "admin",
        /// Run and watch operations.
        Operator => "operator",
        /// Watch.
        Viewer => "viewer",
        /// A VMA: its own jobs only.
        Vma => "vma",
    }
}

/// A person or program that may sign in (`users`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its name, unique.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The password's hash, salted; none for one that signs in by token only. It is never part of an answer.
    #[serde(skip_serializing, default)]
    pub password_hash: Option<String>,
    /// Whether it may sign in.
    pub is_active: bool,
    /// When it last signed in.
    pub last_login: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A token with which a program signs in (`api_tokens`). The catalog has its digest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Its row.
    pub id: TokenId,
    /// Whose it is.
    pub user: UserId,
    /// What it is for.
    pub name: String,
    /// BLAKE3 of the token, in lower-case hex. It is never part of an answer.
    #[serde(skip_serializing, default)]
    pub digest: String,
    /// When it ends; none: never.
    pub expires_at: Option<Timestamp>,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// When it was ended by hand.
    pub revoked_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What somebody did (`audit_log`); it survives what it speaks of, so it has names, not references.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its row.
    pub id: AuditId,
    /// Who: a user's name, `cli`, a VMA's fingerprint.
    pub actor: String,
    /// What: `context.delete`, `key.rotate`.
    pub action: String,
    /// To what kind of thing.
    pub subject_kind: String,
    /// To which one.
    pub subject_id: String,
    /// What belongs to it; never a secret.
    pub details: Option<serde_json::Value>,
    /// Where the call came from.
    pub source_ip: Option<String>,
    /// Whether it was allowed and done.
    pub success: bool,
    /// When.
    pub created_at: Timestamp,
}
