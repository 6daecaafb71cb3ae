//! Small files that must survive crashes: what the ledger needs of one, and the real thing.
//!
//! They lie beside volumes, in folders that others may be able to write. So no symbolic link is followed where a record file should
//! be (it would let somebody point us at another file), and the file a new one is written to is always made by us.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::error::{Error, Result};

/// Writes the whole of a file, front to back.
pub type Fill<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// A small file. Calls block; callers take them off async threads unless [`RecordFile::blocks`] says otherwise.
pub trait RecordFile: Send + Sync {
    /// What people call it: a path.
    fn name(&self) -> String;

    /// Whether calls wait for a device.
    fn blocks(&self) -> bool {
        true
    }

    /// Its bytes, front to back; `None` when it does not exist.
    ///
    /// # Errors
    /// As the file system says.
    fn open(&self) -> Result<Option<Box<dyn Read + Send>>>;

    /// Replaces the file, or makes it. When this returns, the new content is durable; after a crash before that, the file is the
    /// old one or the new one, whole.
    ///
    /// # Errors
    /// As the file system says. The file is then the old one or the new one, and which may change with a crash, until
    /// [`RecordFile::sync`] succeeds.
    fn replace(&self, fill: Fill<'_>) -> Result<()>;

    /// Reads at an offset; fewer bytes at the end of the file, none when it does not exist.
    ///
    /// # Errors
    /// As the file system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Writes at an offset; the file is made when it does not exist. Durable after [`RecordFile::sync`]; a crash before may
    /// keep any part.
    ///
    /// # Errors
    /// As the file system says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Makes what was written, and the name, durable.
    ///
    /// # Errors
    /// As the file system says.
    fn sync(&self) -> Result<()>;
}

/// A file in a folder.
///
/// Replacing writes `NAME.new` beside it, syncs that, renames it, and syncs the folder.
#[derive(Debug)]
pub struct DiskRecordFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl DiskRecordFile {
    /// The file at `path`; nothing is opened yet. The folder must exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DiskRecordFile { path: path.into(), file: Mutex::new(None) }
    }

    /// `PATH.SUFFIX`: the record file beside a volume.
    #[must_use]
    pub fn beside(volume: &Path, suffix: &str) -> Self {
        let mut name = volume.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        DiskRecordFile::new(PathBuf::from(name))
    }

    fn with_file<T>(&self, create: bool, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match slot.take() {
            Some(file) => file,
            None => open_here(&self.path, OFlags::RDWR | if create { OFlags::CREATE } else { OFlags::empty() })?,
        };
        let result = work(&file);
        if result.is_ok() {
            *slot = Some(file);
        }
        result
    }

    fn forget(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }

    fn replace_io(&self, fill: Fill<'_>) -> io::Result<()> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        // What a crash left here, or somebody planted, goes; what comes in between makes the opening fail.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = open_here(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let mut out = BufWriter::with_capacity(64 * 1024, file);
        let written = fill(&mut out).and_then(|()| out.flush()).and_then(|()| out.get_ref().sync_all());
        if let Err(e) = written {
            drop(out);
            let _ = fs::remove_file(&new);
            return Err(e);
        }
        self.forget();
        fs::rename(&new, &self.path)?;
        self.sync_folder()
    }

    fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::from_io(operation, source).with("path", self.path.display())
    }
}

impl RecordFile for DiskRecordFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self) -> Result<Option<Box<dyn Read + Send>>> {
        match open_here(&self.path, OFlags::RDONLY) {
            Ok(file) => Ok(Some(Box::new(io::BufReader::with_capacity(64 * 1024, file)))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("open a record file", e)),
        }
    }

    fn replace(&self, fill: Fill<'_>) -> Result<()> {
        self.replace_io(fill).map_err(|e| self.error("replace a record file", e))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self.with_file(false, |file| read_fully(file, offset, buffer)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            other => other.map_err(|e| self.error("read a record file", e).with("offset", offset)),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.with_file(true, |file| file.write_all_at(bytes, offset))
            .map_err(|e| self.error("write a record file", e).with("offset", offset))
    }

    fn sync(&self) -> Result<()> {
        self.with_file(true, File::sync_all).and_then(|()| self.sync_folder()).map_err(|e| self.error("sync a record file", e))
    }
}

/// Opens what lies at this very path; a new file is ours alone to read.
fn open_here(path: &Path, flags: OFlags) -> io::Result<File> {
    // Without NONBLOCK, a pipe in its place would make the open wait.
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

fn read_fully(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while let Some(rest) = buffer.get_mut(at..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, offset + at as u64) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// What tells one file from another that later has its name: inode number and time of birth. A ledger that lies beside a volume
/// file carries it, so that a volume that was removed and made again is not taken for the old one.
///
/// # Errors
/// As the file system says.
pub fn file_identity(path: &Path) -> Result<String> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::BTIME)
        .map_err(|e| Error::from_io("tell which file this is", e.into()).with("path", path.display()))?;
    let born = match stat.stx_mask & StatxFlags::BTIME.bits() {
        0 => "unknown".to_owned(),
        _ => format!("{}.{:09}", stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
    };
    Ok(format!("file {} {born}", stat.stx_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_is_followed_and_what_was_planted_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "precious").unwrap();
        let file = DiskRecordFile::beside(&at("volume"), "ledger");
        let write = |bytes: &'static [u8]| file.replace(&mut |out| out.write_all(bytes));
        // A link where the new file is written, dangling or not, and what a crash left there.
        for planted in ["victim", "nowhere"] {
            symlink(at(planted), at("volume.ledger.new")).unwrap();
            write(b"one").unwrap();
        }
        fs::write(at("volume.ledger.new"), "half of a longer file").unwrap();
        write(b"two").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(0, &mut buffer).unwrap(), 3);
        assert!(!at("nowhere").exists() && !at("volume.ledger.new").exists());

        // A link where the file itself should be: neither read nor written through; replaced when the file is.
        let linked = DiskRecordFile::new(at("linked"));
        symlink(at("victim"), at("linked")).unwrap();
        assert!(linked.open().is_err() && linked.read_at(0, &mut buffer).is_err() && linked.write_at(0, b"x").is_err());
        linked.replace(&mut |out| out.write_all(b"own")).unwrap();
        assert_eq!(linked.read_at(0, &mut buffer).unwrap(), 3);
        assert_eq!(fs::read(at("victim")).unwrap(), b"precious");
    }
}
