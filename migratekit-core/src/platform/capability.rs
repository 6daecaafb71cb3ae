//! What a platform can do, as data.

use serde::Serialize;

/// A platform and its roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The platform: `local`, `vsphere`, `cloudstack`.
    pub platform: &'static str,
    /// As a source of machines, if it is one.
    pub source: Option<SourceCapabilities>,
    /// As a target for replicas, if it is one.
    pub target: Option<TargetCapabilities>,
}

/// What a source can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct SourceCapabilities {
    /// How it knows what changed.
    pub change_tracking: ChangeTracking,
    /// The unit of changed areas in bytes; 0 where none is known.
    pub change_block_bytes: u64,
    /// A snapshot costs no copy of the disk's bytes.
    pub instant_snapshots: bool,
    /// The guest can be asked to bring its files in order before a snapshot.
    pub quiesce: bool,
    /// Disks of a running machine can be frozen while it writes.
    pub freezes_running: bool,
}

/// How a source knows what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeTracking {
    /// The hypervisor keeps a map as the machine writes (VMware's CBT): asking reads nothing.
    ByHypervisor,
    /// Digests of all blocks are kept with each snapshot and compared: making a snapshot reads the whole disk on the source's side.
    ByDigest,
}

/// What a target can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TargetCapabilities {
    /// Volumes are rounded up to a multiple of this, in bytes; 1: they are as large as asked.
    pub size_step_bytes: u64,
    /// Volumes can grow.
    pub resize: bool,
    /// A new volume certainly reads as zero.
    pub zeroed: bool,
}
