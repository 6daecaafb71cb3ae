//! The volatile-cache target: a disk, and small files, in a world that can be killed.
//!
//! Writes go to a cache that every later read sees. A completed flush makes durable what completed before it began, a durable
//! (FUA) write itself. When the world is killed, by [`World::kill`] or by its *fuse* (after a chosen number of steps, in the middle of
//! whatever happens then), everything under way and later fails, and of what was not durable a random subset survives, in a
//! random order, writes torn at 512-byte sectors. Then [`World::reborn`] continues from what is left. The small files of a ledger
//! live in the same world and die at the same moment.
//!
//! The model is at least as unkind as real storage within the ordering contract of [`block`](crate::block), and no less kind:
//! what a flush covered is never lost.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Rng;
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Persist, ZeroMode};
use crate::copy::ledger::{Fill, RecordFile};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// Writes are torn at multiples of this, in bytes.
const SECTOR: usize = 512;

/// Bytes with a cache in front: the disk's, and each file's.
#[derive(Debug, Clone, Default)]
struct Cells {
    durable: Vec<u8>,
    visible: Vec<u8>,
    /// Writes in the cache, by a number that rises.
    cached: BTreeMap<u64, (usize, Vec<u8>)>,
    next: u64,
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    if let Some(to) = image.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

impl Cells {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.visible, at, bytes);
        self.cached.insert(self.next, (at, bytes.to_vec()));
        self.next += 1;
    }

    /// What was written before number `end` becomes durable.
    fn flush_until(&mut self, end: u64) {
        let later = self.cached.split_off(&end);
        for (at, bytes) in std::mem::replace(&mut self.cached, later).into_values() {
            put(&mut self.durable, at, &bytes);
        }
    }

    /// As a durable write: older cached writes cannot come after it.
    fn write_durably(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.visible, at, bytes);
        put(&mut self.durable, at, bytes);
        for (start, old) in self.cached.values_mut() {
            let (from, to) = (at.max(*start), (at + bytes.len()).min(*start + old.len()));
            if from < to
                && let (Some(new), Some(place)) = (bytes.get(from - at..to - at), old.get_mut(from - *start..to - *start))
            {
                place.copy_from_slice(new);
            }
        }
    }

    /// A random subset of the cache, in random order, torn at sectors, reaches the storage; the rest is lost.
    fn kill(&mut self, rng: &mut Rng) {
        let mut left: Vec<_> = std::mem::take(&mut self.cached).into_values().collect();
        let survive = [0, 20, 50, 80, 100].get(usize::try_from(rng.below(5)).unwrap_or(0)).copied().unwrap_or(0);
        while !left.is_empty() {
            let (at, bytes) = left.swap_remove(usize::try_from(rng.below(left.len() as u64)).unwrap_or(0));
            if !rng.chance(survive) {
                continue;
            }
            if rng.chance(70) {
                put(&mut self.durable, at, &bytes);
            } else {
                self.tear(at, &bytes, rng);
            }
        }
        self.visible.clone_from(&self.durable);
    }

    fn tear(&mut self, at: usize, bytes: &[u8], rng: &mut Rng) {
        let mut done = 0;
        while done < bytes.len() {
            let step = (SECTOR - (at + done) % SECTOR).min(bytes.len() - done);
            if rng.chance(50) {
                put(&mut self.durable, at + done, bytes.get(done..done + step).unwrap_or(&[]));
            }
            done += step;
        }
    }
}

#[derive(Debug, Clone, Default)]
struct FileState {
    cells: Cells,
    exists: bool,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    disk: Cells,
    files: BTreeMap<String, FileState>,
    /// Steps until the world dies by itself.
    fuse: Option<u64>,
    dead: bool,
    /// The next flush of the disk fails, and what is in the cache is lost or not.
    fail_flush: bool,
    flushes: u64,
    /// Replacements of files that succeeded.
    replaced: u64,
    /// The next writes and replacements of files fail, so many.
    fail_files: u64,
}

/// A disk and files that die together. Clones are the same world.
#[derive(Debug, Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
}

impl World {
    /// A world with a disk of zeros.
    #[must_use]
    pub fn new(size: usize, seed: u64) -> Self {
        let disk = Cells { durable: vec![0; size], visible: vec![0; size], ..Cells::default() };
        World::with(disk, BTreeMap::new(), Rng::new(seed))
    }

    fn with(disk: Cells, files: BTreeMap<String, FileState>, rng: Rng) -> Self {
        let state = State { rng, disk, files, fuse: None, dead: false, fail_flush: false, flushes: 0, replaced: 0, fail_files: 0 };
        World { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world dies after so many steps of disk and files.
    pub fn set_fuse(&self, steps: u64) {
        self.state().fuse = Some(steps);
    }

    /// The next flush of the disk fails; of what is in the cache then, a random part is lost for ever though it stays readable.
    pub fn fail_next_flush(&self) {
        self.state().fail_flush = true;
    }

    /// The next `count` writes, syncs and replacements of files fail.
    pub fn fail_files(&self, count: u64) {
        self.state().fail_files = count;
    }

    /// Flushes of the disk that succeeded.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.state().flushes
    }

    /// Replacements of files that succeeded.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.state().replaced
    }

    /// Whether the world is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The process dies or the power fails, now.
    pub fn kill(&self) {
        self.state().die();
    }

    /// The durable image of the disk. Before the death it does not hold what is only in the cache.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.state().disk.durable.clone()
    }

    /// The next life: the same disk and files, from what is durable. The old world is killed first if it lives.
    #[must_use]
    pub fn reborn(&self, seed: u64) -> World {
        let mut state = self.state();
        state.die();
        World::with(state.disk.clone(), state.files.clone(), Rng::new(seed))
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> VolatileDisk {
        let size = self.state().disk.durable.len() as u64;
        let mut info = BlockInfo::plain("the volatile disk", size);
        info.can.flush = true;
        info.can.fua = true;
        info.can.zero = true;
        info.can.discard = true;
        info.can.multi_conn = true;
        VolatileDisk { world: self.clone(), info }
    }

    /// A small file.
    #[must_use]
    pub fn file(&self, name: &str, blocks: bool) -> VolatileFile {
        VolatileFile { world: self.clone(), name: name.to_owned(), blocks }
    }
}

impl State {
    fn die(&mut self) {
        if !std::mem::replace(&mut self.dead, true) {
            self.disk.kill(&mut self.rng);
            for file in self.files.values_mut() {
                file.cells.kill(&mut self.rng);
            }
        }
    }

    /// One step of the world: it fails when it is dead, or dies here.
    fn step(&mut self) -> Result<()> {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.saturating_sub(1);
            if *fuse == 0 {
                self.die();
            }
        }
        if self.dead { Err(Error::new(ErrorKind::Io, "use the volatile disk", "it was killed")) } else { Ok(()) }
    }

    fn begin_flush(&mut self) -> Result<u64> {
        self.step()?;
        Ok(self.disk.next)
    }

    fn end_flush(&mut self, end: u64) -> Result<()> {
        self.step()?;
        if std::mem::take(&mut self.fail_flush) {
            let State { disk, rng, .. } = self;
            disk.cached.retain(|_, _| rng.chance(50));
            return Err(Error::new(ErrorKind::Io, "flush", "the volatile disk was told to fail"));
        }
        self.disk.flush_until(end);
        self.flushes += 1;
        Ok(())
    }

    fn file_step(&mut self) -> Result<()> {
        self.step()?;
        if self.fail_files > 0 {
            self.fail_files -= 1;
            return Err(Error::new(ErrorKind::NoSpace, "use a volatile file", "it was told to fail"));
        }
        Ok(())
    }
}

/// The volatile disk; see the [module](self).
#[derive(Debug, Clone)]
pub struct VolatileDisk {
    world: World,
    info: BlockInfo,
}

/// A write that was handed over and has not completed: dropped, or overtaken by death, any part of it may happen.
struct Handed<'a> {
    disk: &'a VolatileDisk,
    at: usize,
    bytes: Vec<u8>,
    open: bool,
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        let mut state = self.disk.world.state();
        if self.open && !state.dead {
            let happens = state.rng.below(self.bytes.len() as u64 + 1);
            let part = self.bytes.get(..usize::try_from(happens).unwrap_or(0)).unwrap_or(&[]).to_vec();
            state.disk.write(self.at, &part);
        }
    }
}

impl VolatileDisk {
    async fn pause(&self) {
        let pauses = self.world.state().rng.below(3);
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
    }

    async fn put(&self, offset: u64, bytes: Vec<u8>, persist: Persist) -> Result<()> {
        self.info.check_write("write", ByteRange::new(offset, bytes.len() as u64)?)?;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut handed = Handed { disk: self, at, bytes, open: true };
        self.pause().await;
        {
            let mut state = self.world.state();
            // Death at this very step may still let a part of the write through.
            let alive = state.fuse != Some(1);
            if !alive {
                state.disk.write(at, &handed.bytes);
            }
            state.step()?;
            match persist {
                Persist::Cached => state.disk.write(at, &handed.bytes),
                Persist::Durable => state.disk.write_durably(at, &handed.bytes),
            }
            handed.open = false;
        }
        self.pause().await;
        if self.world.is_dead() { Err(Error::new(ErrorKind::Io, "write", "the volatile disk was killed")) } else { Ok(()) }
    }
}

impl BlockRead for VolatileDisk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.info.check("read", range)?;
            self.pause().await;
            let mut state = self.world.state();
            state.step()?;
            let (from, to) = (usize::try_from(range.offset()).unwrap_or(0), usize::try_from(range.end()).unwrap_or(0));
            Ok(Bytes::copy_from_slice(state.disk.visible.get(from..to).unwrap_or(&[])))
        })
    }
}

impl BlockWrite for VolatileDisk {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.put(offset, data.to_vec(), persist))
    }

    fn zero(&self, range: ByteRange, _mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.put(range.offset(), vec![0; usize::try_from(range.length()).unwrap_or(0)], persist))
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        // Undefined content: something that nobody wrote.
        Box::pin(self.put(range.offset(), vec![0xdd; usize::try_from(range.length()).unwrap_or(0)], persist))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let end = self.world.state().begin_flush()?;
            self.pause().await;
            self.world.state().end_flush(end)?;
            self.pause().await;
            if self.world.is_dead() { Err(Error::new(ErrorKind::Io, "flush", "the volatile disk was killed")) } else { Ok(()) }
        })
    }
}

/// A small file in a volatile world.
#[derive(Debug, Clone)]
pub struct VolatileFile {
    world: World,
    name: String,
    blocks: bool,
}

impl VolatileFile {
    /// Its bytes as seen now.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.world.state().files.get(&self.name).map(|f| f.cells.visible.clone()).unwrap_or_default()
    }

    /// Sets its bytes, durably.
    pub fn set_bytes(&self, bytes: &[u8]) {
        let cells = Cells { durable: bytes.to_vec(), visible: bytes.to_vec(), ..Cells::default() };
        self.world.state().files.insert(self.name.clone(), FileState { cells, exists: true });
    }
}

impl RecordFile for VolatileFile {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn blocks(&self) -> bool {
        self.blocks
    }

    fn open(&self) -> Result<Option<Box<dyn Read + Send>>> {
        let mut state = self.world.state();
        state.step()?;
        let bytes = state.files.get(&self.name).filter(|f| f.exists).map(|f| f.cells.visible.clone());
        Ok(bytes.map(|b| Box::new(io::Cursor::new(b)) as Box<dyn Read + Send>))
    }

    fn replace(&self, fill: Fill<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        self.world.state().file_step()?; // the new file is made and synced
        fill(&mut bytes).map_err(|e| Error::from_io("replace a volatile file", e))?;
        let new = FileState { cells: Cells { durable: bytes.clone(), visible: bytes, ..Cells::default() }, exists: true };
        let mut state = self.world.state();
        state.file_step()?; // it is renamed: from now on a crash shows the old one or the new one
        let old = state.files.insert(self.name.clone(), new);
        let renamed = state.file_step(); // the folder is synced
        if renamed.is_err() && state.rng.chance(50) {
            match old {
                Some(old) => state.files.insert(self.name.clone(), old),
                None => state.files.remove(&self.name),
            };
        }
        renamed?;
        state.replaced += 1;
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut state = self.world.state();
        state.step()?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = state.files.get(&self.name).and_then(|f| f.cells.visible.get(from..)).unwrap_or(&[]);
        let length = bytes.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), bytes.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.world.state();
        state.file_step()?;
        let file = state.files.entry(self.name.clone()).or_default();
        file.exists = true;
        file.cells.write(usize::try_from(offset).unwrap_or(usize::MAX), bytes);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.world.state();
        state.file_step()?;
        if let Some(file) = state.files.get_mut(&self.name) {
            let end = file.cells.next;
            file.cells.flush_until(end);
        }
        Ok(())
    }
}
