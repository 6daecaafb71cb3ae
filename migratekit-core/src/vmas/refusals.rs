//! What the tunnel refused, written into the catalog's audit: keys, other ways in, wishes, exports of others, crowds, broken packets.
//!
//! ```text
//!  session's task ── Event ──▶ observer: counted by kind, source and VMA, never waits ──▶ one writer ──▶ audit_log
//!  NBD handshake ─── ForeignExport ──┘                                                     at once, then once a minute with the count
//! ```
//!
//! What it promises:
//!
//! - **The first refusal of a kind from a source is a row at once.** What follows within [`RefusalSettings::fold`] is one more row, which says
//!   how many there were; so a flood of ten thousand is two rows.
//! - **Memory and rows are bounded** ([`MAX_FOLDED`]): when too many sources are refused at a time, the further ones have a row together.
//! - **No session waits for the catalog.** What could not be written is kept, counted, and written when it can be.
//!
//! A process that is killed takes with it what it counted since its last rows. What is refused at enrollment is written by
//! [`super::Reception`] itself.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Vmas;
use super::guesses::source;
use crate::clock::{self, Instant, Timestamp};
use crate::copy::{ForeignExport, ForeignObserver};
use crate::store::{NewAuditEntry, Store, Tx};
use crate::task::CancellationToken;
use crate::tunnels::Peer;
use crate::tunnels::server::{Event, Observer};

/// The kind of thing that these lines of the audit are about.
pub(super) const TUNNEL: &str = "tunnel";
/// Kinds, sources and VMAs that are counted apart at a time; each is at most a row in a minute. Further ones are counted together, by kind.
pub const MAX_FOLDED: usize = 64;
/// Before a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks when there is nothing; whoever is refused first ends it.
const IDLE: Duration = Duration::from_secs(60);
/// For the last writes, when the process ends.
const LAST: Duration = Duration::from_secs(5);
/// The longest text of a stranger that is kept, in characters.
const MAX_TEXT: usize = 200;
/// Who did it, where nobody knows.
const STRANGER: &str = "stranger";

/// How often what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalSettings {
    /// Between two rows of the same kind, source and VMA.
    pub fold: Duration,
}

impl Default for RefusalSettings {
    fn default() -> Self {
        RefusalSettings { fold: Duration::from_secs(60) }
    }
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Whose {
    /// The action of the audit.
    action: &'static str,
    /// `None`: of many sources, for which there was no room.
    from: Option<IpAddr>,
    vma: Option<String>,
}

/// What one row says.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    count: u64,
    since: Timestamp,
    until: Timestamp,
    /// The fingerprint of the VMA's key.
    actor: String,
    /// Of the first of them.
    details: Value,
}

#[derive(Debug)]
struct Folded {
    /// What is not written yet.
    row: Option<Row>,
    /// No row before.
    due: Instant,
}

#[derive(Debug)]
struct Shared {
    fold: Duration,
    table: Mutex<HashMap<Whose, Folded>>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Whose, Folded>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where something is counted: by itself, or with all of its kind when there is no room.
    fn place(table: &mut HashMap<Whose, Folded>, whose: Whose) -> &mut Folded {
        let room = table.len() < MAX_FOLDED || table.contains_key(&whose);
        let whose = if room { whose } else { Whose { from: None, vma: None, ..whose } };
        table.entry(whose).or_insert_with(|| Folded { row: None, due: clock::now() })
    }

    /// Takes a refusal in. `details` is asked for the first of a row only.
    fn note(&self, action: &'static str, address: IpAddr, peer: Option<&Peer>, details: impl FnOnce() -> Value) {
        let now = Timestamp::now();
        let mut table = self.lock();
        let vma = peer.map(|peer| peer.vma.name.clone());
        let folded = Shared::place(&mut table, Whose { action, from: Some(source(address)), vma });
        let row = folded.row.get_or_insert_with(|| Row {
            count: 0,
            since: now,
            until: now,
            actor: peer.map_or_else(|| STRANGER.to_owned(), |peer| peer.key.fingerprint().to_string()),
            details: details(),
        });
        (row.count, row.until) = (row.count.saturating_add(1), now);
        if folded.due <= clock::now() {
            self.changed.notify_one();
        }
    }

    fn saw(&self, event: &Event) {
        match event {
            Event::KeyRefused { address, key, user } => self.note(
                "tunnel.key",
                address.ip(),
                None,
                || json!({ "user": shown(user), "key": key.as_ref().map(|key| key.fingerprint().to_string()) }),
            ),
            Event::MethodRefused { address, method, user } => {
                self.note("tunnel.method", address.ip(), None, || json!({ "user": shown(user), "method": method }));
            }
            Event::TooMany { peer } => self.note("tunnel.room", peer.address.ip(), Some(peer), || json!({})),
            Event::Refused { peer, wish, why } => {
                self.note("tunnel.wish", peer.address.ip(), Some(peer), || json!({ "wish": shown(wish), "why": why.to_string() }))
            }
            Event::HelloRefused { peer, why } => {
                self.note("tunnel.hello", peer.address.ip(), Some(peer), || json!({ "why": shown(why) }));
            }
            Event::Misbehaved { peer, address, why } => {
                self.note("tunnel.speech", address.ip(), peer.as_ref(), || json!({ "why": shown(why) }));
            }
            Event::NoLogin { address, why } => self.note("tunnel.login", address.ip(), None, || json!({ "why": why })),
            Event::Crowded { address } => self.note("tunnel.crowd", address.ip(), None, || json!({})),
            _ => {}
        }
    }

    /// The rows that are due, or `all`; what was quiet since its last row is forgotten.
    fn take(&self, all: bool) -> Vec<(Whose, Row)> {
        let (now, mut rows) = (clock::now(), Vec::new());
        self.lock().retain(|whose, folded| {
            if folded.due > now && !all {
                return true;
            }
            let row = folded.row.take();
            folded.due = now + self.fold;
            let spoke = row.is_some();
            rows.extend(row.map(|row| (whose.clone(), row)));
            spoke
        });
        rows
    }

    /// What could not be written is counted again, as if it had come before what came meanwhile.
    fn give_back(&self, rows: Vec<(Whose, Row)>) {
        let mut table = self.lock();
        for (whose, mut row) in rows {
            let folded = Shared::place(&mut table, whose);
            if let Some(later) = folded.row.take() {
                (row.count, row.until) = (row.count.saturating_add(later.count), later.until.max(row.until));
            }
            (folded.row, folded.due) = (Some(row), clock::now());
        }
    }

    /// Until something is to be written or forgotten.
    fn pause(&self) -> Duration {
        let next = self.lock().values().map(|folded| folded.due).min();
        next.map_or(IDLE, |due| due.saturating_duration_since(clock::now()))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Writes what the tunnel refused into the catalog's audit: the first of a kind from a source at once, the others of each minute as one row with
/// their number, so that a flood is a few rows. No session waits for it; memory is bounded, by [`MAX_FOLDED`]. Clones are the same.
#[derive(Clone)]
pub struct Refusals {
    store: Store,
    shared: Arc<Shared>,
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals").field("fold", &self.shared.fold).finish_non_exhaustive()
    }
}

impl Vmas {
    /// What the tunnel refuses, for the process that serves it.
    #[must_use]
    pub fn refusals(&self, settings: RefusalSettings) -> Refusals {
        Refusals::new(self.store.clone(), settings)
    }
}

impl Refusals {
    /// For this catalog.
    #[must_use]
    pub fn new(store: Store, settings: RefusalSettings) -> Self {
        Refusals { store, shared: Arc::new(Shared { fold: settings.fold, table: Mutex::default(), changed: Notify::new() }) }
    }

    /// What the tunnel's server tells its events to. It never waits.
    #[must_use]
    pub fn observer(&self) -> Observer {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |event| shared.saw(event))
    }

    /// What hears of exports that are another's. It never waits.
    #[must_use]
    pub fn foreign(&self) -> ForeignObserver {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |ForeignExport { peer, export }: &ForeignExport| {
            shared.note("tunnel.export", peer.address.ip(), Some(peer), || json!({ "export": shown(export) }));
        })
    }

    /// Writes what is refused, until `cancel`; to be cancelled when nobody is served any more, so that the last is written too.
    pub async fn keep(&self, cancel: &CancellationToken) {
        loop {
            let written = self.write(false).await;
            let pause = if written { self.shared.pause() } else { AGAIN };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.shared.changed.notified(), if written => {}
                () = clock::sleep(pause) => {}
            }
        }
        let last = async {
            while !self.write(true).await {
                clock::sleep(AGAIN / 10).await;
            }
        };
        if clock::within(LAST, last).await.is_none() {
            tracing::warn!("what the tunnel refused last could not be written down");
        }
    }

    /// Writes the rows that are due, or all. Says whether that was done.
    async fn write(&self, all: bool) -> bool {
        let rows = self.shared.take(all);
        if rows.is_empty() {
            return true;
        }
        let written = &rows;
        let write = |tx: Tx| async move {
            for (whose, row) in written {
                add(&tx, whose, row).await?;
            }
            Ok(())
        };
        if let Err(error) = self.store.write("write down what the tunnel refused", write).await {
            tracing::warn!(%error, rows = rows.len(), "what the tunnel refused could not be written down; it is tried again");
            self.shared.give_back(rows);
            return false;
        }
        true
    }
}

async fn add(tx: &Tx, whose: &Whose, row: &Row) -> crate::error::Result<()> {
    let mut details = row.details.clone();
    if let Some(details) = details.as_object_mut() {
        details.insert("count".to_owned(), json!(row.count));
        if row.count > 1 {
            details.insert("since".to_owned(), json!(row.since));
        }
        if let Some(vma) = &whose.vma {
            details.insert("vma".to_owned(), json!(vma));
        }
        if whose.from.is_none() {
            details.insert("sources".to_owned(), json!("many"));
        }
    }
    let address = whose.from.map(|from| from.to_string());
    let entry = NewAuditEntry {
        actor: &row.actor,
        action: whose.action,
        subject_kind: TUNNEL,
        subject_id: whose.vma.as_deref().unwrap_or("-"),
        details: Some(&details),
        source_ip: address.as_deref(),
        success: false,
    };
    tx.audit().add(&entry, row.until).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(shared: &Shared, from: u32, times: usize) {
        for _ in 0..times {
            shared.saw(&Event::Crowded { address: (std::net::Ipv4Addr::from_bits(from), 1).into() });
        }
    }

    fn shared(fold: Duration) -> Shared {
        Shared { fold, table: Mutex::default(), changed: Notify::new() }
    }

    fn counts(rows: &[(Whose, Row)]) -> u64 {
        rows.iter().map(|(_, row)| row.count).sum()
    }

    #[test]
    fn the_first_is_due_at_once_and_the_others_together_later() {
        let shared = shared(Duration::from_secs(3600));
        crowd(&shared, 1, 1);
        assert_eq!(counts(&shared.take(false)), 1);
        crowd(&shared, 1, 10_000);
        assert!(shared.take(false).is_empty(), "not yet");
        let rows = shared.take(true);
        assert_eq!((rows.len(), counts(&rows)), (1, 10_000));
        // Quiet since then: forgotten.
        assert!(shared.take(true).is_empty() && shared.lock().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_and_nothing_is_lost() {
        let shared = shared(Duration::from_secs(3600));
        for from in 0..10_000 {
            crowd(&shared, from, 1);
        }
        assert_eq!(shared.lock().len(), MAX_FOLDED + 1, "the further ones are counted together");
        let rows = shared.take(false);
        assert_eq!((rows.len(), counts(&rows)), (MAX_FOLDED + 1, 10_000));
        assert!(rows.iter().any(|(whose, row)| whose.from.is_none() && row.count == 10_000 - MAX_FOLDED as u64));
        // Given back, while others came: as many.
        for from in 20_000..30_000 {
            crowd(&shared, from, 1);
        }
        shared.give_back(rows);
        assert!(shared.lock().len() <= MAX_FOLDED + 1);
        assert_eq!(counts(&shared.take(true)), 20_000);
    }
}
