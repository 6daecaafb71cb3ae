//! The server: many exports, over any byte stream.
//!
//! ```text
//! Server ── exports (the list, admission, epochs) ── registry (who is connected)
//!    │
//!    └─ connection: negotiate (drives the pure handshake) ─▶ pump (transmission, one task) ─▶ end
//!                                                             input, session, work, flying, reply, outbox
//! ```
//!
//! What it promises:
//!
//! - It starts with an empty list; exports are added and removed while clients work. Removal is refused while a client that may
//!   write is connected, unless forced; when it returns, no request of a closed connection is under way any more.
//! - A client that has a [`View`] learns of no other exports, by name or by LIST.
//! - On a fenced export ([`Server::add_fenced`]) a connection of a higher epoch is answered only after the last request of every
//!   lower one has ended. See [`super::epoch`].
//! - Completed writes are seen by every later read, on every connection (the disk's promise); a FLUSH covers them all.
//! - Every bound of [`Limits`] holds whatever clients do; a client that stands still never holds others for long.
//! - Requests begun are finished: neither a lost connection, nor a removal, nor a shutdown drops one half way.
//!
//! What it does not do: authenticate beyond TLS certificates and epochs (who hands in a stream says who it is), serve oldstyle, resize, or use extended headers.

mod budget;
mod config;
mod connection;
mod exports;
mod flying;
mod input;
mod listen;
mod negotiate;
mod outbox;
mod pump;
mod readonly;
mod registry;
mod reply;
mod session;
mod status;
mod visitor;
mod work;

use std::sync::{Arc, Mutex, PoisonError};

pub use self::config::{Limits, ServerConfig};
pub use self::listen::Listener;
pub use self::registry::ConnectionStatus;
pub use self::visitor::{View, Visitor};
use super::epoch::EpochKey;
use super::export::Export;
use super::stream::ByteStream;
use crate::error::{Error, ErrorKind, Result};
use crate::task::{CancellationToken, Scope};

/// Whether connected writers stand in the way of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// They do.
    No,
    /// They are closed.
    Yes,
}

/// An NBD server. Clones are the same server. See the [module documentation](self).
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

/// What the connections share.
struct Inner {
    config: ServerConfig,
    exports: exports::Exports,
    budget: budget::Budget,
    shutdown: CancellationToken,
    /// Connections run here, so that a caller who drops [`Server::handle`] does not drop requests half way.
    tasks: Mutex<Scope>,
}

impl Server {
    /// A server without exports.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let budget = budget::Budget::new(config.limits.in_flight_bytes);
        let exports = exports::Exports::default();
        let inner = Inner { config, exports, budget, shutdown: CancellationToken::new(), tasks: Mutex::new(Scope::new()) };
        Server { inner: Arc::new(inner) }
    }

    /// Serves `export` under `name`, from now on, to everybody who can connect.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the name is taken, [`ErrorKind::InvalidInput`] when it is too long or reserved.
    pub fn add(&self, name: &str, export: Arc<dyn Export>) -> Result<()> {
        self.inner.exports.add(name, export, None, self.inner.config.limits.handshake.name)
    }

    /// As [`Server::add`], to those whose name for it carries an epoch at least as high as any before, proven by `key`
    /// ([`EpochKey::name`]).
    ///
    /// # Errors
    /// As [`Server::add`].
    pub fn add_fenced(&self, name: &str, export: Arc<dyn Export>, key: EpochKey) -> Result<()> {
        self.inner.exports.add(name, export, Some(key), self.inner.config.limits.handshake.name)
    }

    /// Removes an export. Clients that only read it are closed; a client that may write stands in the way, unless forced: then it
    /// is closed too. Returns when the last request of the closed connections has ended, however long the disk takes for it.
    /// Cancelled (dropped) while it waits, the export is removed and the connections close all the same.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`] with the context `clients` naming who is connected.
    pub async fn remove(&self, name: &str, force: Force) -> Result<()> {
        self.inner.exports.remove(name, force).await
    }

    /// The names of the exports, sorted.
    #[must_use]
    pub fn exports(&self) -> Vec<String> {
        self.inner.exports.names()
    }

    /// Who is connected now.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.inner.exports.registry.status()
    }

    /// Bytes of payload under way now, over all connections; never above [`Limits::in_flight_bytes`].
    #[must_use]
    pub fn bytes_in_flight(&self) -> u64 {
        self.inner.budget.used()
    }

    /// Closes who is connected to an export that its [`View`] does not show any more; to be called when an assignment has ended.
    /// Returns when the last request of the closed connections has ended, however long the disk takes for it. Who opens one meanwhile
    /// asks its view again after it was bound, so that nobody slips through. Where a view cannot tell, the connection goes on.
    pub async fn review(&self) {
        self.inner.exports.review().await;
    }

    /// Serves one stream until its end, and the end of its last request; `client` says who it is ([`Visitor`], or a text). Dropping the
    /// future closes the connection, and its requests under way still end.
    ///
    /// # Errors
    /// Why the connection ended otherwise than by the client's or the server's wish.
    pub async fn handle(&self, stream: Box<dyn ByteStream>, client: impl Into<Visitor>) -> Result<()> {
        self.begin(stream, client.into(), self.inner.shutdown.child_token())?.wait().await
    }

    /// Ends every connection: what is under way is answered, new requests get ESHUTDOWN, then they close. A client that does not
    /// take its replies is closed after [`Limits::stall_time`]. Returns when all have ended. The server cannot be used again.
    /// Cancelled (dropped) while it waits, the connections end all the same.
    pub async fn shutdown(&self) {
        self.inner.shutdown.cancel();
        loop {
            let left = self.inner.exports.registry.all();
            let Some(record) = left.first() else { return };
            record.done.cancelled().await;
        }
    }

    /// Starts a connection in a task of its own; it drains when `drain` is cancelled.
    fn begin(&self, stream: Box<dyn ByteStream>, client: Visitor, drain: CancellationToken) -> Result<connection::Running> {
        let full = Error::new(ErrorKind::Busy, "accept a connection", "the server serves as many as it may").with("client", &client.name);
        let most = self.inner.config.limits.connections;
        let registered = self.inner.exports.registry.enter(client, drain, most).ok_or(full)?;
        let (running, task) = connection::prepare(Arc::clone(&self.inner), stream, registered);
        self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        Ok(running)
    }
}
