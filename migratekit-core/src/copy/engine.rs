//! The movers: a fixed number of tasks, each with one piece at a time, between two disks.
//!
//! A mover takes the next piece of the plan, reads it, looks for zeros in what it read, writes it, and takes the next. There is
//! no queue between reading and writing: the bytes are still in the processor's cache when they are written, and the memory in
//! use is the number of movers times the request size.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::doubt::Doubt;
use super::governor::Governor;
use super::mover::{Mover, Seats};
use super::plan::{Plan, Rules};
use super::report::{CopyReport, Count, Progress};
use super::zero::ZERO_UNIT;
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent};
use crate::clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::task::{CancellationToken, Scope};
use crate::units::{ByteRange, ByteSize, KIB, MIB};

/// The default size of a request, in bytes: it fits the second-level cache twice, and the peers' servers serve it best.
pub const DEFAULT_REQUEST: u32 = 256 * 1024;
/// Bytes in flight at the beginning, when the number is chosen by measurement: what stays in the processor's cache.
pub const FIRST_IN_FLIGHT: u64 = MIB;
/// Bytes in flight at most, when the number is chosen by measurement: 160 MB/s at 100 ms of latency.
pub const MEASURED_IN_FLIGHT: u64 = 16 * MIB;
/// A round trip from which on a way is long: what is in flight counts for more there than the processor's cache.
pub const LONG_WAY: Duration = Duration::from_millis(10);
/// As [`FIRST_IN_FLIGHT`], over a long way: a second and a half of a line of 20 Mbit/s.
pub const FIRST_OVER_A_LONG_WAY: u64 = 4 * MIB;
/// As [`MEASURED_IN_FLIGHT`], over a long way: 140 MB/s at a round trip of 200 ms.
pub const MEASURED_OVER_A_LONG_WAY: u64 = 28 * MIB;
/// The most bytes in flight that may be asked for: the memory of the whole copy.
pub const MAX_IN_FLIGHT: u64 = 256 * MIB;
/// The smallest request, in bytes.
pub const SMALLEST_REQUEST: u32 = 4 * 1024;
/// The shortest run of zeros in data that becomes a request of its own, in bytes.
const SHORTEST_ZERO_RUN: u64 = 32 * KIB;
/// How often ranges in doubt are copied again before the copy gives up.
const MAX_DOUBT_ROUNDS: u32 = 8;
/// How often the movers' number is thought over, and a stall looked for.
const STEP: Duration = Duration::from_millis(100);
/// How long a cancelled copy waits for its last flush.
const CANCEL_FLUSH_TIME: Duration = Duration::from_secs(30);

/// What an earlier run of the same pass has proven on the target: an export's ledger, or a ledger file.
pub trait ResumeMap: Send + Sync {
    /// The proven parts of `range`, sorted and disjoint.
    fn proven(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<ByteRange>>>;
}

/// How often the request for one piece is made again. Only errors whose retry hint allows it, and device errors (which may pass), are.
#[derive(Debug, Clone, Copy)]
pub struct PieceRetry {
    /// How often one request is made at most.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles each time.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for PieceRetry {
    fn default() -> Self {
        PieceRetry { attempts: 5, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(5) }
    }
}

/// How a copy is made.
#[derive(Clone)]
pub struct CopyOptions {
    /// Copy only these ranges (an increment). Sorted and disjoint; `None`: the whole disk.
    pub extents: Option<Vec<Extent>>,
    /// The size of a request in bytes; a power of two. It is lowered to what both sides accept.
    pub request_size: u32,
    /// Bytes in flight, at least one request; `None`: chosen by measurement, at most [`MEASURED_IN_FLIGHT`].
    pub in_flight: Option<u64>,
    /// The target is known to read as zero, whatever it says itself.
    pub target_is_zero: bool,
    /// Send zeros even where the target reads as zero: for a target with a ledger, which proves only what it was sent.
    pub explicit_zeros: bool,
    /// What is proven already (resume).
    pub resume: Option<Arc<dyn ResumeMap>>,
    /// Who knows what this copy has proven, where the target keeps a ledger. It is asked when the target broke and came back: what is
    /// proven is durable, and not copied again.
    pub ledger: Option<Arc<dyn ResumeMap>>,
    /// How far the farther side is: over a long way more is in flight from the beginning, and its measurement takes longer.
    pub round_trip: Duration,
    /// Retries.
    pub retry: PieceRetry,
    /// The copy fails when no byte moved for this long.
    pub stall: Duration,
    /// Cancels the copy.
    pub cancel: CancellationToken,
}

impl Default for CopyOptions {
    fn default() -> Self {
        CopyOptions {
            extents: None,
            request_size: DEFAULT_REQUEST,
            in_flight: None,
            target_is_zero: false,
            explicit_zeros: false,
            resume: None,
            ledger: None,
            round_trip: Duration::ZERO,
            retry: PieceRetry::default(),
            stall: Duration::from_secs(300),
            cancel: CancellationToken::new(),
        }
    }
}

impl CopyOptions {
    /// Refuses sizes out of bounds, and extents that do not lie in the source.
    pub(super) fn check(&self, source: &BlockInfo) -> Result<()> {
        let refuse = |what, bytes, message: &'static str| {
            Err(Error::new(ErrorKind::InvalidInput, "copy a disk", message).with("source", &source.name).with(what, ByteSize(bytes)))
        };
        match self.in_flight {
            Some(0) => return refuse("in flight", 0, "with no bytes in flight nothing would move"),
            Some(bytes) if bytes > MAX_IN_FLIGHT => {
                return refuse("in flight", bytes, "more bytes in flight than the limit of 256 MiB");
            }
            _ => {}
        }
        if !self.request_size.is_power_of_two() {
            return refuse("request size", self.request_size.into(), "the size of a request must be a power of two");
        }
        if self.request_size < SMALLEST_REQUEST {
            return refuse("request size", self.request_size.into(), "the size of a request must be at least 4 KiB");
        }
        match &self.extents {
            Some(extents) => check_extents(extents, source.size).map_err(|e| e.with("source", &source.name)),
            None => Ok(()),
        }
    }
}

/// One copy from one disk to another; [`Copy::run`] makes it.
pub struct Copy {
    source: Arc<dyn BlockRead>,
    target: Arc<dyn BlockWrite>,
    options: CopyOptions,
    request: u64,
    align: u64,
    progress: Arc<Progress>,
}

/// What the movers of one run share.
pub(crate) struct Run {
    pub(crate) source: Arc<dyn BlockRead>,
    pub(crate) target: Arc<dyn BlockWrite>,
    pub(crate) plan: tokio::sync::Mutex<Plan>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) retry: PieceRetry,
    /// The shortest zero run sent on its own, in bytes.
    pub(crate) zero_run: usize,
    /// Zero runs begin and end at multiples of this, in bytes: no request is cut finer than both sides accept.
    pub(crate) zero_unit: usize,
    pub(crate) explicit_zeros: bool,
    pub(crate) doubt: Arc<Doubt>,
    pub(crate) seats: Seats,
    failure: Mutex<Option<Error>>,
}

impl Run {
    /// Keeps the first failure.
    pub(crate) fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Copy {
    /// Prepares a copy; refuses what cannot succeed before anything is written.
    ///
    /// # Errors
    /// `ReadOnly`: the target is. `NoSpace`: it is smaller than the source. `InvalidInput`: extents outside the source, not
    /// sorted, or sizes out of bounds.
    pub fn new(source: Arc<dyn BlockRead>, target: Arc<dyn BlockWrite>, options: CopyOptions) -> Result<Self> {
        const OPERATION: &str = "copy a disk";
        let (from, to) = (source.info(), target.info());
        let refuse =
            |kind, message: &'static str| Err(Error::new(kind, OPERATION, message).with("source", &from.name).with("target", &to.name));
        if to.read_only {
            return refuse(ErrorKind::ReadOnly, "the target is read-only");
        }
        if to.size < from.size {
            return refuse(ErrorKind::NoSpace, "the target is smaller than the source")
                .map_err(|e: Error| e.with("source size", ByteSize(from.size)).with("target size", ByteSize(to.size)));
        }
        options.check(from)?;
        let align = u64::from(from.min_block.max(to.min_block).max(1));
        let largest = u64::from(options.request_size.min(from.max_request).min(to.max_request));
        let request = (largest / align * align).max(align);
        if request > largest {
            return refuse(ErrorKind::Unsupported, "one side's smallest request is larger than the other side's largest");
        }
        if from.size % align != 0 && to.size > from.size && from.size % u64::from(to.min_block) != 0 {
            return refuse(ErrorKind::Unsupported, "the source ends inside a block of the larger target");
        }
        Ok(Copy { source, target, options, request, align, progress: Arc::default() })
    }

    /// The counters, to be read while the copy runs.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Copies. See the [module documentation](super) for what a returned report promises.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout` (nothing moved), or what a side reported, with `side`, `source` or `target`, and `offset`. What was
    /// written before an error stays, and is flushed when the copy was cancelled.
    pub async fn run(self) -> Result<CopyReport> {
        let begin = clock::now();
        let size = self.source.info().size;
        let wanted: Option<Arc<[Extent]>> = self.options.extents.clone().map(Into::into);
        self.progress.set_total(wanted.as_ref().map_or(size, |w| aligned_total(w, self.align, size)));
        let rules = Rules {
            wanted,
            request: self.request,
            align: self.align,
            target_is_zero: self.options.target_is_zero && !self.options.explicit_zeros,
            explicit_zeros: self.options.explicit_zeros,
            resume: self.options.resume.clone(),
        };
        let doubt = Arc::new(Doubt::default());
        let plan = Plan::new(Arc::clone(&self.source), Arc::clone(&self.target), rules, Arc::clone(&self.progress), Arc::clone(&doubt));
        let run = Arc::new(Run {
            source: Arc::clone(&self.source),
            target: Arc::clone(&self.target),
            plan: tokio::sync::Mutex::new(plan),
            progress: Arc::clone(&self.progress),
            retry: self.options.retry,
            zero_run: usize::try_from(SHORTEST_ZERO_RUN.max(self.align)).unwrap_or(usize::MAX),
            zero_unit: usize::try_from(self.align).unwrap_or(usize::MAX).max(ZERO_UNIT),
            explicit_zeros: self.options.explicit_zeros,
            doubt,
            seats: Seats::default(),
            failure: Mutex::new(None),
        });
        self.rounds(&run).await?;
        let (from, to) = (self.source.info(), self.target.info());
        Ok(CopyReport::new(from.name.clone(), to.name.clone(), size, self.progress.snapshot(), begin.elapsed(), to.can.flush))
    }

    /// Moves everything and flushes; again for what a broken target may have lost.
    async fn rounds(&self, run: &Arc<Run>) -> Result<()> {
        for round in 0.. {
            self.move_all(run).await?;
            let Err(error) = self.last_flush(run).await else { return Ok(()) };
            let again = matches!(error.retry(), Retry::After(_)) && round < MAX_DOUBT_ROUNDS;
            if !again {
                return Err(error.with_retry(Retry::Exhausted));
            }
            tracing::warn!(%error, "the target may have lost what it had acknowledged; copying it again");
            self.progress.add(Count::Retries, 1);
            if self.options.ledger.is_some() {
                // What was written since the target came back is proven before the ledger is asked, so that only what was lost is written
                // again. Nothing is concluded from its success; and should the target break once more, the ledger says so.
                tokio::select! {
                    biased;
                    () = self.options.cancel.cancelled() => return Err(self.cancelled()),
                    _ = self.target.flush() => {}
                }
            }
            run.plan.lock().await.restart(run.doubt.take_all(), self.options.ledger.clone());
        }
        Ok(())
    }

    async fn last_flush(&self, run: &Arc<Run>) -> Result<()> {
        if let Some(error) = run.doubt.take_broken() {
            return Err(error);
        }
        let flush = async {
            let before = run.doubt.begin();
            let flushed = self.target.flush().await;
            run.doubt.end(before, flushed.is_ok());
            flushed
        };
        tokio::select! {
            biased;
            () = self.options.cancel.cancelled() => Err(self.cancelled()),
            done = flush => done.map(|()| self.progress.add(Count::Flushes, 1)).map_err(|e| e.with("side", "target").with("target", &self.target.info().name)),
        }
    }

    /// Runs the movers until the plan is empty, one fails, nothing moves, or the caller cancels.
    async fn move_all(&self, run: &Arc<Run>) -> Result<()> {
        let mut scope = Scope::child_of(&self.options.cancel);
        let count = |bytes: u64| usize::try_from(bytes / self.request).unwrap_or(usize::MAX);
        let long = self.options.round_trip >= LONG_WAY;
        let mut governor = match self.options.in_flight {
            Some(bytes) => Governor::new(count(bytes), count(bytes)),
            None if long => Governor::new(count(FIRST_OVER_A_LONG_WAY), count(MEASURED_OVER_A_LONG_WAY)).rising(),
            None => Governor::new(count(FIRST_IN_FLIGHT), count(MEASURED_IN_FLIGHT)),
        };
        // What more in flight brings shows after a round trip, and in whole ones.
        let step = if long { STEP.max(self.options.round_trip * 2) } else { STEP };
        run.seats.reopen();
        let mut last = (self.progress.snapshot(), clock::now());
        loop {
            run.seats.set(governor.movers());
            while run.seats.take() {
                start_mover(&mut scope, run);
            }
            tokio::select! {
                ended = scope.join_one() => if ended?.is_none() { break },
                () = clock::sleep(step) => {
                    let now = self.progress.snapshot();
                    governor.step(now.bytes_read + now.bytes_written - last.0.bytes_read - last.0.bytes_written);
                    if now != last.0 {
                        last = (now, clock::now());
                    } else if last.1.elapsed() >= self.options.stall {
                        run.fail(self.stalled());
                        break;
                    }
                }
            }
        }
        scope.close().await?;
        match run.take_failure() {
            Some(error) => Err(error),
            None if self.options.cancel.is_cancelled() => {
                // What was written so far becomes durable, so that a ledger can know it and a resume need not repeat it.
                let _ = tokio::time::timeout(CANCEL_FLUSH_TIME, self.target.flush()).await;
                Err(self.cancelled())
            }
            None => Ok(()),
        }
    }

    fn stalled(&self) -> Error {
        Error::new(ErrorKind::Timeout, "copy a disk", "no byte moved within the stall time")
            .with("source", &self.source.info().name)
            .with("target", &self.target.info().name)
            .with("stall seconds", self.options.stall.as_secs())
    }

    fn cancelled(&self) -> Error {
        Error::new(ErrorKind::Cancelled, "copy a disk", "it was cancelled; what was written stays")
            .with("source", &self.source.info().name)
            .with("target", &self.target.info().name)
    }
}

/// Starts a mover that has taken a seat.
fn start_mover(scope: &mut Scope, run: &Arc<Run>) {
    let (mover, token) = (Mover::new(Arc::clone(run)), scope.token().clone());
    scope.spawn(async move {
        let end = tokio::select! {
            biased;
            () = token.cancelled() => Ok(()),
            end = mover.work() => end,
        };
        if let Err(error) = end {
            mover.fail(error);
            token.cancel();
        }
    });
}

/// Extents must be sorted, disjoint, not empty, and inside the disk.
fn check_extents(extents: &[Extent], size: u64) -> Result<()> {
    let mut at = 0;
    for (index, extent) in extents.iter().enumerate() {
        let wrong = match extent.range {
            range if range.is_empty() => "an extent is empty",
            range if range.offset() < at => "extents overlap or are not sorted",
            range if range.end() > size => "an extent reaches beyond the end of the source",
            _ => "",
        };
        if !wrong.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "read the extents", wrong)
                .with("extent", index)
                .with("offset", extent.range.offset())
                .with("length", extent.range.length())
                .with("size", size));
        }
        at = extent.range.end();
    }
    Ok(())
}

/// The bytes of extents widened to the alignment, as the plan will deal with them.
fn aligned_total(extents: &[Extent], align: u64, size: u64) -> u64 {
    let mut at = 0;
    let mut total = 0;
    for extent in extents {
        let start = (extent.range.offset() / align * align).max(at);
        let end = extent.range.end().next_multiple_of(align).min(size);
        if end > start {
            total += end - start;
            at = end;
        }
    }
    total
}
