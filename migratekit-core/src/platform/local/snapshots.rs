//! Snapshots of a machine: a folder each, complete from the moment its `snapshot.json` is there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::{describe, folder_of};
use super::freeze::{self, Frozen};
use super::hold::{self, Held};
use super::tracking::{self, Tracking};
use super::{LocalSite, names_in, remove_folder, sync_folder};
use crate::copy::ledger::DiskRecordFile;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DiskSpec, PowerState};
use crate::platform::machine::Machine;
use crate::platform::names::{ChangeId, MachineRef, SnapshotName};
use crate::platform::source::{Changes, Consistency, Snapshot, SnapshotDisk, SnapshotListed};
use crate::task::{self, CancellationToken, Passed};

/// A record of another version is not read: the snapshot is then a left-over, and removed.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    snapshot: Snapshot,
}

/// The folders of one machine.
struct Places {
    snapshots: PathBuf,
    records: PathBuf,
}

fn places(site: &LocalSite, machine: &MachineRef) -> Result<Places> {
    let folder = folder_of(site, machine)?;
    Ok(Places { snapshots: folder.join("snapshots"), records: folder.join(".migratekit") })
}

/// Makes the folders, and takes the machine's lock.
async fn lock(places: &Places) -> Result<hold::Lock> {
    for folder in [&places.snapshots, &places.records] {
        std::fs::create_dir_all(folder).map_err(|e| Error::from_io("make a folder beside a machine", e).with("path", folder.display()))?;
    }
    hold::lock_records(&places.records).await
}

fn record_of(folder: &Path) -> DiskRecordFile {
    DiskRecordFile::new(folder.join("snapshot.json"))
}

pub(super) fn list(site: &LocalSite, machine: &MachineRef) -> Result<Vec<SnapshotListed>> {
    let names = names_in(&places(site, machine)?.snapshots)?;
    Ok(names.into_iter().map(|name| SnapshotListed { ours: name.parse().ok(), name }).collect())
}

pub(super) fn find(site: &LocalSite, machine: &MachineRef, name: &SnapshotName) -> Result<Option<Snapshot>> {
    let folder = places(site, machine)?.snapshots.join(name.to_string());
    let record: Option<Record> = tracking::load(&record_of(&folder))?;
    Ok(record.filter(|r| r.format == FORMAT && r.snapshot.name == *name).map(|r| r.snapshot))
}

pub(super) async fn remove(site: &LocalSite, machine: &MachineRef, name: &SnapshotName) -> Result<bool> {
    let places = places(site, machine)?;
    let folder = places.snapshots.join(name.to_string());
    if !folder.exists() {
        return Ok(false);
    }
    let _lock = lock(&places).await?;
    task::blocking(move || remove_now(&folder)).await??;
    Ok(true)
}

/// The record first: what is left without it is no snapshot.
fn remove_now(folder: &Path) -> Result<()> {
    let record = folder.join("snapshot.json");
    match std::fs::remove_file(&record) {
        Ok(()) => sync_folder(folder)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::from_io("remove a snapshot", e).with("path", record.display())),
    }
    remove_folder(folder)
}

pub(super) async fn create(
    site: &LocalSite,
    reference: &MachineRef,
    name: &SnapshotName,
    passed: &Passed,
    cancel: &CancellationToken,
) -> Result<Snapshot> {
    let places = places(site, reference)?;
    let lock = lock(&places).await?;
    if find(site, reference, name)?.is_some() {
        return Err(Error::new(ErrorKind::AlreadyExists, "take a snapshot", "the machine has a snapshot of this name")
            .with("machine", reference)
            .with("snapshot", name));
    }
    let machine = describe(site, reference)?;
    let mut held = Vec::new();
    for disk in &machine.disks {
        held.push(Held::take(Path::new(&disk.path), cancel).await.map_err(|e| e.with("machine", reference).with("disk", disk.key))?);
    }
    if describe(site, reference)? != machine {
        return Err(Error::new(ErrorKind::Changed, "take a snapshot", "its disks changed just now; try again").with("machine", reference));
    }
    // The call of the kernel goes on when nobody waits any more: so do the lock and the hold.
    let (name, passed, cancel) = (name.clone(), passed.clone(), cancel.clone());
    task::blocking(move || {
        let _lock = lock;
        Making { places: &places, machine: &machine, name: &name, passed: &passed, cancel: &cancel }.run(&held)
    })
    .await?
}

/// One snapshot in the making.
struct Making<'a> {
    places: &'a Places,
    machine: &'a Machine,
    name: &'a SnapshotName,
    passed: &'a Passed,
    cancel: &'a CancellationToken,
}

impl Making<'_> {
    fn run(&self, held: &[Held]) -> Result<Snapshot> {
        let folder = self.places.snapshots.join(self.name.to_string());
        remove_now(&folder)?;
        std::fs::create_dir(&folder).map_err(|e| Error::from_io("take a snapshot", e).with("path", folder.display()))?;
        sync_folder(&self.places.snapshots)?;
        let mut tracking = Tracking::open(&self.places.records, &self.machine.instance)?;
        let number = tracking.reserve()?;

        // First all disks are cloned, which is one moment; what cannot be cloned is copied while it is held.
        let mut frozen = Vec::new();
        for (disk, held) in self.machine.disks.iter().zip(held) {
            let image = folder.join(format!("{}.img", disk.key));
            let begun = freeze::begin(&held.file, &image, disk.capacity_bytes).map_err(|e| e.with("disk", disk.key))?;
            frozen.push((disk, held, begun, image));
        }
        let mut disks = Vec::new();
        for (disk, held, begun, image) in &frozen {
            let change_id = self.complete(&tracking, number, disk, held, begun).map_err(|e| e.with("disk", disk.key))?;
            disks.push(SnapshotDisk { key: disk.key, size_bytes: disk.capacity_bytes, file: image.display().to_string(), change_id });
        }
        for held in held {
            held.check().map_err(|e| e.with("machine", &self.machine.reference))?;
        }
        sync_folder(&folder)?;
        let snapshot = self.describe(&folder, disks);
        tracking::save(&record_of(&folder), &Record { format: FORMAT, snapshot: snapshot.clone() })?;
        for disk in &self.machine.disks {
            tracking.prune(disk.key)?;
        }
        Ok(snapshot)
    }

    fn complete(&self, tracking: &Tracking, number: u64, disk: &DiskSpec, held: &Held, begun: &Frozen) -> Result<ChangeId> {
        let mut map = tracking.begin_map(disk.key, number, disk.capacity_bytes)?;
        freeze::complete(&held.file, begun, disk.capacity_bytes, &mut map, self.passed, self.cancel)?;
        map.finish()?;
        tracking.id(disk.key, number)
    }

    fn describe(&self, folder: &Path, disks: Vec<SnapshotDisk>) -> Snapshot {
        let consistency = if self.machine.power == PowerState::Off { Consistency::Stopped } else { Consistency::Crash };
        Snapshot {
            name: self.name.clone(),
            machine: self.machine.reference.clone(),
            instance: self.machine.instance.clone(),
            reference: folder.display().to_string(),
            consistency,
            disks,
        }
    }
}

pub(super) async fn changes(site: &LocalSite, snapshot: &Snapshot, disk: &SnapshotDisk, since: &ChangeId) -> Result<Changes> {
    let places = places(site, &snapshot.machine)?;
    let lock = lock(&places).await?;
    let (instance, key, now, since) = (snapshot.instance.clone(), disk.key, disk.change_id.clone(), since.clone());
    task::blocking(move || {
        let _lock = lock;
        Tracking::open(&places.records, &instance)?.changes(key, &since, &now)
    })
    .await?
}
