//! `migratekit vma rotate-key`: the VMA's side of a rotation, with whatever runs by the key going on.
//!
//! ```text
//!  KEY        old ───────────────── old ─────────── new ──────────────── new        what everybody on this VMA logs in by
//!  KEY.new    new, made here ────── new                                             not taken by the OMA yet
//!  KEY.replaced                     old ─────────── old ──────────────── gone       to go back to, to see that it is out
//!                      ▲ the OMA takes new: both come in    ▲ comes in by new: old is out
//! ```
//!
//! At each moment `KEY` holds a key that comes in: it is replaced, as a whole, while both do. So tunnels and copies, which read it at each
//! login, are cut once and come back. What is ended between two steps is seen by what lies there, and the same command goes on with it.

use std::path::{Path, PathBuf};

use migratekit_core::task::{self, CancellationToken};
use migratekit_core::tunnels::{Client, ClientOptions, PrivateKey, PublicKey};
use migratekit_core::vmas::{Oma, Rotating, take_over};
use migratekit_core::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, flock};

use super::vma_enroll::{Known, beside, keep, read_known};
use crate::args::Global;
use crate::output;
use crate::table::facts;

const ROTATE: &str = "rotate the key";

pub(crate) async fn run(global: &Global, key: &Path, cancel: &CancellationToken) -> Result<()> {
    let mut known = read_known(&beside(key, ".oma")).await?;
    let files = Files::of(key);
    let _only = files.lock().await?;
    let new = tokio::select! {
        new = rotate(&files, &known) => new?,
        () = cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, ROTATE, "it was asked to end; the same again goes on")),
    };
    known.fingerprint = new.public().fingerprint().to_string();
    keep(key, &known).await?;
    // The last: as long as it lies there, the same command comes as far as here again.
    files.forget_replaced().await?;
    output::result(global, &known, |known| {
        facts([("key", Some(known.fingerprint.clone())), ("enrollment", Some(known.enrollment.clone()))])
    })
}

/// Replaces the key, or goes on with what was ended half-way.
async fn rotate(files: &Files, known: &Known) -> Result<PrivateKey> {
    let host_key: PublicKey = known.host_key.parse()?;
    let by = |key: &PrivateKey| Client::new(ClientOptions::new(&known.host, known.port, key.clone(), host_key.fingerprint()));
    let (new, old) = match files.half_done().await? {
        Some(both) => both,
        None => {
            let (old, (new, _)) = (PrivateKey::read(&files.key).await?, PrivateKey::read_or_make(&files.new).await?);
            let (enrollment, name) = (&known.enrollment.parse()?, known.name.as_str());
            let rotating = Rotating { host_key: &host_key, enrollment, name, version: env!("CARGO_PKG_VERSION"), old: &old, new: &new };
            match Oma::at(known.host.clone(), known.port).rotate(&rotating).await {
                // Taken before this program was ended; whether that is true is seen when it is to come in.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                taken => taken?,
            }
            files.replace().await?;
            (new, old)
        }
    };
    match take_over(&by(&new), &by(&old)).await {
        Err(refused) if refused.kind() == ErrorKind::Denied && by(&old).connect().await.is_ok() => {
            files.put_back().await?;
            Err(refused.with("kept", "the key as it was"))
        }
        done => done.map(|()| new),
    }
}

/// Where the keys lie.
#[derive(Debug, Clone)]
struct Files {
    key: PathBuf,
    new: PathBuf,
    replaced: PathBuf,
}

impl Files {
    fn of(key: &Path) -> Self {
        Files { key: key.to_owned(), new: beside(key, ".new"), replaced: beside(key, ".replaced") }
    }

    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce(&Files) -> std::io::Result<T> + Send + 'static) -> Result<T> {
        let files = self.clone();
        task::blocking(move || work(&files).map_err(|e| Error::from_io(ROTATE, e).with("path", files.key.display()))).await?
    }

    /// Keeps others from rotating in this folder, as long as it is held.
    async fn lock(&self) -> Result<std::fs::File> {
        let folder = self.on_disk(|files| std::fs::File::open(folder(&files.key))).await?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::new(ErrorKind::Busy, ROTATE, "another one rotates a key of this folder").with("path", self.key.display())
        })?;
        Ok(folder)
    }

    /// The new and the old key of a rotation that was ended after the new one had been put in its place.
    async fn half_done(&self) -> Result<Option<(PrivateKey, PrivateKey)>> {
        let replaced = match PrivateKey::read(&self.replaced).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            replaced => replaced?,
        };
        let key = PrivateKey::read(&self.key).await?;
        if key.public() == replaced.public() {
            // It was ended just before that.
            self.forget_replaced().await?;
            return Ok(None);
        }
        Ok(Some((key, replaced)))
    }

    /// Puts the new key in the old one's place, which lies beside it from now on. The place is never empty, and holds no half a key.
    async fn replace(&self) -> Result<()> {
        self.on_disk(|files| {
            std::fs::hard_link(&files.key, &files.replaced)?;
            sync(&files.key)?;
            std::fs::rename(&files.new, &files.key)?;
            sync(&files.key)
        })
        .await
    }

    /// Puts the old key in its place again: the new one is taken by nobody.
    async fn put_back(&self) -> Result<()> {
        self.on_disk(|files| {
            std::fs::rename(&files.replaced, &files.key)?;
            sync(&files.key)
        })
        .await
    }

    async fn forget_replaced(&self) -> Result<()> {
        self.on_disk(|files| {
            std::fs::remove_file(&files.replaced)?;
            sync(&files.key)
        })
        .await
    }
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What happened to names in the folder of this file holds after a power cut.
fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn public(path: &Path) -> PublicKey {
        PrivateKey::read(path).await.unwrap().public()
    }

    /// Wherever it is ended, there is a key, and what lies there tells how far it came.
    #[tokio::test]
    async fn each_step_leaves_a_key_and_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(&folder.path().join("key"));
        let (old, _) = PrivateKey::read_or_make(&files.key).await.unwrap();
        let (new, _) = PrivateKey::read_or_make(&files.new).await.unwrap();
        assert!(files.half_done().await.unwrap().is_none());
        // Ended between the link and the renaming.
        std::fs::hard_link(&files.key, &files.replaced).unwrap();
        assert!(files.half_done().await.unwrap().is_none() && !files.replaced.exists());
        files.replace().await.unwrap();
        assert_eq!((public(&files.key).await, public(&files.replaced).await), (new.public(), old.public()));
        assert!(!files.new.exists());
        let (found_new, found_old) = files.half_done().await.unwrap().unwrap();
        assert_eq!((found_new.public(), found_old.public()), (new.public(), old.public()));
        // Nobody takes the new one.
        files.put_back().await.unwrap();
        assert_eq!(public(&files.key).await, old.public());
        assert!(files.half_done().await.unwrap().is_none() && !files.replaced.exists());
        // All of it, and nothing is left.
        PrivateKey::read_or_make(&files.new).await.unwrap();
        files.replace().await.unwrap();
        files.forget_replaced().await.unwrap();
        assert!(files.half_done().await.unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn two_at_once_do_not_rotate_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(&folder.path().join("key"));
        let held = files.lock().await.unwrap();
        assert_eq!(files.lock().await.unwrap_err().kind(), ErrorKind::Busy);
        drop(held);
        files.lock().await.unwrap();
    }
}
