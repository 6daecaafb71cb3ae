//! Replicas: a volume that always holds one complete, named point.
//!
//! A *point* is one state of all disks of a VM. A [`Replica`] is one of these disks at the target. The first pass writes straight into
//! the empty volume. From then on a pass goes into a [spool](super::spool) beside it, and the volume keeps its point until somebody,
//! with one record for all disks, has decided that the new one is committed. Only then is the spool applied.
//!
//! ```text
//!  nothing ──first pass──▶ holds A ──begin(B)──▶ A, B being written ──complete──▶ A, B complete
//!                             ▲                      │  ▲ crash, suspend: begin(B) again │
//!                             ├──── Abandoned ◀──────┴──────────────────────────────────┤
//!                             └──── holds B ◀── applied ◀── applying ◀── Committed(B) ───┘
//! ```
//!
//! # The whole pass, for two disks
//!
//! ```
//! use std::sync::Arc;
//! use migratekit_core::block::{BlockRead, BlockWrite, FileDisk, MemoryDisk, OpenOptions, Persist};
//! use migratekit_core::copy::{Copy, CopyOptions, Decision, FileSite, Point, PointName, Replica, ReplicaOptions};
//! use migratekit_core::units::{ByteRange, MIB};
//! use migratekit_core::{CancellationToken, Result};
//!
//! # #[tokio::main] async fn main() -> Result<()> {
//! let folder = tempfile::tempdir().expect("a temporary folder");
//! let sources = [Arc::new(MemoryDisk::new("disk 0", 3 * MIB)), Arc::new(MemoryDisk::new("disk 1", 5 * MIB))];
//! let empty = |size| OpenOptions { create_size: Some(size), ..OpenOptions::default() };
//! let mut replicas = Vec::new();
//! for (n, source) in sources.iter().enumerate() {
//!     source.write(MIB, vec![1; 4096].into(), Persist::Cached).await?;
//!     let (path, size) = (folder.path().join(format!("volume-{n}")), source.info().size);
//!     drop(FileDisk::open(&path, empty(size)).await?);
//!     let options = ReplicaOptions { identity: format!("the uuid of volume {n}"), size, committed: None };
//!     replicas.push(Replica::open(Arc::new(FileSite::beside(path)?), options).await?);
//! }
//!
//! // Each disk: begin, copy into the view, complete. The first pass goes into the volume, later ones into a spool.
//! async fn bring_to(point: &PointName, replicas: &[Replica], sources: &[Arc<MemoryDisk>]) -> Result<Vec<Point>> {
//!     let mut points = Vec::new();
//!     for (replica, source) in replicas.iter().zip(sources) {
//!         let pass = replica.begin(point, source.info().size).await?;     // checks the room for a spool
//!         let id = format!("pass-{point}");
//!         let options = CopyOptions { explicit_zeros: true, resume: Some(pass.resume_map(&id)), ..CopyOptions::default() };
//!         Copy::new(Arc::clone(source) as _, pass.view(&id).await?, options)?.run().await?;
//!         points.push(pass.complete().await?);
//!     }
//!     Ok(points)
//! }
//! let first: PointName = "pt-1".parse()?;
//! bring_to(&first, &replicas, &sources).await?;
//! // Here the catalog's transaction commits pt-1, with the ends of both disks.
//!
//! sources[0].write(2 * MIB, vec![2; 4096].into(), Persist::Cached).await?;
//! let second: PointName = "pt-2".parse()?;
//! let points = bring_to(&second, &replicas, &sources).await?;
//!
//! // Both spools are complete, and the volumes still hold pt-1: a crash now leaves both points to choose from.
//! let changed = ByteRange::new(2 * MIB, 4096)?;
//! assert_eq!(replicas[0].reader(&first).await?.read(changed).await?, vec![0; 4096]);
//! assert_eq!(replicas[0].reader(&second).await?.read(changed).await?, vec![2; 4096]);
//!
//! // Here the catalog's transaction commits pt-2. From now on there is only forward.
//! for (replica, point) in replicas.iter().zip(&points) {
//!     replica.settle(&Decision::Committed(second.clone()), &CancellationToken::new()).await?;
//!     replica.check(point).await?;        // the volume has the ends that were recorded
//!     replica.close().await?;
//! }
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! - From the end of the first pass on, [`Replica::reader`] reads exactly the committed point, whether its spool is not yet, half, or
//!   wholly applied; a spool that is not committed is not looked at.
//! - A pass never touches the volume. Applying begins only after [`Decision::Committed`], after all of the spool was read and checked,
//!   and can be repeated from any moment without the source.
//! - One pass or settling at a time; the volume is locked against other processes as long as its `Replica` lives. Points may be read
//!   meanwhile; while somebody reads the old point, applying the new one is refused as `Busy`.
//! - What lies there and what the caller expects are compared, never reconciled by guessing: an error names both.
//! - Who writes the volume between two openings, wherever, is seen: the point is then no longer *followed* ([`Replica::is_followed`]), and
//!   only a comparison of all of it makes it so again.
//!
//! It does not decide what is committed, knows no catalog, and no source.

mod begin;
mod bounded;
mod grow;
mod open;
mod pass;
mod point;
mod record;
mod settle;
mod site;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use self::pass::Destination;
pub use self::pass::ReplicaPass;
pub use self::point::{END_BLOCK, Ends, Point, PointName};
use self::record::{PassRecord, Phase, Record};
pub use self::settle::{Decision, Settled};
pub use self::site::{FileSite, ReplicaSite, SideFile, SiteDisk};
use super::export::LedgeredExport;
use super::ledger::{Ledger, LedgerOptions, RecordFile};
use super::spool::{Spool, SpoolName};
use crate::block::{BlockInfo, BlockRead, BoxFuture, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// What a replica is opened as.
#[derive(Debug, Clone)]
pub struct ReplicaOptions {
    /// The identity of the volume, at most 1024 bytes: its uuid. Files beside it that name another are refused.
    pub identity: String,
    /// The size of the disk, in bytes. A volume may be larger; what is behind it is neither read nor written.
    pub size: u64,
    /// The point that is committed, and the ends it was committed with: checked when it is opened. `None`: none is committed yet.
    pub committed: Option<Point>,
}

/// What a volume holds by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// No point: the first pass goes straight into it.
    Nothing,
    /// This point, wholly.
    Point(PointName),
    /// A mixture: the spool of `to` is being applied over `from`. With the spool it is `to`.
    Applying {
        /// The point before.
        from: PointName,
        /// The committed one.
        to: PointName,
    },
}

/// A pass whose spool lies beside the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingPass {
    /// The point it is to become.
    pub point: PointName,
    /// Whether all of it is there.
    pub complete: bool,
}

/// A volume with its points; see the [module documentation](self). Clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    site: Arc<dyn ReplicaSite>,
    identity: String,
    size: u64,
    volume: SiteDisk,
    ledger: Arc<Ledger>,
    record_file: Arc<dyn RecordFile>,
    state: Mutex<State>,
    turn: Arc<AsyncMutex<()>>,
}

struct State {
    record: Record,
    /// Who reads which point.
    readers: Vec<(PointName, Weak<()>)>,
    /// The sealed spool, opened.
    spool: Option<Spool>,
    /// Where the last pass of this process writes: whoever still has a view of it is stopped before anything else begins.
    last: Option<(LedgeredExport, Destination)>,
    /// The base is about to be overwritten, or is: as the record says, and a moment earlier.
    applying: bool,
}

impl Replica {
    /// What the volume holds by itself.
    #[must_use]
    pub fn holding(&self) -> Holding {
        let state = self.inner.state();
        match (&state.record.holds, &state.record.pass) {
            (_, Some(pass)) if pass.phase == Phase::Applying => Holding::Applying { from: pass.base.clone(), to: pass.point.clone() },
            (Some(held), _) => Holding::Point(held.name().clone()),
            (None, _) => Holding::Nothing,
        }
    }

    /// The point recorded last as wholly held, with its ends; while a newer one is being applied, the one before.
    ///
    /// # Errors
    /// `InvalidInput`: the record holds no digests.
    pub fn held(&self) -> Result<Option<Point>> {
        self.inner.state().record.holds.as_ref().map(record::Held::point).transpose()
    }

    /// The pass whose spool waits beside the volume.
    #[must_use]
    pub fn pending(&self) -> Option<PendingPass> {
        let state = self.inner.state();
        state.record.pass.as_ref().map(|pass| PendingPass { point: pass.point.clone(), complete: pass.phase != Phase::Writing })
    }

    /// Whether somebody wrote the volume since the pass that waits beside it was begun: what it lacks is not what the volume has. It is to
    /// be abandoned, unless it is committed.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let pass = self.inner.state().record.pass.clone();
        pass.is_some_and(|pass| self.inner.is_stale(&pass))
    }

    /// The ledger of the volume.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    /// Whether the ledger has followed every write to the volume since `committed` came into it. If not, somebody else may have written
    /// between its ends, or the ledger was lost: an increment must not be added to it, and a pass compares.
    #[must_use]
    pub fn is_followed(&self, committed: &PointName) -> bool {
        self.inner.ledger.committed().is_some_and(|commit| commit.pass == committed.as_str())
    }

    /// Compares what a reader of the committed point sees with the ends that were recorded when it was committed.
    ///
    /// # Errors
    /// As [`Replica::reader`]; `ForeignContent`: they differ.
    pub async fn check(&self, committed: &Point) -> Result<()> {
        let found = Ends::of(&self.reader(&committed.name).await?).await?;
        if found == committed.ends {
            return Ok(());
        }
        let which = if found.first == committed.ends.first { "last" } else { "first" };
        Err(Error::new(
            ErrorKind::ForeignContent,
            "recognize a volume",
            "it has not the content that was committed: another volume, or written by somebody else",
        )
        .with("volume", self.inner.site.name())
        .with("point", &committed.name)
        .with("block", which))
    }

    /// Refuses an increment of about `expected` bytes that has no room for its spool: to be asked before the source's snapshot is made. A
    /// volume that holds no point needs none. Where several replicas share a file system, their needs ([`Spool::room_for`]) add up; the
    /// caller compares the sum with [`Replica::free_bytes`].
    ///
    /// # Errors
    /// `NoSpace`: what it needs, what is free, at which place.
    pub async fn check_room(&self, expected: u64) -> Result<()> {
        if self.holding() == Holding::Nothing {
            return Ok(());
        }
        Spool::check_room(&self.inner.site.name(), expected, self.free_bytes().await?)
    }

    /// The bytes free where the spool lies.
    ///
    /// # Errors
    /// As the file system says.
    pub async fn free_bytes(&self) -> Result<u64> {
        self.inner.site.free_bytes().await
    }

    /// Begins the pass that brings the volume to `point`, or continues it if it was interrupted. `expected`: how many bytes it will
    /// write about, at most; the room for them is checked before anything is made.
    ///
    /// # Errors
    /// `NoSpace`: no room for the spool: needs, free, at. `AlreadyExists`: the volume holds this point already, or a pass to another
    /// point waits, which must be settled first. `Busy`: another pass is under way.
    pub async fn begin(&self, point: &PointName, expected: u64) -> Result<ReplicaPass> {
        let turn = self.inner.take_turn("begin a pass")?;
        self.inner.stop_last().await;
        let record = self.inner.state().record.clone();
        let refuse = |message: &'static str, there: &PointName| {
            Err(Error::new(ErrorKind::AlreadyExists, "begin a pass", message)
                .with("volume", self.inner.site.name())
                .with("point", point)
                .with("there", there))
        };
        let (export, into, resumed) = match (&record.holds, &record.pass) {
            (None, _) => self.inner.straight_to_volume().await?,
            (Some(_), Some(pass)) if pass.point == *point && pass.phase == Phase::Writing => {
                self.inner.by_spool(pass.clone(), expected).await?
            }
            (Some(_), Some(pass)) if pass.point == *point => {
                return refuse("the pass to this point is complete already; it is to be settled", point);
            }
            (Some(_), Some(pass)) => {
                return refuse("a pass to another point waits beside the volume; it must be settled first", &pass.point);
            }
            (Some(held), None) if held.name() == point => return refuse("the volume holds this point already", point),
            (Some(held), None) => {
                let generation = Some(self.inner.ledger.generation());
                let (base, spool) = (held.name().clone(), String::new());
                let pass = PassRecord { base, point: point.clone(), spool, phase: Phase::Writing, generation };
                self.inner.by_spool(pass, expected).await?
            }
        };
        self.inner.state().last = Some((export.clone(), into.clone()));
        Ok(ReplicaPass { replica: self.clone(), point: point.clone(), export, into, resumed, _turn: turn })
    }

    /// Reads exactly the committed point, whatever state its spool is in.
    ///
    /// # Errors
    /// `Mismatch`: the volume neither holds this point nor has a complete spool of it; both are named. Or the spool is damaged.
    pub async fn reader(&self, committed: &PointName) -> Result<PointReader> {
        let record = self.inner.state().record.clone();
        let spool = match record.pass {
            Some(pass) if pass.point == *committed && pass.phase != Phase::Writing => Some(self.inner.sealed_spool(&pass).await?),
            _ => None,
        };
        let mut state = self.inner.state();
        let holds = state.record.holds.as_ref().is_some_and(|held| held.name() == committed);
        let mixed = state.applying || state.record.pass.as_ref().is_some_and(|pass| pass.phase == Phase::Applying);
        let disk: Arc<dyn BlockRead> = match spool {
            // Right also when it was applied meanwhile: it stays open, and says the same.
            Some(spool) => Arc::new(spool),
            None if holds && !mixed => Arc::clone(&self.inner.volume.disk) as _,
            None => {
                drop(state);
                return Err(self.inner.other_point("read a point", committed));
            }
        };
        let alive = Arc::new(());
        state.readers.retain(|(_, reader)| reader.strong_count() > 0);
        state.readers.push((committed.clone(), Arc::downgrade(&alive)));
        Ok(PointReader { disk, _alive: alive })
    }

    /// Ends well: what is known of the volume is saved, so that the next to open it can tell whether somebody else wrote it meanwhile.
    ///
    /// # Errors
    /// As the ledger cannot be written.
    pub async fn close(&self) -> Result<()> {
        let _turn = self.inner.take_turn("close a replica")?;
        self.inner.ledger.save(true).await?;
        let Some(state) = &self.inner.volume.state else { return Ok(()) };
        let now = state().await?;
        // A seal that is whole: we wrote nothing. Then nobody else may have either.
        self.inner.ledger.check_seal(&now).await;
        self.inner.ledger.seal(&now).await
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_spool(&self, spool: Spool) {
        self.state().spool = Some(spool);
    }

    fn take_turn(&self, operation: &'static str) -> Result<OwnedMutexGuard<()>> {
        Arc::clone(&self.turn).try_lock_owned().map_err(|_| {
            Error::new(ErrorKind::Busy, operation, "another pass over this replica, or its settling, is under way")
                .with("volume", self.site.name())
        })
    }

    /// Changes the record; durable when this returns. What is in memory changes only then.
    async fn change_record(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self.state().record.clone();
        change(&mut record);
        record.write(&self.record_file).await?;
        self.state().record = record;
        Ok(())
    }

    async fn set_phase(&self, phase: Phase) -> Result<()> {
        self.change_record(|record| {
            if let Some(pass) = &mut record.pass {
                pass.phase = phase;
            }
        })
        .await
    }

    fn name_of(&self, pass: &PassRecord) -> SpoolName {
        SpoolName { volume: self.identity.clone(), size: self.size, base: pass.base.clone(), point: pass.point.clone() }
    }

    /// The ledger of a spool; one of another spool is void.
    async fn spool_ledger(&self, id: &str) -> Result<Arc<Ledger>> {
        let (file, digests) = (self.site.file(SideFile::SpoolLedger), self.site.file(SideFile::SpoolDigests));
        Ok(Ledger::open(file, Some(digests), LedgerOptions::new(format!("spool {id}"), self.size)).await?.0)
    }

    /// The spool of a complete pass.
    async fn sealed_spool(&self, pass: &PassRecord) -> Result<Spool> {
        if let Some(spool) = self.state().spool.clone().filter(|spool| spool.id() == pass.spool) {
            return Ok(spool);
        }
        let found = match self.site.open_spool().await? {
            Some(disk) => Spool::open(disk.disk, Arc::clone(&self.volume.disk) as _, &self.name_of(pass)).await?,
            None => None,
        };
        let spool = found.filter(|spool| spool.id() == pass.spool && spool.is_sealed()).ok_or_else(|| {
            Error::new(
                ErrorKind::Mismatch,
                "open a spool",
                "the complete spool that the volume's record names is gone, or another one lies there",
            )
            .with("volume", self.site.name())
            .with("point", &pass.point)
            .with("base", &pass.base)
        })?;
        self.put_spool(spool.clone());
        Ok(spool)
    }

    /// What lies there is not what the caller says is committed.
    fn other_point(&self, operation: &'static str, committed: &PointName) -> Error {
        let state = self.state();
        let holds = state.record.holds.as_ref().map_or("no point", |held| held.name().as_str());
        let error = Error::new(ErrorKind::Mismatch, operation, "the volume holds another point than the committed one")
            .with("volume", self.site.name())
            .with("committed", committed)
            .with("holds", holds);
        match &state.record.pass {
            Some(pass) if pass.phase == Phase::Applying => error.with("being applied", &pass.point),
            Some(pass) if pass.phase == Phase::Sealed => error.with("complete beside it", &pass.point),
            Some(pass) => error.with("incomplete beside it", &pass.point),
            None => error,
        }
    }
}

/// A disk that reads one point, and keeps it from being overwritten as long as it lives.
#[derive(Clone)]
pub struct PointReader {
    disk: Arc<dyn BlockRead>,
    _alive: Arc<()>,
}

impl BlockRead for PointReader {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        self.disk.read(range)
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.disk.extents(range)
    }
}
