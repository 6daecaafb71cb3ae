//! Rotation: every sealed row moves to the current key, then the older keys go.
//!
//! ```text
//!  1 file      new key in front, old one below it        (older keys there already: continue)
//!  2 store     announce(check value of the new key)      from now on no row is written under another key
//!  3 store     row by row: open, seal, replace if unchanged; again from the start until a scan finds nothing to do
//!  4 file      older keys dropped, unless there are rows that no key opens
//! ```
//!
//! Killed anywhere, it is repeated: 1 finds what it did, 2 and 3 are idempotent, and 4 comes only after a whole scan of 3 that found no
//! row under another key. The store's part of the bargain is step 2: without it another process, which read the key file before 1,
//! could write a row under the old key after the last scan, and 4 would lose it.

use std::future::Future;

use super::key::{Fingerprint, Key, Keys};
use super::place::{KEY_VARIABLE, KeyPlace};
use super::sealed::{RowIdentity, Sealed};
use super::vault::Vault;
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;

/// Rows asked for at a time: some hundred KiB at most in practice, 9 MiB at worst.
const BATCH: usize = 100;

/// Scans from the start, at most. The second finds nothing, unless rows are changed or put back meanwhile.
const MAX_SCANS: u32 = 16;

/// Rows that could not be opened and are named in the report; more are only counted.
const MAX_NAMED: usize = 100;

const ROTATE: &str = "rotate the key";

/// A row as a store gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRow {
    /// Its place.
    pub row: RowIdentity,
    /// What stands there: the text of a [`Sealed`], if nobody damaged it.
    pub sealed: String,
}

/// All places of a catalog that hold sealed secrets. The store implements it.
pub trait SealedRows: Sync {
    /// Keeps `check` as the catalog's check value. When it returns, no transaction that still runs or begins later writes a row
    /// that is sealed with another key than the one `check` names: each writer compares, in its own transaction, and one that is
    /// refused [refreshes](Vault::refresh) its vault and seals again. Idempotent.
    fn announce(&self, check: &Sealed) -> impl Future<Output = Result<()>> + Send;

    /// Up to `limit` rows behind `after`, in an order of the store's that does not change, that are not sealed with this key
    /// (they do not begin with [`Sealed::prefix`]); an empty column is no row. Empty: there are no more.
    fn next_batch(
        &self,
        after: Option<&RowIdentity>,
        not_sealed_with: Fingerprint,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SealedRow>>> + Send;

    /// Replaces what stands in the row if it still is `expected`; false when it is not, or the row is gone.
    fn replace(&self, row: &RowIdentity, expected: &str, new: &Sealed) -> impl Future<Output = Result<bool>> + Send;
}

/// A row that could not be opened. It was left as it is.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unopened {
    /// Where.
    pub row: RowIdentity,
    /// Why.
    pub error: Error,
}

/// What a rotation did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rotation {
    /// The key that everything is sealed with now.
    pub current: Fingerprint,
    /// Rows that this run moved to it.
    pub moved: u64,
    /// Rows that could not be opened, in the last scan.
    pub unopened: u64,
    /// The first 100 of them.
    pub unopened_rows: Vec<Unopened>,
    /// Older keys that were dropped from the key file; those of the environment may be taken out of it now. None while a row could
    /// not be opened: mend it, remove it or enter its secret again, then rotate again.
    pub dropped: Vec<Fingerprint>,
}

/// One scan: what it did, and what it could not open.
#[derive(Default)]
struct Scan {
    moved: u64,
    lost_races: u64,
    unopened: u64,
    named: Vec<Unopened>,
}

/// Moves every row to the vault's current key. With a key file a new key is made first, unless a rotation is under way, which is
/// then continued; a key in the environment is rotated by putting the new one before the old one, with a comma between them.
///
/// Cancelling is safe between any two rows, and so is a crash: repeat it. Rows that cannot be opened are reported and do not stop
/// it, but then no key is dropped.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when the environment holds one key only; [`ErrorKind::Busy`] when rows kept changing;
/// [`ErrorKind::Changed`] when another rotation began meanwhile; [`ErrorKind::Cancelled`]; those of the store and of the key file.
pub async fn rotate(vault: &Vault, rows: &impl SealedRows, cancel: &CancellationToken) -> Result<Rotation> {
    let keys = begin(vault).await?;
    let (current, older) = (keys.current().fingerprint(), keys.older().iter().map(Key::fingerprint).collect());
    // Keys of its own: what another rotation does to those of `vault` meanwhile is seen at the end.
    let fixed = Vault::new(keys);
    rows.announce(&fixed.check_value()?).await?;
    let mut moved = 0;
    for _ in 0..MAX_SCANS {
        let scan = scan(&fixed, rows, current, cancel).await?;
        moved += scan.moved;
        if scan.moved == 0 && scan.lost_races == 0 {
            let dropped = if scan.unopened == 0 { drop_older(vault, &fixed).await.map(|()| older)? } else { Vec::new() };
            return Ok(Rotation { current, moved, unopened: scan.unopened, unopened_rows: scan.named, dropped });
        }
    }
    let text = "rows with other keys came back at every scan; end what restores or writes them, and rotate again";
    Err(Error::new(ErrorKind::Busy, ROTATE, text).with("scans", MAX_SCANS))
}

async fn begin(vault: &Vault) -> Result<Keys> {
    if let Some(KeyPlace::File(file)) = vault.place() {
        vault.replace(file.begin_rotation().await?);
    }
    let keys = vault.keys();
    if keys.older().is_empty() {
        let text = format!("there is one key only; put the new one before it, with a comma between them: {KEY_VARIABLE}=NEW,OLD");
        return Err(Error::new(ErrorKind::InvalidInput, ROTATE, text).with("key", keys.current().fingerprint()));
    }
    Ok(Keys::clone(&keys))
}

async fn drop_older(vault: &Vault, fixed: &Vault) -> Result<()> {
    let left = match vault.place() {
        Some(KeyPlace::File(file)) => file.end_rotation(fixed.fingerprint()).await?,
        _ => Keys::new(fixed.keys().current().clone()),
    };
    vault.replace(left);
    Ok(())
}

async fn scan(vault: &Vault, rows: &impl SealedRows, current: Fingerprint, cancel: &CancellationToken) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut after: Option<RowIdentity> = None;
    loop {
        let batch = rows.next_batch(after.as_ref(), current, BATCH).await?;
        let Some(last) = batch.last().map(|row| row.row.clone()) else { return Ok(scan) };
        if after.as_ref().is_some_and(|after| batch.iter().any(|row| row.row == *after)) {
            return Err(Error::new(ErrorKind::Internal, ROTATE, "the store gave a row twice in one scan").with("place", last));
        }
        for row in batch {
            if cancel.is_cancelled() {
                let text = "it was stopped; both keys are kept, and the same command continues";
                return Err(Error::new(ErrorKind::Cancelled, ROTATE, text).with("rows moved", scan.moved));
            }
            scan.step(vault, rows, current, row).await?;
        }
        after = Some(last);
    }
}

impl Scan {
    async fn step(&mut self, vault: &Vault, rows: &impl SealedRows, current: Fingerprint, row: SealedRow) -> Result<()> {
        let parsed = row.sealed.parse::<Sealed>().map_err(|e| e.with("place", &row.row));
        if let Ok(sealed) = &parsed
            && sealed.fingerprint() == current
        {
            return Err(Error::new(ErrorKind::Internal, ROTATE, "the store gave a row that has the new key").with("place", row.row));
        }
        match parsed.and_then(|old| vault.open(&row.row, &old)) {
            Ok(secret) => {
                let new = vault.seal(&row.row, &secret)?;
                let replaced = rows.replace(&row.row, &row.sealed, &new).await?;
                *(if replaced { &mut self.moved } else { &mut self.lost_races }) += 1;
            }
            Err(error) => {
                self.unopened += 1;
                if self.named.len() < MAX_NAMED {
                    self.named.push(Unopened { row: row.row, error });
                }
            }
        }
        Ok(())
    }
}
