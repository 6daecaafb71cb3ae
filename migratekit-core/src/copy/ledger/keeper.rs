//! The ledger with its file: who may write, what is durable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::core::Core;
use super::format::{self, BODY_MARK_AT, Contents, MAX_VOLUME};
use super::inflight::{Kind, Ticket};
use super::options::LedgerOptions;
use super::passes::valid_id;
use super::storage::RecordFile;
use super::{Commit, code};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::wire::ledger_state;
use crate::task;
use crate::units::ByteRange;

/// How a ledger was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    New,
    /// It continues.
    Continued,
    /// There was one, of which nothing may be believed; the reason is for people.
    Void(String),
}

/// A pass as its writers name it: what [`Ledger::begin_pass`] gave. Of an older pass it no longer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassId(u64);

/// The ledger of one volume. See the [title page](super).
pub struct Ledger {
    core: Mutex<Core>,
    file: Arc<dyn RecordFile>,
    pub(super) digests: Option<Arc<dyn RecordFile>>,
    volume: String,
    /// Held while a snapshot is made and written: snapshots are durable in the order of their numbers.
    saving: Arc<AsyncMutex<()>>,
    durable_epoch: AtomicU64,
    /// The last snapshot could not be written.
    failing: AtomicBool,
    /// Told when a request ends.
    ended: Notify,
}

impl Ledger {
    /// Opens the ledger of a volume. What `file` says is believed only if it is whole and speaks of this very volume; anything
    /// else, errors of reading included, gives an empty ledger and the reason. `digests`: the side file.
    ///
    /// # Errors
    /// `InvalidInput`: the options make no sense.
    pub async fn open(
        file: Arc<dyn RecordFile>,
        digests: Option<Arc<dyn RecordFile>>,
        options: LedgerOptions,
    ) -> Result<(Arc<Self>, Opened)> {
        let bits = options.block_bits()?;
        let read = {
            let (file, options) = (Arc::clone(&file), options.clone());
            run(Arc::clone(&file), move || file.open().map(|f| f.map(|mut f| format::read(&mut f, &options, bits)))).await?
        };
        let mut core = Core::new(options.size, bits);
        let opened = match read {
            Ok(None) => Opened::New,
            Err(e) => Opened::Void(e.to_string()),
            Ok(Some(Contents::Void { why, facts })) => {
                core.facts = facts;
                Opened::Void(why.to_owned())
            }
            Ok(Some(Contents::Whole { map, passes, facts })) => {
                (core.map, core.passes, core.facts) = (map, passes, facts);
                Opened::Continued
            }
        };
        if let Opened::Void(reason) = &opened {
            tracing::warn!(volume = options.volume, file = file.name(), reason, "the ledger is void: nothing of the volume is known");
        }
        if let Some(generation) = options.generation {
            core.facts.generation = generation;
        }
        let durable_epoch = AtomicU64::new(core.facts.epoch);
        let ledger = Ledger {
            core: Mutex::new(core),
            file,
            digests,
            volume: options.volume,
            saving: Arc::default(),
            durable_epoch,
            failing: AtomicBool::new(false),
            ended: Notify::new(),
        };
        Ok((Arc::new(ledger), opened))
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of the volume in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.core().size
    }

    pub(super) fn volume(&self) -> &str {
        &self.volume
    }

    /// The size of a block in bytes.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        1 << self.core().block_bits
    }

    /// Begins pass `id`, or continues it; durable when this returns. What other passes did not get flushed becomes unknown, so
    /// flush before. Writers that still carry another pass count as anonymous from now on.
    ///
    /// # Errors
    /// `InvalidInput`: not a valid id (1 to 64 of `[0-9a-zA-Z._-]`). Else as [`Ledger::save`].
    pub async fn begin_pass(self: &Arc<Self>, id: &str) -> Result<PassId> {
        if !valid_id(id) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "begin a pass",
                "a pass id is 1 to 64 letters, digits, dots, dashes or underscores",
            )
            .with("pass", id)
            .with("volume", &self.volume));
        }
        let guard = Arc::clone(&self.saving).lock_owned().await;
        let (serial, new) = {
            let mut core = self.core();
            let new = core.passes.current_id() != Some(id);
            core.changed |= new;
            (core.begin_pass(id), new)
        };
        drop(guard);
        if new {
            self.save(false).await?;
        }
        Ok(PassId(serial))
    }

    /// Waits until no request is under way that began before `pass` did, however long the disk takes for it: from then on no byte
    /// of an older writer lands. Dropping the future changes nothing.
    pub async fn older_ended(&self, pass: PassId) {
        loop {
            let ended = self.ended.notified();
            if !self.core().inflight.has_older(pass.0) {
                return;
            }
            ended.await;
        }
    }

    /// The id of the current pass.
    #[must_use]
    pub fn last_pass(&self) -> Option<String> {
        self.core().passes.current_id().map(str::to_owned)
    }

    /// A request is about to write `range` (not empty, within the volume), for a pass or for none. When this returns, no durable
    /// file calls its blocks proven, and the request may touch the disk. Dropping the guard without [`Writing::done`] says that
    /// it failed.
    ///
    /// # Errors
    /// The file claims these blocks and could neither be replaced nor voided: the request must not be made.
    pub async fn begin_write(self: &Arc<Self>, range: ByteRange, pass: Option<PassId>) -> Result<Writing> {
        let kind = pass.map_or(Kind::Void, |p| Kind::Pass(p.0));
        let begun = self.core().begin(range, kind);
        let writing = Writing { ledger: Arc::clone(self), ticket: Some(begun.ticket) };
        if let Some(number) = begun.wait {
            self.save_up_to(number, false).await.map_err(|e| e.with("needed", "to overwrite a proven block"))?;
        }
        Ok(writing)
    }

    /// A flush of the disk is about to begin.
    pub fn begin_flush(&self) {
        self.core().begin_flush();
    }

    /// The flush ended. After a failed one nothing is known but what earlier flushes proved, and the disk must be opened again.
    /// One flush at a time.
    pub fn end_flush(&self, ok: bool) {
        self.core().end_flush(ok);
    }

    /// Writes a snapshot if it would say anything new. `settled`: no writes are expected, so blocks that were taken back but not
    /// touched come back.
    ///
    /// # Errors
    /// The file could neither be replaced nor voided: what it claims may be outdated.
    pub async fn save(self: &Arc<Self>, settled: bool) -> Result<()> {
        let number = {
            let core = self.core();
            // Without anything new, the snapshot that is perhaps being written must still be durable.
            let new = core.changed || (settled && !core.regions.is_empty());
            let number = if new { core.next } else { core.next - 1 };
            if number <= core.durable {
                return Ok(());
            }
            number
        };
        self.save_up_to(number, settled).await
    }

    async fn save_up_to(self: &Arc<Self>, number: u64, settled: bool) -> Result<()> {
        let guard = Arc::clone(&self.saving).lock_owned().await;
        let ledger = Arc::clone(self);
        run(Arc::clone(&self.file), move || {
            // The guard lives here, so that a caller that leaves does not let two snapshots run at once.
            let _guard = guard;
            if ledger.core().durable >= number { Ok(()) } else { ledger.write_snapshot(settled) }
        })
        .await?
    }

    fn write_snapshot(&self, settled: bool) -> Result<()> {
        let (number, epoch) = {
            let mut core = self.core();
            let (number, durable) = (core.next, core.durable);
            let settled = settled && core.inflight.is_empty();
            core.next += 1;
            core.changed = false;
            core.regions.release(number, durable, settled);
            (number, core.facts.epoch)
        };
        let written = self.file.replace(&mut |out| format::write(&self.volume, || self.core(), out));
        match written {
            Ok(()) => {
                self.durable_epoch.fetch_max(epoch, Ordering::SeqCst);
                self.failing.store(false, Ordering::SeqCst);
                self.core().durable = number;
                Ok(())
            }
            Err(e) => {
                self.core().changed = true;
                self.void_file(&e)?;
                self.core().durable = number;
                Ok(())
            }
        }
    }

    /// The file could not be replaced: what it says may be outdated, so it must say nothing.
    fn void_file(&self, cause: &Error) -> Result<()> {
        if !self.failing.swap(true, Ordering::SeqCst) {
            tracing::warn!(volume = self.volume, file = self.file.name(), error = %cause, "the ledger cannot be written: it is voided");
        }
        let voided = match self.file.open() {
            Ok(None) => Ok(()),
            _ => self.file.write_at(BODY_MARK_AT, &[0; 32]).and_then(|()| self.file.sync()),
        };
        voided.map_err(|e| {
            Error::new(ErrorKind::Io, "keep the ledger", "it can neither be written nor voided, so nothing may be overwritten")
                .with("volume", &self.volume)
                .with("file", self.file.name())
                .with("first error", cause)
                .with_source(e)
        })
    }

    /// Saves, and insists: what was changed is in the file.
    async fn save_surely(self: &Arc<Self>, operation: &'static str) -> Result<()> {
        let number = self.core().next;
        self.save_up_to(number, false).await?;
        if self.failing.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Io, operation, "the ledger file cannot be written")
                .with("volume", &self.volume)
                .with("file", self.file.name()));
        }
        Ok(())
    }

    /// The highest epoch ever admitted.
    #[must_use]
    pub fn highest_epoch(&self) -> u64 {
        self.core().facts.epoch
    }

    /// Raises the highest epoch; durable when this returns. A lower or equal one changes nothing.
    ///
    /// # Errors
    /// `Io`: the file cannot be written.
    pub async fn raise_epoch(self: &Arc<Self>, epoch: u64) -> Result<()> {
        {
            let mut core = self.core();
            core.facts.epoch = core.facts.epoch.max(epoch);
        }
        if self.durable_epoch.load(Ordering::SeqCst) >= epoch { Ok(()) } else { self.save_surely("record the epoch").await }
    }

    /// The volume was written by another way than through the ledger's writers: nothing of it is known any more. Durable when
    /// this returns; call it before the other way begins.
    ///
    /// # Errors
    /// `Io`: the file cannot be written.
    pub async fn raise_generation(self: &Arc<Self>, reason: &str) -> Result<u64> {
        let generation = {
            let guard = Arc::clone(&self.saving).lock_owned().await;
            let mut core = self.core();
            core.raise_generation();
            drop(guard);
            core.facts.generation
        };
        tracing::info!(volume = self.volume, generation, reason, "the ledger begins a new generation");
        self.save_surely("begin a new generation of the ledger").await?;
        Ok(generation)
    }

    /// The export was closed well and nobody is to write the volume until it is opened again; `state` is what changes when
    /// somebody does (at most 4 KiB bytes; of a file: its times). Durable when this returns.
    ///
    /// # Errors
    /// `Io`: the file cannot be written.
    pub async fn seal(self: &Arc<Self>, state: &str) -> Result<()> {
        {
            let guard = Arc::clone(&self.saving).lock_owned().await;
            self.core().facts.seal = Some(state.to_owned()).filter(|s| s.len() <= MAX_VOLUME);
            drop(guard);
        }
        self.save_surely("seal the ledger").await
    }

    /// Breaks the seal that the last good close left, before anything is written. False when `state` is another one than it
    /// recorded: somebody wrote the volume meanwhile, and nothing of it is known any more. Without a seal (a crash) all is believed.
    pub async fn unseal(self: &Arc<Self>, state: &str) -> bool {
        let Some(seal) = self.core().facts.seal.clone() else { return true };
        let kept = seal == state;
        let saved = if kept {
            let guard = Arc::clone(&self.saving).lock_owned().await;
            self.core().facts.seal = None;
            drop(guard);
            self.save_surely("open the seal of the ledger").await
        } else {
            self.raise_generation("the volume was written while it was not served").await.map(|_| ())
        };
        if let Err(error) = saved {
            // The file keeps a seal that the first write makes wrong: it will not be believed.
            tracing::warn!(volume = self.volume, %error, "the ledger's seal stays");
        }
        kept
    }

    /// Whether the seal that the last good close left is whole: nothing has been written since by this ledger's writers.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.core().facts.seal.is_some()
    }

    /// Compares the seal that the last good close left, and leaves it whole: for who opens the volume and may never write it. False as
    /// [`Ledger::unseal`], and then the ledger has begun a new generation.
    pub async fn check_seal(self: &Arc<Self>, state: &str) -> bool {
        let sealed = self.core().facts.seal.clone();
        sealed.is_none_or(|seal| seal == state) || self.unseal(state).await
    }

    /// Whether writers of a pass still count: no newer one has begun.
    #[must_use]
    pub fn is_current(&self, pass: PassId) -> bool {
        self.core().is_current(pass.0)
    }

    /// Whether pass `id` wrote here before a newer one began (as far back as passes are known by name).
    #[must_use]
    pub fn is_past(&self, id: &str) -> bool {
        self.core().is_past(id)
    }

    /// The generation of the volume.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.core().facts.generation
    }

    /// Records what a committed pass leaves: the digests of the first and the last block. Durable when this returns.
    ///
    /// # Errors
    /// `Io`: the file cannot be written.
    pub async fn commit(self: &Arc<Self>, commit: Commit) -> Result<()> {
        {
            let guard = Arc::clone(&self.saving).lock_owned().await;
            self.core().facts.commit = Some(commit);
            drop(guard);
        }
        self.save_surely("record the commit of a pass").await
    }

    /// What the last committed pass recorded.
    #[must_use]
    pub fn committed(&self) -> Option<Commit> {
        self.core().facts.commit.clone()
    }

    /// Flags of [`ledger_state`] for `range`, relative to `pass`, or else to the current one: sorted, without gaps, neighbours
    /// different, covering the range.
    #[must_use]
    pub fn states(&self, pass: Option<&str>, range: ByteRange) -> Vec<(ByteRange, u32)> {
        let core = self.core();
        let asked = match pass {
            Some(id) => core.passes.slot_of(id),
            None => core.passes.current(),
        };
        let is_current = asked.is_some() && asked == core.passes.current();
        let mut states: Vec<(ByteRange, u32)> = Vec::new();
        let (first, end) = core.blocks_of(range);
        core.map.for_runs(first, end, |start, stop, state| {
            let state = core.claim(state, false);
            let flags = match code::slot(state) {
                Some(slot) if Some(slot) == asked => ledger_state::PROVEN,
                Some(_) => ledger_state::PROVEN_BEFORE,
                None if state == code::PARTIAL && is_current => ledger_state::PARTIAL,
                None => ledger_state::UNKNOWN,
            };
            let part = range.intersection(ByteRange::between(start << core.block_bits, stop << core.block_bits));
            match states.last_mut() {
                Some((last, f)) if *f == flags => *last = ByteRange::between(last.offset(), part.end()),
                _ => states.push((part, flags)),
            }
        });
        states
    }

    /// Bytes written since the last flush began, by requests that completed well.
    #[must_use]
    pub fn unflushed(&self) -> u64 {
        self.core().unflushed
    }

    /// Whether blocks that were taken back wait to come back ([`Ledger::save`] with `settled`), or a snapshot has yet to be
    /// written.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        let core = self.core();
        !core.regions.is_empty() || core.changed
    }

    /// The memory held, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.core().memory_bytes() + size_of::<Self>()
    }
}

/// Runs work on files: off the async threads if it may wait.
pub(super) async fn run<T: Send + 'static>(file: Arc<dyn RecordFile>, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if file.blocks() { task::blocking(work).await } else { Ok(work()) }
}

/// A request under way. Dropped, it failed.
#[must_use]
pub struct Writing {
    ledger: Arc<Ledger>,
    ticket: Option<Ticket>,
}

impl Writing {
    /// The request completed well. Tells the bytes written since the last flush began, before this request and with it.
    pub fn done(mut self) -> (u64, u64) {
        let counted = self.ticket.take().map_or((0, 0), |ticket| self.ledger.core().end(ticket, true));
        self.ledger.ended.notify_waiters();
        counted
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.ledger.core().end(ticket, false);
            self.ledger.ended.notify_waiters();
        }
    }
}
