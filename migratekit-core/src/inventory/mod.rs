//! Discovery: which machines a source has, which of them are managed already, and how one comes under management.
//!
//! Nothing is kept of a look: a replication asks again. Taking a machine under management makes its context and its disks' rows in one
//! transaction with the event, and begins no job. A machine is known by the source's own id of it, at that source; that another machine
//! took its place is found by the instance id at the next replication.

mod pattern;

use serde::Serialize;

pub use self::pattern::NamePattern;
use crate::error::{ErrorKind, Result};
use crate::id::{ContextId, SiteId};
use crate::model::{Context, EventKind};
use crate::platform::{Inventory, Machine};
use crate::store::{NewEvent, Store, Tx};

const LOOK: &str = "look for a managed VM";

/// Where machines were found, as their contexts keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The source's host (a vCenter), or the name of a local site.
    pub host: String,
    /// The local site it is.
    pub site: Option<SiteId>,
}

/// One entry of a look at a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Discovered {
    /// Where it was found, for people.
    pub place: String,
    /// The machine.
    pub machine: Option<Machine>,
    /// Its context, when it is managed already.
    pub context: Option<ContextId>,
    /// Why there is no machine at this place, in technical words.
    pub problem: Option<String>,
}

/// What became of one machine that was to be managed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum AddOutcome {
    /// It is managed from now on.
    Added {
        /// Its context.
        context: ContextId,
    },
    /// It was managed already.
    Skipped {
        /// Its context.
        context: ContextId,
    },
    /// It cannot be managed.
    Refused {
        /// Why.
        why: String,
    },
}

/// Looks at a source: every machine whose name fits, and every place that holds none that can be read.
///
/// # Errors
/// Those of the source and of the catalog.
pub async fn discover(store: &Store, origin: &Origin, inventory: &dyn Inventory, names: &NamePattern) -> Result<Vec<Discovered>> {
    let mut found = Vec::new();
    for entry in inventory.machines().await? {
        match entry.machine {
            Ok(machine) if !names.fits(&machine.name) => {}
            Ok(machine) => {
                let id = machine.reference.as_str();
                let known = store.read(LOOK, |tx| async move { tx.contexts().by_source(&origin.host, id).await }).await?;
                found.push(Discovered { place: entry.place, context: known.map(|vm| vm.id), machine: Some(machine), problem: None });
            }
            Err(error) => found.push(Discovered { place: entry.place, machine: None, context: None, problem: Some(error.to_string()) }),
        }
    }
    Ok(found)
}

/// Takes a machine under management, unless it is already.
///
/// # Errors
/// Those of the catalog.
pub async fn add(store: &Store, origin: &Origin, machine: &Machine) -> Result<AddOutcome> {
    if machine.disks.is_empty() {
        return Ok(AddOutcome::Refused { why: "it has no disks".to_owned() });
    }
    let added = store.write("take a VM under management", |tx| async move { insert(&tx, origin, machine).await }).await;
    match added {
        // Another process added it between our look and our row.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let id = machine.reference.as_str();
            match store.read(LOOK, |tx| async move { tx.contexts().by_source(&origin.host, id).await }).await? {
                Some(vm) => Ok(AddOutcome::Skipped { context: vm.id }),
                None => Err(error),
            }
        }
        end => end,
    }
}

async fn insert(tx: &Tx, origin: &Origin, machine: &Machine) -> Result<AddOutcome> {
    if let Some(vm) = tx.contexts().by_source(&origin.host, machine.reference.as_str()).await? {
        return Ok(AddOutcome::Skipped { context: vm.id });
    }
    let vm = Context {
        instance_uuid: Some(machine.instance.to_string()),
        vm_path: machine.path.clone(),
        cpu_count: machine.cpus,
        memory_bytes: machine.memory_bytes,
        os: machine.os,
        power: machine.power,
        auto_added: true,
        site: origin.site,
        ..Context::discovered(&machine.name, &origin.host, machine.reference.as_str(), tx.now().await?)
    };
    tx.contexts().add(&vm).await?;
    let id = vm.id;
    for disk in &machine.disks {
        tx.replicas().see_disk(&id, disk).await?;
    }
    let data = serde_json::json!({ "vm_name": machine.name, "disks": machine.disks.len() });
    tx.events().append(&NewEvent { kind: EventKind::ContextAdded, job: None, context: Some(id.clone()), data }).await?;
    Ok(AddOutcome::Added { context: id })
}
