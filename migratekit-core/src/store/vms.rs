//! VMs under management as lists show them, found by name or by their source, and let go.

use super::Tx;
use super::row::Row;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ContextId, JobId};
use crate::model::{ContextStatus, JobStatus, Percent};

/// The most VMs of one name that are told.
const NAMESAKES: u32 = 20;

/// VMs under management, in one transaction.
#[derive(Debug)]
pub struct Vms<'t>(&'t Tx);

/// A VM in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Its context.
    pub context: ContextId,
    /// Its name.
    pub vm_name: String,
    /// Where it stands.
    pub status: ContextStatus,
    /// The job that holds it, where that is, and how far.
    pub active_job: Option<(JobId, JobStatus, Percent)>,
    /// How many disks its source has.
    pub disks: u64,
    /// Their sizes together, in bytes.
    pub capacity_bytes: u64,
    /// When its newest complete point was taken.
    pub point_taken_at: Option<Timestamp>,
}

impl Tx {
    /// VMs under management.
    #[must_use]
    pub fn vms(&self) -> Vms<'_> {
        Vms(self)
    }
}

impl Vms<'_> {
    /// VMs behind `after`, by the time they came under management; at most `limit`.
    pub async fn page(&self, after: Option<&ContextId>, limit: u32) -> Result<Vec<VmRow>> {
        let text = "SELECT c.context_id, c.vm_name, c.current_status, j.id AS job_id, j.status AS job_status, j.percent_complete, \
             (SELECT COUNT(*) FROM vm_disks d WHERE d.vm_context_id = c.context_id AND d.removed_at IS NULL) AS disks, \
             (SELECT CAST(COALESCE(SUM(d.capacity_bytes), 0) AS SIGNED) FROM vm_disks d \
              WHERE d.vm_context_id = c.context_id AND d.removed_at IS NULL) AS capacity_bytes, \
             (SELECT MAX(p.taken_at) FROM replica_points p WHERE p.vm_context_id = c.context_id) AS taken_at \
             FROM vm_replication_contexts c LEFT JOIN job_tracking j ON j.active_context_id = c.context_id \
             WHERE c.context_id > ? ORDER BY c.context_id LIMIT ?";
        self.0.sql("list VMs", text).bind(after.map_or("", ContextId::as_str)).bind(limit).all(vm).await
    }

    /// The VMs of this name; at most twenty.
    pub async fn of_name(&self, name: &str) -> Result<Vec<ContextId>> {
        let text = format!("SELECT context_id FROM vm_replication_contexts WHERE vm_name = ? ORDER BY context_id LIMIT {NAMESAKES}");
        self.0.sql("find a VM", text).bind(name).all(|row| row.parse("context_id")).await
    }

    /// The VM that a source calls so.
    pub async fn of_source(&self, host: &str, source_vm_id: &str) -> Result<Option<ContextId>> {
        let text = "SELECT context_id FROM vm_replication_contexts WHERE vmware_vm_id = ? AND vcenter_host = ?";
        self.0.sql("find a VM", text).bind(source_vm_id).bind(host).first(|row| row.parse("context_id")).await
    }
}

fn vm(row: &Row) -> Result<VmRow> {
    let active_job = match row.parse_or_none("job_id")? {
        Some(job) => Some((job, row.parse("job_status")?, Percent::capped(row.number("percent_complete")?))),
        None => None,
    };
    Ok(VmRow {
        context: row.parse("context_id")?,
        vm_name: row.text("vm_name")?,
        status: row.parse("current_status")?,
        active_job,
        disks: row.number("disks")?,
        capacity_bytes: row.number("capacity_bytes")?,
        point_taken_at: row.time_or_none("taken_at")?,
    })
}
