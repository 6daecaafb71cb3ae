//! The connections of a server: who is there, on which export, and how to end them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::exports::Entry;
use super::visitor::{View, Visitor};
use crate::clock::{self, Instant};
use crate::task::CancellationToken;

/// One connection, as `connections()` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionStatus {
    /// A number of its own; never used again.
    pub id: u64,
    /// Who is connected, in words.
    pub client: String,
    /// The export's plain name; `None` during the handshake.
    pub export: Option<String>,
    /// Whether it may write.
    pub writer: bool,
    /// The epoch and the job of a fenced export's writer.
    pub claim: Option<(u64, String)>,
    /// Requests begun.
    pub requests: u64,
    /// Bytes asked for by READ.
    pub bytes_read: u64,
    /// Bytes brought by WRITE.
    pub bytes_written: u64,
    /// Bytes of payload under way now.
    pub bytes_in_flight: u64,
    /// Seconds since it was accepted.
    pub seconds: u64,
}

/// What a connection is bound to once it chose an export.
#[derive(Clone)]
pub(super) struct Binding {
    pub(super) entry: Arc<Entry>,
    pub(super) writer: bool,
    pub(super) claim: Option<(u64, String)>,
}

/// One connection.
pub(super) struct Record {
    pub(super) id: u64,
    pub(super) peer: String,
    /// What it is shown; `None`: everything.
    pub(super) view: Option<Arc<dyn View>>,
    /// Close at once.
    pub(super) kill: CancellationToken,
    /// Answer what is under way, then close.
    pub(super) drain: CancellationToken,
    /// Cancelled when the last request under way has ended.
    pub(super) done: CancellationToken,
    pub(super) requests: AtomicU64,
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) held: Arc<AtomicU64>,
    started: Instant,
    binding: Mutex<Option<Binding>>,
}

impl Record {
    /// Bytes of the budget it holds.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn binding(&self) -> MutexGuard<'_, Option<Binding>> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> ConnectionStatus {
        let binding = self.binding().clone();
        ConnectionStatus {
            id: self.id,
            client: self.peer.clone(),
            export: binding.as_ref().map(|b| b.entry.name.clone()),
            writer: binding.as_ref().is_some_and(|b| b.writer),
            claim: binding.and_then(|b| b.claim),
            requests: self.requests.load(Ordering::Relaxed),
            bytes_read: self.read.load(Ordering::Relaxed),
            bytes_written: self.written.load(Ordering::Relaxed),
            bytes_in_flight: self.held(),
            seconds: self.started.elapsed().as_secs(),
        }
    }
}

/// All connections of a server.
#[derive(Default)]
pub(super) struct Registry {
    records: Mutex<(u64, BTreeMap<u64, Arc<Record>>)>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Record>>)> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection, unless there are `most` already.
    pub(super) fn enter(self: &Arc<Self>, client: Visitor, drain: CancellationToken, most: u32) -> Option<Registered> {
        let mut records = self.lock();
        if records.1.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            return None;
        }
        records.0 += 1;
        let record = Arc::new(Record {
            id: records.0,
            peer: client.name,
            view: client.view,
            kill: client.gone.child_token(),
            drain,
            done: CancellationToken::new(),
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            held: Arc::new(AtomicU64::new(0)),
            started: clock::now(),
            binding: Mutex::new(None),
        });
        records.1.insert(record.id, Arc::clone(&record));
        Some(Registered { registry: Arc::clone(self), record })
    }

    /// The connections bound to `entry` that `which` chooses.
    pub(super) fn bound(&self, entry: &Arc<Entry>, which: impl Fn(&Binding) -> bool) -> Vec<Arc<Record>> {
        let chosen = |r: &&Arc<Record>| r.binding().as_ref().is_some_and(|b| Arc::ptr_eq(&b.entry, entry) && which(b));
        self.lock().1.values().filter(chosen).cloned().collect()
    }

    /// Every connection.
    pub(super) fn all(&self) -> Vec<Arc<Record>> {
        self.lock().1.values().cloned().collect()
    }

    pub(super) fn status(&self) -> Vec<ConnectionStatus> {
        self.lock().1.values().map(|r| r.status()).collect()
    }
}

/// Closes connections, and waits until their last requests have ended.
pub(super) async fn close(records: &[Arc<Record>]) {
    for record in records {
        record.kill.cancel();
    }
    for record in records {
        record.done.cancelled().await;
    }
}

/// A connection's place in the registry; dropping it says that its last request has ended.
pub(super) struct Registered {
    registry: Arc<Registry>,
    pub(super) record: Arc<Record>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().1.remove(&self.record.id);
        self.record.done.cancel();
    }
}
