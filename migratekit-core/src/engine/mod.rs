//! The front door: everything the product does, behind one handle that is cheap to clone.
//!
//! ```text
//!  Engine::builder().store(store).key(place).build()      the catalog and its key, found to belong together
//!    engine.credentials()     vCenters, clouds, local sites: saved sealed, tried
//! ```
//!
//! # What it promises
//!
//! - An engine that is built has the right key for its catalog: a lost or another one is refused with the way out.
//! - All of it is rows: nothing is kept in memory that the catalog does not have.
//!
//! # What it does not do
//!
//! It prints nothing and decides little: it joins the parts below it, which do not know each other.

mod builder;
mod credential;
mod credentials;
mod doctor;
mod key;
mod place;

use std::sync::Arc;

pub use self::builder::EngineBuilder;
pub use self::credential::{Credential, CredentialChange, MAX_CREDENTIAL_NAME, NewCredential, Tested};
pub use self::credentials::Credentials;
pub use self::doctor::{Diagnosis, Health, diagnose, key_of};
pub use self::key::{Rotated, UnopenedSecret};
pub use self::place::{default_store_url, make_default_place};

use crate::credentials::Vault;
use crate::store::Store;

/// A catalog, its key, and all that can be done with them. Clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    vault: Vault,
}

impl Engine {
    /// Begins an engine; see [`EngineBuilder`].
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Saved credentials.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        Credentials::of(self)
    }

    /// The catalog.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The vault of the catalog's secrets.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.shared.vault
    }
}
