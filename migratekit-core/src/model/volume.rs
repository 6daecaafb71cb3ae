//! Volumes: target disks that hold replicas, the devices they appear as, and what is done to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OperationKind, OperationMode, OperationStatus, SnapshotStatus, VolumeStatus};
use crate::clock::Timestamp;
use crate::id::{CloudConfigId, ContextId, DiskKey, JobId, MappingId, OperationId, VolumeId, VolumeRow};

codes! {
    /// What a volume is to the VM.
    VolumeRole ("role of a volume") {
        /// It boots from it.
        Root => "ROOT",
        /// It holds data.
        Data => "DATADISK",
    }
}

/// A target disk that holds the replica of one disk (`ossea_volumes`); keyed by context and disk key, never by name or size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its row.
    pub row: VolumeRow,
    /// The platform's id of it.
    pub id: VolumeId,
    /// Its VM.
    pub context: ContextId,
    /// The disk it holds.
    pub disk: DiskKey,
    /// Its name, for people.
    pub name: String,
    /// The size that the platform made, in bytes; at least the disk's.
    pub size_bytes: u64,
    /// The cloud it lives in; none for a local one.
    pub cloud_config: Option<CloudConfigId>,
    /// What it is to the VM.
    pub role: VolumeRole,
    /// The device or file it appears as here.
    pub device_path: Option<String>,
    /// The state of the volume.
    pub status: VolumeStatus,
    /// The generation of its ledger: it rises with every write that came past the export.
    pub generation: u64,
    /// The job that made it; its undo may remove the volume again while no point is in it.
    pub made_by: Option<JobId>,
    /// Its snapshot in the cloud.
    pub snapshot_id: Option<String>,
    /// When that was made.
    pub snapshot_created_at: Option<Timestamp>,
    /// The state of that.
    pub snapshot_status: SnapshotStatus,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// As which device a volume appears (`device_mappings`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Its row.
    pub id: MappingId,
    /// Its VM.
    pub context: ContextId,
    /// The volume; one mapping each.
    pub volume: VolumeId,
    /// The VM it is attached to.
    pub vm_id: String,
    /// Whose it is at present.
    pub mode: OperationMode,
    /// The cloud's number of the device.
    pub cloud_device_id: Option<u32>,
    /// The device here; none while it is attached elsewhere.
    pub device_path: Option<String>,
    /// The cloud's word for its state.
    pub cloud_state: String,
    /// Whether the device was found here.
    pub seen_here: bool,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// When the cloud was last asked.
    pub last_sync: Option<Timestamp>,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Something done to a volume (`volume_operations`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeOperation {
    /// Its id.
    pub id: OperationId,
    /// What is done.
    pub kind: OperationKind,
    /// Where it is.
    pub status: OperationStatus,
    /// The volume; none before one is made.
    pub volume: Option<VolumeId>,
    /// The VM it is attached to or detached from.
    pub vm_id: Option<String>,
    /// What was asked for.
    pub request: serde_json::Value,
    /// What came back.
    pub response: Option<serde_json::Value>,
    /// Why it failed, in technical words.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

/// A volume's file system mounted here (`volume_mounts`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume.
    pub volume: VolumeRow,
    /// The job that mounted it.
    pub job: Option<JobId>,
    /// The device.
    pub device_path: String,
    /// The folder.
    pub mount_point: String,
    /// The file system.
    pub filesystem: Option<String>,
    /// Whether it cannot be written.
    pub is_read_only: bool,
    /// When it was mounted.
    pub mounted_at: Timestamp,
    /// When it was unmounted; none while it is mounted.
    pub unmounted_at: Option<Timestamp>,
}

/// Where the ledger of one generation of a volume lies (`volume_ledgers`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPlace {
    /// The volume.
    pub volume: VolumeId,
    /// The generation it speaks of.
    pub generation: u64,
    /// Its file.
    pub path: String,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When the generation was raised; what it says is void since then.
    pub voided_at: Option<Timestamp>,
}

/// A change of a volume operation's status (`volume_operation_history`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationChange {
    /// Where it was; none at its beginning.
    pub from: Option<OperationStatus>,
    /// Where it went.
    pub to: OperationStatus,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub details: Option<serde_json::Value>,
}

/// Figures of what is done to volumes, at one moment (`volume_daemon_metrics`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeMetrics {
    /// When they were taken.
    pub at: Timestamp,
    /// Operations that are known.
    pub operations: u64,
    /// Those of them that have not ended.
    pub pending: u64,
    /// Volumes that are attached.
    pub devices: u64,
    /// Operations by their kind.
    pub by_kind: BTreeMap<OperationKind, u64>,
    /// Operations by their status.
    pub by_status: BTreeMap<OperationStatus, u64>,
    /// How long an operation that was done took on the average, in milliseconds.
    pub mean_ms: f64,
    /// How many of a hundred that ended failed.
    pub failed_percent: f64,
}
