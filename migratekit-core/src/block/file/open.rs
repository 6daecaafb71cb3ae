//! Opening: what is at the path, whose is it, how large.
//!
//! The path is looked at before it is opened (opening a pipe can wait for ever), and again through the descriptor (it may have
//! been exchanged in between).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FileType, FlockOperation, FsWord, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{Inner, Kind, Known, OpenOptions, ReadPath};
use crate::block::{BlockInfo, Capabilities, PREFERRED_BLOCK};
use crate::error::{Error, ErrorKind, Result};
use crate::units::MAX_OFFSET;

const OPEN: &str = "open file";

const TMPFS_MAGIC: FsWord = 0x0102_1994;
const SYSFS_MAGIC: FsWord = 0x6265_6572;

pub(super) fn open(path: PathBuf, options: &OpenOptions) -> Result<Inner> {
    let name = path.display().to_string();
    open_named(path, &name, options).map_err(|e| e.with("path", name))
}

fn open_named(path: PathBuf, name: &str, options: &OpenOptions) -> Result<Inner> {
    let before = look(&path, options)?;
    let exclusive = options.exclusive && !options.read_only;
    let fd = open_fd(&path, before.as_ref(), options, exclusive)?;
    let stat = rustix::fs::fstat(&fd).map_err(system)?;
    let kind = kind_of(&fd, &stat)?;
    if exclusive {
        lock(&fd, &stat)?;
    }
    let mut size = size_of(&fd, kind).map_err(system)?;
    let mut created = false;
    if let Some(wanted) = options.create_size
        && !options.read_only
        && kind != Kind::Device
        && size == 0
    {
        grow(&fd, &path, wanted)?;
        (size, created) = (wanted, true);
    }
    if kind == Kind::Device && size == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, OPEN, "the device has no medium (its size is 0)"));
    }
    let fallocate_block = match kind {
        Kind::Device => u64::from(rustix::fs::ioctl_blksszget(&fd).map_err(system)?),
        _ => 1,
    };
    let read_mode = if options.past_cache { past_cache(&path, kind, &stat) } else { ReadPath::Cached };
    let identity = match kind {
        Kind::Device => (stat.st_rdev, 0),
        _ => (stat.st_dev, stat.st_ino),
    };
    let info = info(name, size, kind, options.read_only);
    let (known, poisoned) = (Known::default(), AtomicBool::new(false));
    let turn = Mutex::new(());
    Ok(Inner { fd, path, info, kind, read_mode, created, identity, fallocate_block, poisoned, turn, known })
}

fn info(name: &str, size: u64, kind: Kind, read_only: bool) -> BlockInfo {
    let writable = !read_only;
    BlockInfo {
        read_only,
        preferred_block: PREFERRED_BLOCK,
        can: Capabilities {
            flush: true,
            fua: true,
            discard: writable,
            zero: writable,
            fast_zero: writable,
            extents: kind != Kind::Device,
            multi_conn: true,
            cache: false,
        },
        ..BlockInfo::plain(name, size)
    }
}

fn system(errno: Errno) -> Error {
    Error::from_io(OPEN, errno.into())
}

/// What is at the path, if anything; refuses what can never be a disk.
fn look(path: &Path, options: &OpenOptions) -> Result<Option<Stat>> {
    match rustix::fs::stat(path) {
        Ok(stat) => check_type(&stat).map(|()| Some(stat)),
        Err(Errno::NOENT) if options.create_size.is_some() && !options.read_only => Ok(None),
        Err(e) => Err(system(e)),
    }
}

fn check_type(stat: &Stat) -> Result<()> {
    let refuse = |text: &'static str| Err(Error::new(ErrorKind::InvalidInput, OPEN, text));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => Ok(()),
        FileType::Directory => refuse("it is a directory, not a disk image or block device"),
        FileType::Fifo => refuse("it is a pipe, which cannot be read at an offset"),
        FileType::Socket => refuse("it is a socket; a disk behind it is named by nbd+unix:///EXPORT?socket=PATH"),
        FileType::CharacterDevice => refuse("it is a character device, which has no size"),
        _ => refuse("it is neither a file nor a block device"),
    }
}

fn open_fd(path: &Path, before: Option<&Stat>, options: &OpenOptions, exclusive: bool) -> Result<OwnedFd> {
    let is_device = before.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::BlockDevice);
    // Without NONBLOCK, a path that was exchanged for a pipe would make the open wait.
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if options.create_size.is_some() && !options.read_only && !is_device {
        flags |= OFlags::CREATE;
    }
    if is_device && exclusive {
        // Claims the device: refused when it is mounted, or claimed by somebody else.
        flags |= OFlags::EXCL;
    }
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(|e| match (e, before) {
        (Errno::BUSY, Some(stat)) if is_device => {
            held(stat, "the block device is in use: it is mounted, or another program has claimed it")
        }
        // A missing file would have been made.
        (Errno::NOENT, None) if options.create_size.is_some() => {
            Error::new(ErrorKind::NotFound, OPEN, "the folder it is to be made in does not exist")
        }
        (Errno::TXTBSY, _) => Error::new(ErrorKind::Busy, OPEN, "it is a program that runs"),
        _ => system(e),
    })
}

/// What the open descriptor is.
fn kind_of(fd: &OwnedFd, stat: &Stat) -> Result<Kind> {
    check_type(stat)?;
    // First, because the folder of devices is itself a tmpfs.
    if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice {
        return Ok(Kind::Device);
    }
    match rustix::fs::fstatfs(fd).map_err(system)?.f_type {
        TMPFS_MAGIC => Ok(Kind::Tmpfs),
        rustix::fs::PROC_SUPER_MAGIC | SYSFS_MAGIC => {
            Err(Error::new(ErrorKind::InvalidInput, OPEN, "its size is not known: the kernel makes its content up as it is read"))
        }
        _ => Ok(Kind::File),
    }
}

/// The size in bytes, now.
pub(super) fn size_of(fd: &OwnedFd, kind: Kind) -> Result<u64, Errno> {
    let size = match kind {
        Kind::Device => rustix::fs::seek(fd, SeekFrom::End(0))?,
        _ => u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0),
    };
    if size > MAX_OFFSET { Err(Errno::OVERFLOW) } else { Ok(size) }
}

/// Gives a new file its size, and makes file and name survive a crash.
fn grow(fd: &OwnedFd, path: &Path, size: u64) -> Result<()> {
    rustix::fs::ftruncate(fd, size).map_err(|e| match e {
        Errno::INVAL => Error::new(ErrorKind::NoSpace, OPEN, "the file system cannot hold a file of this size").with("size", size),
        e => system(e).with("size", size),
    })?;
    rustix::fs::fsync(fd).map_err(system)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    // A folder that may be written but not read cannot be synced; the file itself was.
    if let Ok(folder) = folder {
        rustix::fs::fsync(folder).map_err(system)?;
    }
    Ok(())
}

fn lock(fd: &OwnedFd, stat: &Stat) -> Result<()> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(held(stat, "another process writes to it")),
        Err(e) => Err(system(e)),
    }
}

/// Busy, naming who holds the lock if the kernel tells.
fn held(stat: &Stat, text: &'static str) -> Error {
    let error = Error::new(ErrorKind::Busy, OPEN, text);
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    match lock_holder(&locks, stat.st_dev, stat.st_ino) {
        Some(pid) => error.with("pid", pid),
        None => error,
    }
}

/// The process in a line like `7: FLOCK  ADVISORY  WRITE 4711 fd:01:131074 0 EOF`.
pub(super) fn lock_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (kind, _, _, pid, file) = (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
        if kind == "FLOCK" && file == wanted { pid.parse().ok() } else { None }
    })
}

/// The best way to read past the page cache here. The second descriptor takes no lock and must be of the same file.
fn past_cache(path: &Path, kind: Kind, stat: &Stat) -> ReadPath {
    if kind == Kind::Tmpfs {
        return ReadPath::Cached;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::DIRECT;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return ReadPath::DroppedCache };
    match rustix::fs::fstat(&fd) {
        Ok(s) if (s.st_dev, s.st_ino) == (stat.st_dev, stat.st_ino) => ReadPath::Direct(fd),
        _ => ReadPath::DroppedCache,
    }
}
