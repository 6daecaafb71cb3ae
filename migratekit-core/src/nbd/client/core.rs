//! What all connections of a client share: the facts of the export, the queues, the bound on bytes under way, the account of writes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};

use super::assembly::{Assembly, Expect, Outcome};
use super::dial::Origin;
use super::durability::Durability;
use super::options::ConnectOptions;
use super::order::{Hold, Order, WriteAccount, copy_of};
use crate::block::BlockInfo;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::handshake::client::Plan;
use crate::nbd::handshake::facts::Negotiated;
use crate::nbd::limits::{MAX_CLIENT_BYTES, MAX_CLIENT_REQUESTS};

/// The least a request weighs, in bytes, so that the bound on bytes bounds the number of requests too.
const LEAST_WEIGHT: u32 = MAX_CLIENT_BYTES / MAX_CLIENT_REQUESTS;

/// See the [module documentation](self).
pub(crate) struct Core {
    /// The export, as errors name it.
    pub(crate) name: String,
    pub(crate) origin: Arc<Origin>,
    pub(crate) plan: Plan,
    pub(crate) options: ConnectOptions,
    pub(crate) facts: Negotiated,
    pub(crate) info: BlockInfo,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) bytes: Arc<Semaphore>,
    pub(crate) bytes_limit: u32,
    pub(crate) round_trip: std::time::Duration,
    pub(crate) account: Arc<Mutex<Durability>>,
    pub(crate) failed: OnceLock<Error>,
}

/// The near end of a connection's queue.
pub(crate) struct Lane {
    pub(crate) queue: UnboundedSender<Order>,
    /// Weight of the orders given to it and not yet ended.
    pub(crate) load: Arc<AtomicU64>,
    /// Whether it is connected now.
    pub(crate) up: AtomicBool,
}

/// What a request says on the wire, beside its mark.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) operation: &'static str,
    pub(crate) command: u16,
    pub(crate) flags: u16,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) payload: Bytes,
    pub(crate) expect: Expect,
    /// Whether a success is a write that is not durable by itself.
    pub(crate) leaves_dirt: bool,
}

impl Core {
    /// Sends a request and waits for its reply, however often the connection breaks in between.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Outcome> {
        let operation = ask.operation;
        let offset = ask.offset;
        self.try_ask(ask).await.map_err(|e| e.with("server", &self.name).with("offset", offset).with("operation", operation))
    }

    async fn try_ask(&self, ask: Ask) -> Result<Outcome> {
        let moved = if ask.payload.is_empty() && !matches!(ask.expect, Expect::Data { .. }) { 0 } else { ask.length };
        let weight = moved.max(LEAST_WEIGHT).min(self.bytes_limit);
        let permit = Arc::clone(&self.bytes).acquire_many_owned(weight).await.map_err(|_| self.ended(ask.operation))?;
        if let Some(fault) = self.failed.get() {
            return Err(copy_of(fault));
        }
        let index = self.least_loaded();
        let lane = self.lanes.get(index).ok_or_else(|| self.ended(ask.operation))?;
        let (reply, answer) = oneshot::channel();
        lane.load.fetch_add(u64::from(weight), Ordering::Relaxed);
        let write = ask.leaves_dirt.then(|| {
            self.account().write_begins(index);
            WriteAccount { account: Arc::clone(&self.account), connection: index }
        });
        let order = Order {
            command: ask.command,
            flags: ask.flags,
            offset: ask.offset,
            length: ask.length,
            payload: ask.payload,
            expect: ask.expect,
            assembly: Assembly::new(ask.expect),
            reply: Some(reply),
            operation: ask.operation,
            hold: Hold { _permit: permit, load: Arc::clone(&lane.load), weight: u64::from(weight), write },
        };
        if lane.queue.send(order).is_err() {
            return Err(self.ended(ask.operation));
        }
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.ended(ask.operation)),
        }
    }

    /// Why no answer can come any more.
    fn ended(&self, operation: &'static str) -> Error {
        self.failed.get().map_or_else(|| Error::new(ErrorKind::Cancelled, operation, "the NBD client was closed"), copy_of)
    }

    /// The connected lane with the least weight on it; when none is connected, the least loaded.
    fn least_loaded(&self) -> usize {
        let key = |lane: &Lane| (!lane.up.load(Ordering::Relaxed), lane.load.load(Ordering::Relaxed));
        self.lanes.iter().enumerate().min_by_key(|(_, lane)| key(lane)).map_or(0, |(i, _)| i)
    }

    pub(crate) fn account(&self) -> MutexGuard<'_, Durability> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lane `index` broke.
    pub(crate) fn broke(&self, index: usize) {
        if let Some(lane) = self.lanes.get(index) {
            lane.up.store(false, Ordering::Relaxed);
        }
        self.account().broke(index);
    }

    /// Lane `index` serves again.
    pub(crate) fn is_up(&self, index: usize) {
        // The account first: a flush over the new connection must meet the doubt.
        self.account().made_again(index);
        if let Some(lane) = self.lanes.get(index) {
            lane.up.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the client; the first reason stays.
    pub(crate) fn fail(&self, fault: Error) -> &Error {
        self.failed.get_or_init(|| fault)
    }

    /// A random number, for the spread of pauses.
    pub(crate) fn random(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}
