//! Digests where the bytes are: what of a disk crosses the wire is 32 bytes for each block.
//!
//! [`Digests`] is one trait with two implementations. [`LocalDigests`] reads a disk; [`RemoteDigests`] asks a server of ours, which
//! offers the digests of an export as a read-only disk ([`DigestDisk`]) under a name of its own. So the digests of a disk at the other
//! end of a wire are read by the same NBD client that writes it.
//!
//! A block's digest is BLAKE3-256 of its bytes; the last block of a disk may be shorter. Blocks that certainly read as zero are not
//! read: their digest is known.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;

use super::ledger::Ledger;
use crate::block::{BlockInfo, BlockRead, BoxFuture};
use crate::error::{Error, ErrorKind, Result};
use crate::task::Scope;
use crate::units::ByteRange;

/// The digest of a block.
pub type Digest = [u8; 32];

/// Bytes of a digest.
pub const DIGEST_LENGTH: u64 = 32;

/// The longest read of a [`DigestDisk`], in bytes: 128 digests, so that no single request reads the disk for long.
const DIGEST_REQUEST: u32 = 4096;

/// The longest piece of a block read at once, in bytes.
const READ_STEP: u64 = 1024 * 1024;

/// Blocks read at the same time by default.
pub const DEFAULT_PARALLEL: usize = 4;

/// How a digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// BLAKE3, 256 bits.
    Blake3,
}

/// How the bytes of a digest were read; reports say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    /// Past the page cache, from the storage.
    PastCache,
    /// Possibly from a cache.
    Cached,
    /// By the server at the other side, its own way.
    Remote,
}

/// Who can tell the digests of a disk.
pub trait Digests: Send + Sync {
    /// The name of the disk.
    fn name(&self) -> &str;

    /// The size of the disk in bytes.
    fn size(&self) -> u64;

    /// How it is read.
    fn read_mode(&self) -> ReadMode;

    /// Bytes moved over a wire for digests so far.
    fn bytes_moved(&self) -> u64;

    /// The digests of the blocks of `range`, in order. The range begins at a multiple of `block_size` (a power of two) and ends at
    /// one, or at the end of the disk. Concurrent writes may or may not be seen.
    ///
    /// # Errors
    /// `InvalidInput`: the range or block size cannot be served. Else as reading fails. Dropping the future stops the work.
    fn digests(&self, range: ByteRange, block_size: u32, algorithm: Algorithm) -> BoxFuture<'_, Result<Vec<Digest>>>;
}

fn check_range(name: &str, size: u64, range: ByteRange, block_size: u32) -> Result<u64> {
    let refuse = |message: &'static str| {
        Err(Error::new(ErrorKind::InvalidInput, "compute digests", message)
            .with("disk", name)
            .with("offset", range.offset())
            .with("length", range.length())
            .with("block size", block_size))
    };
    let block = u64::from(block_size);
    if !block_size.is_power_of_two() {
        return refuse("the block size must be a power of two");
    }
    if range.end() > size {
        return refuse("the range reaches beyond the end of the disk");
    }
    if !range.offset().is_multiple_of(block) || (!range.end().is_multiple_of(block) && range.end() != size) {
        return refuse("the range is not made of whole blocks");
    }
    Ok(block)
}

/// The digest of `length` zero bytes.
#[must_use]
pub fn zero_digest(length: u64) -> Digest {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut hash = blake3::Hasher::new();
    let mut left = length;
    while left > 0 {
        let step = left.min(ZEROS.len() as u64);
        hash.update(ZEROS.get(..usize::try_from(step).unwrap_or(0)).unwrap_or(&[]));
        left -= step;
    }
    *hash.finalize().as_bytes()
}

/// The digest of some bytes of a disk, read now.
///
/// # Errors
/// As reading fails.
pub async fn digest_of(disk: &dyn BlockRead, range: ByteRange) -> Result<Digest> {
    let mut hash = blake3::Hasher::new();
    for piece in range.pieces(READ_STEP.min(u64::from(disk.info().max_request))) {
        hash.update(&disk.read(piece).await?);
    }
    Ok(*hash.finalize().as_bytes())
}

/// The digests of a disk that can be read here.
#[derive(Clone)]
pub struct LocalDigests {
    disk: Arc<dyn BlockRead>,
    mode: ReadMode,
    parallel: usize,
}

impl LocalDigests {
    /// Reads `disk`, which was opened in this mode.
    #[must_use]
    pub fn new(disk: Arc<dyn BlockRead>, mode: ReadMode) -> Self {
        LocalDigests { disk, mode, parallel: DEFAULT_PARALLEL }
    }

    /// Reads so many blocks (at least one) at the same time; each takes up to 1 MiB of memory.
    #[must_use]
    pub fn parallel(mut self, blocks: usize) -> Self {
        self.parallel = blocks.clamp(1, 64);
        self
    }

    async fn compute(&self, range: ByteRange, block_size: u32) -> Result<Vec<Digest>> {
        let block = check_range(&self.disk.info().name, self.disk.info().size, range, block_size)?;
        let ranges: Vec<ByteRange> = range.pieces(block).collect();
        let zero = self.zero_blocks(range, &ranges).await?;
        let job = Arc::new(Job {
            disk: Arc::clone(&self.disk),
            zero_digest: zero_digest(block),
            block,
            next: AtomicU64::new(0),
            digests: Mutex::new((vec![[0; 32]; ranges.len()], None)),
            work: ranges.into_iter().zip(zero).collect(),
        });
        let mut scope = Scope::new();
        for _ in 0..self.parallel.min(job.work.len()) {
            scope.spawn(Arc::clone(&job).lane());
        }
        scope.join().await?;
        let mut done = job.digests.lock().unwrap_or_else(PoisonError::into_inner);
        match done.1.take() {
            Some(e) => Err(e),
            None => Ok(std::mem::take(&mut done.0)),
        }
    }

    /// Which of the blocks certainly read as zero.
    async fn zero_blocks(&self, range: ByteRange, blocks: &[ByteRange]) -> Result<Vec<bool>> {
        let mut zero = vec![true; blocks.len()];
        if range.is_empty() {
            return Ok(zero);
        }
        let extents = self.disk.extents(range).await?;
        let mut at = 0;
        for extent in extents.iter().filter(|e| !e.kind.reads_zero()) {
            while blocks.get(at).is_some_and(|b| b.end() <= extent.range.offset()) {
                at += 1;
            }
            let mut touched = at;
            while blocks.get(touched).is_some_and(|b| b.offset() < extent.range.end()) {
                if let Some(z) = zero.get_mut(touched) {
                    *z = false;
                }
                touched += 1;
            }
        }
        Ok(zero)
    }
}

/// Blocks to digest, shared by lanes.
struct Job {
    disk: Arc<dyn BlockRead>,
    work: Vec<(ByteRange, bool)>,
    zero_digest: Digest,
    block: u64,
    next: AtomicU64,
    digests: Mutex<(Vec<Digest>, Option<Error>)>,
}

impl Job {
    /// Takes blocks until none is left, or one failed.
    async fn lane(self: Arc<Self>) {
        loop {
            let Ok(number) = usize::try_from(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            let Some((range, zero)) = self.work.get(number).copied() else { return };
            let digest = match zero {
                true if range.length() == self.block => Ok(self.zero_digest),
                true => Ok(zero_digest(range.length())),
                false => digest_of(&*self.disk, range).await,
            };
            let mut done = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
            match digest {
                Ok(digest) => {
                    if let Some(place) = done.0.get_mut(number) {
                        *place = digest;
                    }
                }
                Err(e) => {
                    done.1.get_or_insert(e);
                    self.next.store(u64::MAX / 2, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

impl Digests for LocalDigests {
    fn name(&self) -> &str {
        &self.disk.info().name
    }

    fn size(&self) -> u64 {
        self.disk.info().size
    }

    fn read_mode(&self) -> ReadMode {
        self.mode
    }

    fn bytes_moved(&self) -> u64 {
        0
    }

    fn digests(&self, range: ByteRange, block_size: u32, algorithm: Algorithm) -> BoxFuture<'_, Result<Vec<Digest>>> {
        let Algorithm::Blake3 = algorithm;
        Box::pin(self.compute(range, block_size))
    }
}

/// The digests of a disk as a disk: 32 bytes for each block, computed when they are read.
pub struct DigestDisk {
    digests: LocalDigests,
    info: BlockInfo,
    volume: ByteRange,
    block_size: u32,
    ledger: Option<Arc<Ledger>>,
}

impl DigestDisk {
    /// The digests of `disk` in blocks of `block_size` bytes.
    ///
    /// # Errors
    /// `InvalidInput`: the block size is not a power of two from 512 bytes to 1 GiB.
    pub fn new(disk: Arc<dyn BlockRead>, block_size: u32) -> Result<Self> {
        DigestDisk::build(disk, block_size, None)
    }

    /// As [`DigestDisk::new`]; where the block size is the ledger's, digests of proven blocks are kept in the ledger.
    ///
    /// # Errors
    /// As [`DigestDisk::new`].
    pub fn with_ledger(disk: Arc<dyn BlockRead>, block_size: u32, ledger: Arc<Ledger>) -> Result<Self> {
        let same = ledger.block_size() == u64::from(block_size);
        DigestDisk::build(disk, block_size, same.then_some(ledger))
    }

    fn build(disk: Arc<dyn BlockRead>, block_size: u32, ledger: Option<Arc<Ledger>>) -> Result<Self> {
        if !block_size.is_power_of_two() || !(512..=1 << 30).contains(&block_size) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "offer digests",
                "the block size must be a power of two from 512 bytes to 1 GiB",
            )
            .with("disk", &disk.info().name)
            .with("block size", block_size));
        }
        let volume = ByteRange::whole(disk.info().size)?;
        let size = volume.length().div_ceil(u64::from(block_size)) * DIGEST_LENGTH;
        let mut info = BlockInfo::plain(format!("digests of {}", disk.info().name), size);
        info.read_only = true;
        info.max_request = DIGEST_REQUEST;
        info.can.multi_conn = true;
        Ok(DigestDisk { digests: LocalDigests::new(disk, ReadMode::PastCache), info, volume, block_size, ledger })
    }

    async fn read_digests(&self, range: ByteRange) -> Result<Bytes> {
        self.info.check_transfer("read digests", range)?;
        let (first, end) = (range.offset() / DIGEST_LENGTH, range.end().div_ceil(DIGEST_LENGTH));
        let block = u64::from(self.block_size);
        let blocks = ByteRange::between(first * block, end * block).intersection(self.volume);
        let reading = self.ledger.as_ref().map(|ledger| ledger.begin_digests(blocks));
        let digests = self.digests.compute(blocks, self.block_size).await?;
        let bytes = Bytes::from(digests.concat());
        if let (Some(ledger), Some(reading)) = (&self.ledger, reading)
            && let Err(e) = ledger.end_digests(reading, first, digests).await
        {
            // The ledger is the better for a digest, and right without.
            tracing::warn!(disk = self.info.name, error = %e, "digests could not be kept in the ledger");
        }
        let start = usize::try_from(range.offset() - first * DIGEST_LENGTH).unwrap_or(0);
        Ok(bytes.slice(start..start + usize::try_from(range.length()).unwrap_or(0)))
    }
}

impl BlockRead for DigestDisk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(self.read_digests(range))
    }
}

/// The digests of a disk at the other side, read from its [`DigestDisk`].
pub struct RemoteDigests {
    disk: Arc<dyn BlockRead>,
    name: String,
    size: u64,
    block_size: u32,
    moved: AtomicU64,
}

impl RemoteDigests {
    /// `disk`: the digest disk, for blocks of `block_size` bytes; `volume`: the disk it speaks of.
    ///
    /// # Errors
    /// `Mismatch`: the digest disk has not the size that the volume's needs.
    pub fn new(disk: Arc<dyn BlockRead>, volume: &BlockInfo, block_size: u32) -> Result<Self> {
        let expected = volume.size.div_ceil(u64::from(block_size.max(1))) * DIGEST_LENGTH;
        if disk.info().size != expected {
            return Err(Error::new(ErrorKind::Mismatch, "read digests", "the other side's digests are not those of a disk of this size")
                .with("disk", &volume.name)
                .with("size", volume.size)
                .with("digest bytes", disk.info().size)
                .with("expected", expected));
        }
        Ok(RemoteDigests { disk, name: volume.name.clone(), size: volume.size, block_size, moved: AtomicU64::new(0) })
    }

    async fn fetch(&self, range: ByteRange, block_size: u32) -> Result<Vec<Digest>> {
        let block = check_range(&self.name, self.size, range, block_size)?;
        if block_size != self.block_size {
            return Err(Error::new(ErrorKind::InvalidInput, "read digests", "the other side was asked for another block size")
                .with("disk", &self.name)
                .with("block size", block_size)
                .with("asked", self.block_size));
        }
        let bytes = ByteRange::between(range.offset() / block * DIGEST_LENGTH, range.end().div_ceil(block) * DIGEST_LENGTH);
        let mut digests = Vec::new();
        for piece in bytes.pieces(u64::from(DIGEST_REQUEST.min(self.disk.info().max_request))) {
            let part = self.disk.read(piece).await?;
            self.moved.fetch_add(piece.length(), Ordering::Relaxed);
            digests.extend(part.chunks_exact(32).filter_map(|d| Digest::try_from(d).ok()));
        }
        Ok(digests)
    }
}

impl Digests for RemoteDigests {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_mode(&self) -> ReadMode {
        ReadMode::Remote
    }

    fn bytes_moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    fn digests(&self, range: ByteRange, block_size: u32, algorithm: Algorithm) -> BoxFuture<'_, Result<Vec<Digest>>> {
        let Algorithm::Blake3 = algorithm;
        Box::pin(self.fetch(range, block_size))
    }
}
