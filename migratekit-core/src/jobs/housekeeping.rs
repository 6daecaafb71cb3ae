//! Housekeeping: what need not be kept any more is removed ([`Retention`](crate::store::Retention)), by whoever is there when it is due.
//!
//! When it is due next is a fact of the catalog, by the database's clock: of all processes on one catalog one does it, once an hour. A
//! running engine does it beside its health monitor, as much as there is; a command line does a bounded part before its verb, so no verb
//! waits long, and goes on with the next one. One that dies in the middle is followed by another after [`HELD`].
//!
//! It never makes anything else fail: what goes wrong is logged, and tried again when it is due.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Store, Swept, Tx};
use crate::task::CancellationToken;

/// How often there is housekeeping.
pub const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// How long one that began keeps others from it. A longer one may be joined by another, which does no harm.
const HELD: Duration = Duration::from_secs(600);

/// Transactions for each kind of row before a verb: together less than a second on a slow disk.
const OF_A_VERB: u32 = 20;

/// The catalog's fact that says when it is due, in microseconds since 1970 by the database's clock.
const DUE: &str = "housekeeping_due";

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A bounded part: the rest is due at once.
    Bounded,
    /// All there is.
    Whole,
}

/// A bounded part of the housekeeping, if it is due; what goes wrong is logged. `None` when it was not due, went wrong, or `stop` ended it.
pub async fn housekeep(store: &Store, stop: &CancellationToken) -> Option<Swept> {
    when_due(store, Part::Bounded, stop).await
}

pub(super) async fn when_due(store: &Store, part: Part, stop: &CancellationToken) -> Option<Swept> {
    match take_turn(store, part, stop).await {
        Ok(swept) => swept,
        Err(error) if error.kind() == ErrorKind::Cancelled => None,
        Err(error) => {
            tracing::warn!(%error, "the housekeeping is left for later");
            None
        }
    }
}

async fn take_turn(store: &Store, part: Part, stop: &CancellationToken) -> Result<Option<Swept>> {
    // Most of the time this look is all.
    if !store.read("look when housekeeping is due", |tx| async move { Ok(due(&tx).await?.1) }).await? {
        return Ok(None);
    }
    if !store.write("begin the housekeeping", |tx| async move { begin(&tx).await }).await? {
        return Ok(None);
    }
    let keep = store.retention().await?;
    let most = if part == Part::Bounded { OF_A_VERB } else { u32::MAX };
    let swept = store.sweep(&keep, most, stop).await?;
    let pause = if swept.more { Duration::ZERO } else { HOUSEKEEPING };
    store.write("end the housekeeping", |tx| async move { tx.facts().set(DUE, &text(tx.now().await?.plus(pause))).await }).await?;
    if swept != Swept::default() {
        tracing::info!(?swept, "old rows were removed");
    }
    Ok(Some(swept))
}

/// The fact as it stands, and whether it is time. A moment that lies further ahead than any that is ever set was set before the
/// database's clock went back: it is time as well.
async fn due(tx: &Tx) -> Result<(Option<String>, bool)> {
    let (now, set) = (tx.now().await?, tx.facts().get(DUE).await?);
    let at = set.as_deref().and_then(|text| text.parse().ok()).and_then(|micros| Timestamp::from_micros(micros).ok());
    let due = at.is_none_or(|at| at <= now || at > now.plus(HOUSEKEEPING));
    Ok((set, due))
}

/// Whether this process does it: of several at once, one.
async fn begin(tx: &Tx) -> Result<bool> {
    let (set, due) = due(tx).await?;
    let until = text(tx.now().await?.plus(HELD));
    match set {
        _ if !due => Ok(false),
        None => tx.facts().set_once(DUE, &until).await,
        Some(old) => tx.facts().replace(DUE, &old, &until).await.map(|()| true).or_else(somebody_else),
    }
}

fn somebody_else(error: Error) -> Result<bool> {
    if error.kind() == ErrorKind::Changed { Ok(false) } else { Err(error) }
}

fn text(at: Timestamp) -> String {
    at.as_micros().to_string()
}

#[cfg(test)]
mod tests;
