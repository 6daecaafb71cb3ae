//! Which network of the cloud takes the place of one of the source: `network_mappings`.

use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ContextId, NetworkMappingId};
use crate::model::{MappingType, MappingValidation, NetworkMapping};

/// The most mappings of one VM: more networks than a VM can have cards, twice.
const MOST: u32 = 100;

/// Network mappings, in one transaction.
#[derive(Debug)]
pub struct Networks<'t>(&'t Tx);

/// A mapping as it is chosen.
#[derive(Debug, Clone, Copy)]
pub struct NewMapping<'a> {
    /// The source's name of the network.
    pub source_network: &'a str,
    /// For tests only.
    pub is_test: bool,
    /// The cloud's id of the network.
    pub destination_id: &'a str,
    /// The cloud's name of it.
    pub destination_name: &'a str,
    /// Which failovers use it.
    pub kind: MappingType,
    /// How addresses are given.
    pub strategy: Option<&'a str>,
}

impl Tx {
    /// Network mappings.
    #[must_use]
    pub fn networks(&self) -> Networks<'_> {
        Networks(self)
    }
}

impl Networks<'_> {
    /// Writes a choice down, instead of an earlier one for the same network and use; it is to be looked at anew.
    pub async fn choose(&self, context: &ContextId, new: &NewMapping<'_>, at: Timestamp) -> Result<()> {
        let columns = [
            "destination_network_id",
            "destination_network_name",
            "mapping_type",
            "network_strategy",
            "validation_status",
            "last_validated",
            "updated_at",
        ];
        let upsert = dialect::upsert(self.0.backend(), "vm_context_id, source_network_name, is_test_network", &columns);
        let text = format!(
            "INSERT INTO network_mappings (vm_context_id, source_network_name, is_test_network, destination_network_id, \
             destination_network_name, mapping_type, network_strategy, validation_status, last_validated, created_at, updated_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?){upsert}"
        );
        let statement = self.0.sql("choose a network", text).bind(context).bind(new.source_network).bind(new.is_test);
        let statement = statement.bind(new.destination_id).bind(new.destination_name).bind(new.kind.code()).bind(new.strategy);
        statement.bind(MappingValidation::Pending.code()).bind(at).bind(at).run().await.map(|_| ())
    }

    /// The mappings of a VM, by the source's names.
    pub async fn of(&self, context: &ContextId) -> Result<Vec<NetworkMapping>> {
        let text = format!(
            "SELECT id, vm_context_id, source_network_name, destination_network_id, destination_network_name, is_test_network, mapping_type, \
             network_strategy, validation_status, last_validated, created_at, updated_at FROM network_mappings WHERE vm_context_id = ? \
             ORDER BY source_network_name, is_test_network LIMIT {MOST}"
        );
        self.0.sql("list the networks of a VM", text).bind(context).all(mapping).await
    }

    /// Writes down whether a mapping was found good.
    pub async fn validated(&self, id: NetworkMappingId, found: MappingValidation, at: Timestamp) -> Result<()> {
        let text = "UPDATE network_mappings SET validation_status = ?, last_validated = ?, updated_at = ? WHERE id = ?";
        self.0.sql("note the check of a network", text).bind(found.code()).bind(at).bind(at).bind(id).run_found(NONE).await
    }

    /// Removes a mapping.
    pub async fn remove(&self, id: NetworkMappingId) -> Result<()> {
        self.0.sql("remove a network mapping", "DELETE FROM network_mappings WHERE id = ?").bind(id).run_found(NONE).await
    }
}

const NONE: &str = "there is no such network mapping";

fn mapping(row: &Row) -> Result<NetworkMapping> {
    Ok(NetworkMapping {
        id: row.number("id")?,
        context: row.parse("vm_context_id")?,
        source_network: row.text("source_network_name")?,
        destination_id: row.text("destination_network_id")?,
        destination_name: row.text("destination_network_name")?,
        is_test: row.flag("is_test_network")?,
        kind: row.parse("mapping_type")?,
        strategy: row.text_or_none("network_strategy")?,
        validation: row.parse("validation_status")?,
        last_validated: row.time_or_none("last_validated")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
