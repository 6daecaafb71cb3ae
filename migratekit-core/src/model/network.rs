//! Which network of the cloud stands for which of the source.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{ContextId, NetworkMappingId};

codes! {
    /// Whether the mapping was found good.
    MappingValidation ("validation of a network mapping") {
        /// Not looked at yet.
        Pending => "pending",
        /// The destination exists and may be used.
        Valid => "valid",
        /// It does not, or may not.
        Invalid => "invalid",
    }

    /// Which failovers use the mapping.
    MappingType ("type of a network mapping") {
        /// Live failovers.
        Live => "live",
        /// Test failovers.
        Test => "test",
        /// Both.
        Both => "both",
    }
}

/// A row of `network_mappings`; one for each source network and use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMapping {
    /// Its row.
    pub id: NetworkMappingId,
    /// Its VM.
    pub context: ContextId,
    /// The source's name of the network.
    pub source_network: String,
    /// The cloud's id of the network.
    pub destination_id: String,
    /// The cloud's name of it, as people know it.
    pub destination_name: String,
    /// Whether it is for tests only.
    pub is_test: bool,
    /// Which failovers use it.
    pub kind: MappingType,
    /// How addresses are given ("dhcp", "keep"); the cloud adapter reads it.
    pub strategy: Option<String>,
    /// Whether it was found good.
    pub validation: MappingValidation,
    /// When it was last looked at.
    pub last_validated: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
