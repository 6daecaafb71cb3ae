//! A sealed spool into its volume: first all of it is read and checked, then all of it is written.
//!
//! Both go over the same list of pieces, by several lanes. Writing is idempotent: a crash at any moment is followed by the same again.
//! The spool is not changed, so whoever reads the volume through it sees the point all the time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::core::{self, ABSENT};
use super::{Inner, Spool};
use crate::block::{BlockWrite, Persist, ZeroMode};
use crate::copy::ledger::pages::PAGE_BLOCKS;
use crate::copy::ledger::{Ledger, PassId};
use crate::error::{Error, ErrorKind, Result};
use crate::task::{CancellationToken, Passed, Scope};
use crate::units::{ByteRange, MIB};

/// The longest request of an apply, in bytes: long enough for rotating disks.
const APPLY_REQUEST: u64 = 4 * MIB;
/// The longest run of zeros in one request, in bytes.
const APPLY_ZEROS: u64 = 1024 * MIB;
/// Requests of an apply at the same time; with [`APPLY_REQUEST`] they bound its memory.
const APPLY_LANES: usize = 4;

/// Where a spool is applied to.
#[derive(Clone)]
pub(in crate::copy) struct ApplyTo {
    pub(in crate::copy) volume: Arc<dyn BlockWrite>,
    pub(in crate::copy) ledger: Arc<Ledger>,
    pub(in crate::copy) pass: PassId,
}

/// A range of the volume that the spool says something of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Data(ByteRange),
    Zero(ByteRange),
}

/// What the lanes share.
struct Job {
    spool: Arc<Inner>,
    to: Option<ApplyTo>,
    passed: Passed,
    cancel: CancellationToken,
    state: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    pieces: VecDeque<Piece>,
    /// The next cluster to look at.
    next: u64,
    failed: Option<Error>,
}

impl Spool {
    /// Reads all its data and checks it; `passed` is told each piece.
    pub(in crate::copy) async fn verify(&self, passed: &Passed, cancel: &CancellationToken) -> Result<()> {
        self.run(None, passed, cancel).await
    }

    /// Writes all of it into the volume, checked once more; not yet flushed. `passed` is told each piece.
    pub(in crate::copy) async fn apply(&self, to: ApplyTo, passed: &Passed, cancel: &CancellationToken) -> Result<()> {
        self.run(Some(to), passed, cancel).await
    }

    async fn run(&self, to: Option<ApplyTo>, passed: &Passed, cancel: &CancellationToken) -> Result<()> {
        let spool = Arc::clone(&self.0);
        let job = Arc::new(Job { spool, to, passed: passed.clone(), cancel: cancel.clone(), state: Mutex::default() });
        let mut scope = Scope::child_of(cancel);
        for _ in 0..APPLY_LANES {
            scope.spawn(Arc::clone(&job).lane());
        }
        scope.join().await?;
        let failed = job.state.lock().unwrap_or_else(PoisonError::into_inner).failed.take();
        failed.map_or(Ok(()), Err)
    }
}

impl Job {
    async fn lane(self: Arc<Self>) {
        while let Some(piece) = self.next() {
            let done = match self.cancel.is_cancelled() {
                true => {
                    Err(Error::new(ErrorKind::Cancelled, "apply a spool", "it was asked to stop; it is repeated when it is started again")
                        .with("point", &self.spool.header.point))
                }
                false => self.one(piece).await,
            };
            if let Err(e) = done {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).failed.get_or_insert(e);
                return;
            }
        }
    }

    async fn one(&self, piece: Piece) -> Result<()> {
        let data = match piece {
            Piece::Data(range) => Some(self.spool.read_verified(&*self.spool.file, range).await?),
            Piece::Zero(_) => None,
        };
        let (Piece::Data(range) | Piece::Zero(range)) = piece;
        let Some(to) = &self.to else {
            self.passed.bytes(range.length());
            return Ok(());
        };
        let writing = to.ledger.begin_write(range, Some(to.pass)).await?;
        match data {
            Some(bytes) => to.volume.write(range.offset(), bytes, Persist::Cached).await?,
            None => to.volume.zero(range, ZeroMode { may_punch: true, only_fast: false }, Persist::Cached).await?,
        }
        writing.done();
        self.passed.bytes(range.length());
        Ok(())
    }

    /// The next piece; none after a failure.
    fn next(&self) -> Option<Piece> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = &self.spool.layout;
        while state.failed.is_none() {
            if let Some(piece) = state.pieces.pop_front() {
                let (range, step) = match piece {
                    Piece::Data(range) => (range, APPLY_REQUEST.min(u64::from(self.spool.info.max_request)).max(layout.cluster_size())),
                    Piece::Zero(range) => (range, APPLY_ZEROS),
                };
                let first = range.pieces(step).next()?;
                let make = |range| if matches!(piece, Piece::Data(_)) { Piece::Data(range) } else { Piece::Zero(range) };
                if first != range {
                    state.pieces.push_front(make(ByteRange::between(first.end(), range.end())));
                }
                return Some(make(first));
            }
            if state.next >= layout.clusters() {
                return None;
            }
            // One page of the map at a time.
            let end = ((state.next / PAGE_BLOCKS + 1) * PAGE_BLOCKS).min(layout.clusters());
            let runs = self.spool.core().runs(state.next, end);
            state.next = end;
            for (first, end, code) in runs.into_iter().filter(|(_, _, code)| *code != ABSENT) {
                let range = layout.ranges_of(first, end);
                state.pieces.push_back(if core::is_zero(code) { Piece::Zero(range) } else { Piece::Data(range) });
            }
        }
        None
    }
}
