//! A cloud configuration: where replicas go, and as whom.

use serde::{Deserialize, Serialize};

use super::SealedText;
use crate::clock::Timestamp;
use crate::id::CloudConfigId;

/// A row of `ossea_configs`. Only one is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudConfig {
    /// Its row.
    pub id: CloudConfigId,
    /// Its name, unique.
    pub name: String,
    /// The API's address, without any secret.
    pub api_url: String,
    /// The API key, sealed.
    pub api_key: SealedText,
    /// The secret key, sealed.
    pub secret_key: SealedText,
    /// The domain.
    pub domain: Option<String>,
    /// The zone.
    pub zone: Option<String>,
    /// The template that new VMs are made from.
    pub template_id: Option<String>,
    /// The network that was chosen.
    pub network_id: Option<String>,
    /// The compute offering.
    pub service_offering_id: Option<String>,
    /// The disk offering.
    pub disk_offering_id: Option<String>,
    /// The VM that this appliance is.
    pub oma_vm_id: Option<String>,
    /// Whether it is the one in use.
    pub is_active: bool,
    /// When it was saved.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
