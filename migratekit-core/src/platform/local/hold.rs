//! Locks of this platform: one for each machine's records, one for the volumes, and the hold on disks that are being frozen.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;

/// How long is waited for a lock somebody else holds: as long as a short write takes, not as long as a machine runs.
pub const HOLD_TIME: Duration = Duration::from_secs(10);

/// How often it is tried.
const TRY: Duration = Duration::from_millis(20);

/// A lock on a file; it ends when this is dropped, or the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock of the records in `folder` (which must exist), for one writer at a time.
pub(super) async fn lock_records(folder: &Path) -> Result<Lock> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Error::from_io("lock the records of a site", e).with("path", path.display()))?;
    let busy = || Error::new(ErrorKind::Busy, "lock the records of a site", "another process works on them").with("path", path.display());
    take(&file, FlockOperation::NonBlockingLockExclusive, &CancellationToken::new(), busy).await?;
    Ok(Lock { _file: file })
}

/// A disk that is kept from being written by anybody who takes locks, and watched for those who do not.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) file: File,
    path: PathBuf,
    before: Look,
}

/// What of a file changes when it is written. Of a device nothing of the kind does.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn at(file: &File) -> Result<Self> {
        let m = file.metadata().map_err(|e| Error::from_io("look at a disk", e))?;
        Ok(Look { size: m.len(), modified: (m.mtime(), m.mtime_nsec()), changed: (m.ctime(), m.ctime_nsec()) })
    }
}

impl Held {
    /// Holds the disk at `path`.
    ///
    /// # Errors
    /// `Busy` after [`HOLD_TIME`]; `Cancelled`.
    pub(super) async fn take(path: &Path, cancel: &CancellationToken) -> Result<Self> {
        const HOLD: &str = "hold a disk for its snapshot";
        let file = File::open(path).map_err(|e| Error::from_io(HOLD, e).with("path", path.display()))?;
        let busy = || Error::new(ErrorKind::Busy, HOLD, "somebody writes to it; stop the machine first").with("path", path.display());
        take(&file, FlockOperation::NonBlockingLockShared, cancel, busy).await?;
        let before = Look::at(&file)?;
        Ok(Held { file, path: path.to_path_buf(), before })
    }

    /// Makes sure that nobody wrote since it is held.
    ///
    /// # Errors
    /// `Changed`.
    pub(super) fn check(&self) -> Result<()> {
        if Look::at(&self.file)? == self.before {
            return Ok(());
        }
        let text = "it was written by somebody who takes no lock while its snapshot was taken; stop the machine first";
        Err(Error::new(ErrorKind::Changed, "take a snapshot", text).with("path", self.path.display()))
    }
}

async fn take(file: &File, how: FlockOperation, cancel: &CancellationToken, busy: impl Fn() -> Error) -> Result<()> {
    let end = clock::now() + HOLD_TIME;
    loop {
        match rustix::fs::flock(file, how) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if clock::now() >= end => return Err(busy()),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(e) => return Err(Error::from_io("take a lock", e.into())),
        }
        tokio::select! {
            () = clock::sleep(TRY) => {}
            () = cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "wait for a lock", "it was cancelled")),
        }
    }
}
