//! The file a key lies in: 0600, in a folder of its owner, written as a whole or not at all.
//!
//! One key in a line, in base64: the first seals, those after it only open (a rotation is under way, or was not finished). It is never
//! changed in place. The new text goes to `NAME.new`, which is locked, flushed and renamed, and then the folder is flushed; so that
//! of two processes that make the file at once one waits, finds the other's key, and takes it. What a crash leaves is a `NAME.new`
//! that nobody locks: the next writer takes it over.
//!
//! Refused when it is read: a symbolic link, another owner, rights for group or others, a folder in which others may exchange it,
//! anything but keys in it. Each refusal says what to do.

use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::key::{Fingerprint, Key, Keys, MAX_OLDER_KEYS};
use crate::error::{Error, ErrorKind, Result};
use crate::task;

/// The longest key file, in bytes: all keys it may hold, and a few lines of remarks.
pub const MAX_KEY_FILE: u64 = 8 * 1024;

/// How long a writer waits for another one, which holds the lock for a few flushes only.
pub const LOCK_TIME: Duration = Duration::from_secs(10);

/// Between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const READ: &str = "read the key file";
const WRITE: &str = "write the key file";

/// Rights of group and others: none may be set on the file.
const OTHERS: u32 = 0o077;
/// Rights to exchange files in a folder, and the bit that takes them away again for files of others.
const EXCHANGE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A key file; nothing is read before it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The file at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        KeyFile { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its keys.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Denied`] when others may read or exchange it, or it belongs to somebody else;
    /// [`ErrorKind::InvalidInput`] when it holds something else than keys.
    pub async fn read(&self) -> Result<Keys> {
        self.work(read).await
    }

    /// Makes it, with a new key, and its folder if that is missing.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when it is there, whatever it holds; it is left as it is.
    pub async fn make(&self) -> Result<Keys> {
        self.work(|path| make(path)?.ok_or_else(exists)).await
    }

    /// Its keys; when it is not there it is made first. Several that do this at once get the same key.
    ///
    /// # Errors
    /// Those of [`read`](KeyFile::read) and [`make`](KeyFile::make).
    pub async fn read_or_make(&self) -> Result<Keys> {
        self.work(|path| match read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => make(path)?.map_or_else(|| read(path), Ok),
            found => found,
        })
        .await
    }

    /// Puts a new key in front, so that a rotation can begin; when older keys are there it has begun, and nothing is changed.
    pub(super) async fn begin_rotation(&self) -> Result<Keys> {
        self.work(|path| {
            let lock = NewFile::lock(path)?;
            let keys = read(path)?;
            if !keys.older().is_empty() {
                lock.give_up();
                return Ok(keys);
            }
            let keys = Keys::with_older(Key::generate()?, keys.all().cloned())?;
            lock.replace(&keys)?;
            Ok(keys)
        })
        .await
    }

    /// Drops the older keys. Refused when another rotation has begun since `current` was put in front.
    pub(super) async fn end_rotation(&self, current: Fingerprint) -> Result<Keys> {
        self.work(move |path| {
            let lock = NewFile::lock(path)?;
            let keys = read(path)?;
            if keys.current().fingerprint() != current {
                lock.give_up();
                return Err(Error::new(ErrorKind::Changed, WRITE, "another rotation put another key in front; rotate again")
                    .with("expected key", current)
                    .with("found key", keys.current().fingerprint()));
            }
            let left = Keys::new(keys.current().clone());
            if keys.older().is_empty() {
                lock.give_up();
            } else {
                lock.replace(&left)?;
            }
            Ok(left)
        })
        .await
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> Result<T> + Send + 'static) -> Result<T> {
        let path = self.path.clone();
        task::blocking(move || work(&path).map_err(|e| e.with("path", path.display()))).await?
    }
}

fn exists() -> Error {
    let text = "there is a key file already, and secrets may be sealed with what is in it; move it away first if nothing is";
    Error::new(ErrorKind::AlreadyExists, "make the key file", text)
}

fn read(path: &Path) -> Result<Keys> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
        Errno::LOOP => Error::new(ErrorKind::Denied, READ, "it is a symbolic link; name the file itself"),
        Errno::NOENT => Error::new(ErrorKind::NotFound, READ, "there is no key file here"),
        Errno::ACCESS => Error::new(ErrorKind::Denied, READ, "this user may not read it; run as its owner, or name another key file"),
        e => Error::from_io(READ, e.into()),
    })?;
    check_file(path, &rustix::fs::fstat(&fd).map_err(|e| Error::from_io(READ, e.into()))?)?;
    check_folder(path)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_KEY_FILE + 1).unwrap_or(0)));
    File::from(fd).take(MAX_KEY_FILE + 1).read_to_end(&mut bytes).map_err(|e| Error::from_io(READ, e))?;
    let damaged = "restore it from a backup; without its key nothing that was sealed with it can be opened";
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_KEY_FILE {
        return Err(Error::new(ErrorKind::InvalidInput, READ, format!("it is too long for a key file; {damaged}")));
    }
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, READ, format!("it is empty; {damaged}")));
    }
    let text = std::str::from_utf8(&bytes);
    let text = text.map_err(|_| Error::new(ErrorKind::InvalidInput, READ, format!("it is not text; {damaged}")))?;
    Keys::parse(text).map_err(|e| {
        let error = Error::new(ErrorKind::InvalidInput, READ, format!("it is damaged or cut off, or no key file; {damaged}"));
        error.with_source(e)
    })
}

fn check_file(path: &Path, stat: &Stat) -> Result<()> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::InvalidInput, READ, "it is not a regular file"));
    }
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        let text = format!("it belongs to another user: run as that one, or `chown {me} {}`", path.display());
        return Err(Error::new(ErrorKind::Denied, READ, text).with("owner", stat.st_uid).with("we are", me));
    }
    if stat.st_mode & OTHERS != 0 {
        let text = format!("users other than its owner have rights on it: `chmod 600 {}`", path.display());
        return Err(Error::new(ErrorKind::Denied, READ, text).with("mode", format!("{:04o}", stat.st_mode & 0o7777)));
    }
    Ok(())
}

fn check_folder(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let stat = rustix::fs::stat(folder).map_err(|e| Error::from_io(READ, e.into()).with("folder", folder.display()))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me && stat.st_uid != 0 {
        let text = "its folder belongs to another user, who may exchange files in it; put the key file into a folder of your own";
        return Err(Error::new(ErrorKind::Denied, READ, text).with("owner", stat.st_uid).with("we are", me));
    }
    if stat.st_mode & EXCHANGE != 0 && stat.st_mode & STICKY == 0 {
        let text = format!("users other than its owner may exchange files in its folder: `chmod go-w {}`", folder.display());
        return Err(Error::new(ErrorKind::Denied, READ, text).with("mode", format!("{:04o}", stat.st_mode & 0o7777)));
    }
    Ok(())
}

/// Makes the file with a new key; `None` when something is there already.
fn make(path: &Path) -> Result<Option<Keys>> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| Error::from_io("make the key file's folder", e).with("folder", folder.display()))?;
        sync_folder(folder_of(folder))?;
    }
    check_folder(path)?;
    let lock = NewFile::lock(path)?;
    // Under the lock, so that it stays true.
    if rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        lock.give_up();
        return Ok(None);
    }
    let keys = Keys::new(Key::generate()?);
    lock.replace(&keys)?;
    Ok(Some(keys))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(folder: &Path) -> Result<()> {
    // A folder that may be written but not read cannot be synced; the file itself was.
    match rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(folder) => rustix::fs::fsync(folder).map_err(|e| Error::from_io(WRITE, e.into())),
        Err(_) => Ok(()),
    }
}

/// `NAME.new`, locked by us: who holds it is the only one that may write the key file.
struct NewFile<'a> {
    file: File,
    path: PathBuf,
    target: &'a Path,
}

impl<'a> NewFile<'a> {
    fn lock(target: &'a Path) -> Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let path = target.with_file_name(name);
        let mut waited = Duration::ZERO;
        while waited < LOCK_TIME {
            if let Some(file) = try_lock(&path)? {
                return Ok(NewFile { file, path, target });
            }
            std::thread::sleep(LOCK_PAUSE);
            waited += LOCK_PAUSE;
        }
        let text = "another process is writing it and does not end; look at that one";
        Err(Error::new(ErrorKind::Busy, WRITE, text).with("waited seconds", LOCK_TIME.as_secs()).with("lock", path.display()))
    }

    /// The keys become the content of the key file, whatever it was; durable when this returns.
    fn replace(mut self, keys: &Keys) -> Result<()> {
        let failed = |e| Error::from_io(WRITE, e);
        let mut text = Zeroizing::new(String::with_capacity((MAX_OLDER_KEYS + 1) * 64));
        for key in keys.all() {
            text.push_str(key.to_text().expose());
            text.push('\n');
        }
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(text.as_bytes())).and_then(|()| self.file.sync_all());
        let renamed = written.and_then(|()| Ok(rustix::fs::rename(&self.path, self.target)?));
        if let Err(e) = renamed {
            self.give_up();
            return Err(failed(e));
        }
        sync_folder(folder_of(self.target))
    }

    fn give_up(self) {
        // What stays is taken over by the next writer.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `None`: somebody else has it, or had it and renamed or removed it meanwhile.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let failed = |e: Errno| Error::from_io(WRITE, e.into()).with("new file", path.display());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    let ours = rustix::fs::fstat(&fd).map_err(failed)?;
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    if FileType::from_raw_mode(ours.st_mode) != FileType::RegularFile || ours.st_uid != rustix::process::geteuid().as_raw() {
        let text = "a file of somebody else stands where the new key is to be written; remove it";
        return Err(Error::new(ErrorKind::Denied, WRITE, text).with("new file", path.display()));
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o600)).map_err(failed)?;
    Ok(Some(File::from(fd)))
}
