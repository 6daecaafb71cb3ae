//! Discovery: which machines a source has, which of them are managed already, and how one comes under management.
//!
//! Nothing is kept of a look: a replication asks again. Taking a machine under management makes its context and its disks' rows in one
//! transaction with the event, and begins no job. A machine is known by the source's own id of it, at that source; that another machine
//! took its place is found by the instance id at the next replication.

mod pattern;

use serde::Serialize;

pub use self::pattern::NamePattern;
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::id::{ContextId, CredentialId, Epoch, SiteId};
use crate::model::{Context, ContextStatus, EventKind, JobCounts};
use crate::platform::{Inventory, Machine};
use crate::store::{NewEvent, Store, Tx};

/// Where machines were found, as their contexts keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The source's host (a vCenter), or the name of a local site.
    pub host: String,
    /// The datacenter there; empty for a source that has none.
    pub datacenter: String,
    /// The credential that reaches it.
    pub credential: Option<CredentialId>,
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
                let known = store.read("look for a managed VM", |tx| async move { tx.contexts().of_source(&origin.host, id).await });
                found.push(Discovered { place: entry.place, context: known.await?.map(|context| context.id), machine: Some(machine), problem: None });
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
    let context = &context_of(origin, machine);
    let added = store.write("take a VM under management", |tx| async move { insert(&tx, context, machine).await }).await;
    match added {
        Ok(outcome) => Ok(outcome),
        // Another process added it between our look and our row.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let id = machine.reference.as_str();
            match store.read("look for a managed VM", |tx| async move { tx.contexts().of_source(&origin.host, id).await }).await? {
                Some(context) => Ok(AddOutcome::Skipped { context: context.id }),
                None => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

async fn insert(tx: &Tx, context: &Context, machine: &Machine) -> Result<AddOutcome> {
    if let Some(known) = tx.contexts().of_source(&context.source_host, &context.source_vm_id).await? {
        return Ok(AddOutcome::Skipped { context: known.id });
    }
    tx.contexts().insert(context).await?;
    for disk in &machine.disks {
        tx.disks().upsert(&context.id, disk).await?;
    }
    let data = serde_json::json!({ "vm_name": context.vm_name, "disks": machine.disks.len() });
    tx.events().append(&NewEvent { kind: EventKind::ContextAdded, job: None, context: Some(context.id.clone()), data }).await?;
    Ok(AddOutcome::Added { context: context.id.clone() })
}

fn context_of(origin: &Origin, machine: &Machine) -> Context {
    let now = Timestamp::now();
    Context {
        id: ContextId::generate(),
        vm_name: machine.name.clone(),
        source_vm_id: machine.reference.to_string(),
        instance_uuid: Some(machine.instance.to_string()),
        vm_path: machine.path.clone(),
        source_host: origin.host.clone(),
        datacenter: origin.datacenter.clone(),
        status: ContextStatus::Discovered,
        last_successful_job: None,
        jobs: JobCounts::default(),
        cpu_count: machine.cpus,
        memory_bytes: machine.memory_bytes,
        os: machine.os,
        power: machine.power,
        tools_version: None,
        created_at: now,
        updated_at: now,
        first_job_at: None,
        last_job_at: None,
        last_status_change: now,
        auto_added: true,
        last_scheduled_job: None,
        next_scheduled_at: None,
        scheduler_enabled: true,
        credential: origin.credential,
        cloud_config: None,
        enrollment: None,
        site: origin.site,
        epoch: Epoch::NONE,
    }
}
