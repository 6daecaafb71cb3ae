//! Whole transactions: begun, run, committed, and run again as a whole when the database asks for it.
//!
//! ```text
//!  write: turn ─▶ connection ─▶ BEGIN ─▶ mark ─▶ closure ─▶ COMMIT ─▶ answer
//!           ▲                              │         │          │
//!           │                    mark is there       conflict   answer lost
//!           └──────────────── again, with the same mark ◀───────┘
//! ```
//!
//! On MariaDB the mark decides what became of a commit whose answer was lost. Every try of one transaction inserts the same mark: if the
//! lost commit took place, the next try's insert meets it (waiting for it, if it is still under way) and the first answer is given; if
//! not, the mark is inserted and the closure runs again. A SQLite file has no such answer to lose.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::failure::{self, Cause};
use super::open::Store;
use super::pool::Turn;
use super::session::{Session, Tx};
use super::{Backend, dialect};
use crate::clock;
use crate::error::{Error, ErrorKind, Result, Retry};

/// How often a transaction is run again after a conflict. With the pauses below a hot row stands in the way for some seconds at most.
const MAX_CONFLICTS: u32 = 40;
/// The first pause after a conflict; each further one is longer, up to [`LONGEST_PAUSE`], and half of it is chance.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// After so many transactions of a process old marks are swept.
const SWEEP_EVERY: u64 = 1000;
/// How long a mark is kept, by the database's clock: far longer than any transaction is tried.
const MARK_TIME: Duration = Duration::from_secs(3600);

/// The result of one try.
enum End<T> {
    Done(T),
    Failed(Error),
    Again(Cause, Error),
}

impl Store {
    /// Runs `work` in one transaction and commits it. It may run several times, so it must change nothing but the catalog; its errors
    /// roll everything back. A conflict is tried up to 40 times, an unreachable database for the time of
    /// [`StoreOptions::patience`](super::StoreOptions::patience). Dropping the future before the commit undoes everything.
    pub async fn write<T, F, Fut>(&self, operation: &'static str, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mark = (self.backend() == Backend::MariaDb).then(|| uuid::Uuid::now_v7().to_string());
        let (mut kept, mut tries) = (None, Tries::new(self.patience()));
        loop {
            match self.write_once(operation, mark.as_deref(), &mut kept, &work).await {
                End::Done(value) => {
                    if mark.is_some() && self.count_write().is_multiple_of(SWEEP_EVERY) {
                        self.sweep_marks().await;
                    }
                    return Ok(value);
                }
                End::Failed(error) => return Err(error),
                End::Again(cause, error) => {
                    if let Err(error) = tries.again(self, cause, error).await {
                        return Err(if kept.is_some() { unknown_outcome(operation, error) } else { error });
                    }
                }
            }
        }
    }

    /// Runs `work` on one snapshot of the catalog; it may run several times. A write in it fails at once, with [`ErrorKind::ReadOnly`].
    pub async fn read<T, F, Fut>(&self, operation: &'static str, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut tries = Tries::new(self.patience());
        loop {
            match self.read_once(operation, &work).await {
                End::Done(value) => return Ok(value),
                End::Failed(error) => return Err(error),
                End::Again(cause, error) => tries.again(self, cause, error).await?,
            }
        }
    }

    async fn write_once<T, F, Fut>(&self, operation: &'static str, mark: Option<&str>, kept: &mut Option<T>, work: &F) -> End<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let (turn, session) = match self.begin(operation, true).await {
            Ok(begun) => begun,
            Err(end) => return again(end),
        };
        let tx = Tx::new(session, true);
        if let Some(mark) = mark {
            let text = format!("INSERT INTO transaction_marks (mark, made_at) VALUES (?, {})", dialect::now(Backend::MariaDb));
            match tx.sql(operation, text).bind(mark).run().await {
                Ok(_) => *kept = None,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    self.end(turn, tx).await;
                    return match kept.take() {
                        Some(value) => End::Done(value),
                        None => End::Failed(Error::new(ErrorKind::Internal, operation, "the mark of a new transaction exists already")),
                    };
                }
                Err(error) => return self.ended(turn, tx, Err(error)).await,
            }
        }
        let value = match work(tx.clone()).await {
            Ok(value) => value,
            failed => return self.ended(turn, tx, failed).await,
        };
        self.commit(operation, turn, tx, value, kept).await
    }

    async fn commit<T>(&self, operation: &'static str, turn: Turn, tx: Tx, value: T, kept: &mut Option<T>) -> End<T> {
        let (session, repeat) = tx.finish().await;
        let Some(mut session) = session else {
            return End::Failed(abandoned(operation));
        };
        if let Some((cause, error)) = repeat {
            drop(session);
            self.put_away(turn, None, cause == Cause::Lost);
            return End::Again(cause, error);
        }
        match session.plain("COMMIT").await {
            Ok(()) => {
                self.put_away(turn, Some(session), false);
                End::Done(value)
            }
            Err(source) => {
                let (cause, error) = failure::of(operation, "COMMIT", source);
                *kept = Some(value);
                drop(session);
                self.put_away(turn, None, true);
                match (cause, self.backend()) {
                    // The answer is lost, or of a kind that leaves open what became of it: the mark will tell.
                    (cause, Backend::MariaDb) => End::Again(if cause == Cause::Final { Cause::Lost } else { cause }, error),
                    (Cause::Final, Backend::Sqlite) => End::Failed(error),
                    (cause, Backend::Sqlite) => End::Again(cause, error),
                }
            }
        }
    }

    async fn read_once<T, F, Fut>(&self, operation: &'static str, work: &F) -> End<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let (turn, session) = match self.begin(operation, false).await {
            Ok(begun) => begun,
            Err(end) => return again(end),
        };
        let tx = Tx::new(session, false);
        let value = work(tx.clone()).await;
        self.ended(turn, tx, value).await
    }

    /// Runs `work` on a connection that changes the schema: on SQLite in one transaction, on MariaDB, whose schema has none, statement by
    /// statement. Foreign keys are not checked meanwhile. The connection is used for nothing else.
    pub(super) async fn write_schema<F, Fut>(&self, operation: &'static str, work: F) -> Result<()>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let (before, after): (&[&str], &str) = match self.backend() {
            Backend::Sqlite => (&["PRAGMA foreign_keys = OFF", "BEGIN IMMEDIATE"], "COMMIT"),
            Backend::MariaDb => (&["SET SESSION foreign_key_checks = 0, lock_wait_timeout = 60"], "DO 0"),
        };
        let mut tries = Tries::new(self.patience());
        loop {
            let (turn, mut session) = self.session(operation, true).await?;
            for text in before {
                session.plain(text).await.map_err(|source| failure::of(operation, text, source).1)?;
            }
            let tx = Tx::new(session, true);
            let said = work(tx.clone()).await;
            let (session, repeat) = tx.finish().await;
            let end = match (session, repeat, said) {
                (_, Some((cause, error)), _) => Err((cause, error)),
                (_, _, Err(error)) => Err((Cause::Final, error)),
                (None, ..) => Err((Cause::Final, abandoned(operation))),
                (Some(mut session), None, Ok(())) => {
                    let end = session.plain(after).await.map_err(|source| failure::of(operation, after, source));
                    session.close().await;
                    end
                }
            };
            self.put_away(turn, None, false);
            match end {
                Ok(()) => return Ok(()),
                Err((cause, error)) => tries.again(self, cause, error).await?,
            }
        }
    }

    /// A connection with a transaction begun on it.
    async fn begin(&self, operation: &'static str, write: bool) -> Result<(Turn, Session), (Cause, Error)> {
        let (turn, mut session) = self.session(operation, write).await.map_err(|error| {
            let lost = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::ReadOnly) || error.retry() != Retry::Never;
            (if lost && error.kind() != ErrorKind::Timeout { Cause::Lost } else { Cause::Final }, error)
        })?;
        let text = if write { dialect::begin_write(self.backend()) } else { dialect::begin_read(self.backend()) };
        match session.plain(text).await {
            Ok(()) => Ok((turn, session)),
            Err(source) => {
                let (cause, error) = failure::of(operation, text, source);
                self.put_away(turn, None, cause == Cause::Lost);
                Err((cause, error))
            }
        }
    }

    /// The end of a transaction that commits nothing, with what its closure said.
    async fn ended<T>(&self, turn: Turn, tx: Tx, said: Result<T>) -> End<T> {
        let repeat = self.end(turn, tx).await;
        match (repeat, said) {
            (Some((cause, error)), _) => End::Again(cause, error),
            (None, Ok(value)) => End::Done(value),
            (None, Err(error)) => End::Failed(error),
        }
    }

    /// Rolls back, and tells what asks for a repetition.
    async fn end(&self, turn: Turn, tx: Tx) -> Option<(Cause, Error)> {
        let (session, repeat) = tx.finish().await;
        let lost = repeat.as_ref().is_some_and(|(cause, _)| *cause == Cause::Lost);
        let session = match session {
            Some(mut session) if !lost => session.plain("ROLLBACK").await.is_ok().then_some(session),
            _ => None,
        };
        self.put_away(turn, session, lost);
        repeat
    }

    /// Sweeps old marks; it is no harm if that fails, the next sweep does it.
    async fn sweep_marks(&self) {
        let text = format!(
            "DELETE FROM transaction_marks WHERE made_at < {} - {} LIMIT 10000",
            dialect::now(Backend::MariaDb),
            MARK_TIME.as_micros()
        );
        if let Ok((turn, mut session)) = self.begin("sweep old marks", true).await {
            let swept = session.plain(&text).await.is_ok() && session.plain("COMMIT").await.is_ok();
            self.put_away(turn, swept.then_some(session), false);
        }
    }
}

fn again<T>((cause, error): (Cause, Error)) -> End<T> {
    if cause == Cause::Final { End::Failed(error) } else { End::Again(cause, error) }
}

fn abandoned(operation: &'static str) -> Error {
    Error::new(ErrorKind::Internal, operation, "a statement of the transaction was dropped before it ended; nothing was changed")
}

fn unknown_outcome(operation: &'static str, error: Error) -> Error {
    Error::new(ErrorKind::Unreachable, operation, "the database was lost while it committed; whether it did is not known")
        .with_retry(Retry::Exhausted)
        .with_source(error)
}

/// How often and how long a transaction was tried.
struct Tries {
    conflicts: u32,
    pause: Duration,
    patience: Duration,
    lost_at: Option<clock::Instant>,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Tries { conflicts: 0, pause: FIRST_PAUSE, patience, lost_at: None }
    }

    /// Waits before another try, or says that it was the last.
    async fn again(&mut self, store: &Store, cause: Cause, error: Error) -> Result<()> {
        let over = match cause {
            Cause::Final => true,
            Cause::Conflict => {
                self.conflicts += 1;
                self.conflicts > MAX_CONFLICTS
            }
            Cause::Lost => {
                store.next_host();
                clock::now().duration_since(*self.lost_at.get_or_insert_with(clock::now)) >= self.patience
            }
        };
        if over {
            return Err(error.with_retry(Retry::Exhausted));
        }
        tracing::debug!(%error, "the transaction is run again");
        clock::sleep(self.pause.mul_f64(0.5 + chance() / 2.0)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// A number from 0 to 1 that differs between processes and calls, so that two in each other's way do not meet again.
fn chance() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}
