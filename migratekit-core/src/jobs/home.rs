//! Where a runner lives, and how the others of its host know whether it does.
//!
//! With a SQLite catalog every runner holds the lock of a file beside it (`CATALOG.runner-ID`) for as long as its process lives; the system
//! frees it however the process ends. With MariaDB runners are on many hosts, and only time can tell (`lease`).

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::lease::Owner;
use crate::error::{Error, Result};
use crate::id::RunnerId;
use crate::store::{NewRunner, Store};
use crate::task;

/// A runner's place.
#[derive(Debug)]
pub(super) struct Home {
    host: String,
    /// The catalog's file, and the lock that is held.
    lock: Option<(PathBuf, PathBuf, fs::File)>,
}

impl Home {
    /// Takes the lock of `id`, if the catalog is a file.
    pub(super) async fn enter(store: &Store, id: &RunnerId) -> Result<Home> {
        let (file, id) = (store.url().file().map(Path::to_path_buf), id.clone());
        task::blocking(move || {
            let lock = file.map(|file| hold(&lock_path(&file, &id)).map(|(path, lock)| (file, path, lock))).transpose()?;
            Ok(Home { host: rustix::system::uname().nodename().to_string_lossy().into_owned(), lock })
        })
        .await?
    }

    /// The row that tells of it.
    pub(super) fn row<'a>(&'a self, id: &'a RunnerId) -> NewRunner<'a> {
        NewRunner { id, host: &self.host, pid: std::process::id() }
    }

    /// Whether leases say nothing here, because locks do.
    pub(super) fn has_locks(&self) -> bool {
        self.lock.is_some()
    }

    /// What is known of another runner.
    pub(super) async fn owner(&self, other: &RunnerId) -> Result<Owner> {
        let Some((file, ..)) = &self.lock else { return Ok(Owner::Unknown) };
        let path = lock_path(file, other);
        task::blocking(move || probe(&path)).await?
    }

    /// Removes the lock's file; the lock itself ends with this.
    pub(super) async fn leave(&self) {
        if let Some((_, path, _)) = &self.lock {
            let path = path.clone();
            let _ = task::blocking(move || fs::remove_file(path)).await;
        }
    }
}

fn lock_path(catalog: &Path, id: &RunnerId) -> PathBuf {
    let mut name = catalog.as_os_str().to_owned();
    name.push(format!(".runner-{id}"));
    PathBuf::from(name)
}

fn hold(path: &Path) -> Result<(PathBuf, fs::File)> {
    let fail = |e| Error::from_io("take a runner's lock", e).with("path", path.display());
    let file = fs::File::create(path).map_err(fail)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
    Ok((path.to_path_buf(), file))
}

/// A lock that nobody holds is that of a process that ended; its file is removed.
fn probe(path: &Path) -> Result<Owner> {
    let fail = |e| Error::from_io("look at a runner's lock", e).with("path", path.display());
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Owner::Gone),
        Err(e) => return Err(fail(e)),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let _ = fs::remove_file(path);
            Ok(Owner::Gone)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Owner::Lives),
        Err(e) => Err(fail(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_lives_as_long_as_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let (catalog, id) = (folder.path().join("catalog.db"), RunnerId::generate());
        let path = lock_path(&catalog, &id);
        assert_eq!(probe(&path).unwrap(), Owner::Gone, "it never was");
        let (_, held) = hold(&path).unwrap();
        assert_eq!(probe(&path).unwrap(), Owner::Lives);
        assert!(hold(&path).is_err());
        drop(held);
        assert_eq!(probe(&path).unwrap(), Owner::Gone);
        assert!(!path.exists(), "what a dead runner left is removed");
    }
}
