//! A file or device as our server serves it: with a ledger, and with its digests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::DigestDisk;
use super::engine::ResumeMap;
use super::export::{ExportOptions, LedgeredExport, StateOf};
use super::ledger::{DiskRecordFile, Ledger, LedgerOptions, Opened, file_identity};
use super::sides::reopen_locked;
use crate::block::{BlockRead, BlockWrite, BoxFuture, FileDisk, OpenOptions};
use crate::error::{Error, Result};
use crate::nbd::export::Export;
use crate::nbd::wire::ledger_state;
use crate::units::ByteRange;

/// Where a ledger is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerPlace {
    /// Beside the volume: `PATH.ledger`, and its digests in `PATH.ledger.digests`; beside the file itself where PATH is a symbolic
    /// link, so that a volume has one ledger whatever it is called.
    Beside,
    /// In this file, and the digests in `FILE.digests`.
    File(PathBuf),
}

/// An export over a file or device, ready for [`nbd::Server::add`](crate::nbd::Server::add).
pub struct ServedDisk {
    export: Arc<dyn Export>,
    ledgered: Option<LedgeredExport>,
    void: Option<String>,
}

impl ServedDisk {
    /// Opens a volume for writing, with its ledger.
    ///
    /// # Errors
    /// As the file opens; `Busy` when another process writes it.
    pub async fn writable(path: &Path, place: &LedgerPlace) -> Result<Self> {
        let disk = FileDisk::open(path, OpenOptions::default()).await?;
        let uncached = FileDisk::open(path, OpenOptions { past_cache: true, ..OpenOptions::read_only() }).await?;
        let (ledger, opened) = open_ledger(path, Arc::new(disk.clone()), place).await?;
        let options = ExportOptions {
            description: path.display().to_string(),
            reopen: Some(reopen_locked(disk.clone())),
            state: Some(state_of(path)),
            uncached: Some(Arc::new(uncached)),
            ..ExportOptions::default()
        };
        let ledgered = LedgeredExport::new(Arc::new(disk), ledger, options)?;
        let void = match opened {
            Opened::Void(why) => Some(why),
            Opened::New | Opened::Continued => None,
        };
        Ok(ServedDisk { export: Arc::new(ledgered.clone()), ledgered: Some(ledgered), void })
    }

    /// Opens a volume for reading only: no ledger, but digests.
    ///
    /// # Errors
    /// As the file opens.
    pub async fn read_only(path: &Path) -> Result<Self> {
        let disk = FileDisk::open(path, OpenOptions::read_only()).await?;
        let uncached = FileDisk::open(path, OpenOptions { past_cache: true, ..OpenOptions::read_only() }).await?;
        let export = ReadOnlyExport { disk: Arc::new(disk), uncached: Arc::new(uncached) };
        Ok(ServedDisk { export: Arc::new(export), ledgered: None, void: None })
    }

    /// The export.
    #[must_use]
    pub fn export(&self) -> Arc<dyn Export> {
        Arc::clone(&self.export)
    }

    /// Why a ledger that was found is not believed, for people.
    #[must_use]
    pub fn void_ledger(&self) -> Option<&str> {
        self.void.as_deref()
    }

    /// Flushes and saves the ledger: call it when the server has ended.
    ///
    /// # Errors
    /// As the flush fails.
    pub async fn close(self) -> Result<()> {
        match self.ledgered {
            Some(export) => export.close().await,
            None => Ok(()),
        }
    }
}

/// Opens the ledger of the volume at `path`.
pub(super) async fn open_ledger(path: &Path, disk: Arc<dyn BlockWrite>, place: &LedgerPlace) -> Result<(Arc<Ledger>, Opened)> {
    let identity = file_identity(path)?;
    let real = path.canonicalize().map_err(|e| Error::from_io("find the volume", e).with("path", path.display()))?;
    let (ledger, opened) = open_ledger_of(identity, &real, disk.info().size, place).await?;
    if ledger.unseal(&state_of(path)().await?).await {
        return Ok((ledger, opened));
    }
    Ok((ledger, Opened::Void("the volume was written by somebody else since the ledger was closed".to_owned())))
}

/// What of a volume changes when it is written: of a file its times. A device has nothing of the kind.
pub(super) fn state_of(path: &Path) -> StateOf {
    let path = path.to_owned();
    Box::new(move || {
        let path = path.clone();
        Box::pin(async move { FileDisk::open(path, OpenOptions::read_only()).await?.state().await })
    })
}

/// Opens the ledger of a volume known by `identity`; beside `path` if it is to lie there.
pub(super) async fn open_ledger_of(identity: String, path: &Path, size: u64, place: &LedgerPlace) -> Result<(Arc<Ledger>, Opened)> {
    let (file, digests) = match place {
        LedgerPlace::Beside => (DiskRecordFile::beside(path, "ledger"), DiskRecordFile::beside(path, "ledger.digests")),
        LedgerPlace::File(file) => (DiskRecordFile::new(file), DiskRecordFile::beside(file, "digests")),
    };
    Ledger::open(Arc::new(file), Some(Arc::new(digests)), LedgerOptions::new(identity, size)).await
}

/// A disk that is only read; its digests are computed past the page cache.
struct ReadOnlyExport {
    disk: Arc<FileDisk>,
    uncached: Arc<FileDisk>,
}

impl Export for ReadOnlyExport {
    fn disk(&self) -> Arc<dyn BlockWrite> {
        Arc::clone(&self.disk) as _
    }

    fn description(&self) -> String {
        self.disk.path().display().to_string()
    }

    fn digests(&self, block_size: u32) -> Option<Arc<dyn BlockRead>> {
        let digests = DigestDisk::new(Arc::clone(&self.uncached) as _, block_size).ok()?;
        Some(Arc::new(digests))
    }
}

/// A ledger of this process, as what a copy is resumed by.
pub(super) struct LedgerMap {
    pub(super) ledger: Arc<Ledger>,
    pub(super) pass: String,
}

impl ResumeMap for LedgerMap {
    fn proven(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<ByteRange>>> {
        let states = self.ledger.states(Some(&self.pass), range);
        Box::pin(
            async move { Ok(states.into_iter().filter(|(_, flags)| flags & ledger_state::PROVEN != 0).map(|(part, _)| part).collect()) },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Persist;
    use crate::error::ErrorKind;
    use bytes::Bytes;
    use std::os::unix::fs::FileExt;

    const BLOCK: u64 = 1024 * 1024;

    /// Serves the volume, says what is proven of its first block by pass `p`, proves it, and ends well or by a crash.
    async fn serve(path: &Path, well: bool) -> (bool, Option<String>) {
        let served = ServedDisk::writable(path, &LedgerPlace::Beside).await.unwrap();
        let ledger = Arc::clone(served.ledgered.as_ref().unwrap().ledger());
        let whole = ByteRange::between(0, BLOCK);
        let proven = ledger.states(Some("p"), whole)[0].1 & ledger_state::PROVEN != 0;
        let void = served.void_ledger().map(str::to_owned);
        let view = served.export().open(Some("p")).await.unwrap();
        if !proven {
            view.write(0, Bytes::from(vec![1; BLOCK as usize]), Persist::Cached).await.unwrap();
        }
        view.write(BLOCK, Bytes::from_static(b"more"), Persist::Cached).await.unwrap();
        view.flush().await.unwrap();
        drop(view);
        match well {
            true => served.close().await.unwrap(),
            false => drop(served),
        }
        // The flusher lets go of the disk when it notices.
        while FileDisk::open(path, OpenOptions::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
        (proven, void)
    }

    #[tokio::test]
    async fn a_volume_written_while_it_was_not_served_has_no_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        std::fs::File::create(&path).unwrap().set_len(4 * BLOCK).unwrap();
        assert!(!serve(&path, true).await.0);
        assert_eq!(serve(&path, false).await, (true, None), "it continues after a good close");
        assert_eq!(serve(&path, true).await, (true, None), "and after a crash");
        let before = state_of(&path)().await.unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        while state_of(&path)().await.unwrap() == before {
            // The clock of file times is coarse: a write may bear the time of the one before.
            file.write_all_at(b"x", 7).unwrap();
        }
        let (proven, void) = serve(&path, true).await;
        assert!(!proven && void.unwrap().contains("somebody else"));
        assert_eq!(serve(&path, true).await, (true, None));
    }

    #[tokio::test]
    async fn a_volume_opened_again_is_still_locked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        std::fs::File::create(&path).unwrap().set_len(BLOCK).unwrap();
        let reopen = reopen_locked(FileDisk::open(&path, OpenOptions::default()).await.unwrap());
        let again = reopen().await.unwrap();
        again.write(0, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
        let second = FileDisk::open(&path, OpenOptions::default()).await.err().map(|e| e.kind());
        assert_eq!(second, Some(ErrorKind::Busy));
    }
}
