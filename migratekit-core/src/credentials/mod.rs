//! Secrets at rest and in memory: sealed by one key, opened for the one row they belong to, wiped when they are dropped.
//!
//! # What it promises
//!
//! - A [`Secret`] has no `Display` and no `Serialize`, its `Debug` is redacted, it is wiped on drop, and comparing two takes the same
//!   time wherever they differ. [`Secret::expose`] is the only way to the value, so that every use can be found by its name.
//! - What is kept is a [`Sealed`]: AES-256-GCM under a key that is named by its [`Fingerprint`], bound to the [`RowIdentity`]
//!   (table, column, primary key) it was made for. Any bit that changes, and any row it is copied to, is refused; the answer tells
//!   *another key* from *damaged* from *another row's*.
//! - The [`Key`] is made by the operating system's randomness and lies in a [`KeyFile`] that only its owner may read, or in the
//!   environment ([`KeyPlace`]). A lost or wrong key is known at start, by [`Vault::verify`], before a secret is needed.
//! - [`rotate`] moves every row to another key, can be killed anywhere and repeated, and drops the old key only when a full scan
//!   found nothing under it.
//!
//! # How it hangs together
//!
//! ```text
//!  KeyPlace ──load──▶ Keys { current, older.. } ──▶ Vault ──seal/open──▶ Sealed ◀──▶ a column of the catalog
//!  (file | env)         │                            └──derive──▶ keys for other uses
//!                       └── BLAKE3 derive_key: one key for each use: fingerprint, cipher, envelope, purposes
//! ```
//!
//! The key itself encrypts nothing: each use has a key of its own, derived with BLAKE3 under a context of its own, so that no two
//! uses can meet, and the fingerprint, which is public, tells nothing about the others.
//!
//! # What it does not do
//!
//! It cannot bring back a lost key. It does not hide the number, the place and the length of secrets, nor does it notice a row
//! put back to what it held before (an old copy of the same row opens). Root, and whoever reads this process's memory, see all.
//! Swap and core dumps are the host's to forbid.

mod key;
mod key_file;
mod place;
mod rotation;
mod sealed;
mod secret;
#[cfg(test)]
mod tests;
mod vault;

pub use self::key::{Fingerprint, Key, Keys, MAX_OLDER_KEYS};
pub use self::key_file::{KeyFile, LOCK_TIME, MAX_KEY_FILE};
pub use self::place::{KEY_VARIABLE, KeyPlace, WhenMissing, default_key_file};
pub use self::rotation::{Rotation, SealedRow, SealedRows, Unopened, rotate};
pub use self::sealed::{MAX_SECRET, RowIdentity, Sealed};
pub use self::secret::{Secret, SecretBytes, SecretString};
pub use self::vault::Vault;
