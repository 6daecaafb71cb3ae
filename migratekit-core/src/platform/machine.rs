//! Machines as a platform describes them.

use serde::{Deserialize, Serialize};

use super::names::{InstanceId, MachineRef};
use crate::block::BoxFuture;
use crate::error::Result;
use crate::id::DiskKey;

/// A machine, freshly looked at: what it is, and its disks. Never kept as truth; each replication asks again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// How to ask for it.
    pub reference: MachineRef,
    /// What stays with it for its life.
    pub instance: InstanceId,
    /// What people call it; another machine may have the same name.
    pub name: String,
    /// Where it lies, for people: vSphere's inventory path, the folder of a local machine.
    pub path: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The system in it.
    pub os: OsFamily,
    /// How it boots.
    pub firmware: Firmware,
    /// Whether it runs.
    pub power: PowerState,
    /// Its disks, by key; each key once.
    pub disks: Vec<MachineDisk>,
    /// Its network cards, in order.
    pub networks: Vec<MachineNetwork>,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    /// VMware's device key; stays with the disk for its life.
    pub key: DiskKey,
    /// Capacity in bytes.
    pub size_bytes: u64,
    /// Its place at its controller: the order of the disks.
    pub unit: u32,
    /// What people call it: `Hard disk 1`.
    pub label: String,
    /// The file of the disk, as the platform names it.
    pub path: String,
}

/// A network card of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineNetwork {
    /// The network it is connected to.
    pub network: String,
    /// Its hardware address, `aa:bb:cc:dd:ee:ff`, if the platform tells.
    pub mac: Option<String>,
}

/// The family of the system in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OsFamily {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
    /// Another, or not known.
    #[default]
    Other,
}

impl OsFamily {
    /// As the catalog and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            OsFamily::Linux => "linux",
            OsFamily::Windows => "windows",
            OsFamily::Other => "other",
        }
    }
}

/// How a machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// The old way.
    #[default]
    Bios,
    /// UEFI.
    Efi,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// It runs.
    On,
    /// It is off.
    Off,
    /// It is frozen with its memory; its disks are as after a power cut.
    Suspended,
}

impl PowerState {
    /// As the catalog and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PowerState::On => "on",
            PowerState::Off => "off",
            PowerState::Suspended => "suspended",
        }
    }
}

/// One entry of a listing: a machine, or why there is none at this place.
#[derive(Debug)]
pub struct Listed {
    /// Where it was found, for people.
    pub place: String,
    /// The machine; an error concerns this one only.
    pub machine: Result<Machine>,
}

/// Which machines there are.
pub trait Inventory: Send + Sync {
    /// Every machine, in the order of their places, and each one that cannot be described, singly.
    ///
    /// # Errors
    /// When nothing can be listed at all.
    fn machines(&self) -> BoxFuture<'_, Result<Vec<Listed>>>;
}
