//! The vault: keys in memory, and what can be done with them.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::key::{Fingerprint, Keys};
use super::place::{KeyPlace, WhenMissing};
use super::sealed::{RowIdentity, Sealed};
use super::secret::{Secret, SecretBytes, SecretString};
use crate::error::{Error, ErrorKind, Result};

const OPEN: &str = "open a sealed secret";
const VERIFY: &str = "check the key";

/// What a check value holds.
const CHECK: &[u8] = b"migratekit key check v1";

/// Seals and opens secrets. Cheap to clone; clones share their keys.
///
/// Calls neither wait nor touch a disk, but [`load`](Vault::load) and [`refresh`](Vault::refresh), which read the key file.
#[derive(Clone)]
pub struct Vault {
    shared: Arc<Shared>,
}

struct Shared {
    keys: RwLock<Arc<Keys>>,
    place: Option<KeyPlace>,
}

impl Vault {
    /// A vault with keys of the caller, who keeps them.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Vault::with_place(keys, None)
    }

    /// A vault with the keys of a place; `when_missing` says whether a key file that is not there is made.
    ///
    /// A catalog that has a [check value](Vault::check_value) already must say [`WhenMissing::Refuse`]: a new key would not open it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the file is missing and is not to be made; [`ErrorKind::Denied`] when others may read or exchange
    /// it; [`ErrorKind::InvalidInput`] when there is no good key in it.
    pub async fn load(place: KeyPlace, when_missing: WhenMissing) -> Result<Self> {
        let keys = place.read(when_missing).await?;
        Ok(Vault::with_place(keys, Some(place)))
    }

    fn with_place(keys: Keys, place: Option<KeyPlace>) -> Self {
        Vault { shared: Arc::new(Shared { keys: RwLock::new(Arc::new(keys)), place }) }
    }

    /// Reads the keys again, since another process may have begun or ended a rotation; tells whether they are others now.
    ///
    /// When it fails the vault keeps the keys it has.
    pub async fn refresh(&self) -> Result<bool> {
        let Some(place) = &self.shared.place else { return Ok(false) };
        let keys = place.read(WhenMissing::Refuse).await?;
        Ok(self.replace(keys))
    }

    pub(super) fn replace(&self, keys: Keys) -> bool {
        let mut held = self.shared.keys.write().unwrap_or_else(PoisonError::into_inner);
        let changed = **held != keys;
        *held = Arc::new(keys);
        changed
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn place(&self) -> Option<&KeyPlace> {
        self.shared.place.as_ref()
    }

    /// The name of the key that seals.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.keys().current().fingerprint()
    }

    /// Whether something sealed with this key can be opened.
    #[must_use]
    pub fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.keys().find(fingerprint).is_some()
    }

    /// A vault of the same keys that seals with this one of them; none when it is not among them. What becomes of the keys of this vault
    /// later is not seen there.
    #[must_use]
    pub fn sealing_with(&self, fingerprint: Fingerprint) -> Option<Vault> {
        let keys = self.keys();
        let current = keys.find(fingerprint)?.clone();
        let others = keys.all().filter(|key| **key != current).cloned();
        Keys::with_older(current.clone(), others).ok().map(Vault::new)
    }

    /// Seals a secret of at most [`MAX_SECRET`](super::MAX_SECRET) bytes for a row, with the current key.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when it is too long.
    pub fn seal<T: zeroize::Zeroize + AsRef<[u8]>>(&self, row: &RowIdentity, secret: &Secret<T>) -> Result<Sealed> {
        Sealed::seal(self.keys().current(), row, secret.expose().as_ref()).map_err(|e| e.with("place", row))
    }

    /// Opens what was sealed for this row, with whatever key of this vault sealed it.
    ///
    /// # Errors
    /// [`ErrorKind::Sealed`], with a text of its own for each: sealed with a key that is not here (another process may have rotated:
    /// [`refresh`](Vault::refresh) and try again), damaged, made for another row.
    pub fn open(&self, row: &RowIdentity, sealed: &Sealed) -> Result<SecretBytes> {
        let keys = self.keys();
        let unknown = || {
            let text =
                "another key sealed it: give that key (its line goes below the first one of the key file), or enter the secret again";
            Error::new(ErrorKind::Sealed, OPEN, text).with("sealed with key", sealed.fingerprint()).with("this vault holds", keys.names())
        };
        let opened = keys.find(sealed.fingerprint()).ok_or_else(unknown).and_then(|key| sealed.open(key, row));
        opened.map_err(|e| e.with("place", row))
    }

    /// As [`open`](Vault::open), for a secret that is text.
    ///
    /// # Errors
    /// Those of [`open`](Vault::open); [`ErrorKind::InvalidInput`] when the secret is not UTF-8.
    pub fn open_text(&self, row: &RowIdentity, sealed: &Sealed) -> Result<SecretString> {
        let bytes = self.open(row, sealed)?;
        let text = std::str::from_utf8(bytes.expose());
        // The error of UTF-8 tells a position only, but the bytes are nobody's business.
        let text = text.map_err(|_| Error::new(ErrorKind::InvalidInput, OPEN, "the secret is not text").with("place", row))?;
        Ok(SecretString::from(text))
    }

    /// A sealed constant for the catalog to keep: it tells at start whether the key at hand is the catalog's.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn check_value(&self) -> Result<Sealed> {
        self.seal(&check_row(), &SecretBytes::new(CHECK.to_vec()))
    }

    /// Checks a catalog's [check value](Vault::check_value).
    ///
    /// # Errors
    /// [`ErrorKind::Sealed`]: the key is not the catalog's, or the check value itself is damaged.
    pub fn verify(&self, check: &Sealed) -> Result<()> {
        if !self.holds(check.fingerprint()) {
            let text = "this is not the key that the catalog's secrets are sealed with: put that key back (from a backup of the key file, \
                        or in MIGRATEKIT_CRED_ENCRYPTION_KEY); if it is lost, every secret must be entered again";
            return Err(Error::new(ErrorKind::Sealed, VERIFY, text)
                .with("sealed with key", check.fingerprint())
                .with("this vault holds", self.keys().names()));
        }
        let value = self.open(&check_row(), check).map_err(|e| {
            let text = "the catalog's check value cannot be opened with the key it names: the catalog was damaged or changed by hand";
            Error::new(ErrorKind::Sealed, VERIFY, text).with_source(e)
        })?;
        if value.expose().as_slice() == CHECK {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Sealed, VERIFY, "the catalog's check value holds something else: another version made it"))
        }
    }

    /// A key for another use, named by `purpose`: the same for the same key and purpose, and useless for finding either.
    ///
    /// It follows from the current key, so a rotation changes it: who shares a derived key with another process hands it over
    /// again after a rotation, and nothing that is kept may depend on it.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Secret<[u8; 32]> {
        self.keys().current().purpose(purpose)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.keys().names())
    }
}

/// No table has this name.
fn check_row() -> RowIdentity {
    RowIdentity::new("migratekit key check", "value", "")
}
