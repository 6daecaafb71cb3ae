//! A bounded set of connections. Our own, because a pool must know two things here: which host a connection goes to, and that a
//! connection whose transaction did not end in order is never used again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::Session;
use crate::error::{Error, ErrorKind, Result};

/// How long a transaction waits for its turn. Transactions are short; who waits longer meets a stuck one, and should say so.
const TURN_TIME: Duration = Duration::from_secs(30);

/// Connections that wait, and the right to have one.
#[derive(Debug)]
pub(super) struct Pool {
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.backend())
    }
}

/// The right to use one connection; dropping it passes the turn on.
pub(super) struct Turn {
    write: bool,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// The same, for writing or only for reading.
    pub(super) fn of(self, write: bool) -> Self {
        Turn { write, ..self }
    }

    pub(super) fn writes(&self) -> bool {
        self.write
    }
}

impl Pool {
    /// At most `size` connections.
    pub(super) fn new(size: usize) -> Self {
        Pool { turns: Arc::new(Semaphore::new(size)), idle: Mutex::new(Vec::new()) }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, operation: &'static str) -> Result<Turn> {
        match tokio::time::timeout(TURN_TIME, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn { write: true, _permit: permit }),
            Ok(Err(_)) => Err(Error::new(ErrorKind::Cancelled, operation, "the catalog was closed")),
            Err(_) => Err(Error::new(ErrorKind::Timeout, operation, "every connection to the catalog was in use for half a minute")),
        }
    }

    /// A connection that waits, if any.
    pub(super) fn idle(&self) -> Option<Session> {
        self.lock().pop()
    }

    /// Back with a connection that is fit for another transaction.
    pub(super) fn give(&self, session: Session) {
        if !self.turns.is_closed() {
            self.lock().push(session);
        }
    }

    /// Forgets every waiting connection: one of them was found dead.
    pub(super) fn forget(&self) -> Vec<Session> {
        std::mem::take(&mut *self.lock())
    }

    /// No more turns.
    pub(super) async fn close(&self) {
        self.turns.close();
        for session in self.forget() {
            session.close().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
