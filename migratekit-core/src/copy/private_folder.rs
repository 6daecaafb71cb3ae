//! A folder in the temporary one that nobody else can read, and that does not stay when we are killed.
//!
//! Each is locked (`flock` on the folder itself) as long as its process lives. Who makes one first sweeps: every folder of this name
//! and this user whose lock is free had an owner that died, and is removed, under the lock. A folder that was swept in the moment
//! between its making and its locking is noticed, and another one is made.

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::geteuid;

use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "make a private folder";
/// What the names begin with; 16 hexadecimal digits follow.
const PREFIX: &str = "migratekit-image-";
/// How often a folder that was swept at once is made anew.
const TRIES: u32 = 16;

/// See the [module documentation](self). Dropping it removes the folder with what is in it.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl PrivateFolder {
    /// Removes the folders in `parent` whose owners died, and makes one. Blocks.
    ///
    /// # Errors
    /// As the file system says.
    pub(super) fn make(parent: &Path) -> Result<Self> {
        sweep(parent);
        for _ in 0..TRIES {
            let path = parent.join(format!("{PREFIX}{:016x}", RandomState::new().build_hasher().finish()));
            let fail = |e: std::io::Error| Error::from_io(OPERATION, e).with("path", path.display());
            DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
            if let Some(lock) = claim(&path) {
                return Ok(PrivateFolder { path, _lock: lock });
            }
        }
        Err(Error::new(ErrorKind::Busy, OPERATION, "each one made was removed at once by somebody else").with("path", parent.display()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Locks a folder, if it is free, of this user, and still the one at this path.
fn claim(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    let (opened, there) = (lock.metadata().ok()?, fs::symlink_metadata(path).ok()?);
    let same = (opened.dev(), opened.ino()) == (there.dev(), there.ino());
    (same && opened.uid() == geteuid().as_raw()).then_some(lock)
}

/// Removes what dead owners left. What cannot be removed stays; it is no reason to refuse work.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX))
            .is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
        if !ours {
            continue;
        }
        let path = entry.path();
        if let Some(_lock) = claim(&path)
            && fs::remove_dir_all(&path).is_ok()
        {
            tracing::info!(path = %path.display(), "removed what a process that died left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_owner_left_is_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let alive = PrivateFolder::make(parent.path()).unwrap();
        fs::write(alive.path().join("socket"), "").unwrap();
        // As kill -9 leaves it: there, with a file in it, and not locked.
        let left = at("migratekit-image-00000000000000ab");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("socket"), "").unwrap();
        let others = ["migratekit-image-", "migratekit-image-00000000000000ax", "migratekit-image-0ab", "else"];
        for other in others {
            fs::create_dir(at(other)).unwrap();
        }
        fs::create_dir(at("kept")).unwrap();
        fs::write(at("kept").join("file"), "").unwrap();
        std::os::unix::fs::symlink(at("kept"), at("migratekit-image-00000000000000cd")).unwrap();

        let second = PrivateFolder::make(parent.path()).unwrap();
        assert!(!left.exists());
        assert!(alive.path().join("socket").exists() && at("kept").join("file").exists());
        assert!(others.iter().all(|other| at(other).exists()));
        let mode = fs::metadata(second.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        let (first, second_path) = (alive.path().to_owned(), second.path().to_owned());
        drop((alive, second));
        assert!(!first.exists() && !second_path.exists());
    }
}
