//! Machines and volumes that are files on this host: a *site*.
//!
//! ```text
//! SITE/machines/NAME/machine.toml           what the machine is (see `file`)
//!                    *.img                  its disks: raw files, or paths of block devices
//!                    snapshots/NAME/        snapshots: ours are migratekit-<job>, any other is foreign
//!                    .migratekit/           ours: a lock, which change ids were given, a digest map for each
//! SITE/volumes/vol-UUID/volume.json         tag, serial and size of a volume
//!                      disk.img             its bytes; ledger and spool lie beside
//! ```
//!
//! # What it promises
//!
//! - A snapshot is one moment of all disks. While it is taken, each disk is held by a shared lock that keeps out every writer of ours;
//!   who writes without a lock is found by the file's times. By reflink it takes no time; elsewhere the disks are copied, holes and all.
//! - Change tracking is honest about its price: with each snapshot the BLAKE3 digest of every 64 KiB is kept, so making one reads the
//!   disks on this side, and asking what changed compares two such maps and reads no disk. A map that is missing, damaged, or of another
//!   machine refuses its change id.
//! - Nothing is there in part: a snapshot or a volume exists from the moment its record is written, which is last, and durable, and stops
//!   existing when its record is removed, which is first. What is left of an interrupted call is removed by the next.
//!
//! # What it does not
//!
//! It does not start or stop machines, and it does not ask a guest to bring its files in order.

mod digest_map;
mod file;
mod freeze;
mod hold;
mod snapshots;
mod source;
mod tracking;
mod volumes;

use std::path::{Path, PathBuf};

pub use self::digest_map::DIGEST_BLOCK;
pub use self::file::{MAX_DISKS, MAX_MACHINE_FILE, MAX_MACHINES};
pub use self::hold::HOLD_TIME;
pub use self::tracking::KEPT_MAPS;
use super::capability::{Capabilities, ChangeTracking, SourceCapabilities, TargetCapabilities};
use crate::error::{Error, ErrorKind, Result};
use crate::task;

/// A folder of machines and volumes; cheap to clone. The head of its source file says more.
#[derive(Debug, Clone)]
pub struct LocalSite {
    machines: PathBuf,
    volumes: PathBuf,
}

impl LocalSite {
    /// The site at `root`, which must be a folder with `machines` in it, or without anything (then the folders are made).
    ///
    /// # Errors
    /// `NotFound`: no such folder. `InvalidInput`: it is no folder, or holds other things and no machines. Else as the file system says.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref().to_path_buf();
        task::blocking(move || prepare(&root).map_err(|e| e.with("site", root.display()))).await?
    }

    /// A site whose two folders lie apart; both must exist.
    ///
    /// # Errors
    /// `NotFound`, `InvalidInput`: one of them is no folder.
    pub async fn of(machines: impl Into<PathBuf>, volumes: impl Into<PathBuf>) -> Result<Self> {
        let (machines, volumes) = (machines.into(), volumes.into());
        task::blocking(move || Ok(LocalSite { machines: folder(&machines)?, volumes: folder(&volumes)? })).await?
    }

    /// The folder of machines.
    #[must_use]
    pub fn machines_folder(&self) -> &Path {
        &self.machines
    }

    /// The folder of volumes.
    #[must_use]
    pub fn volumes_folder(&self) -> &Path {
        &self.volumes
    }

    /// What it can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { platform: "local", source: Some(self.source_capabilities()), target: Some(self.target_capabilities()) }
    }

    fn source_capabilities(&self) -> SourceCapabilities {
        SourceCapabilities {
            change_tracking: ChangeTracking::ByDigest,
            change_block_bytes: DIGEST_BLOCK,
            instant_snapshots: freeze::can_reflink(&self.machines),
            quiesce: false,
            freezes_running: false,
        }
    }

    fn target_capabilities(&self) -> TargetCapabilities {
        TargetCapabilities { size_step_bytes: 1, resize: true, zeroed: true }
    }
}

const OPEN: &str = "open a local site";

fn prepare(root: &Path) -> Result<LocalSite> {
    let empty = std::fs::read_dir(root).map_err(|e| Error::from_io(OPEN, e))?.next().is_none();
    let (machines, volumes) = (root.join("machines"), root.join("volumes"));
    if !empty && !machines.is_dir() {
        return Err(Error::new(ErrorKind::InvalidInput, OPEN, "the folder holds other things, and no folder `machines`"));
    }
    for folder in [&machines, &volumes] {
        std::fs::create_dir_all(folder).map_err(|e| Error::from_io(OPEN, e))?;
    }
    Ok(LocalSite { machines: folder(&machines)?, volumes: folder(&volumes)? })
}

fn folder(path: &Path) -> Result<PathBuf> {
    let fail = |e: Error| e.with("folder", path.display());
    let real = path.canonicalize().map_err(|e| fail(Error::from_io(OPEN, e)))?;
    if real.is_dir() {
        return Ok(real);
    }
    Err(fail(Error::new(ErrorKind::InvalidInput, OPEN, "it is no folder")))
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> Result<()> {
    std::fs::File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::from_io("make a folder's names durable", e).with("path", folder.display()))
}

/// The entries of a folder by name; nothing when there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let fail = |e| Error::from_io("list a folder", e).with("path", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a folder and all in it; nothing when it is not there.
fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::from_io("remove a folder", e).with("path", folder.display())),
        _ => Ok(()),
    }
}
