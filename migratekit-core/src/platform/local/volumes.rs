//! A site as a target: volumes as sparse files, one folder each, found by their tag.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LocalSite, hold, names_in, remove_folder, sync_folder, tracking};
use crate::block::BoxFuture;
use crate::copy::ledger::DiskRecordFile;
use crate::error::{Error, ErrorKind, Result};
use crate::id::VolumeId;
use crate::platform::capability::TargetCapabilities;
use crate::platform::target::{Target, Volume, VolumeListed, VolumePlace, VolumeTag};
use crate::task;
use crate::units::MAX_OFFSET;

const FORMAT: u32 = 1;
const RECORD: &str = "volume.json";
const IMAGE: &str = "disk.img";
/// What the folder of each volume begins with; nothing else in `volumes` is touched.
const PREFIX: &str = "vol-";

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    volume: Volume,
}

impl LocalSite {
    fn volume_folder(&self, id: &VolumeId) -> Result<PathBuf> {
        if !id.as_str().starts_with(PREFIX) {
            return Err(
                Error::new(ErrorKind::InvalidInput, "find a volume", "a volume of a local site begins with vol-").with("volume", id)
            );
        }
        Ok(self.volumes.join(id.as_str()))
    }

    /// Runs `work` under the lock of the volumes.
    async fn with_volumes<T: Send + 'static>(&self, work: impl FnOnce(&LocalSite) -> Result<T> + Send + 'static) -> Result<T> {
        let lock = hold::lock_records(&self.volumes).await?;
        let site = self.clone();
        task::blocking(move || {
            let _lock = lock;
            work(&site)
        })
        .await?
    }
}

/// The volume in a folder. `None`: what is left of an interrupted call.
fn read(folder: &Path) -> Result<Option<Volume>> {
    const READ: &str = "read a volume's record";
    let refuse = |kind, text: &'static str| Err(Error::new(kind, READ, text).with("path", folder.display()));
    if !folder.join(RECORD).exists() {
        return Ok(None);
    }
    let Some(record) = tracking::load::<Record>(&DiskRecordFile::new(folder.join(RECORD)))? else {
        return refuse(ErrorKind::Mismatch, "volume.json cannot be understood");
    };
    if record.format != FORMAT {
        return refuse(ErrorKind::Unsupported, "volume.json was written by a newer version");
    }
    let volume = record.volume;
    if folder.file_name().and_then(|n| n.to_str()) != Some(volume.id.as_str()) {
        return refuse(ErrorKind::Mismatch, "volume.json belongs to another folder: the volume was copied or renamed");
    }
    let length = match std::fs::metadata(folder.join(IMAGE)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return refuse(ErrorKind::NotFound, "the volume's file is gone"),
        other => other.map_err(|e| Error::from_io(READ, e).with("path", folder.display()))?.len(),
    };
    // An interrupted resize leaves a file longer than its record says; it is the record that counts.
    if length < volume.size_bytes {
        return refuse(ErrorKind::Changed, "the volume's file is shorter than its record says");
    }
    Ok(Some(volume))
}

fn list(site: &LocalSite) -> Result<Vec<VolumeListed>> {
    let mut listed = Vec::new();
    for name in names_in(&site.volumes)?.into_iter().filter(|name| name.starts_with(PREFIX)) {
        let folder = site.volumes.join(name);
        let place = folder.display().to_string();
        match read(&folder) {
            Ok(None) => {}
            Ok(Some(volume)) => listed.push(VolumeListed { place, volume: Ok(volume) }),
            Err(e) => listed.push(VolumeListed { place, volume: Err(e) }),
        }
    }
    Ok(listed)
}

fn find(site: &LocalSite, tag: &VolumeTag) -> Result<Option<Volume>> {
    let mut found: Option<Volume> = None;
    for volume in list(site)?.into_iter().filter_map(|entry| entry.volume.ok()).filter(|volume| volume.tag == *tag) {
        if let Some(other) = &found {
            return Err(Error::new(ErrorKind::Mismatch, "find a volume", "two volumes carry this tag; remove the wrong one")
                .with("tag", tag)
                .with("volume", &other.id)
                .with("other", &volume.id));
        }
        found = Some(volume);
    }
    Ok(found)
}

/// Removes what interrupted calls left.
fn sweep(site: &LocalSite) -> Result<()> {
    for name in names_in(&site.volumes)?.into_iter().filter(|name| name.starts_with(PREFIX)) {
        let folder = site.volumes.join(name);
        if folder.is_dir() && !folder.join(RECORD).exists() {
            remove_folder(&folder)?;
        }
    }
    Ok(())
}

fn create(site: &LocalSite, tag: &VolumeTag, size: u64) -> Result<Volume> {
    const CREATE: &str = "make a volume";
    if !(1..=MAX_OFFSET).contains(&size) {
        return Err(Error::new(ErrorKind::InvalidInput, CREATE, "a volume has at least 1 byte and at most 2^63-1").with("size", size));
    }
    sweep(site)?;
    if let Some(there) = find(site, tag)? {
        return Err(Error::new(ErrorKind::AlreadyExists, CREATE, "a volume with this tag is there")
            .with("tag", tag)
            .with("volume", there.id));
    }
    let id = VolumeId::generate();
    let folder = site.volume_folder(&id)?;
    let fail = |e| Error::from_io(CREATE, e).with("path", folder.display());
    std::fs::create_dir(&folder).map_err(fail)?;
    let image = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(IMAGE)).map_err(fail)?;
    set_length(&image, size)?;
    image.sync_all().map_err(fail)?;
    let volume = Volume { serial: Volume::serial_of(&id), id, tag: tag.clone(), size_bytes: size };
    save(&folder, &volume)?;
    sync_folder(&site.volumes)?;
    Ok(volume)
}

fn set_length(image: &std::fs::File, size: u64) -> Result<()> {
    image.set_len(size).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::FileTooLarge => {
            Error::new(ErrorKind::NoSpace, "give a volume its size", "the file system cannot hold a file of this size").with("size", size)
        }
        _ => Error::from_io("give a volume its size", e).with("size", size),
    })
}

fn save(folder: &Path, volume: &Volume) -> Result<()> {
    tracking::save(&DiskRecordFile::new(folder.join(RECORD)), &Record { format: FORMAT, volume: volume.clone() })
}

fn existing(site: &LocalSite, id: &VolumeId) -> Result<(PathBuf, Volume)> {
    let folder = site.volume_folder(id)?;
    match read(&folder)? {
        Some(volume) => Ok((folder, volume)),
        None => Err(Error::new(ErrorKind::NotFound, "find a volume", "the site has no such volume").with("volume", id)),
    }
}

fn resize(site: &LocalSite, id: &VolumeId, size: u64) -> Result<Volume> {
    let (folder, mut volume) = existing(site, id)?;
    if volume.size_bytes >= size {
        return Ok(volume);
    }
    let image = OpenOptions::new().write(true).open(folder.join(IMAGE)).map_err(|e| Error::from_io("make a volume larger", e))?;
    // What an interrupted resize left beyond the end was never written; still, what is new must read as zero.
    set_length(&image, volume.size_bytes)?;
    set_length(&image, size)?;
    image.sync_all().map_err(|e| Error::from_io("make a volume larger", e).with("volume", id))?;
    volume.size_bytes = size;
    save(&folder, &volume)?;
    Ok(volume)
}

fn remove(site: &LocalSite, id: &VolumeId) -> Result<bool> {
    const REMOVE: &str = "remove a volume";
    let folder = site.volume_folder(id)?;
    if !folder.exists() {
        return Ok(false);
    }
    let fail = |e| Error::from_io(REMOVE, e).with("volume", id);
    let _held = match std::fs::File::open(folder.join(IMAGE)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(fail(e)),
        Ok(image) => match rustix::fs::flock(&image, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(image),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::new(ErrorKind::Busy, REMOVE, "it is open for writing").with("volume", id));
            }
            Err(e) => return Err(fail(e.into())),
        },
    };
    match std::fs::remove_file(folder.join(RECORD)) {
        Ok(()) => sync_folder(&folder)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    remove_folder(&folder)?;
    Ok(true)
}

fn open(site: &LocalSite, expected: &Volume) -> Result<VolumePlace> {
    let (folder, found) = existing(site, &expected.id)?;
    let refuse = |text: &'static str| Err(Error::new(ErrorKind::Changed, "open a volume", text).with("volume", &expected.id));
    if found.tag != expected.tag {
        return refuse("its tag is another: it belongs to another disk")
            .map_err(|e: Error| e.with("tag_was", &expected.tag).with("tag_is", &found.tag));
    }
    if found.serial != expected.serial {
        return refuse("its serial number is another");
    }
    if found.size_bytes < expected.size_bytes {
        return refuse("it is smaller than it was");
    }
    let path = folder.join(IMAGE);
    // A resize that was interrupted left a file longer than the volume; nothing was ever kept there.
    let fail = |e| Error::from_io("open a volume", e).with("volume", &expected.id);
    if std::fs::metadata(&path).map_err(fail)?.len() > found.size_bytes {
        OpenOptions::new().write(true).open(&path).and_then(|image| image.set_len(found.size_bytes)).map_err(fail)?;
    }
    Ok(VolumePlace { volume: found, path, records: folder })
}

impl Target for LocalSite {
    fn capabilities(&self) -> TargetCapabilities {
        self.target_capabilities()
    }

    fn create_volume<'a>(&'a self, tag: &'a VolumeTag, size: u64) -> BoxFuture<'a, Result<Volume>> {
        let tag = tag.clone();
        Box::pin(self.with_volumes(move |site| create(site, &tag, size)))
    }

    fn find_volume<'a>(&'a self, tag: &'a VolumeTag) -> BoxFuture<'a, Result<Option<Volume>>> {
        let tag = tag.clone();
        Box::pin(self.with_volumes(move |site| find(site, &tag)))
    }

    fn volumes(&self) -> BoxFuture<'_, Result<Vec<VolumeListed>>> {
        Box::pin(self.with_volumes(list))
    }

    fn resize_volume<'a>(&'a self, id: &'a VolumeId, size: u64) -> BoxFuture<'a, Result<Volume>> {
        let id = id.clone();
        Box::pin(self.with_volumes(move |site| resize(site, &id, size)))
    }

    fn remove_volume<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<bool>> {
        let id = id.clone();
        Box::pin(self.with_volumes(move |site| remove(site, &id)))
    }

    fn open_volume<'a>(&'a self, expected: &'a Volume) -> BoxFuture<'a, Result<VolumePlace>> {
        let expected = expected.clone();
        Box::pin(self.with_volumes(move |site| open(site, &expected)))
    }
}
