//! Exports: volumes served by NBD, as the catalog knows them.

use serde::{Deserialize, Serialize};

use super::{ExportStatus, MappingStatus};
use crate::clock::Timestamp;
use crate::id::{ContextId, DiskId, Epoch, ExportId, JobId, VolumeId};

/// A volume served by NBD (`nbd_exports`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its row.
    pub id: ExportId,
    /// Its VM.
    pub context: ContextId,
    /// The job it is served for; none once that was deleted.
    pub job: Option<JobId>,
    /// The volume.
    pub volume: VolumeId,
    /// The disk whose replica it is.
    pub disk: Option<DiskId>,
    /// The export's name, unique.
    pub name: String,
    /// The TCP port; none for a Unix socket.
    pub port: Option<u16>,
    /// The device or file behind it.
    pub device_path: Option<String>,
    /// The lowest epoch that it admits.
    pub epoch: Epoch,
    /// Where it is.
    pub status: ExportStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The older way to name exports, by VM and disk (`vm_export_mappings`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportMapping {
    /// The VM's id.
    pub vm_id: String,
    /// The disk's place on its controller.
    pub disk_unit_number: u32,
    /// The VM's name.
    pub vm_name: String,
    /// The export's name, unique.
    pub export_name: String,
    /// The device, unique.
    pub device_path: Option<String>,
    /// Whether it is in use.
    pub status: MappingStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
