//! A raw file or a block device as a disk.
//!
//! # Where the work is done
//!
//! An async thread must never wait for a storage device, and handing a request to a thread that may wait costs more than a small
//! request itself. So: **what cannot block is done at once, in the task; all else on the pool for blocking work.**
//!
//! - tmpfs never waits: everything is done at once.
//! - A read asks the kernel for what is in the page cache (`RWF_NOWAIT`); what is missing is fetched by the pool.
//! - A write asks the same where the file system can do it (xfs, btrfs), and remembers where it cannot (ext4).
//! - Flush, durable writes, zeroing and extents go to the pool.
//!
//! # What is promised
//!
//! - A writer holds the file alone (`flock`, and `O_EXCL` for a block device, which also refuses one that is mounted); a second
//!   one fails with [`ErrorKind::Busy`](crate::ErrorKind::Busy) that names the process. Readers take no lock.
//! - After a failed flush the disk is *poisoned*: the kernel may have dropped the pages it could not write, so every later flush
//!   and durable write fails too, until the file is opened again.
//! - A file that became shorter fails with [`ErrorKind::Changed`](crate::ErrorKind::Changed); a missing part never reads as zero.
//! - Dropping a future does not stop a system call under way; the file stays open and locked until that call has ended.
//!
//! `open` makes sure what the path is, `io` reads and writes, `zero` makes and finds holes.

mod io;
mod open;
#[cfg(test)]
mod tests;
mod zero;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::task;
use crate::units::ByteRange;

/// How a file is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Refuse writes, and take no lock. Default: false.
    pub read_only: bool,
    /// Make the file, with this size in bytes and all of it a hole, when it is missing or empty. A file that holds bytes, and a
    /// block device, keeps its size. Default: a missing file is an error.
    pub create_size: Option<u64>,
    /// Whether a writer must be the only one. Default: true.
    pub exclusive: bool,
    /// Read what the storage holds, not what the page cache remembers: for verifying. See [`FileDisk::read_mode`].
    pub past_cache: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { read_only: false, create_size: None, exclusive: true, past_cache: false }
    }
}

impl OpenOptions {
    /// For reading only.
    #[must_use]
    pub fn read_only() -> Self {
        OpenOptions { read_only: true, ..OpenOptions::default() }
    }
}

/// A raw file or a block device; cheap to clone. The head of its source file says more.
#[derive(Debug, Clone)]
pub struct FileDisk(Arc<Inner>);

/// What lies under the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A regular file in memory: nothing ever blocks.
    Tmpfs,
    /// A regular file on storage.
    File,
    /// A block device.
    Device,
}

/// How reads are made, from the best for verifying to the worst.
#[derive(Debug)]
enum ReadPath {
    /// Through the page cache.
    Cached,
    /// The page cache is told to forget the range before each read.
    DroppedCache,
    /// By a second descriptor with `O_DIRECT`.
    Direct(OwnedFd),
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    path: PathBuf,
    info: BlockInfo,
    kind: Kind,
    read_mode: ReadPath,
    created: bool,
    /// Device and inode of the file, or device number of the block device and 0.
    identity: (u64, u64),
    /// The unit of `fallocate` on a block device, in bytes; 1 for files.
    fallocate_block: u64,
    poisoned: AtomicBool,
    /// Whose turn it is to write at once: the kernel would let the others spin.
    turn: Mutex<()>,
    known: Known,
}

/// What the file system was found not to do, so that it is not asked again.
#[derive(Debug, Default)]
struct Known {
    no_nowait_read: AtomicBool,
    no_nowait_write: AtomicBool,
    no_dsync: AtomicBool,
    no_punch: AtomicBool,
    no_zero_range: AtomicBool,
}

impl FileDisk {
    /// Opens the raw file or block device at `path`.
    ///
    /// Fails with a kind and text of its own for: missing, no permission, read-only file system, directory, pipe, socket,
    /// character device, size not known, no medium, no space for a new file, held by another writer ([`ErrorKind::Busy`], with
    /// `pid`). Dropping the future closes the file again, but a file already made stays.
    pub async fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<FileDisk> {
        let path = path.as_ref().to_path_buf();
        let inner = task::blocking(move || open::open(path, &options)).await??;
        Ok(FileDisk(Arc::new(inner)))
    }

    /// The path as given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether [`OpenOptions::create_size`] made (or filled) the file, so that all of it read as zero at that moment.
    #[must_use]
    pub fn was_created(&self) -> bool {
        self.0.created
    }

    /// Whether both are the same file or the same device, by whatever paths.
    #[must_use]
    pub fn same_file(&self, other: &FileDisk) -> bool {
        self.0.identity == other.0.identity
    }

    /// How reads are made, in words for a report: `direct`, `dropped cache`, `cached`, or `cached (tmpfs)`.
    #[must_use]
    pub fn read_mode(&self) -> &'static str {
        match (&self.0.read_mode, self.0.kind) {
            (ReadPath::Direct(_), _) => "direct",
            (ReadPath::DroppedCache, _) => "dropped cache",
            (ReadPath::Cached, Kind::Tmpfs) => "cached (tmpfs)",
            (ReadPath::Cached, _) => "cached",
        }
    }

    /// Fails with [`ErrorKind::Changed`] when the file is no longer as long as it was when it was opened. Reads and
    /// [`BlockRead::extents`] see a shorter file by themselves; a longer one only this and `extents` see.
    pub async fn check_size(&self) -> Result<()> {
        let inner = self.0.clone();
        task::blocking(move || inner.check_size("check the size")).await?
    }

    /// Whether it is a block device, whose size is given, and not a file.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.0.kind == Kind::Device
    }

    /// What changes when the content does: of a file inode, size, and the times of modification and change; of a device its
    /// number, which tells nothing of the content.
    pub async fn state(&self) -> Result<String> {
        let inner = self.0.clone();
        task::blocking(move || inner.state()).await?
    }

    /// Runs `work` at once when it cannot block (tmpfs), else on the pool.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        if self.0.kind == Kind::Tmpfs {
            return work(&self.0);
        }
        let inner = self.0.clone();
        task::blocking(move || work(&inner)).await?
    }
}

impl Inner {
    /// An error of the system in `operation` at `offset`.
    fn fail(&self, operation: &'static str, errno: rustix::io::Errno, offset: u64) -> Error {
        Error::from_io(operation, errno.into()).with("disk", &self.info.name).with("offset", offset)
    }

    fn check_size(&self, operation: &'static str) -> Result<()> {
        let now = open::size_of(&self.fd, self.kind).map_err(|e| self.fail(operation, e, 0))?;
        let text = match now.cmp(&self.info.size) {
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Less => "the file became shorter while it was used",
            std::cmp::Ordering::Greater => "the file became longer while it was used",
        };
        Err(Error::new(ErrorKind::Changed, operation, text)
            .with("disk", &self.info.name)
            .with("size_was", self.info.size)
            .with("size_is", now))
    }

    fn state(&self) -> Result<String> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|e| self.fail("look at the disk", e, 0))?;
        Ok(match self.kind {
            Kind::Device => format!("device {}", stat.st_rdev),
            Kind::Tmpfs | Kind::File => {
                format!(
                    "{} {} {}.{} {}.{}",
                    stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
                )
            }
        })
    }

    /// Refuses what needs durability after a flush has failed.
    fn check_poison(&self, operation: &'static str) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Io, operation, "an earlier flush failed, so data may be lost; open the disk again")
                .with("disk", &self.info.name));
        }
        Ok(())
    }

    /// Makes all completed writes durable, or poisons.
    fn sync(&self, operation: &'static str) -> Result<()> {
        self.check_poison(operation)?;
        rustix::fs::fdatasync(&self.fd).map_err(|e| self.poison(operation, e))
    }

    fn poison(&self, operation: &'static str, errno: rustix::io::Errno) -> Error {
        self.poisoned.store(true, Ordering::Release);
        Error::from_io(operation, errno.into()).with("disk", &self.info.name)
    }

    /// After a zero or discard: durable if asked.
    fn persist(&self, operation: &'static str, persist: Persist) -> Result<()> {
        match persist {
            Persist::Cached => Ok(()),
            Persist::Durable => self.sync(operation),
        }
    }
}

impl BlockRead for FileDisk {
    fn info(&self) -> &BlockInfo {
        &self.0.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(self.read_range(range))
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            self.0.info.check("ask for extents", range)?;
            self.run(move |inner| inner.extents(range)).await
        })
    }
}

impl BlockWrite for FileDisk {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write_bytes(offset, data, persist))
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.0.info.check_write("zero", range)?;
            self.run(move |inner| {
                inner.zero(range, mode)?;
                inner.persist("zero", persist)
            })
            .await
        })
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.0.info.check_write("discard", range)?;
            self.run(move |inner| {
                inner.discard(range)?;
                inner.persist("discard", persist)
            })
            .await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.0.info.read_only {
                return Ok(());
            }
            self.run(|inner| inner.sync("flush")).await
        })
    }
}
