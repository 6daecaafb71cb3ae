//! Saved credentials, sealed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{CredentialId, EnrollmentId};

/// A secret in its envelope, as the catalog keeps it: text that only the vault can open. It prints as its length.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedText(String);

impl SealedText {
    /// The envelope's text.
    #[must_use]
    pub fn new(envelope: String) -> Self {
        SealedText(envelope)
    }

    /// The envelope's text, for the vault and the catalog.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SealedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedText({} bytes)", self.0.len())
    }
}

/// How a vCenter is reached (`vmware_credentials`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmwareCredential {
    /// Its row.
    pub id: CredentialId,
    /// Its name, unique.
    pub name: String,
    /// The vCenter's host name.
    pub vcenter_host: String,
    /// Who signs in there.
    pub username: String,
    /// The password, sealed.
    pub password: SealedText,
    /// The datacenter, when it is always the same.
    pub datacenter: Option<String>,
    /// The VMA that reaches the vCenter.
    pub enrollment: Option<EnrollmentId>,
    /// Whether it may be used.
    pub is_active: bool,
    /// Whether it is offered first.
    pub is_default: bool,
    /// Who saved it.
    pub created_by: Option<String>,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// How often it was used.
    pub usage_count: u64,
    /// When it was saved.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_does_not_print_itself() {
        let sealed = SealedText::new("mk1.abcdef".into());
        assert_eq!(format!("{sealed:?}"), "SealedText(10 bytes)");
        assert_eq!(serde_json::to_string(&sealed).unwrap(), "\"mk1.abcdef\"");
    }
}
