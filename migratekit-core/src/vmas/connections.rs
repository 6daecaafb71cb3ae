//! Who is connected, written into the catalog: the rows and the history follow what happens in the tunnel.
//!
//! ```text
//!  session's task ── Event ──▶ observer: counts, in memory, never waits ──▶ one writer ──▶ vma_active_connections, vma_connection_audit
//!                                                                           ▲ every 30 s: when was each last heard
//! ```
//!
//! A VMA has many connections at a time; it **is connected** from the first of them to the last, and only these two moments are written.
//! When it was last heard is written for all VMAs in one transaction, every [`ConnectionSettings::seen`].
//!
//! What it promises:
//!
//! - **A row never says connected for long when nobody is**: what happened while the catalog could not be written is kept, in order, and
//!   written when it can; [`Connections::open`] corrects what a process that died left behind, before anybody is served.
//! - **No session waits for the catalog.**
//! - **What is kept is bounded** ([`MAX_KEPT`]): of a VMA that comes and goes while the catalog is away the oldest comings and goings are
//!   left out, and the history says how many.
//!
//! What it does not do: approve or revoke (that writes its own rows), or follow keys that are in no catalog. One process serves the
//! tunnel of a catalog. Times are of this host's clock, at which things happened, not the database's.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Vmas;
use crate::clock::{self, Timestamp};
use crate::error::Result;
use crate::model::ConnectionEvent;
use crate::store::{NewConnectionAudit, Store, Tx};
use crate::task::CancellationToken;
use crate::tunnels::Server;
use crate::tunnels::server::{Event, Observer};

/// Comings and goings of one VMA that are kept while they cannot be written.
pub const MAX_KEPT: usize = 64;
/// Before a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// For the last writes, when the process ends.
const LAST: Duration = Duration::from_secs(5);
/// The longest text of a cause in the history, in characters.
const MAX_WHY: usize = 500;

const WRITE: &str = "write down who is connected";

/// How often what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Between two writes of when VMAs were last heard. Half a minute: a keepalive comes as often.
    pub seen: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        ConnectionSettings { seen: Duration::from_secs(30) }
    }
}

/// What happened to a VMA.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Came { at: Timestamp, from: String },
    Went { at: Timestamp, from: String, heard: Timestamp, why: Option<String> },
}

/// What is known of the VMA with a key.
#[derive(Debug, Default)]
struct Known {
    /// Its connections.
    live: usize,
    /// What is not written yet.
    kept: VecDeque<Change>,
    /// How many changes were left out before those.
    left_out: u64,
}

impl Known {
    fn keep(&mut self, change: Change) {
        self.kept.push_back(change);
        while self.kept.len() > MAX_KEPT {
            self.kept.pop_front();
            self.left_out += 1;
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// By the key's fingerprint.
    known: Mutex<HashMap<String, Known>>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event in.
    fn saw(&self, event: &Event) {
        let now = Timestamp::now();
        match event {
            Event::Connected { peer } => {
                let mut all = self.lock();
                let known = all.entry(peer.key.fingerprint().to_string()).or_default();
                known.live += 1;
                if known.live > 1 {
                    return;
                }
                known.keep(Change::Came { at: now, from: peer.address.ip().to_string() });
            }
            Event::Disconnected { peer: Some(peer), why, silence, .. } => {
                let mut all = self.lock();
                let Some(known) = all.get_mut(&peer.key.fingerprint().to_string()) else { return };
                known.live = known.live.saturating_sub(1);
                if known.live > 0 {
                    return;
                }
                let why = why.as_ref().map(|why| why.chars().take(MAX_WHY).collect());
                known.keep(Change::Went { at: now, from: peer.address.ip().to_string(), heard: now.minus(*silence), why });
            }
            _ => return,
        }
        self.changed.notify_one();
    }

    /// What is to be written, VMA by VMA.
    fn take(&self) -> Vec<(String, VecDeque<Change>, u64)> {
        let mut all = self.lock();
        let waiting = all.iter_mut().filter(|(_, known)| !known.kept.is_empty());
        waiting.map(|(key, known)| (key.clone(), std::mem::take(&mut known.kept), std::mem::take(&mut known.left_out))).collect()
    }

    /// What could not be written is kept, before what came meanwhile.
    fn give_back(&self, key: String, changes: VecDeque<Change>, left_out: u64) {
        let mut all = self.lock();
        let known = all.entry(key).or_default();
        let later = std::mem::replace(&mut known.kept, changes);
        known.left_out += left_out;
        for change in later {
            known.keep(change);
        }
    }

    /// Forgets who is gone and written.
    fn forget(&self) {
        self.lock().retain(|_, known| known.live > 0 || !known.kept.is_empty());
    }
}

/// Writes into the catalog who is connected: rows and history follow what happens in the tunnel. No session waits for it, what happened
/// while the catalog was away is kept (bounded, by [`MAX_KEPT`]), and what a process that died left behind is corrected.
#[derive(Clone)]
pub struct Connections {
    store: Store,
    settings: ConnectionSettings,
    shared: Arc<Shared>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Vmas {
    /// Who is connected, for the process that serves the tunnel; see [`Connections::open`].
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn connections(&self, settings: ConnectionSettings) -> Result<Connections> {
        Connections::open(self.store.clone(), settings).await
    }
}

impl Connections {
    /// Corrects the rows that say connected, of which nobody is: this process has not begun to serve.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn open(store: Store, settings: ConnectionSettings) -> Result<Self> {
        let write = |tx: Tx| async move {
            let now = Timestamp::now();
            let left = tx.vma_connections().connected().await?;
            for connection in &left {
                tx.vma_connections().disconnect(&connection.enrollment, None).await?;
                let details = json!({ "why": "the process that served it ended without saying so", "found_at_start": true });
                record(&tx, &connection.enrollment, ConnectionEvent::Disconnection, None, &details, now).await?;
            }
            Ok(left.len())
        };
        let corrected = store.write("correct who is connected", write).await?;
        if corrected > 0 {
            tracing::warn!(corrected, "VMAs were called connected from before this process; they are not");
        }
        Ok(Connections { store, settings, shared: Arc::default() })
    }

    /// What the tunnel's server tells its events to. It never waits.
    #[must_use]
    pub fn observer(&self) -> Observer {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |event| shared.saw(event))
    }

    /// Writes what happens, until `cancel`; to be cancelled when `server` serves no more, so that the last goings are written too.
    pub async fn keep(&self, server: &Server, cancel: &CancellationToken) {
        let mut next_look = clock::now() + self.settings.seen;
        loop {
            let all_written = self.write().await;
            if clock::now() >= next_look {
                next_look = clock::now() + self.settings.seen;
                if let Err(error) = self.write_seen(server).await {
                    tracing::warn!(%error, "when VMAs were last heard could not be written");
                }
            }
            let pause = if all_written { next_look.saturating_duration_since(clock::now()) } else { AGAIN };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.shared.changed.notified(), if all_written => {}
                () = clock::sleep(pause) => {}
            }
        }
        let last = async {
            while !self.write().await {
                clock::sleep(AGAIN / 10).await
            }
        };
        if clock::within(LAST, last).await.is_none() {
            tracing::warn!("who is connected no more could not be written; the next start corrects it");
        }
    }

    /// Writes what waits, one transaction for each VMA. Says whether all of it was.
    async fn write(&self) -> bool {
        let mut all_written = true;
        for (key, changes, left_out) in self.shared.take() {
            let (fingerprint, happened) = (&key, &changes);
            let write = |tx: Tx| async move { write_changes(&tx, fingerprint, happened, left_out).await };
            if let Err(error) = self.store.write(WRITE, write).await {
                tracing::warn!(%error, vma = %key, "who is connected could not be written; it is tried again");
                self.shared.give_back(key, changes, left_out);
                all_written = false;
            }
        }
        self.shared.forget();
        all_written
    }

    /// Writes when each connected VMA was last heard.
    async fn write_seen(&self, server: &Server) -> Result<()> {
        let mut heard: HashMap<String, Duration> = HashMap::new();
        for (peer, silence) in server.heard() {
            let least = heard.entry(peer.key.fingerprint().to_string()).or_insert(silence);
            *least = silence.min(*least);
        }
        if heard.is_empty() {
            return Ok(());
        }
        let (heard, now) = (&heard, Timestamp::now());
        let write = |tx: Tx| async move {
            for (key, silence) in heard {
                tx.vma_connections().seen(key, now.minus(*silence)).await?;
            }
            Ok(())
        };
        self.store.write("write down when VMAs were last heard", write).await
    }
}

/// Writes what happened to the VMA of a key, if the catalog knows it.
async fn write_changes(tx: &Tx, key: &str, changes: &VecDeque<Change>, left_out: u64) -> Result<()> {
    for connection in tx.vma_connections().of_key(key).await? {
        let id = &connection.enrollment;
        for (number, change) in changes.iter().enumerate() {
            let (left_out, rows) = (if number == 0 { left_out } else { 0 }, tx.vma_connections());
            match change {
                Change::Came { at, from } => {
                    if rows.connect(id, *at).await? {
                        let details = with_left_out(json!({}), left_out);
                        record(tx, id, ConnectionEvent::Connection, Some(from), &details, *at).await?;
                    }
                }
                Change::Went { at, from, heard, why } => {
                    if rows.disconnect(id, Some(*heard)).await? {
                        let details = with_left_out(json!({ "why": why, "last_heard": heard }), left_out);
                        record(tx, id, ConnectionEvent::Disconnection, Some(from), &details, *at).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn with_left_out(mut details: Value, left_out: u64) -> Value {
    if let (Some(object), true) = (details.as_object_mut(), left_out > 0) {
        object.insert("changes_left_out_before".to_owned(), json!(left_out));
    }
    details
}

async fn record(
    tx: &Tx,
    id: &crate::id::EnrollmentId,
    event: ConnectionEvent,
    source_ip: Option<&str>,
    details: &Value,
    at: Timestamp,
) -> Result<()> {
    let line = NewConnectionAudit { event, source_ip, user_agent: None, approved_by: None, details: Some(details) };
    tx.enrollments().record(id, &line, at).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(n: i64) -> Change {
        Change::Came { at: Timestamp::from_micros(n).unwrap(), from: "192.0.2.1".to_owned() }
    }

    fn all(range: std::ops::RangeInclusive<i64>) -> VecDeque<Change> {
        range.map(came).collect()
    }

    #[test]
    fn what_is_kept_is_bounded_in_order_and_counted() {
        let shared = Shared::default();
        let most = i64::try_from(MAX_KEPT).unwrap();
        shared.give_back("k".to_owned(), all(0..=9), 0);
        assert_eq!(shared.take(), [("k".to_owned(), all(0..=9), 0)]);
        assert!(shared.take().is_empty());
        // What came meanwhile stands behind what is given back; the oldest goes.
        shared.lock().get_mut("k").unwrap().keep(came(most + 1));
        shared.give_back("k".to_owned(), all(1..=most), 2);
        assert_eq!(shared.take(), [("k".to_owned(), all(2..=most + 1), 3)]);
        shared.forget();
        assert!(shared.lock().is_empty());
    }
}
