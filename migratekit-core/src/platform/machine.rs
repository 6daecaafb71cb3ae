//! Machines as a platform describes them.

use serde::{Deserialize, Serialize};

use super::names::{InstanceId, MachineRef};
use crate::block::BoxFuture;
use crate::error::Result;
use crate::model::{DiskSpec, OsFamily, PowerState};

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
    pub disks: Vec<DiskSpec>,
    /// Its network cards, in order.
    pub networks: Vec<MachineNetwork>,
}

/// A network card of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineNetwork {
    /// The network it is connected to.
    pub network: String,
    /// Its hardware address, `aa:bb:cc:dd:ee:ff`, if the platform tells.
    pub mac: Option<String>,
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
