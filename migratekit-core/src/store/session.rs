//! A transaction as its closure sees it: a handle on the one connection that it runs on.
//!
//! The handle is owned, so that closures are plain (`|tx| async move { .. }`). The connection is taken out of it for the time of each
//! statement: a statement that is dropped half-way takes the connection with it, and the transaction ends without a commit.

use std::sync::Arc;

use sqlx::{Connection as _, MySqlConnection, SqliteConnection};
use tokio::sync::Mutex;

use super::failure::{self, Cause};
use super::{Backend, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// One connection.
pub(crate) enum Session {
    /// To a SQLite file.
    Sqlite(Box<SqliteConnection>),
    /// To MariaDB.
    MariaDb(Box<MySqlConnection>),
}

impl Session {
    pub(super) fn backend(&self) -> Backend {
        match self {
            Session::Sqlite(_) => Backend::Sqlite,
            Session::MariaDb(_) => Backend::MariaDb,
        }
    }

    /// Runs a text of ours that has no values and no answer, as it is.
    pub(super) async fn plain(&mut self, sql: &str) -> sqlx::Result<()> {
        let text = sqlx::AssertSqlSafe(sql.to_owned());
        super::statement::on!(self, connection => {
            let _: Option<DB> = None;
            sqlx::raw_sql(text).execute(&mut **connection).await.map(|_| ())
        })
    }

    /// Says goodbye; the other side would notice by itself, only later.
    pub(super) async fn close(self) {
        let _ = match self {
            Session::Sqlite(connection) => connection.close().await,
            Session::MariaDb(connection) => connection.close().await,
        };
    }
}

/// One transaction of [`Store::write`](super::Store::write), or one snapshot of [`Store::read`](super::Store::read).
///
/// It ends with the closure it was given to; a copy kept longer only gives errors.
#[derive(Clone)]
pub struct Tx(Arc<Shared>);

struct Shared {
    backend: Backend,
    /// Whether it may change the catalog.
    writes: bool,
    session: Mutex<Slot>,
}

struct Slot {
    session: Option<Session>,
    /// A failure after which the transaction can only be run again, whatever the closure makes of it.
    repeat: Option<(Cause, Error)>,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("backend", &self.0.backend).finish_non_exhaustive()
    }
}

impl Tx {
    pub(super) fn new(session: Session, writes: bool) -> Self {
        let backend = session.backend();
        Tx(Arc::new(Shared { backend, writes, session: Mutex::new(Slot { session: Some(session), repeat: None }) }))
    }

    /// Which database this is.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.0.backend
    }

    /// Now by the database's clock: what leases are measured with, the same for every process on this catalog.
    pub async fn now(&self) -> Result<Timestamp> {
        let text = format!("SELECT {} AS now", dialect::now(self.backend()));
        self.sql("ask the database for the time", text).one("the database has no clock", |row| row.time("now")).await
    }

    /// Runs a text of ours that has no values and no answer.
    pub(super) async fn plain(&self, operation: &'static str, text: &str) -> Result<()> {
        let mut session = self.take(operation).await?;
        let answer = session.plain(text).await;
        self.put_back(operation, text, session, answer).await
    }

    /// The connection, for one statement.
    pub(super) async fn take(&self, operation: &'static str) -> Result<Session> {
        let mut slot = self.0.session.lock().await;
        if let Some((_, error)) = &slot.repeat {
            return Err(Error::new(error.kind(), operation, "an earlier statement of the transaction failed; it is run again as a whole"));
        }
        slot.session.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, operation, "the transaction is over, or another statement of it is running or was abandoned")
        })
    }

    /// Back with the connection, and the answer with its error in our words.
    pub(super) async fn put_back<T>(&self, operation: &'static str, sql: &str, session: Session, answer: sqlx::Result<T>) -> Result<T> {
        let mut slot = self.0.session.lock().await;
        slot.session = Some(session);
        answer.map_err(|source| {
            let (cause, error) = failure::of(operation, sql, source);
            // No other connection or host would take the write either: it is this transaction that only reads.
            let (cause, error) = match error.kind() {
                ErrorKind::ReadOnly if !self.0.writes => (Cause::Final, failure::only_reads(operation, error)),
                _ => (cause, error),
            };
            if cause != Cause::Final && slot.repeat.is_none() {
                slot.repeat = Some((cause, failure::copy_of(&error)));
            }
            error
        })
    }

    /// The end: the connection, unless a statement was abandoned, and what asks for a repetition.
    pub(super) async fn finish(self) -> (Option<Session>, Option<(Cause, Error)>) {
        let mut slot = self.0.session.lock().await;
        (slot.session.take(), slot.repeat.take())
    }
}
