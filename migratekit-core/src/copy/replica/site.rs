//! Where a replica lies: a volume, and the files beside it.
//!
//! [`ReplicaSite`] is what a [`Replica`](super::Replica) needs of the place; [`FileSite`] is the real one, for files and block devices.
//! Tests put a whole site into a world that can be killed.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::{BlockRead, BlockWrite, BoxFuture, FileDisk, OpenOptions};
use crate::copy::export::{Reopen, StateOf};
use crate::copy::ledger::{DiskRecordFile, RecordFile};
use crate::copy::served::state_of;
use crate::copy::sides::reopen_locked;
use crate::error::{Error, ErrorKind, Result};
use crate::task;

/// A small file beside a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SideFile {
    /// Which point the volume holds.
    Point,
    /// The volume's ledger, and its digests.
    Ledger,
    /// The side file of the ledger.
    Digests,
    /// The ledger of the pass in the spool.
    SpoolLedger,
    /// The side file of that.
    SpoolDigests,
}

impl SideFile {
    /// What is appended to the volume's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            SideFile::Point => "point",
            SideFile::Ledger => "ledger",
            SideFile::Digests => "ledger.digests",
            SideFile::SpoolLedger => "spool.ledger",
            SideFile::SpoolDigests => "spool.ledger.digests",
        }
    }
}

/// A disk of a site, opened.
pub struct SiteDisk {
    /// The disk. A volume stays locked against other processes as long as this lives.
    pub disk: Arc<dyn BlockWrite>,
    /// The same, read past the page cache; `None`: it cannot be.
    pub uncached: Option<Arc<dyn BlockRead>>,
    /// How it is opened again after a failed flush.
    pub reopen: Option<Arc<Reopen>>,
    /// What of it changes when it is written to.
    pub state: Option<StateOf>,
}

/// The place of one replica. Everything it does not know it fails with; nothing here decides anything.
pub trait ReplicaSite: Send + Sync {
    /// What people call the volume.
    fn name(&self) -> String;

    /// Opens the volume for writing, exclusively.
    fn open_volume(&self) -> BoxFuture<'_, Result<SiteDisk>>;

    /// A small file beside the volume; it need not exist.
    fn file(&self, which: SideFile) -> Arc<dyn RecordFile>;

    /// Makes the spool's file anew: so many bytes, all zero, old ones gone. File and name are durable.
    fn create_spool(&self, size: u64) -> BoxFuture<'_, Result<SiteDisk>>;

    /// Opens the spool's file; `None`: there is none. May be called while it is open already.
    fn open_spool(&self) -> BoxFuture<'_, Result<Option<SiteDisk>>>;

    /// Removes the spool's file and those that belong to it. Whoever has it open can go on reading.
    fn remove_spool(&self) -> BoxFuture<'_, Result<()>>;

    /// The bytes free where the spool lies.
    fn free_bytes(&self) -> BoxFuture<'_, Result<u64>>;
}

/// A volume that is a file or a block device.
#[derive(Debug, Clone)]
pub struct FileSite {
    volume: PathBuf,
    /// What the files beside it begin with.
    stem: PathBuf,
}

impl FileSite {
    /// A volume whose files lie beside it: `VOLUME.point`, `VOLUME.spool`. Of a symbolic link, beside what it leads to.
    ///
    /// # Errors
    /// The volume cannot be found.
    pub fn beside(volume: impl Into<PathBuf>) -> Result<Self> {
        let volume = volume.into();
        let stem = volume.canonicalize().map_err(|e| Error::from_io("find the volume", e).with("path", volume.display()))?;
        Ok(FileSite { volume, stem })
    }

    /// A volume whose files lie in the state folder, which must exist, under the volume's name: for a device.
    #[must_use]
    pub fn in_folder(volume: impl Into<PathBuf>, folder: &Path, name: &str) -> Self {
        FileSite { volume: volume.into(), stem: folder.join(name) }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        let mut name = self.stem.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        PathBuf::from(name)
    }

    fn folder(&self) -> PathBuf {
        self.stem.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    }

    /// An empty file that only we may read: it is to hold what the volume holds.
    fn make_empty_spool(&self) -> Result<()> {
        self.remove_files()?;
        let path = self.path("spool");
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map(|_| ())
            .map_err(|e| Error::from_io("make a spool", e).with("path", path.display()))
    }

    fn remove_files(&self) -> Result<()> {
        let mut removed = false;
        for suffix in ["spool", SideFile::SpoolLedger.suffix(), SideFile::SpoolDigests.suffix()] {
            let path = self.path(suffix);
            match fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::from_io("remove a spool", e).with("path", path.display())),
            }
        }
        if removed {
            let folder = self.folder();
            fs::File::open(&folder)
                .and_then(|f| f.sync_all())
                .map_err(|e| Error::from_io("remove a spool", e).with("path", folder.display()))?;
        }
        Ok(())
    }
}

/// Opens the spool's file. It was made by us: a link that somebody put in its place is not followed.
async fn spool_disk(path: PathBuf, create: Option<u64>) -> Result<SiteDisk> {
    // The lock on the volume is the one that counts.
    let options = OpenOptions { create_size: create, exclusive: false, ..OpenOptions::default() };
    let disk = FileDisk::open(&path, options).await?;
    let uncached = FileDisk::open(&path, OpenOptions { past_cache: true, ..OpenOptions::read_only() }).await?;
    Ok(SiteDisk { disk: Arc::new(disk), uncached: Some(Arc::new(uncached)), reopen: None, state: None })
}

/// Whether a spool's file is there.
fn is_there(path: &Path) -> Result<bool> {
    let error = |e| Error::from_io("look for a spool", e).with("path", path.display());
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(Error::new(ErrorKind::AlreadyExists, "look for a spool", "something that is no file lies in its place")
            .with("path", path.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(error(e)),
    }
}

impl ReplicaSite for FileSite {
    fn name(&self) -> String {
        self.volume.display().to_string()
    }

    fn open_volume(&self) -> BoxFuture<'_, Result<SiteDisk>> {
        Box::pin(async move {
            let disk = FileDisk::open(&self.volume, OpenOptions::default()).await?;
            let uncached = FileDisk::open(&self.volume, OpenOptions { past_cache: true, ..OpenOptions::read_only() }).await?;
            Ok(SiteDisk {
                disk: Arc::new(disk.clone()),
                uncached: Some(Arc::new(uncached)),
                reopen: Some(Arc::new(reopen_locked(disk))),
                state: Some(state_of(&self.volume)),
            })
        })
    }

    fn file(&self, which: SideFile) -> Arc<dyn RecordFile> {
        Arc::new(DiskRecordFile::new(self.path(which.suffix())))
    }

    fn create_spool(&self, size: u64) -> BoxFuture<'_, Result<SiteDisk>> {
        Box::pin(async move {
            let (site, path) = (self.clone(), self.path("spool"));
            task::blocking(move || site.make_empty_spool()).await??;
            spool_disk(path, Some(size)).await
        })
    }

    fn open_spool(&self) -> BoxFuture<'_, Result<Option<SiteDisk>>> {
        Box::pin(async move {
            let path = self.path("spool");
            let there = path.clone();
            if !task::blocking(move || is_there(&there)).await?? {
                return Ok(None);
            }
            spool_disk(path, None).await.map(Some)
        })
    }

    fn remove_spool(&self) -> BoxFuture<'_, Result<()>> {
        let site = self.clone();
        Box::pin(async move { task::blocking(move || site.remove_files()).await? })
    }

    fn free_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        let folder = self.folder();
        Box::pin(async move {
            task::blocking(move || {
                let found = rustix::fs::statvfs(&folder)
                    .map_err(|e| Error::from_io("look how much room is left", e.into()).with("path", folder.display()))?;
                Ok(found.f_bavail.saturating_mul(found.f_frsize))
            })
            .await?
        })
    }
}
