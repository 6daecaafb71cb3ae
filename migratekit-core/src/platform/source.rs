//! A platform machines are moved from: snapshots, changes, bytes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::capability::SourceCapabilities;
use super::machine::Machine;
use super::names::{ChangeId, InstanceId, MachineRef, SnapshotName};
use crate::block::{BlockRead, BoxFuture, ExtentMap};
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::task::{CancellationToken, Passed};

/// What the state of the disks in a snapshot is worth to the system in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One moment of all disks, as after a power cut.
    Crash,
    /// The guest brought its files in order before.
    Quiesced,
    /// The machine was off, and nobody else wrote.
    Stopped,
}

impl Consistency {
    /// As the catalog and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Crash => "crash",
            Consistency::Quiesced => "quiesced",
            Consistency::Stopped => "stopped",
        }
    }
}

/// A complete snapshot of ours: one moment of all disks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, by which it is found again.
    pub name: SnapshotName,
    /// The machine it is of.
    pub machine: MachineRef,
    /// That machine's instance when it was made.
    pub instance: InstanceId,
    /// How the platform calls it.
    pub reference: String,
    /// What it is worth.
    pub consistency: Consistency,
    /// The disks in it, by key.
    pub disks: Vec<SnapshotDisk>,
}

impl Snapshot {
    /// One of its disks; [`ErrorKind::NotFound`] when it has none with this key.
    pub fn disk(&self, key: DiskKey) -> Result<&SnapshotDisk> {
        self.disks.iter().find(|d| d.key == key).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find a disk in a snapshot", "the snapshot was made without this disk")
                .with("disk", key)
                .with("snapshot", &self.name)
                .with("machine", &self.machine)
        })
    }
}

/// A disk in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDisk {
    /// Which.
    pub key: DiskKey,
    /// Capacity in bytes at that moment.
    pub size_bytes: u64,
    /// The frozen file, as the platform names it.
    pub file: String,
    /// The mark of this state, to ask later what changed since.
    pub change_id: ChangeId,
}

/// A snapshot found at a machine, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotListed {
    /// Its name as found.
    pub name: String,
    /// Its parsed name, if it is one of ours, complete or not.
    pub ours: Option<SnapshotName>,
}

/// What changed on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Everything that changed lies in these areas of the snapshot's disk; they may hold more.
    Areas(ExtentMap),
    /// The change id is not believed, and asking again will not help: the reason, for people. What changed must be found by comparing.
    Refused(String),
}

/// A platform that machines are moved from. See [the module](super) for what every implementation promises.
pub trait Source: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> SourceCapabilities;

    /// The machine as it is now.
    ///
    /// # Errors
    /// `NotFound`: no such machine. `InvalidInput`, `Unsupported`: it cannot be described, or cannot be moved, and why.
    fn describe<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Machine>>;

    /// Every snapshot the machine has, ours (complete or not) and foreign.
    fn snapshots<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Vec<SnapshotListed>>>;

    /// Freezes all disks of the machine at one moment. A left-over of an interrupted call by the same name is replaced. Where that takes long,
    /// because bytes of the disks are read or copied, `passed` is told.
    ///
    /// # Errors
    /// `AlreadyExists`: a complete one of this name is there. `Busy`: somebody writes to a disk who cannot be held. `Changed`: a disk
    /// was written although it was held. `NoSpace`. `Cancelled`: by `cancel`; what was begun is removed by
    /// [`Source::remove_snapshot`].
    fn create_snapshot<'a>(
        &'a self,
        machine: &'a MachineRef,
        name: &'a SnapshotName,
        passed: &'a Passed,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Snapshot>>;

    /// The complete snapshot of this name; `None` when there is none, or only a part.
    fn find_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<Option<Snapshot>>>;

    /// Removes the snapshot of this name, or what is left of it; false when there was nothing. The change ids it gave stay good.
    fn remove_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<bool>>;

    /// One frozen disk, for reading, by any number of readers at once.
    fn open_disk<'a>(&'a self, snapshot: &'a Snapshot, disk: DiskKey) -> BoxFuture<'a, Result<Arc<dyn BlockRead>>>;

    /// What changed on a disk between the state that `since` marks and the snapshot. Of a disk that grew, all of the new part is changed.
    ///
    /// # Errors
    /// Faults of the way. That `since` is not believed is [`Changes::Refused`].
    fn changes<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        disk: DiskKey,
        since: &'a ChangeId,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Changes>>;
}
