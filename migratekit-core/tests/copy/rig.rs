//! A disk in memory that fails as told, and can lose what it acknowledged, as a server does that dies and comes back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use migratekit_core::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, MemoryDisk, Persist, ZeroMode};
use migratekit_core::testing::Rng;
use migratekit_core::units::ByteRange;
use migratekit_core::{Error, ErrorKind, Result};

/// What goes wrong.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Requests that fail, in percent, with an error that may pass.
    pub percent: u64,
    /// This request, counted from 1, fails so for certain; 0: none does.
    pub fail_at: u64,
    /// After so many requests the disk forgets everything since its last flush, once; 0: never.
    pub crash_after: u64,
    /// From this byte on every request fails for good.
    pub bad_from: Option<u64>,
    /// Every request never ends.
    pub hang: bool,
}

pub struct Rig {
    disk: MemoryDisk,
    /// What survives a crash.
    stable: MemoryDisk,
    dirty: Mutex<Vec<ByteRange>>,
    faults: Faults,
    rng: Mutex<Rng>,
    requests: AtomicU64,
    lost: AtomicBool,
    pub injected: AtomicU64,
    pub reads: Mutex<Vec<ByteRange>>,
    pub zeros: Mutex<Vec<ByteRange>>,
}

impl Rig {
    pub fn new(size: u64, faults: Faults, seed: u64) -> Self {
        Rig::of(MemoryDisk::new("rig", size), faults, seed)
    }

    pub fn of(disk: MemoryDisk, faults: Faults, seed: u64) -> Self {
        let size = disk.info().size;
        Rig {
            disk,
            stable: MemoryDisk::new("stable", size),
            dirty: Mutex::default(),
            faults,
            rng: Mutex::new(Rng::new(seed)),
            requests: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            injected: AtomicU64::new(0),
            reads: Mutex::default(),
            zeros: Mutex::default(),
        }
    }

    /// Puts data on it, without faults, durable.
    pub async fn put(&self, offset: u64, data: Vec<u8>) {
        let data = Bytes::from(data);
        for disk in [&self.disk, &self.stable] {
            disk.write(offset, data.clone(), Persist::Durable).await.unwrap();
        }
    }

    /// What a crash would leave.
    pub async fn stable(&self) -> Vec<u8> {
        everything(&self.stable).await
    }

    pub async fn contents(&self) -> Vec<u8> {
        everything(&self.disk).await
    }

    async fn before(&self, range: ByteRange) -> Result<()> {
        if self.faults.hang {
            std::future::pending::<()>().await;
        }
        let count = 1 + self.requests.fetch_add(1, Ordering::SeqCst);
        if count == self.faults.crash_after {
            let dirty: Vec<_> = self.dirty.lock().unwrap().drain(..).collect();
            for range in dirty {
                copy_range(&self.stable, &self.disk, range).await;
            }
            self.lost.store(true, Ordering::SeqCst);
            self.injected.fetch_add(1, Ordering::SeqCst);
        }
        if self.faults.bad_from.is_some_and(|bad| range.end() > bad) {
            return Err(Error::new(ErrorKind::Io, "use the rig", "a bad sector"));
        }
        if count == self.faults.fail_at || self.rng.lock().unwrap().chance(self.faults.percent) {
            self.injected.fetch_add(1, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::Unreachable, "use the rig", "a fault that passes"));
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

async fn everything(disk: &MemoryDisk) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in ByteRange::whole(disk.info().size).unwrap().pieces(1 << 20) {
        all.extend_from_slice(&disk.read(piece).await.unwrap());
    }
    all
}

async fn copy_range(from: &MemoryDisk, to: &MemoryDisk, range: ByteRange) {
    for piece in range.pieces(1 << 20) {
        to.write(piece.offset(), from.read(piece).await.unwrap(), Persist::Cached).await.unwrap();
    }
}

impl BlockRead for Rig {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.before(range).await?;
            self.reads.lock().unwrap().push(range);
            self.disk.read(range).await
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.disk.extents(range)
    }
}

impl BlockWrite for Rig {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let range = ByteRange::new(offset, data.len() as u64)?;
            self.before(range).await?;
            self.disk.write(offset, data, persist).await?;
            self.dirty.lock().unwrap().push(range);
            Ok(())
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.before(range).await?;
            self.disk.zero(range, mode, persist).await?;
            self.zeros.lock().unwrap().push(range);
            self.dirty.lock().unwrap().push(range);
            Ok(())
        })
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.zero(range, ZeroMode::default(), persist)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.lost.swap(false, Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Unreachable, "flush the rig", "acknowledged writes are lost"));
            }
            let dirty: Vec<_> = self.dirty.lock().unwrap().drain(..).collect();
            for range in dirty {
                copy_range(&self.disk, &self.stable, range).await;
            }
            Ok(())
        })
    }
}

/// A pattern of data runs and holes; seeded.
pub async fn fill(disk: &Rig, rng: &mut Rng) {
    let (size, block) = (disk.info().size, u64::from(disk.info().min_block));
    let mut at = 0;
    while at < size {
        let length = (1 + rng.below(700_000)).next_multiple_of(block).min(size - at);
        match rng.below(3) {
            0 => {}
            1 => disk.put(at, vec![0; length as usize]).await,
            _ => {
                let mut data = vec![0; length as usize];
                rng.fill(&mut data);
                // Zero runs inside data, some of them long.
                let start = rng.below(length) as usize;
                let end = (start + rng.below(200_000) as usize).min(data.len());
                data[start..end].fill(0);
                disk.put(at, data).await;
            }
        }
        at += length;
    }
}

pub fn shared(rig: Rig) -> Arc<Rig> {
    Arc::new(rig)
}
