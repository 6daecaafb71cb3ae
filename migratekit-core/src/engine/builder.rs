//! An engine in the making: the catalog is opened and the key compared before anything can be asked of it.

use std::sync::{Arc, Mutex};

use super::{Engine, Limits, Shared, key, running};
use crate::credentials::{KeyPlace, Vault};
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::{LogWriter, Orphans};
use crate::store::Store;

/// What an engine is made of. A store and a key (or a vault) are needed.
#[derive(Debug, Default)]
#[must_use]
pub struct EngineBuilder {
    store: Option<Store>,
    key: Option<Key>,
    limits: Limits,
    orphans: Option<Orphans>,
    log: Option<LogWriter>,
}

#[derive(Debug)]
enum Key {
    Vault(Vault),
    Place(KeyPlace),
    ReplaceLost(KeyPlace),
}

impl EngineBuilder {
    /// The catalog.
    pub fn store(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Where the catalog's key is. It is made there when nothing was ever sealed in this catalog.
    pub fn key(mut self, place: KeyPlace) -> Self {
        self.key = Some(Key::Place(place));
        self
    }

    /// A vault whose keys the caller keeps, instead of a [place](EngineBuilder::key).
    pub fn vault(mut self, vault: Vault) -> Self {
        self.key = Some(Key::Vault(vault));
        self
    }

    /// The key of this place, for a catalog whose own key is lost for good: what that one sealed stays unreadable until it is entered again
    /// ([`Engine::unreadable_secrets`] lists it). Refused when the key is the catalog's after all.
    pub fn replace_lost_key(mut self, place: KeyPlace) -> Self {
        self.key = Some(Key::ReplaceLost(place));
        self
    }

    /// How much it does at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What becomes of jobs that other processes left in the middle, and of its own when it is stopped: by default they go on, which is
    /// what a service wants.
    pub fn orphans(mut self, orphans: Orphans) -> Self {
        self.orphans = Some(orphans);
        self
    }

    /// The writer of [`catalog_log`](crate::jobs::catalog_log), whose layer the program's subscriber has: while the engine runs, what is
    /// logged goes to the catalog too, and what a job says to its own log.
    pub fn log(mut self, writer: LogWriter) -> Self {
        self.log = Some(writer);
        self
    }

    /// The engine. Nothing runs yet; see [`Engine::start`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] without store or key; [`ErrorKind::Sealed`] when the key is not the catalog's; [`ErrorKind::NotFound`]
    /// when the key file is gone and secrets are sealed with its key; those of reading the key and the catalog.
    pub async fn build(self) -> Result<Engine> {
        let needed = |what: &'static str| Error::new(ErrorKind::InvalidInput, "build an engine", what);
        let store = self.store.ok_or_else(|| needed("it needs a store"))?;
        let vault = match self.key.ok_or_else(|| needed("it needs a key or a vault"))? {
            Key::Vault(vault) => key::join(&store, &vault).await.map(|()| vault),
            Key::Place(place) => key::open(&store, place).await,
            Key::ReplaceLost(place) => key::replace_lost(&store, place).await,
        };
        let vault = vault.map_err(|e| e.with("catalog", store.url()))?;
        let orphans = self.orphans.unwrap_or(Orphans::Continue);
        Ok(Engine {
            shared: Arc::new(Shared {
                sagas: running::sagas(&store)?,
                store,
                vault,
                orphans,
                limits: self.limits,
                live: Mutex::default(),
                log: Mutex::new(self.log),
            }),
        })
    }
}
