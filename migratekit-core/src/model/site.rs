//! A local site: a folder of machines and a folder of volumes on this host.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::SiteId;

/// A row of `local_sites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSite {
    /// Its row.
    pub id: SiteId,
    /// Its name; it stands for the source's host in a context.
    pub name: String,
    /// The folder of machines: a TOML file and disk images each.
    pub machines: String,
    /// The folder that takes the volumes.
    pub volumes: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
