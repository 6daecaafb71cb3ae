//! A catalog as a file: lines of JSON that either database reads, whichever wrote them.
//!
//! ```text
//!  {"format":"migratekit catalog","format_version":1,"program":"0.1.0","schema":"2026..","backend":"sqlite","content":"data"}
//!  {"table":"vm_disks","columns":["id","vm_context_id",..]}
//!  [1,"ctx-..",..]                       one line for each row, in the order of the primary key
//!  {"counts":{"vm_disks":3,..},"blake3":".."}       over all bytes before this line
//! ```
//!
//! Secrets stay sealed: what is read and written are the envelopes. An export is one snapshot; an import is one transaction, into an empty
//! catalog, and is checked row by row against the counts before it is committed. The file has mode 0600 and
//! appears when it is whole.

mod export;
mod import;

use serde::{Deserialize, Serialize};

/// What the first line names.
const FORMAT: &str = "migratekit catalog";
/// The version of the format.
const FORMAT_VERSION: u32 = 1;
/// The longest line that an import reads, in bytes: a row with a log text of the greatest length, escaped.
const MAX_LINE: usize = 64 << 20;

/// How much of a catalog a dump holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// The tables and their columns, no rows.
    Schema,
    /// Everything.
    Data,
    /// How the world is reached and what is scheduled: clouds, credentials, sites, agents, users, schedules, groups. No VMs, no jobs.
    Configuration,
}

/// What an export or import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DumpReport {
    /// What the dump holds.
    pub content: Content,
    /// The schema's version.
    pub schema: String,
    /// Rows by table; tables without rows are named too.
    pub counts: Vec<(String, u64)>,
    /// BLAKE3 of the content, in hex.
    pub blake3: String,
}

impl DumpReport {
    /// All rows together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.counts.iter().map(|(_, rows)| rows).sum()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    format_version: u32,
    program: String,
    schema: String,
    backend: String,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
struct TableLine {
    table: String,
    columns: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    counts: std::collections::BTreeMap<String, u64>,
    blake3: String,
}

/// A table in a dump. The first column of every table is its primary key.
#[derive(Debug, Clone, Copy)]
struct Table {
    name: &'static str,
    /// Part of the configuration.
    configuration: bool,
    /// A column that may refer to a row that comes later; filled in at the end.
    later: Option<&'static str>,
    /// Has rows in an empty catalog too, which an import replaces.
    seeded: bool,
}

const fn data(name: &'static str) -> Table {
    Table { name, configuration: false, later: None, seeded: false }
}

const fn configuration(name: &'static str) -> Table {
    Table { name, configuration: true, later: None, seeded: false }
}

/// Every table but those that belong to one catalog only (`schema_migrations`, `transaction_marks`), each behind those it refers to.
const TABLES: &[Table] = &[
    Table { name: "store_facts", configuration: true, later: None, seeded: true },
    Table { name: "counters", configuration: false, later: None, seeded: true },
    configuration("local_sites"),
    configuration("ossea_configs"),
    configuration("linstor_configs"),
    Table { name: "vma_enrollments", configuration: true, later: Some("pairing_id"), seeded: false },
    configuration("vma_pairing_codes"),
    data("vma_active_connections"),
    data("vma_connection_audit"),
    configuration("vmware_credentials"),
    configuration("users"),
    configuration("api_tokens"),
    data("audit_log"),
    Table { name: "replication_schedules", configuration: true, later: Some("chain_parent_schedule_id"), seeded: false },
    configuration("vm_machine_groups"),
    data("schedule_executions"),
    Table { name: "vm_replication_contexts", configuration: false, later: Some("last_successful_job_id"), seeded: false },
    data("vm_group_memberships"),
    data("runners"),
    data("job_tracking"),
    data("job_steps"),
    data("job_execution_log"),
    data("log_events"),
    data("job_intents"),
    data("events"),
    data("replication_jobs"),
    data("ossea_volumes"),
    data("device_mappings"),
    data("volume_operations"),
    data("volume_operation_history"),
    data("volume_mounts"),
    data("volume_daemon_metrics"),
    data("volume_ledgers"),
    data("vm_disks"),
    data("nbd_exports"),
    data("vm_export_mappings"),
    data("replica_points"),
    data("replica_point_disks"),
    data("failover_jobs"),
    data("network_mappings"),
    data("cbt_history"),
];

fn tables(content: Content) -> impl Iterator<Item = &'static Table> {
    TABLES.iter().filter(move |table| content != Content::Configuration || table.configuration)
}
