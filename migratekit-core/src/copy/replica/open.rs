//! Opening a replica: the volume locked, its record read, its ledger asked whether somebody else wrote it.
//!
//! Opening writes nothing to the volume and leaves the ledger's seal whole, so that who only reads does not take from the next one the
//! means to tell. The seal is broken before the first write.

use std::sync::{Arc, Mutex};

use super::bounded::bounded;
use super::point::Point;
use super::record::{Held, PassRecord, Record};
use super::{Inner, Replica, ReplicaOptions, ReplicaSite, SideFile, SiteDisk, State};
use crate::block::{Persist, ZeroMode};
use crate::copy::ledger::{Ledger, LedgerOptions, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

impl Replica {
    /// Opens a replica: locks the volume, reads its record, and compares with what is committed.
    ///
    /// # Errors
    /// `Busy`: another process holds the volume. `Mismatch`: the record is damaged, of another volume, or speaks of another point than
    /// the committed one (both are named). `ForeignContent`: the volume's ends are not those that were committed.
    /// `Changed`: the volume is smaller than it should be.
    pub async fn open(site: Arc<dyn ReplicaSite>, options: ReplicaOptions) -> Result<Replica> {
        let volume = open_volume(&*site, options.size).await?;
        let record = read_record(&*site, &options).await?;
        let replica = Replica::assemble(site, volume, &options, record).await?;
        if let Some(committed) = &options.committed {
            replica.check(committed).await?;
        }
        Ok(replica)
    }

    /// Opens a replica whose record, spool or content cannot be believed: from now on it holds nothing, and its ledger begins a new
    /// generation. The next pass writes all of it; what of the volume lies behind it is zero.
    ///
    /// # Errors
    /// `Busy`, `Changed` as [`Replica::open`]; else as the volume and the files beside it cannot be written.
    pub async fn start_over(site: Arc<dyn ReplicaSite>, options: ReplicaOptions, reason: &str) -> Result<Replica> {
        let whole = site.open_volume().await?;
        let there = whole.disk.info().size;
        if there > options.size {
            let behind = ByteRange::between(options.size, there);
            whole.disk.zero(behind, ZeroMode { may_punch: true, only_fast: false }, Persist::Cached).await?;
            whole.disk.flush().await?;
        }
        let volume = fitting(whole, &*site, options.size)?;
        let record = Record::new(&options.identity, options.size);
        let replica = Replica::assemble(site, volume, &options, record).await?;
        let inner = &replica.inner;
        inner.ledger.raise_generation(reason).await?;
        inner.change_record(|_| ()).await?;
        inner.site.remove_spool().await?;
        Ok(replica)
    }

    pub(super) async fn assemble(
        site: Arc<dyn ReplicaSite>,
        volume: SiteDisk,
        options: &ReplicaOptions,
        record: Record,
    ) -> Result<Replica> {
        let ledger_options = LedgerOptions::new(options.identity.clone(), options.size);
        let (ledger, opened) = Ledger::open(site.file(SideFile::Ledger), Some(site.file(SideFile::Digests)), ledger_options).await?;
        if let (Opened::Continued, Some(state)) = (opened, &volume.state) {
            ledger.check_seal(&state().await?).await;
        }
        let record_file = site.file(SideFile::Point);
        let state = Mutex::new(State { record, readers: Vec::new(), spool: None, last: None, applying: false });
        let (identity, size) = (options.identity.clone(), options.size);
        Ok(Replica { inner: Arc::new(Inner { site, identity, size, volume, ledger, record_file, state, turn: Arc::default() }) })
    }

    /// The volume is about to be written from outside of the replica, by somebody who keeps its point: made larger, say. Breaks the seal.
    ///
    /// # Errors
    /// As the volume cannot be looked at.
    pub async fn unseal(&self) -> Result<()> {
        self.inner.unseal().await.map(|_| ())
    }
}

impl Inner {
    /// Before the volume is written. False when somebody else wrote it since it was opened, or sealed.
    pub(super) async fn unseal(&self) -> Result<bool> {
        match &self.volume.state {
            Some(state) => Ok(self.ledger.unseal(&state().await?).await),
            None => Ok(true),
        }
    }

    /// Whether the pass was begun over a content that the volume no longer has: somebody wrote it since.
    pub(super) fn is_stale(&self, pass: &PassRecord) -> bool {
        pass.generation.is_some_and(|generation| generation != self.ledger.generation())
    }
}

/// The first `size` bytes of the volume.
pub(super) async fn open_volume(site: &dyn ReplicaSite, size: u64) -> Result<SiteDisk> {
    fitting(site.open_volume().await?, site, size)
}

fn fitting(volume: SiteDisk, site: &dyn ReplicaSite, size: u64) -> Result<SiteDisk> {
    let there = volume.disk.info().size;
    if there < size {
        return Err(Error::new(ErrorKind::Changed, "open a replica", "the volume is smaller than it should be")
            .with("volume", site.name())
            .with("size_was", size)
            .with("size_is", there));
    }
    Ok(if there == size { volume } else { bounded(volume, size) })
}

/// The record. One of a larger disk is right too when it holds the committed point: it grew, by zeros behind what is asked for, and who grew
/// it could not say so before it ended.
async fn read_record(site: &dyn ReplicaSite, options: &ReplicaOptions) -> Result<Record> {
    let file = site.file(SideFile::Point);
    let name = file.name();
    let Some(found) = Record::find(file, &options.identity).await? else { return Ok(Record::new(&options.identity, options.size)) };
    if found.size == options.size {
        return Ok(found);
    }
    let holds = |committed: &Point| found.holds.as_ref().is_some_and(|held| *held.name() == committed.name);
    match &options.committed {
        Some(committed) if found.size > options.size && found.pass.is_none() && holds(committed) => {
            Ok(Record { size: options.size, holds: Some(Held::new(committed)), ..found })
        }
        _ => Err(found.of_another_size(&name, options.size)),
    }
}
