//! The front door: everything the product does, behind one handle that is cheap to clone.
//!
//! ```text
//!  Engine::builder().store(store).key(place).build()      the catalog and its key, found to belong together
//!    engine.credentials()     vCenters, clouds, local sites: saved sealed, tried
//!    engine.inventory()       what a source has
//!    engine.contexts()        VMs under management
//!    engine.replications()    replicas brought up to date
//!    engine.vmas()            agents: how they become trusted, and stop being so
//!    engine.jobs()            whatever runs: listed, followed, cancelled
//!  engine.start()             recovers what others left, then runs jobs, until Running::stop
//! ```
//!
//! # What it promises
//!
//! - An engine that is built has the right key for its catalog: a lost or another one is refused with the way out.
//! - [`Engine::start`] recovers first and says what it found. Jobs run in the scope of what it gives; [`Running::stop`] ends them in good
//!   order, within a stated time. An engine that was not started looks, saves and asks, and runs nothing.
//! - All of it is rows: what one process asks for, another one that runs does, and a third one follows. Nothing is kept in memory that the
//!   catalog does not have.
//!
//! # What it does not do
//!
//! It prints nothing and decides little: it joins the parts below it, which do not know each other.

mod builder;
mod contexts;
mod credential;
mod credentials;
mod doctor;
mod jobs;
mod key;
mod look;
mod page;
mod place;
mod reach;
mod replications;
mod running;
mod sweep;

use std::sync::{Arc, Mutex};

pub use self::builder::EngineBuilder;
pub use self::contexts::{Added, ContextDetail, Contexts, DiskLine, RemovedContext, VolumeLine, Which, verdict};
pub use self::credential::{Credential, CredentialChange, MAX_CREDENTIAL_NAME, NewCredential, Tested};
pub use self::credentials::Credentials;
pub use self::doctor::{Diagnosis, Health, diagnose, key_of};
pub use self::jobs::{JobDetail, JobEvents, JobFilter, JobRows, StepLine, TechnicalDetail};
pub use self::key::{Rotated, UnopenedSecret};
pub use self::look::InventoryLook;
pub use self::page::{MAX_PAGE, Page};
pub use self::place::{default_store_url, make_default_place};
pub use self::replications::{DiskReport, ReplicationJob, ReplicationLine, ReplicationReport, Replications};
pub use self::running::{RECOVERY, Running};
pub use self::sweep::SweptSource;
pub use crate::inventory::{AddOutcome, Discovered};
pub use crate::jobs::{Orphans, Recovered};

use crate::credentials::Vault;
use crate::jobs::{Jobs, LogWriter, Sagas, Wanted};
use crate::store::Store;
use crate::vmas::Vmas;

/// A catalog, its key, and all that can be done with them. Clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    vault: Vault,
    sagas: Sagas,
    orphans: Orphans,
    limits: Limits,
    /// The jobs of the runner of this process, while there is one.
    live: Mutex<Option<(Jobs, Wanted)>>,
    /// The writer of the log, until the engine is started.
    log: Mutex<Option<LogWriter>>,
}

/// How much an engine does at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that run at once.
    pub jobs_at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { jobs_at_once: crate::jobs::JOBS_AT_ONCE }
    }
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

    /// What sources have.
    #[must_use]
    pub fn inventory(&self) -> InventoryLook {
        InventoryLook::of(self)
    }

    /// VMs under management.
    #[must_use]
    pub fn contexts(&self) -> Contexts {
        Contexts::of(self)
    }

    /// Replications.
    #[must_use]
    pub fn replications(&self) -> Replications {
        Replications::of(self)
    }

    /// Jobs of every kind.
    #[must_use]
    pub fn jobs(&self) -> JobRows {
        JobRows::of(self)
    }

    /// VMAs: their enrollment, and the trust in them.
    #[must_use]
    pub fn vmas(&self) -> Vmas {
        Vmas::new(self.shared.store.clone(), self.shared.vault.clone())
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
