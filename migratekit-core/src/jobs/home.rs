//! Where a runner lives, and how the others of its host know whether it does.
//!
//! With a SQLite catalog every runner holds the lock of a file beside it (`CATALOG.runner-ID`) for as long as its process lives; the system
//! frees it however the process ends. A file that is *not there* says nothing: somebody may have tidied up. So one that was found free is
//! removed only when the catalog knows of that end. With MariaDB runners are on many hosts, and only time can tell (`lease`).

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::lease::Owner;
use crate::error::{Error, Result};
use crate::id::RunnerId;
use crate::model::Runner;
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
            let lock = file.map(|file| take(&file, &id)).transpose()?;
            Ok(Home { host: host(), lock })
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

    /// What the lock of another runner says.
    pub(super) async fn owner(&self, other: &RunnerId) -> Result<Owner> {
        let Some((file, ..)) = &self.lock else { return Ok(Owner::Unknown) };
        let path = lock_path(file, other);
        task::blocking(move || probe(&path)).await?
    }

    /// What its row says of a runner whose lock says nothing: it was seen to end; or its lease is over, and its process is not there.
    pub(super) fn by_row(&self, row: &Runner, over: bool) -> Owner {
        let missing = || row.host == self.host && !is_there(row.pid);
        if row.stopped_at.is_some() || (self.has_locks() && over && missing()) { Owner::Gone } else { Owner::Unknown }
    }

    /// Removes what is left of a runner whose end is written down.
    pub(super) async fn bury(&self, other: &RunnerId) {
        if let Some((file, ..)) = &self.lock {
            let path = lock_path(file, other);
            let _ = task::blocking(move || fs::remove_file(path)).await;
        }
    }

    /// Removes the lock's file; the lock itself ends with this.
    pub(super) async fn leave(&self) {
        if let Some((_, path, _)) = &self.lock {
            let path = path.clone();
            let _ = task::blocking(move || fs::remove_file(path)).await;
        }
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether a process of this number is there. One that may not be asked is.
fn is_there(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Takes the lock beside the catalog's file as it is really called: others may come to it by another name.
fn take(catalog: &Path, id: &RunnerId) -> Result<(PathBuf, PathBuf, fs::File)> {
    let real = fs::canonicalize(catalog).map_err(|e| Error::from_io("look for the catalog's file", e).with("path", catalog.display()))?;
    let (path, lock) = hold(&lock_path(&real, id))?;
    Ok((real, path, lock))
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

/// A lock that nobody holds is that of a process that ended.
fn probe(path: &Path) -> Result<Owner> {
    let fail = |e| Error::from_io("look at a runner's lock", e).with("path", path.display());
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Owner::Unknown),
        Err(e) => return Err(fail(e)),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Owner::Gone),
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
        assert_eq!(probe(&path).unwrap(), Owner::Unknown, "there is no file");
        let (_, held) = hold(&path).unwrap();
        assert_eq!(probe(&path).unwrap(), Owner::Lives);
        assert!(hold(&path).is_err());
        drop(held);
        assert_eq!(probe(&path).unwrap(), Owner::Gone);
        assert_eq!(probe(&path).unwrap(), Owner::Gone, "asking changes nothing");
    }

    #[test]
    fn a_process_that_is_not_there_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert!(is_there(std::process::id()) && is_there(child.id()));
        child.wait().unwrap();
        assert!(!is_there(child.id()));
    }
}
