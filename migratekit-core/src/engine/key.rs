//! The key and the catalog: that they belong together is known at start, and stays true while another process rotates the key.
//!
//! The catalog keeps a check value (fact `key_check`), sealed with the key that its secrets are sealed with. A new catalog takes it from
//! the first key it meets; from then on a key that is lost or another one is refused at start, before a secret is needed. Every
//! transaction that writes a sealed row touches the fact's row: so a rotation's announcement and such a transaction come one after the
//! other on both databases, and no row is written under a key that was announced away.

use std::future::Future;

use serde::Serialize;

use super::Engine;
use crate::credentials::{Fingerprint, KeyPlace, RowIdentity, Sealed, SealedRow, SealedRows, Vault, WhenMissing, rotate};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Store, Tx};
use crate::task::CancellationToken;

/// The fact that holds the check value.
const KEY_CHECK: &str = "key_check";

/// Rows looked at in one transaction.
const BATCH: usize = 100;

const CHECK: &str = "check the key";

/// The vault of a catalog: loaded, made where nothing is sealed yet, and compared with the catalog's check value.
pub(super) async fn open(store: &Store, place: KeyPlace) -> Result<Vault> {
    let known = check_value(store).await?;
    let vault = Vault::load(place, if known.is_some() { WhenMissing::Refuse } else { WhenMissing::Make }).await?;
    agree(store, &vault, known).await?;
    Ok(vault)
}

/// As [`open`], for a vault of the caller's.
pub(super) async fn join(store: &Store, vault: &Vault) -> Result<()> {
    agree(store, vault, check_value(store).await?).await
}

/// The catalog's check value, if it has one already.
pub(super) async fn check_value(store: &Store) -> Result<Option<Sealed>> {
    let text = store.read(CHECK, |tx| async move { tx.facts().get(KEY_CHECK).await }).await?;
    text.map(|text| text.parse()).transpose()
}

async fn agree(store: &Store, vault: &Vault, known: Option<Sealed>) -> Result<()> {
    if let Some(check) = known {
        return vault.verify(&check);
    }
    let mine = &vault.check_value()?.to_string();
    store.write("write the check value of the key", |tx| async move { tx.facts().set_once(KEY_CHECK, mine).await }).await?;
    // Of two that come at once one wrote it: both compare themselves with what stands there.
    match check_value(store).await? {
        Some(check) => vault.verify(&check),
        None => Err(Error::new(ErrorKind::Changed, CHECK, "the catalog's check value was there and is gone; start again")),
    }
}

/// Takes the vault's key for a catalog whose own key is lost. Refused when nothing is lost.
pub(super) async fn replace_lost(store: &Store, place: KeyPlace) -> Result<Vault> {
    const REPLACE: &str = "replace a lost key";
    let vault = Vault::load(place, WhenMissing::Refuse).await?;
    match check_value(store).await? {
        Some(check) if vault.verify(&check).is_err() => {}
        _ => return Err(Error::new(ErrorKind::InvalidInput, REPLACE, "the key at hand is the catalog's; nothing is lost")),
    }
    let mine = &vault.check_value()?.to_string();
    store.write(REPLACE, |tx| async move { tx.facts().set(KEY_CHECK, mine).await }).await?;
    Ok(vault)
}

impl Engine {
    /// One transaction that writes sealed rows. `work` seals with the vault it is given; when another process rotated the key meanwhile the
    /// keys are read again, and the transaction is run once more.
    pub(super) async fn sealing<T, F, Fut>(&self, operation: &'static str, work: F) -> Result<T>
    where
        F: Fn(Tx, Vault) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let (work, vault) = (&work, self.vault());
        let once = || {
            self.store().write(operation, move |tx| async move {
                let vault = hold_key(&tx, vault).await?;
                work(tx, vault).await
            })
        };
        match once().await {
            Err(error) if error.kind() == ErrorKind::Sealed && vault.refresh().await? => once().await,
            end => end,
        }
    }

    /// Opens a sealed column of a row, also when another process rotated the key since this one read it.
    pub(super) async fn open_sealed(&self, row: &RowIdentity, text: &str) -> Result<crate::credentials::SecretString> {
        let sealed: Sealed = text.parse().map_err(|e: Error| e.with("place", row))?;
        match self.vault().open_text(row, &sealed) {
            Err(error) if error.kind() == ErrorKind::Sealed && self.vault().refresh().await? => self.vault().open_text(row, &sealed),
            end => end,
        }
    }

    /// Seals every secret of the catalog with a new key, then drops the old one; see [`rotate`]. May be interrupted and repeated.
    ///
    /// # Errors
    /// Those of [`rotate`].
    pub async fn rotate_key(&self, cancel: &CancellationToken) -> Result<Rotated> {
        let done = rotate(self.vault(), &CatalogSecrets { store: self.store() }, cancel).await?;
        let unopened = done.unopened_rows.iter().map(|row| UnopenedSecret { place: row.row.to_string(), why: row.error.to_string() });
        Ok(Rotated {
            key: done.current.to_string(),
            moved: done.moved,
            unopened_count: done.unopened,
            unopened: unopened.collect(),
            dropped: done.dropped.iter().map(ToString::to_string).collect(),
        })
    }

    /// Where secrets stand that the vault's keys do not open: each has to be entered again, or its key to be put back.
    pub async fn unreadable_secrets(&self) -> Result<Vec<String>> {
        let rows = CatalogSecrets { store: self.store() };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let batch = rows.next_batch(after.as_ref(), self.vault().fingerprint(), BATCH).await?;
            let Some(last) = batch.last() else { return Ok(found) };
            after = Some(last.row.clone());
            for row in batch {
                let opened = row.sealed.parse().and_then(|sealed| self.vault().open(&row.row, &sealed));
                if opened.is_err() {
                    found.push(row.row.to_string());
                }
            }
        }
    }
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rotated {
    /// The fingerprint of the key that everything is sealed with now.
    pub key: String,
    /// Secrets that were sealed anew.
    pub moved: u64,
    /// Secrets that no key opened; while there are some, no older key is dropped.
    pub unopened_count: u64,
    /// The first of them.
    pub unopened: Vec<UnopenedSecret>,
    /// The fingerprints of older keys that were dropped.
    pub dropped: Vec<String>,
}

/// A secret that no key opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnopenedSecret {
    /// Its table, column and row.
    pub place: String,
    /// Why.
    pub why: String,
}

/// Keeps the catalog's key as it is until the transaction ends, provided the vault has it; gives the vault that seals with it. That is not
/// always the vault's current key: a rotation begins in the key file, and may be interrupted before the catalog knows of the new one.
async fn hold_key(tx: &Tx, vault: &Vault) -> Result<Vault> {
    const SEAL: &str = "seal a secret";
    let other = || Error::new(ErrorKind::Sealed, SEAL, "another process changed the key meanwhile; read the keys again");
    let text = tx.facts().get(KEY_CHECK).await?.ok_or_else(other)?;
    let held = vault.sealing_with(text.parse::<Sealed>()?.fingerprint()).ok_or_else(other)?;
    tx.facts().replace(KEY_CHECK, &text, &text).await?;
    Ok(held)
}

/// The sealed columns of a catalog, for a rotation.
struct CatalogSecrets<'s> {
    store: &'s Store,
}

impl SealedRows for CatalogSecrets<'_> {
    async fn announce(&self, check: &Sealed) -> Result<()> {
        let text = &check.to_string();
        self.store.write("announce a new key", |tx| async move { tx.facts().set(KEY_CHECK, text).await }).await
    }

    async fn next_batch(&self, after: Option<&RowIdentity>, not_sealed_with: Fingerprint, limit: usize) -> Result<Vec<SealedRow>> {
        let prefix = &Sealed::prefix(not_sealed_with);
        self.store.read("list sealed secrets", |tx| async move { tx.sealed().next_batch(after, prefix, limit).await }).await
    }

    async fn replace(&self, row: &RowIdentity, expected: &str, new: &Sealed) -> Result<bool> {
        let new = &new.to_string();
        self.store.write("seal a secret anew", |tx| async move { tx.sealed().replace(row, expected, new).await }).await
    }
}
