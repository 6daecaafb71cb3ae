//! VMAs: how they become trusted, stay so, and stop being so.
//!
//! ```text
//!  administrator                    OMA                                    VMA
//!   pairing code ◀──────────────── Vmas::pairing_code
//!        └──────────────── by voice ──────────────────────────────────────▶ Applicant
//!                                   Reception ◀═══ TLS on the tunnel's port ═══▶ (enroll, verify, result)
//!   compares fingerprints ───────▶ Vmas::approve ─▶ catalog ◀─ CatalogKeys ◀─ tunnels::Server ◀═══ SSH ═══ tunnels::Client
//! ```
//!
//! - [`Code`], [`proof`]: the code that authenticates both sides, and what is proven with it.
//! - [`Reception`]: the OMA's side of an enrollment; [`Applicant`] the VMA's, as a function of messages, and [`Oma`] over TLS.
//! - [`Rotating`]: a trusted VMA that changes its key, without a code and without an administrator.
//! - [`Vmas`]: what an administrator does. [`CatalogKeys`]: who comes in. [`Connections`]: writes down who is connected, as it happens.
//!   [`Refusals`]: what the tunnel refused, folded, so that a flood is a few rows.
//!
//! What it promises:
//!
//! - **A VMA pins the OMA's host key only after the OMA proved to know the code**, on this very TLS connection; a man in the middle is
//!   refused by both.
//! - **Nobody comes in by a code alone**: an administrator compares the fingerprint of the key.
//! - **An approval holds when it returns, and so does a revocation**: it is written down when what was connected has ended.
//! - **Everything is in the history**, which survives the enrollment; refused requests and what the tunnel refused are in the general audit.
//!
//! What it does not do: speak HTTP as a server (that is migratekit-server's), or decide what a VMA may do in the tunnel
//! ([`crate::tunnels::policy`]). Why it is built so: docs/adr/0012.

mod administration;
mod applicant;
mod apply;
mod codes;
mod connections;
mod enrollment;
mod guesses;
mod keys;
pub mod limits;
pub mod proof;
mod refusals;
mod rotation;
mod served;
pub mod wire;

use std::time::Duration;

pub use self::administration::{Cut, NewCode, TrustedVma};
pub use self::applicant::{Answered, Applicant, Rotating};
pub use self::apply::{Oma, Pinned, take_over};
pub use self::codes::{Code, CodeKey};
pub use self::connections::{ConnectionSettings, Connections, MAX_KEPT};
pub use self::enrollment::{Caller, Reception};
pub use self::guesses::GuessBounds;
pub use self::keys::CatalogKeys;
pub use self::refusals::{MAX_FOLDED, RefusalSettings, Refusals};
use crate::credentials::Vault;
use crate::store::Store;
use crate::tunnels::PrivateKey;

/// The VMAs of a catalog.
#[derive(Debug, Clone)]
pub struct Vmas {
    store: Store,
    vault: Vault,
    revoke_time: Duration,
}

impl Vmas {
    /// Those of this catalog, with its vault.
    #[must_use]
    pub fn new(store: Store, vault: Vault) -> Self {
        Vmas { store, vault, revoke_time: limits::REVOKE_TIME }
    }

    /// Takes the requests of VMAs, for the tunnel whose host key this is.
    #[must_use]
    pub fn reception(&self, host_key: PrivateKey) -> Reception {
        Reception::new(self.store.clone(), self.vault.clone(), host_key)
    }

    /// Waits so long for a process that serves, instead of [`limits::REVOKE_TIME`]; for one that is known to, [six times](limits::SERVED_TIMES)
    /// as long.
    #[must_use]
    pub fn revoke_time(mut self, time: Duration) -> Self {
        self.revoke_time = time;
        self
    }
}
