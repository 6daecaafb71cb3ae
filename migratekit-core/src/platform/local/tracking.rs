//! Which change ids a machine's disks were given, and the digest maps that make them worth something.
//!
//! A change id is `SERIES.KEY/NUMBER`: the series is random and made with the records, so ids of records that were lost, or of another
//! machine at the same place, or of another disk, are never taken for ours. Numbers are reserved, durably, before they are used.
//! Kept are the newest [`KEPT_MAPS`] maps of each disk and the one last asked about, which the next pass may ask about again.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest_map::{self, Doubt, MapWriter};
use super::names_in;
use crate::copy::ledger::{DiskRecordFile, RecordFile};
use crate::error::{Error, Result};
use crate::id::DiskKey;
use crate::platform::names::{ChangeId, InstanceId};
use crate::platform::source::Changes;

/// Digest maps kept of a disk beside the one in use: so many passes may fail without costing a comparison of the disk.
pub const KEPT_MAPS: usize = 4;

/// The longest record read back, in bytes.
const MAX_RECORD: u64 = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Random.
    series: String,
    instance: InstanceId,
    next: u64,
    /// The number last asked about, of each disk.
    used: BTreeMap<DiskKey, u64>,
}

/// The records of one machine. Work on them under the machine's lock.
pub(super) struct Tracking {
    folder: PathBuf,
    record: Record,
}

impl Tracking {
    /// The records in `folder`, for this instance; new ones when there are none that can be believed.
    pub(super) fn open(folder: &Path, instance: &InstanceId) -> Result<Self> {
        let folder = folder.to_path_buf();
        let kept = load(&file_of(&folder))?.filter(|record: &Record| record.instance == *instance);
        let record = kept.unwrap_or_else(|| Record {
            series: uuid::Uuid::now_v7().simple().to_string(),
            instance: instance.clone(),
            next: 1,
            used: BTreeMap::new(),
        });
        Ok(Tracking { folder, record })
    }

    /// Reserves the number of a snapshot.
    pub(super) fn reserve(&mut self) -> Result<u64> {
        let number = self.record.next;
        self.record.next = number.saturating_add(1);
        self.save()?;
        Ok(number)
    }

    /// The change id of a disk at a snapshot.
    pub(super) fn id(&self, key: DiskKey, number: u64) -> Result<ChangeId> {
        format!("{}.{}/{number}", self.record.series, key.device_key()).parse()
    }

    /// Begins the map of a disk at a snapshot.
    pub(super) fn begin_map(&self, key: DiskKey, number: u64, size: u64) -> Result<MapWriter> {
        let path = self.map(key, number);
        let make = || {
            std::fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
            MapWriter::create(&path, self.id(key, number).map_err(std::io::Error::other)?, size)
        };
        make().map_err(|e| Error::from_io("keep a digest map", e).with("path", path.display()))
    }

    /// What changed on a disk between two ids.
    pub(super) fn changes(&mut self, key: DiskKey, since: &ChangeId, now: &ChangeId) -> Result<Changes> {
        let refuse = |why: &str| Ok(Changes::Refused(why.to_owned()));
        let Some(number) = self.number(key, since) else {
            return refuse("the change id is not of this disk of this machine, or the records it was given from are lost");
        };
        let Some(number_now) = self.number(key, now) else {
            return refuse("the records the snapshot's change id was given from are lost");
        };
        if self.record.used.insert(key, number) != Some(number) {
            self.save()?;
        }
        let (old, new) = (self.map(key, number), self.map(key, number_now));
        match digest_map::compare((&old, since), (&new, now))? {
            Ok(areas) => Ok(Changes::Areas(areas)),
            Err(Doubt::Missing) => refuse("the digest map of the change id is gone"),
            Err(Doubt::Damaged) => refuse("the digest map of the change id is damaged"),
            Err(Doubt::Other) => refuse("the digest map in the place of the change id's is another"),
        }
    }

    /// Removes the maps of a disk that are neither new nor in use.
    pub(super) fn prune(&self, key: DiskKey) -> Result<()> {
        let folder = self.map_folder(key);
        let mut numbers: Vec<u64> = names_in(&folder)?.iter().filter_map(|name| name.strip_suffix(".map")?.parse().ok()).collect();
        numbers.sort_unstable();
        let old = numbers.len().saturating_sub(KEPT_MAPS);
        let used = self.record.used.get(&key);
        for number in numbers.iter().take(old).filter(|number| Some(*number) != used) {
            let path = self.map(key, *number);
            std::fs::remove_file(&path).map_err(|e| Error::from_io("remove a digest map", e).with("path", path.display()))?;
        }
        Ok(())
    }

    fn number(&self, key: DiskKey, id: &ChangeId) -> Option<u64> {
        let number = id.as_str().rsplit_once('/')?.1.parse().ok()?;
        (self.id(key, number).ok()? == *id && number < self.record.next).then_some(number)
    }

    fn map_folder(&self, key: DiskKey) -> PathBuf {
        self.folder.join("changes").join(key.to_string())
    }

    fn map(&self, key: DiskKey, number: u64) -> PathBuf {
        self.map_folder(key).join(format!("{number}.map"))
    }

    fn save(&self) -> Result<()> {
        save(&file_of(&self.folder), &self.record)
    }
}

fn file_of(folder: &Path) -> DiskRecordFile {
    DiskRecordFile::new(folder.join("tracking.json"))
}

/// Replaces a record durably.
pub(super) fn save(file: &DiskRecordFile, record: &impl Serialize) -> Result<()> {
    file.replace(&mut |out: &mut dyn Write| serde_json::to_writer(&mut *out, record).map_err(std::io::Error::from))
}

/// Reads a record; `None` when there is none, or it cannot be believed.
pub(super) fn load<T: serde::de::DeserializeOwned>(file: &DiskRecordFile) -> Result<Option<T>> {
    let Some(open) = file.open()? else { return Ok(None) };
    let mut text = Vec::new();
    open.take(MAX_RECORD).read_to_end(&mut text).map_err(|e| Error::from_io("read a record", e).with("path", file.name()))?;
    Ok(serde_json::from_slice(&text).ok())
}
