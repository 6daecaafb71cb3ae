//! What every disk must do, whatever it is: run on each implementation and each layer.
//!
//! The content is compared with a model in memory all along. What is tested follows from what the disk says of itself. An error
//! names the step and the seed.

use std::sync::Arc;

use bytes::Bytes;

use super::Rng;
use crate::block::{BlockInfo, BlockWrite, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::task::Scope;
use crate::units::ByteRange;

/// The longest request of the random part, in bytes.
const LONGEST: u64 = 200_000;

/// Random requests in a run.
const RANDOM_STEPS: u64 = 300;

/// Checks that `disk` keeps the contract of [`crate::block`]. The disk must be idle, between 256 KiB and 64 MiB large; its content
/// is overwritten. A read-only disk is only read.
pub async fn check_contract(disk: Arc<dyn BlockWrite>, seed: u64) -> Result<()> {
    let context = |step: &'static str| move |e: Error| e.with("step", step).with("seed", seed);
    check_info(disk.info()).map_err(context("info"))?;
    let mut run = Run { model: Vec::new(), block: u64::from(disk.info().min_block), size: disk.info().size, rng: Rng::new(seed), disk };
    run.take_model().await.map_err(context("first read"))?;
    run.refusals().await.map_err(context("refusals"))?;
    run.check_extents().await.map_err(context("extents"))?;
    if run.disk.info().read_only {
        return Ok(());
    }
    run.edges().await.map_err(context("edges"))?;
    run.zeros().await.map_err(context("zeros"))?;
    run.discards().await.map_err(context("discards"))?;
    run.disjoint().await.map_err(context("disjoint writes at once"))?;
    for step in 0..RANDOM_STEPS {
        run.random_step().await.map_err(|e| context("random")(e.with("number", step)))?;
    }
    run.compare_all().await.map_err(context("end"))?;
    run.check_extents().await.map_err(context("extents at the end"))?;
    // Last, for nobody knows when the bytes of a dropped write have settled.
    run.dropped().await.map_err(context("dropped writes"))
}

/// The contract is broken.
fn broken(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Mismatch, "keep the contract of a disk", text)
}

fn ensure(holds: bool, text: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(broken(text)) }
}

fn check_info(info: &BlockInfo) -> Result<()> {
    ensure(!info.name.is_empty(), "the disk has no name")?;
    ensure(info.min_block.is_power_of_two(), "min_block is not a power of two")?;
    ensure(info.preferred_block.is_power_of_two() && info.preferred_block >= info.min_block, "preferred_block is wrong")?;
    ensure(info.max_request >= info.preferred_block, "max_request is below preferred_block")?;
    ensure((256 << 10..=64 << 20).contains(&info.size), "the disk for this test is not between 256 KiB and 64 MiB large")
}

struct Run {
    disk: Arc<dyn BlockWrite>,
    model: Vec<u8>,
    size: u64,
    block: u64,
    rng: Rng,
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn span(range: ByteRange) -> std::ops::Range<usize> {
    index(range.offset())..index(range.end())
}

impl Run {
    fn longest(&self) -> u64 {
        u64::from(self.disk.info().max_request).min(LONGEST) / self.block * self.block
    }

    async fn take_model(&mut self) -> Result<()> {
        for piece in ByteRange::whole(self.size)?.pieces(u64::from(self.disk.info().max_request)) {
            let bytes = self.disk.read(piece).await?;
            ensure(bytes.len() == span(piece).len(), "a read came short or long")?;
            self.model.extend_from_slice(&bytes);
        }
        Ok(())
    }

    async fn compare(&self, range: ByteRange) -> Result<()> {
        for piece in range.pieces(u64::from(self.disk.info().max_request)) {
            self.compare_piece(piece).await?;
        }
        Ok(())
    }

    async fn compare_piece(&self, range: ByteRange) -> Result<()> {
        let bytes = self.disk.read(range).await?;
        let expected = self.model.get(span(range)).unwrap_or(&[]);
        ensure(bytes.len() == expected.len(), "a read came short or long")?;
        if bytes == expected {
            return Ok(());
        }
        match bytes.iter().zip(expected).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => Err(broken("a byte is not what was written last")
                .with("offset", span(range).start + at)
                .with("read", range)
                .with("is", format!("{:?}", bytes.get(at)))
                .with("should_be", format!("{:?}", expected.get(at)))),
        }
    }

    async fn compare_all(&self) -> Result<()> {
        self.compare(ByteRange::whole(self.size)?).await
    }

    fn change_model(&mut self, range: ByteRange, data: &[u8]) {
        if let Some(part) = self.model.get_mut(span(range)) {
            part.copy_from_slice(data);
        }
    }

    /// Random bytes for `range`, never zero, so that a lost write shows.
    fn bytes(&mut self, range: ByteRange) -> Bytes {
        let mut data = vec![0; span(range).len()];
        for chunk in data.chunks_mut(8) {
            let word = (self.rng.next_u64() | 0x0101_0101_0101_0101).to_le_bytes();
            chunk.copy_from_slice(word.get(..chunk.len()).unwrap_or(&word));
        }
        data.into()
    }

    async fn write(&mut self, range: ByteRange, persist: Persist) -> Result<()> {
        for piece in range.pieces(u64::from(self.disk.info().max_request)) {
            let data = self.bytes(piece);
            self.disk.write(piece.offset(), data.clone(), persist).await?;
            self.change_model(piece, &data);
        }
        Ok(())
    }

    async fn zero(&mut self, range: ByteRange, mode: ZeroMode, persist: Persist) -> Result<()> {
        match self.disk.zero(range, mode, persist).await {
            Ok(()) => self.change_model(range, &vec![0; span(range).len()]),
            // A refused fast zero leaves everything as it was: the model stays.
            Err(e) if mode.only_fast && e.kind() == ErrorKind::Unsupported => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// `offset` and `length` in steps of a byte as far as the disk allows; within the disk.
    fn range(&self, offset: u64, length: u64) -> ByteRange {
        let start = (offset / self.block * self.block).min((self.size - 1) / self.block * self.block);
        let end = (start + length.max(1)).next_multiple_of(self.block).min(self.size);
        ByteRange::between(start, end)
    }

    async fn refusals(&mut self) -> Result<()> {
        let beyond = [(self.size, self.block), (self.size.saturating_sub(self.block) / self.block * self.block, 2 * self.block)];
        for (offset, length) in beyond {
            self.refused(ByteRange::new(offset, length)?).await?;
        }
        self.refused(ByteRange::new(crate::units::MAX_OFFSET / self.block * self.block - self.block, self.block)?).await?;
        self.refused(ByteRange::new(0, 0)?).await?;
        if self.block > 1 {
            self.refused(ByteRange::new(1, self.block)?).await?;
            self.refused(ByteRange::new(0, self.block + 1)?).await?;
        }
        let too_long = u64::from(self.disk.info().max_request) + self.block;
        if too_long <= self.size {
            let range = ByteRange::new(0, too_long)?;
            refusal(self.disk.read(range).await.map(|_| ()), ErrorKind::InvalidInput)?;
            refusal(self.disk.write(0, vec![1; span(range).len()].into(), Persist::Cached).await, self.write_refusal())?;
        }
        self.compare_all().await
    }

    fn write_refusal(&self) -> ErrorKind {
        if self.disk.info().read_only { ErrorKind::ReadOnly } else { ErrorKind::InvalidInput }
    }

    async fn refused(&self, range: ByteRange) -> Result<()> {
        refusal(self.disk.read(range).await.map(|_| ()), ErrorKind::InvalidInput)?;
        refusal(self.disk.extents(range).await.map(|_| ()), ErrorKind::InvalidInput)?;
        let data = vec![1; index(range.length())].into();
        refusal(self.disk.write(range.offset(), data, Persist::Cached).await, self.write_refusal())?;
        refusal(self.disk.zero(range, ZeroMode::default(), Persist::Cached).await, self.write_refusal())?;
        refusal(self.disk.discard(range, Persist::Cached).await, self.write_refusal())
    }

    /// Extents cover what was asked exactly, and what is said to be zero is.
    async fn check_extents(&mut self) -> Result<()> {
        let mut asked = vec![ByteRange::whole(self.size)?];
        for _ in 0..8 {
            let (offset, length) = (self.rng.below(self.size), self.rng.below(LONGEST));
            asked.push(self.range(offset, length));
        }
        for range in asked {
            let mut at = range.offset();
            for extent in self.disk.extents(range).await? {
                ensure(extent.range.offset() == at && !extent.range.is_empty(), "extents leave a gap, overlap, or are empty")?;
                at = extent.range.end();
                let content = self.model.get(span(extent.range)).unwrap_or(&[1]);
                ensure(!extent.kind.reads_zero() || is_zero(content), "an extent is said to be zero and is not")?;
            }
            ensure(at == range.end(), "extents end before or after what was asked")?;
        }
        Ok(())
    }

    /// Writes that begin and end around borders of blocks, pages, clusters and the disk.
    async fn edges(&mut self) -> Result<()> {
        let size = self.size;
        for border in [0, 512, 4096, 65_536, 131_072, size] {
            for (before, length) in [(0, 1), (1, 1), (1, 2), (3, 4099), (4096, 8192), (70_000, 140_001)] {
                let range = self.range(border.saturating_sub(before), length);
                self.write(range, if before == 1 { Persist::Durable } else { Persist::Cached }).await?;
                self.compare(self.range(range.offset().saturating_sub(700), range.length() + 1400)).await?;
            }
        }
        self.disk.flush().await?;
        self.compare_all().await
    }

    async fn zeros(&mut self) -> Result<()> {
        for (may_punch, only_fast) in [(false, false), (true, false), (false, true), (true, true)] {
            for (offset, length) in [(5_u64, 9), (4000, 100), (4096, 4096), (60_000, 100_000), (self.size - 5000, 5000)] {
                self.write(self.range(offset.saturating_sub(4096), length + 8192), Persist::Cached).await?;
                let persist = if may_punch { Persist::Durable } else { Persist::Cached };
                self.zero(self.range(offset, length), ZeroMode { may_punch, only_fast }, persist).await?;
                self.compare_all().await?;
            }
        }
        self.check_extents().await?;
        // Longer than a request may be, and twice: the second time it is a hole already.
        for _ in 0..2 {
            self.zero(ByteRange::whole(self.size)?, ZeroMode { may_punch: true, only_fast: false }, Persist::Cached).await?;
            self.compare_all().await?;
            self.check_extents().await?;
        }
        self.write(self.range(self.size / 2, 5), Persist::Cached).await?;
        self.compare_all().await
    }

    /// What was discarded is not defined, so it is written again; what lies beside it must not change.
    async fn discards(&mut self) -> Result<()> {
        for (offset, length) in [(100_u64, 50), (4096, 8192), (50_001, 150_000)] {
            self.write(self.range(offset.saturating_sub(4096), length + 8192), Persist::Cached).await?;
            let range = self.range(offset, length);
            self.disk.discard(range, Persist::Cached).await?;
            self.compare(ByteRange::between(0, range.offset())).await?;
            self.compare(self.range(range.end(), 70_000)).await?;
            self.write(range, Persist::Cached).await?;
            self.compare_all().await?;
        }
        Ok(())
    }

    /// Neighbouring writes under way at the same time, many in one page and cluster.
    async fn disjoint(&mut self) -> Result<()> {
        let step = 700_u64.next_multiple_of(self.block);
        let mut scope = Scope::new();
        let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..(self.size / step).min(256) {
            let range = ByteRange::new(number * step, step)?;
            let (disk, answers) = (self.disk.clone(), answers.clone());
            if number % 3 == 0 {
                self.change_model(range, &vec![0; span(range).len()]);
                scope.spawn(async move {
                    answers.send(disk.zero(range, ZeroMode { may_punch: true, only_fast: false }, Persist::Cached).await).ok();
                });
            } else {
                let data = self.bytes(range);
                self.change_model(range, &data);
                scope.spawn(async move {
                    answers.send(disk.write(range.offset(), data, Persist::Cached).await).ok();
                });
            }
        }
        drop(answers);
        scope.join().await?;
        while let Some(answer) = answered.recv().await {
            answer?;
        }
        self.compare_all().await
    }

    /// A write whose future is dropped may happen, now or later; but not to any byte outside of its range.
    async fn dropped(&mut self) -> Result<()> {
        let step = 256_u64.next_multiple_of(self.block);
        let places = (self.size / (2 * step)).min(128);
        for number in 0..places {
            let victim = ByteRange::new(2 * number * step, step)?;
            let beside = ByteRange::new((2 * number + 1) * step, step)?;
            let data = self.bytes(victim);
            let turns = self.rng.below(6);
            tokio::select! {
                biased;
                answer = self.disk.write(victim.offset(), data, Persist::Cached) => answer?,
                () = yield_turns(turns) => {}
            }
            self.write(beside, Persist::Cached).await?;
        }
        self.disk.flush().await?;
        for number in 0..places {
            self.compare(ByteRange::new((2 * number + 1) * step, step)?).await?;
        }
        Ok(())
    }

    async fn random_step(&mut self) -> Result<()> {
        let (offset, length) = (self.rng.below(self.size), self.rng.below(self.longest()));
        let range = self.range(offset, length);
        let persist = if self.rng.chance(10) { Persist::Durable } else { Persist::Cached };
        match self.rng.below(10) {
            0..=3 => self.write(range, persist).await?,
            4..=5 => {
                let mode = ZeroMode { may_punch: self.rng.chance(50), only_fast: self.rng.chance(30) };
                self.zero(range, mode, persist).await?;
            }
            6 => {
                self.disk.discard(range, persist).await?;
                self.write(range, persist).await?;
            }
            7 => self.disk.flush().await?,
            8 => self.check_extents().await?,
            _ => {}
        }
        self.compare(range).await
    }
}

/// As fast as comparing memory is, also without optimization.
fn is_zero(content: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    content.chunks(ZEROS.len()).all(|chunk| ZEROS.starts_with(chunk))
}

async fn yield_turns(turns: u64) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

fn refusal(answer: Result<()>, kind: ErrorKind) -> Result<()> {
    match answer {
        Ok(()) => Err(broken("a request that makes no sense was accepted")),
        Err(e) if e.kind() == kind => Ok(()),
        Err(e) => Err(broken("a request that makes no sense was refused for a wrong reason").with_source(e)),
    }
}
