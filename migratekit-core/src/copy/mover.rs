//! One mover: piece after piece, each with its retries.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::engine::Run;
use super::plan::{Action, Piece};
use super::report::Count;
use super::zero::split_zero_units;
use crate::block::{BoxFuture, Persist, ZeroMode};
use crate::clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::units::ByteRange;

/// Zeros of ours may become holes: a replica is as sparse as its source.
const PUNCH: ZeroMode = ZeroMode { may_punch: true, only_fast: false };

/// How many movers may work, and how many do.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<SeatPlan>);

#[derive(Debug, Default)]
struct SeatPlan {
    wanted: usize,
    taken: usize,
    /// The plan is empty: no new movers, and those at work end by themselves.
    closed: bool,
}

impl Seats {
    fn plan(&self) -> MutexGuard<'_, SeatPlan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many may work.
    pub(crate) fn set(&self, wanted: usize) {
        self.plan().wanted = wanted;
    }

    /// Takes a seat for a new mover, if one is free.
    pub(crate) fn take(&self) -> bool {
        let mut plan = self.plan();
        let free = !plan.closed && plan.taken < plan.wanted;
        plan.taken += usize::from(free);
        free
    }

    /// Whether a mover may go on; if not, its seat is given up.
    fn keep(&self) -> bool {
        let mut plan = self.plan();
        let keep = plan.closed || plan.taken <= plan.wanted;
        plan.taken -= usize::from(!keep);
        keep
    }

    fn close(&self) {
        self.plan().closed = true;
    }

    /// For another round.
    pub(crate) fn reopen(&self) {
        *self.plan() = SeatPlan::default();
    }
}

/// Which side an error is of.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Target,
}

pub(crate) struct Mover {
    run: Arc<Run>,
}

impl Mover {
    pub(crate) fn new(run: Arc<Run>) -> Self {
        Mover { run }
    }

    pub(crate) fn fail(&self, error: Error) {
        self.run.fail(error);
    }

    /// Takes pieces until none is left, or there are more movers than seats.
    pub(crate) async fn work(&self) -> Result<()> {
        while self.run.seats.keep() {
            let (piece, counts) = {
                let mut plan = self.run.plan.lock().await;
                let Some(piece) = plan.next().await? else {
                    self.run.seats.close();
                    return Ok(());
                };
                (piece, plan.counts())
            };
            match piece.action {
                Action::Move => self.carry(piece).await?,
                Action::Zero => self.zero(piece.range).await?,
            }
            if counts {
                self.run.progress.add(Count::Done, piece.range.length());
            }
            if self.run.doubt.flush_is_due() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn carry(&self, piece: Piece) -> Result<()> {
        let run = &self.run;
        let data = self.retry(Side::Source, piece.range, || run.source.read(piece.range)).await?;
        run.progress.add(Count::Read, piece.range.length());
        if u64::try_from(data.len()) != Ok(piece.range.length()) {
            return Err(self.blame(Side::Source, piece.range, Error::new(ErrorKind::Internal, "read", "the disk returned another length")));
        }
        let offset = piece.range.offset();
        for part in split_zero_units(&data, offset, run.zero_run, run.zero_unit) {
            let range = ByteRange::new(offset + part.start as u64, part.length as u64)?;
            if !part.zero {
                self.write(range, data.slice(part.start..part.start + part.length)).await?;
            } else if piece.target_zero && !run.explicit_zeros {
                run.doubt.note_skipped(range);
                run.progress.add(Count::Skipped, range.length());
            } else {
                self.zero(range).await?;
            }
        }
        Ok(())
    }

    async fn write(&self, range: ByteRange, data: Bytes) -> Result<()> {
        self.retry(Side::Target, range, || self.run.target.write(range.offset(), data.clone(), Persist::Cached)).await?;
        self.run.doubt.note(range);
        self.run.progress.add(Count::Written, range.length());
        Ok(())
    }

    async fn zero(&self, range: ByteRange) -> Result<()> {
        self.retry(Side::Target, range, || self.run.target.zero(range, PUNCH, Persist::Cached)).await?;
        self.run.doubt.note(range);
        self.run.progress.add(Count::Zeroed, range.length());
        Ok(())
    }

    /// A flush on the way, so that little is in doubt when a target dies. Its failure is not the copy's: the last flush decides.
    async fn flush(&self) -> Result<()> {
        let before = self.run.doubt.begin();
        let flushed = self.run.target.flush().await;
        self.run.doubt.end(before, flushed.is_ok());
        match flushed {
            Ok(()) => self.run.progress.add(Count::Flushes, 1),
            Err(error) => {
                let error = error.with("side", "target").with("target", &self.run.target.info().name);
                if !matches!(error.retry(), Retry::After(_)) {
                    return Err(error);
                }
                self.run.doubt.broken(error);
            }
        }
        Ok(())
    }

    /// Makes a request, again while that may help.
    async fn retry<'a, T: 'a>(&'a self, side: Side, range: ByteRange, request: impl Fn() -> BoxFuture<'a, Result<T>>) -> Result<T> {
        let policy = self.run.retry;
        let mut wait = policy.first_wait;
        let mut attempt = 1;
        loop {
            let error = match request().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let hint = match (error.retry(), error.kind()) {
                (Retry::After(time), _) => Some(time.min(policy.longest_wait)),
                (Retry::Never, ErrorKind::Io) => Some(wait),
                _ => None,
            };
            let Some(hint) = hint else { return Err(self.blame(side, range, error)) };
            if attempt >= policy.attempts {
                return Err(self.blame(side, range, error).with("attempts", attempt).with_retry(Retry::Exhausted));
            }
            tracing::debug!(%error, attempt, "request failed; trying again");
            self.run.progress.add(Count::Retries, 1);
            clock::sleep(wait.min(hint)).await;
            wait = (wait * 2).min(policy.longest_wait);
            attempt += 1;
        }
    }

    fn blame(&self, side: Side, range: ByteRange, error: Error) -> Error {
        let error = match side {
            Side::Source => error.with("side", "source").with("source", &self.run.source.info().name),
            Side::Target => error.with("side", "target").with("target", &self.run.target.info().name),
        };
        error.with("offset", range.offset()).with("length", range.length())
    }
}
