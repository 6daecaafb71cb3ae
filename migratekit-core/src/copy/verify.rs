//! Verify and diff: two disks are compared by the digests of their blocks; only blocks that differ are read.
//!
//! [`compare`] works in two levels. First both sides tell the digests of a window of blocks, at the same time. Then, where
//! [`CompareOptions::exact`] asks for it, the blocks that differ are read from both sides and narrowed down. So the verify of equal
//! disks moves 32 bytes for each MiB and side over a wire.
//!
//! Both disks should be still, and flushed, and read past the cache: the report says how they were read. Disks of unequal size are
//! compared as far as both reach; a larger source is a difference, a larger target is not (a cloud rounds volumes up).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::digest::{Algorithm, Digest, Digests, ReadMode, digest_of};
use super::zero::is_zero;
use crate::block::{BlockRead, Extent, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;
use crate::units::{ByteRange, MIB};

/// Blocks whose digests are asked for at a time; it bounds memory and the time until cancellation is seen.
const WINDOW_BLOCKS: u64 = 256;
/// Differing extents kept at most; further ones are only counted.
pub const MAX_EXTENTS: usize = 65_536;
/// A sample has at least this many blocks (or all).
pub const SAMPLE_BLOCKS: u64 = 64;
/// The longest piece read at once when blocks are narrowed down, in bytes.
const READ_STEP: u64 = MIB;

/// One side of a comparison: a disk and who tells its digests.
#[derive(Clone)]
pub struct Side {
    /// Tells the digests.
    pub digests: Arc<dyn Digests>,
    /// Reads blocks that differ.
    pub disk: Arc<dyn BlockRead>,
}

/// How two disks are compared.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// Bytes of a block; a power of two, that both sides serve.
    pub block_size: u32,
    /// Compare only a sample: the first block, the last, and others chosen by this seed; 1 % of all, at least [`SAMPLE_BLOCKS`].
    pub sample: Option<u64>,
    /// Narrow differences down to multiples of so many bytes (a power of two), and tell which are zero in the source.
    pub exact: Option<u32>,
    /// Stops the comparison.
    pub cancel: CancellationToken,
}

impl Default for CompareOptions {
    fn default() -> Self {
        CompareOptions { block_size: 1024 * 1024, sample: None, exact: None, cancel: CancellationToken::new() }
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct CompareReport {
    /// No byte compared differs, and the source is not larger.
    pub equal: bool,
    /// Whether all blocks were compared, not a sample.
    pub full: bool,
    /// Size of the source in bytes.
    pub source_size: u64,
    /// Size of the target in bytes.
    pub target_size: u64,
    /// Bytes of each side that were compared.
    pub bytes_compared: u64,
    /// Bytes in blocks (or narrowed extents) that differ.
    pub bytes_differing: u64,
    /// Bytes that crossed a wire: digests, and blocks read where they differ (both sides counted).
    pub bytes_moved: u64,
    /// Where they differ: sorted, disjoint, at most [`MAX_EXTENTS`]. `kind` is data, or zero where the source reads as zero.
    pub differing: Vec<Extent>,
    /// There are more than [`MAX_EXTENTS`].
    pub truncated: bool,
    /// How the source was read.
    pub source_read: ReadMode,
    /// How the target was read.
    pub target_read: ReadMode,
    /// BLAKE3 over the digests of the source's blocks compared, in order, as hexadecimal digits.
    pub digest: String,
}

impl CompareReport {
    /// The report, or an error when the disks differ.
    ///
    /// # Errors
    /// `Mismatch`: the first difference is named.
    pub fn demand_equal(self, source: &str, target: &str) -> Result<Self> {
        if self.equal {
            return Ok(self);
        }
        let error = match self.differing.first() {
            Some(first) => Error::new(ErrorKind::Mismatch, "verify a copy", "the bytes of source and target differ")
                .with("offset", first.range.offset())
                .with("differing bytes", self.bytes_differing),
            None => Error::new(ErrorKind::Mismatch, "verify a copy", "the source is larger than the target")
                .with("source size", self.source_size)
                .with("target size", self.target_size),
        };
        Err(error.with("source", source).with("target", target))
    }
}

/// Compares two disks.
///
/// # Errors
/// `InvalidInput`: the block size is not a power of two. `Cancelled`. Else as reading fails, with the side named. A difference is
/// not an error, see [`CompareReport::demand_equal`].
pub async fn compare(source: &Side, target: &Side, options: &CompareOptions) -> Result<CompareReport> {
    let block = u64::from(options.block_size);
    if !options.block_size.is_power_of_two() || options.exact.is_some_and(|e| !e.is_power_of_two()) {
        return Err(Error::new(ErrorKind::InvalidInput, "compare disks", "block sizes must be powers of two")
            .with("block size", options.block_size));
    }
    let mut work = Comparison::new(source, target, options);
    let blocks = work.common.div_ceil(block);
    match options.sample {
        None => {
            for window in ByteRange::whole(work.common)?.pieces(block * WINDOW_BLOCKS) {
                work.window(window).await?;
            }
        }
        Some(seed) => {
            for number in sample(blocks, seed) {
                work.window(ByteRange::between(number * block, ((number + 1) * block).min(work.common))).await?;
            }
        }
    }
    Ok(work.report())
}

/// The blocks of a sample, sorted.
fn sample(blocks: u64, seed: u64) -> BTreeSet<u64> {
    let wanted = (blocks / 100).max(SAMPLE_BLOCKS).min(blocks);
    let mut chosen: BTreeSet<u64> = [0, blocks.saturating_sub(1)].into_iter().filter(|b| *b < blocks).collect();
    let mut counter = 0_u64;
    while (chosen.len() as u64) < wanted {
        // Pseudo-random by hashing a counter: the same seed, the same sample.
        let hash = blake3::Hasher::new().update(&seed.to_be_bytes()).update(&counter.to_be_bytes()).finalize();
        let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        chosen.insert(number % blocks);
        counter += 1;
    }
    chosen
}

struct Comparison<'a> {
    source: &'a Side,
    target: &'a Side,
    options: &'a CompareOptions,
    common: u64,
    moved_before: u64,
    compared: u64,
    differing_bytes: u64,
    read: u64,
    differing: Vec<Extent>,
    truncated: bool,
    whole: blake3::Hasher,
}

impl<'a> Comparison<'a> {
    fn new(source: &'a Side, target: &'a Side, options: &'a CompareOptions) -> Self {
        Comparison {
            source,
            target,
            options,
            common: source.digests.size().min(target.digests.size()),
            moved_before: source.digests.bytes_moved() + target.digests.bytes_moved(),
            compared: 0,
            differing_bytes: 0,
            read: 0,
            differing: Vec::new(),
            truncated: false,
            whole: blake3::Hasher::new(),
        }
    }

    /// Compares the blocks of one window.
    async fn window(&mut self, window: ByteRange) -> Result<()> {
        let work = async {
            let digests = tokio::join!(self.digests(self.source, window), self.digests(self.target, window));
            Ok::<_, Error>((digests.0.map_err(|e| e.with("side", "source"))?, digests.1.map_err(|e| e.with("side", "target"))?))
        };
        let (ours, theirs) = tokio::select! {
            biased;
            () = self.options.cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "compare disks", "it was asked to stop")),
            done = work => done?,
        };
        let blocks: Vec<ByteRange> = window.pieces(u64::from(self.options.block_size)).collect();
        if ours.len() != blocks.len() || theirs.len() != blocks.len() {
            return Err(Error::new(ErrorKind::Protocol, "compare disks", "a side told a wrong number of digests")
                .with("source", ours.len())
                .with("target", theirs.len())
                .with("expected", blocks.len()));
        }
        for ((block, our), their) in blocks.into_iter().zip(ours).zip(theirs) {
            self.whole.update(&our);
            self.compared += block.length();
            if our != their {
                self.differs(block).await?;
            }
        }
        Ok(())
    }

    /// The digests of one side. A last block that is cut short by the other side's end is read, since its digest there is another.
    async fn digests(&self, side: &Side, window: ByteRange) -> Result<Vec<Digest>> {
        let size = self.options.block_size;
        let block = u64::from(size);
        let end = window.end() / block * block;
        if window.end() == end || window.end() == side.digests.size() {
            return side.digests.digests(window, size, Algorithm::Blake3).await;
        }
        let mut digests = match ByteRange::between(window.offset(), end) {
            none if none.is_empty() => Vec::new(),
            whole => side.digests.digests(whole, size, Algorithm::Blake3).await?,
        };
        digests.push(digest_of(&*side.disk, ByteRange::between(end, window.end())).await?);
        Ok(digests)
    }

    async fn differs(&mut self, block: ByteRange) -> Result<()> {
        let Some(exact) = self.options.exact else {
            self.add(block, ExtentKind::Data);
            return Ok(());
        };
        let limit = u64::from(self.source.disk.info().max_request.min(self.target.disk.info().max_request)).min(READ_STEP);
        for piece in block.pieces(limit.max(u64::from(exact))) {
            let (ours, theirs) = tokio::join!(self.source.disk.read(piece), self.target.disk.read(piece));
            let (ours, theirs) = (ours.map_err(|e| e.with("side", "source"))?, theirs.map_err(|e| e.with("side", "target"))?);
            self.read += 2 * piece.length();
            let step = usize::try_from(exact).unwrap_or(usize::MAX);
            for ((part, our), their) in piece.pieces(u64::from(exact)).zip(ours.chunks(step)).zip(theirs.chunks(step)) {
                if our != their {
                    self.add(part, if is_zero(our) { ExtentKind::Zero } else { ExtentKind::Data });
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, range: ByteRange, kind: ExtentKind) {
        self.differing_bytes += range.length();
        let full = self.differing.len() >= MAX_EXTENTS;
        match self.differing.last_mut() {
            Some(last) if last.kind == kind && last.range.end() == range.offset() => {
                last.range = ByteRange::between(last.range.offset(), range.end());
            }
            _ if full => self.truncated = true,
            _ => self.differing.push(Extent { range, kind }),
        }
    }

    fn report(self) -> CompareReport {
        let (source, target) = (&self.source.digests, &self.target.digests);
        CompareReport {
            equal: self.differing_bytes == 0 && source.size() <= target.size(),
            full: self.options.sample.is_none(),
            source_size: source.size(),
            target_size: target.size(),
            bytes_compared: self.compared,
            bytes_differing: self.differing_bytes,
            bytes_moved: source.bytes_moved() + target.bytes_moved() - self.moved_before + self.read,
            differing: self.differing,
            truncated: self.truncated,
            source_read: source.read_mode(),
            target_read: target.read_mode(),
            digest: self.whole.finalize().to_hex().to_string(),
        }
    }
}
