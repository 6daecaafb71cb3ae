//! The export that keeps a ledger: a disk, and the record of who wrote what.
//!
//! Each connection gets a view ([`LedgeredExport::open`](Export::open)) that writes for its pass. A request is entered before it
//! begins and counted when it completed; nothing is computed from its bytes. Flushes are made by one task, so that requests of
//! several connections for a flush become one, and a client that leaves does not leave a flush behind whose outcome nobody saw.
//!
//! ```text
//!  views ── write ──▶ room ──▶ ledger: entered ──▶ disk ──▶ ledger: covered
//!        ── flush ──▶ flusher: begin ─▶ disk.flush ─▶ proven ─▶ snapshot ─▶ room again ─▶ answers
//!                        ▲ by itself: half of the ledger interval written, or 2 s after the first byte
//! ```
//!
//! # The ledger interval
//!
//! Never more than [`ExportOptions::interval_bytes`] of a pass are on the disk, or on their way to it, and not proven by a durable ledger: so
//! much a crash costs, and in addition what a client has under way that the export has not taken, and the written parts of blocks that
//! are not whole yet. The export flushes by itself at half of it; where the disk is slower than the writers and the other half is full
//! before the flush has ended, writes wait until it has ([`room`](super::room)). Reads, flushes, discards and zero requests longer than any
//! read never do. Where the ledger itself cannot be written nothing is proven and nobody waits: what the log warns of, a resume pays for.
//!
//! # A failed flush
//!
//! The storage may have dropped anything since the last good flush, and says so only once. The ledger forgets all of it, the disk
//! is opened again ([`ExportOptions::reopen`]; without that, every request fails from then on), and every view that was open then
//! gets the error from its next flush, even when it was the interval's own flush that failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::digest::DigestDisk;
use super::flusher::Flusher;
use super::ledger::{Ledger, PassId, Writing};
use super::room::{Closed, Place, Room, of_zeros};
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::export::Export;
use crate::task::Scope;
use crate::units::{ByteRange, MIB};
use bytes::Bytes;

/// Bytes that may be written and not be proven yet; at half of it the export flushes and saves the ledger by itself.
pub const INTERVAL_BYTES: u64 = 64 * MIB;
/// The time after the first unflushed byte after which it does so.
pub const INTERVAL_TIME: Duration = Duration::from_secs(2);

/// Opens the disk again after a failed flush.
pub type Reopen = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn BlockWrite>>> + Send + Sync>;

/// Tells what of a volume changes when it is written.
pub type StateOf = Box<dyn Fn() -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// How an export keeps its ledger.
pub struct ExportOptions {
    /// A line for people.
    pub description: String,
    /// Bytes of a pass that may be written and not be proven, at most 4 GiB. At half of it the export flushes by itself; beyond it writes wait.
    pub interval_bytes: u64,
    /// Time after the first unflushed byte until it does.
    pub interval_time: Duration,
    /// How the disk is opened again after a failed flush; `None`: it cannot be.
    pub reopen: Option<Reopen>,
    /// The same disk, read past the page cache, for digests; `None`: the disk itself is read.
    pub uncached: Option<Arc<dyn BlockRead>>,
    /// What a well closed ledger is sealed with, see [`Ledger::seal`]; `None`: it is not.
    pub state: Option<StateOf>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        ExportOptions {
            description: String::new(),
            interval_bytes: INTERVAL_BYTES,
            interval_time: INTERVAL_TIME,
            reopen: None,
            uncached: None,
            state: None,
        }
    }
}

/// What views and flusher share.
pub(super) struct Shared {
    pub(super) ledger: Arc<Ledger>,
    disk: Mutex<Option<Arc<dyn BlockWrite>>>,
    pub(super) info: BlockInfo,
    pub(super) options: ExportOptions,
    /// How many flushes failed. Views compare.
    pub(super) failures: AtomicU64,
    pub(super) wake: tokio::sync::Notify,
    pub(super) room: Room,
    /// Whether requests are taken; each holds it while it runs.
    open: tokio::sync::RwLock<bool>,
}

impl Shared {
    /// Lets a request in, as long as the export takes any.
    async fn enter(&self, operation: &'static str) -> Result<tokio::sync::RwLockReadGuard<'_, bool>> {
        let open = self.open.read().await;
        if *open {
            return Ok(open);
        }
        Err(Error::new(ErrorKind::ReadOnly, operation, "the pass of this export has ended, so it takes no more writes")
            .with("disk", &self.info.name))
    }

    /// The disk as it is open now.
    pub(super) fn disk(&self) -> Result<Arc<dyn BlockWrite>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(|| {
            Error::new(ErrorKind::Io, "use the disk", "a flush failed, and the disk could not be opened again")
                .with("disk", &self.info.name)
        })
    }

    /// Puts the disk that was opened again, or none.
    pub(super) fn put_disk(&self, disk: Option<Arc<dyn BlockWrite>>) {
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = disk;
    }

    /// Bytes written after which the export flushes by itself: while it does, as many again have room.
    pub(super) fn flush_at(&self) -> u64 {
        (self.options.interval_bytes / 2).max(1)
    }

    /// Takes `bytes` of the interval, or waits until a flush has freed them.
    async fn room(&self, operation: &'static str, bytes: u64) -> Result<Place<'_>> {
        match self.room.enter(bytes, &self.wake).await {
            Ok(place) => Ok(place),
            Err(Closed) => {
                drop(self.enter(operation).await?);
                Err(Error::new(ErrorKind::Cancelled, operation, "the export was closed").with("disk", &self.info.name))
            }
        }
    }

    /// A request completed.
    fn done(&self, writing: Writing, place: Option<Place<'_>>) {
        let (before, after) = writing.done();
        if let Some(place) = place {
            place.fill();
        }
        if before == 0 || (before < self.flush_at() && after >= self.flush_at()) || self.room.is_waited_for() {
            self.wake.notify_one();
        }
    }
}

/// A disk served with a ledger; clones are the same export. Dropping the last clone and the last view stops its flusher without
/// a flush; [`LedgeredExport::close`] ends it well.
#[derive(Clone)]
pub struct LedgeredExport {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    flushes: mpsc::Sender<oneshot::Sender<Result<()>>>,
    scope: Mutex<Option<Scope>>,
}

impl Inner {
    async fn flush_now(&self) -> Result<()> {
        let gone = || Error::new(ErrorKind::Cancelled, "flush the disk", "the export was closed").with("disk", &self.shared.info.name);
        let (answer, answered) = oneshot::channel();
        self.flushes.send(answer).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl LedgeredExport {
    /// Serves `disk` and keeps `ledger` (opened for a volume of its size). Must be called within the runtime.
    ///
    /// # Errors
    /// `InvalidInput`: the disk and the ledger are not of one size.
    pub fn new(disk: Arc<dyn BlockWrite>, ledger: Arc<Ledger>, options: ExportOptions) -> Result<Self> {
        let info = disk.info().clone();
        if ledger.size() != info.size {
            return Err(Error::new(ErrorKind::InvalidInput, "serve a disk with a ledger", "the ledger is of another size")
                .with("disk", &info.name)
                .with("size", info.size)
                .with("ledger", ledger.size()));
        }
        let room = Room::new(options.interval_bytes);
        let shared = Arc::new(Shared {
            ledger,
            disk: Mutex::new(Some(disk)),
            info,
            options,
            failures: AtomicU64::new(0),
            wake: tokio::sync::Notify::new(),
            room,
            open: tokio::sync::RwLock::new(true),
        });
        let (flushes, requests) = mpsc::channel(64);
        let mut scope = Scope::new();
        scope.spawn(Flusher::new(Arc::clone(&shared), requests, scope.token().clone()).run());
        Ok(LedgeredExport { inner: Arc::new(Inner { shared, flushes, scope: Mutex::new(Some(scope)) }) })
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.shared.ledger
    }

    /// The view of a writer of `pass` (`None`: of no pass). Writers of the pass before are stopped, and the answer waits until what
    /// they have on the disk has ended, however long the disk takes. Dropping the future leaves the pass begun, and the next who
    /// asks for it waits.
    ///
    /// # Errors
    /// `InvalidInput`: not a valid pass id. `Fenced`: a newer pass than this has begun. Else as the flush of an earlier pass's writes, or the ledger's file, fail.
    pub async fn view(&self, pass: Option<&str>) -> Result<Arc<dyn BlockWrite>> {
        let _open = self.inner.shared.enter("open the disk").await?;
        let pass = match pass {
            Some(id) => {
                if self.inner.shared.ledger.is_past(id) {
                    return Err(fenced("open the disk", &self.inner.shared.info.name).with("pass", id));
                }
                // What the pass before wrote is proven before it ends.
                if self.inner.shared.ledger.last_pass().is_some_and(|last| last != id) && self.inner.shared.ledger.unflushed() > 0 {
                    self.flush_now().await?;
                }
                let pass = self.inner.shared.ledger.begin_pass(id).await?;
                // Requests that older writers have on the disk end first, or their bytes would land on those of this pass.
                self.inner.shared.ledger.older_ended(pass).await;
                Some(pass)
            }
            None => None,
        };
        let seen = AtomicU64::new(self.inner.shared.failures.load(Ordering::SeqCst));
        Ok(Arc::new(View { export: Arc::clone(&self.inner), pass, seen }))
    }

    /// Flushes the disk and saves the ledger.
    ///
    /// # Errors
    /// The flush failed; see the module's head. Or the ledger's file can neither be written nor voided.
    pub async fn flush_now(&self) -> Result<()> {
        self.inner.flush_now().await
    }

    /// Takes no more writes, passes or epochs, waits for those under way, and closes. What comes later is refused as `ReadOnly`; reading
    /// goes on. So another may write the same disk and keep the same ledger.
    ///
    /// # Errors
    /// As [`LedgeredExport::close`]; it is closed nevertheless.
    pub async fn retire(&self) -> Result<()> {
        *self.inner.shared.open.write().await = false;
        self.close().await
    }

    /// Flushes, saves the ledger with all it knows, seals it, and stops the flusher. Later flushes of views fail.
    ///
    /// # Errors
    /// As [`LedgeredExport::flush_now`].
    pub async fn close(&self) -> Result<()> {
        let flushed = match self.inner.shared.ledger.unflushed() {
            0 => Ok(()),
            _ => self.flush_now().await,
        };
        let saved = self.inner.shared.ledger.save(true).await;
        let scope = self.inner.scope.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(scope) = scope {
            scope.close().await?;
        }
        flushed.and(saved)?;
        match &self.inner.shared.options.state {
            Some(state) => self.inner.shared.ledger.seal(&state().await?).await,
            None => Ok(()),
        }
    }
}

impl Export for LedgeredExport {
    fn disk(&self) -> Arc<dyn BlockWrite> {
        let seen = AtomicU64::new(self.inner.shared.failures.load(Ordering::SeqCst));
        Arc::new(View { export: Arc::clone(&self.inner), pass: None, seen })
    }

    fn description(&self) -> String {
        self.inner.shared.options.description.clone()
    }

    fn open(&self, pass: Option<&str>) -> BoxFuture<'_, Result<Arc<dyn BlockWrite>>> {
        let pass = pass.map(str::to_owned);
        Box::pin(async move { self.view(pass.as_deref()).await })
    }

    fn has_ledger(&self) -> bool {
        true
    }

    fn ledger(&self, pass: Option<&str>, range: ByteRange) -> Result<Vec<(ByteRange, u32)>> {
        Ok(self.inner.shared.ledger.states(pass, range))
    }

    fn last_pass(&self) -> Option<String> {
        self.inner.shared.ledger.last_pass()
    }

    fn digests(&self, block_size: u32) -> Option<Arc<dyn BlockRead>> {
        let disk: Arc<dyn BlockRead> = match &self.inner.shared.options.uncached {
            Some(uncached) => Arc::clone(uncached),
            None => Arc::new(View { export: Arc::clone(&self.inner), pass: None, seen: AtomicU64::new(0) }),
        };
        DigestDisk::with_ledger(disk, block_size, Arc::clone(&self.inner.shared.ledger)).ok().map(|d| Arc::new(d) as Arc<dyn BlockRead>)
    }

    fn highest_epoch(&self) -> u64 {
        self.inner.shared.ledger.highest_epoch()
    }

    fn raise_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _open = self.inner.shared.enter("record the epoch").await?;
            self.inner.shared.ledger.raise_epoch(epoch).await
        })
    }
}

fn fenced(operation: &'static str, disk: &str) -> Error {
    Error::new(ErrorKind::Fenced, operation, "a newer copy has begun to write this disk, so this one must not go on").with("disk", disk)
}

/// The disk as one connection sees it.
struct View {
    export: Arc<Inner>,
    pass: Option<PassId>,
    /// Failed flushes this view has told its client of.
    seen: AtomicU64,
}

impl View {
    /// Refuses a writer whose pass is over: two passes at once would mix their bytes, and both would be told that all went well.
    /// Asked before a request is entered (it would disturb the new pass), and after (a pass that begins later waits for it).
    fn still_current(&self, operation: &'static str, range: ByteRange) -> Result<()> {
        let shared = &self.export.shared;
        if self.pass.is_some_and(|own| !shared.ledger.is_current(own)) {
            return Err(fenced(operation, &shared.info.name).with("offset", range.offset()));
        }
        Ok(())
    }

    /// Enters a request, makes it, counts it. It is one of `pass` and takes so many bytes of room; `None`: it proves nothing.
    async fn record<F>(
        &self,
        operation: &'static str,
        range: ByteRange,
        proves: Option<(PassId, u64)>,
        work: impl FnOnce(Arc<dyn BlockWrite>) -> F + Send,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        let shared = &self.export.shared;
        shared.info.check_write(operation, range)?;
        // Who waits here is not entered: neither a new pass nor the end of the export waits for it.
        let place = match proves {
            Some((_, bytes)) => Some(shared.room(operation, bytes).await?),
            None => None,
        };
        let _open = shared.enter(operation).await?;
        self.still_current(operation, range)?;
        let writing = shared.ledger.begin_write(range, proves.map(|(pass, _)| pass)).await?;
        self.still_current(operation, range)?;
        // Taken after the request was entered: a disk that is replaced meanwhile makes the request void, not proven.
        let disk = shared.disk()?;
        work(disk).await?;
        shared.done(writing, place);
        Ok(())
    }
}

impl BlockRead for View {
    fn info(&self) -> &BlockInfo {
        &self.export.shared.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move { self.export.shared.disk()?.read(range).await })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { self.export.shared.disk()?.extents(range).await })
    }
}

impl BlockWrite for View {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let range = ByteRange::new(offset, u64::try_from(data.len()).unwrap_or(u64::MAX))?;
            let proves = self.pass.map(|pass| (pass, range.length()));
            self.record("write", range, proves, |disk| async move { disk.write(offset, data, persist).await }).await
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        let proves = self.pass.map(|pass| (pass, of_zeros(range.length())));
        Box::pin(self.record("write zeros", range, proves, move |disk| async move { disk.zero(range, mode, persist).await }))
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.record("discard", range, None, move |disk| async move { disk.discard(range, persist).await }))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let flushed = self.export.flush_now().await;
            let failures = self.export.shared.failures.load(Ordering::SeqCst);
            let told = self.seen.swap(failures, Ordering::SeqCst);
            flushed?;
            if told < failures {
                return Err(Error::new(
                    ErrorKind::Io,
                    "flush the disk",
                    "an earlier flush of the ledger interval failed: what was written since the last good flush may be lost",
                )
                .with("disk", &self.export.shared.info.name));
            }
            Ok(())
        })
    }
}
