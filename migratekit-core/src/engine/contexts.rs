//! VMs under management: taken in, listed, looked at, let go.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::jobs::summary;
use super::page::{self, Page};
use super::{Engine, credentials};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, JobId, VolumeId};
use crate::inventory::{self, AddOutcome};
use crate::model::{
    Context, ContextCursor, ContextItem, ContextStatus, ContextTrigger, Disk, EventKind, OperationSummary, Point, Volume, hold_one_point,
    ready_for_failover,
};
use crate::platform::{Inventory, Machine, Target, VolumeTag};
use crate::store::{NewEvent, Tx};

/// The most ids that are told of VMs that share a name.
const NAMESAKES: usize = 20;

/// What [`Contexts::remove`] does, for its errors.
const REMOVE: &str = "end the management of a VM";

/// The VMs of an engine's catalog.
#[derive(Debug, Clone)]
pub struct Contexts {
    pub(super) engine: Engine,
}

/// Which machines of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those of these names, each of which must be there.
    Named(Vec<String>),
}

/// What became of one machine that was to be managed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Added {
    /// The machine's name.
    pub name: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: AddOutcome,
}

/// All that is known of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContextDetail {
    /// The VM.
    pub context: Context,
    /// Whether all its disks hold one complete point.
    pub ready_for_failover: bool,
    /// Its last complete point.
    pub point: Option<Point>,
    /// The job that holds it.
    pub active_job: Option<JobId>,
    /// How its last operation went, or how the present one stands.
    pub last_operation: Option<OperationSummary>,
    /// Its disks, by key.
    pub disks: Vec<DiskLine>,
}

/// A disk of a VM, and where its replica is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskLine {
    /// Its key.
    pub key: DiskKey,
    /// What its source calls it.
    pub label: String,
    /// Its size, in bytes.
    pub capacity_bytes: u64,
    /// The source's path of it.
    pub path: String,
    /// The source's mark of the state that the last complete point holds.
    pub change_id: Option<String>,
    /// When the source was found to have it no more.
    pub removed_at: Option<Timestamp>,
    /// The volume that holds its replica.
    pub volume: Option<VolumeLine>,
}

/// A volume, and the file or device that it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeLine {
    /// Its id.
    pub id: VolumeId,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// The file or device.
    pub path: Option<PathBuf>,
}

/// A VM that is managed no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemovedContext {
    /// What its context was.
    pub context: ContextId,
    /// Its name.
    pub vm_name: String,
    /// Volumes that were removed with it.
    pub volumes_removed: Vec<VolumeId>,
}

/// An error when a machine that was named could not be managed; what else was done stays done.
///
/// # Errors
/// [`ErrorKind::Unsupported`], naming the first.
pub fn verdict(added: &[Added]) -> Result<()> {
    let refused = added.iter().find_map(|one| match &one.outcome {
        AddOutcome::Refused { why } => Some((&one.name, why)),
        _ => None,
    });
    match refused {
        None => Ok(()),
        Some((name, why)) => Err(Error::new(ErrorKind::Unsupported, "take a VM under management", why.clone()).with("machine", name)),
    }
}

impl Contexts {
    pub(super) fn of(engine: &Engine) -> Self {
        Contexts { engine: engine.clone() }
    }

    /// Takes machines of a source under management; no job is begun. What is managed already is skipped; each one is told singly.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a source that is not saved, or a name that no machine of it has; those of the source and the catalog.
    pub async fn add(&self, source: &str, which: Which) -> Result<Vec<Added>> {
        let site = self.engine.credentials().open_site(source).await?;
        let origin = credentials::origin(&site.row);
        let mut added = Vec::new();
        for machine in chosen(site.site.machines().await?, &which).map_err(|e| e.with("source", source))? {
            let outcome = inventory::add(self.engine.store(), &origin, &machine).await?;
            added.push(Added { name: machine.name, outcome });
        }
        Ok(added)
    }

    /// The VM of this id or name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] when several have this name, naming their ids.
    pub async fn find(&self, name_or_id: &str) -> Result<Context> {
        const FIND: &str = "find a VM";
        if let Ok(id) = name_or_id.parse::<ContextId>() {
            let id = &id;
            let found = self.engine.store().read(FIND, |tx| async move { tx.contexts().get(id).await }).await;
            return found.map_err(|e| if e.kind() == ErrorKind::NotFound { missing(name_or_id) } else { e });
        }
        let found = self.engine.store().read(FIND, |tx| async move {
            let mut named = tx.contexts().by_name(name_or_id).await?;
            match (named.pop(), named.as_slice()) {
                (None, _) => Err(missing(name_or_id)),
                (Some(vm), []) => Ok(vm),
                (Some(last), others) => {
                    let ids: Vec<&str> = others.iter().chain([&last]).take(NAMESAKES).map(|vm| vm.id.as_str()).collect();
                    let text = "several VMs have this name; say which by its id";
                    Err(Error::new(ErrorKind::InvalidInput, FIND, text).with("name", name_or_id).with("ids", ids.join(" ")))
                }
            }
        });
        found.await
    }

    /// VMs under management, by name: at most `limit` (1 to 500, and 200 at once) behind the cursor `after`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a limit or a cursor that is none.
    pub async fn list(&self, limit: u32, after: Option<&str>) -> Result<Page<ContextItem>> {
        let limit = page::size(limit)?;
        let after = &after.map(|text| text.parse::<ContextCursor>().map_err(|e| page::wrong_cursor().with_source(e))).transpose()?;
        let read = self.engine.store().read("list VMs", |tx| async move { tx.feed().contexts(after.as_ref(), limit).await }).await?;
        Ok(Page { items: read.items, next: read.next.map(|cursor| cursor.to_string()) })
    }

    /// All that is known of the VM of this id or name.
    ///
    /// # Errors
    /// Those of [`Contexts::find`].
    pub async fn detail(&self, name_or_id: &str) -> Result<ContextDetail> {
        let context = self.find(name_or_id).await?;
        let id = &context.id;
        let read = self.engine.store().read("read a VM", |tx| async move {
            let (disks, volumes) = (tx.replicas().disks(id).await?, tx.replicas().volumes(id).await?);
            let point = tx.replicas().point(id).await?;
            Ok((disks, volumes, point, tx.jobs().active_of(id).await?, summary(&tx, id).await?))
        });
        let (disks, volumes, point, active_job, last_operation) = read.await?;
        let target = self.engine.target_of(&context).await;
        let mut lines = Vec::new();
        for disk in disks {
            let size = volumes.iter().find(|volume| Some(&volume.id) == disk.volume.as_ref()).map_or(0, |volume| volume.size_bytes);
            lines.push(line(disk, size, target.as_ref().ok()).await);
        }
        let has_point = point.as_ref().is_some_and(|(point, held)| hold_one_point(point, held));
        let ready_for_failover = ready_for_failover(context.status, has_point);
        let point = point.map(|(point, _)| point);
        Ok(ContextDetail { ready_for_failover, point, active_job, last_operation, disks: lines, context })
    }

    /// Ends the management of a VM, and with `with_volumes` removes its volumes first: the replica is then lost. Its jobs stay, for history.
    ///
    /// Before the first volume goes it is written down that the replica is given up; the VM needs cleanup from then on. So what is
    /// interrupted is not forgotten: called again it goes on.
    ///
    /// # Errors
    /// Those of [`Contexts::find`]; [`ErrorKind::Busy`] while a job holds it, while something outside is known by it alone (volumes, without
    /// `with_volumes`), or while somebody has one of its volumes open; those of removing volumes.
    pub async fn remove(&self, name_or_id: &str, with_volumes: bool) -> Result<RemovedContext> {
        let context = &self.find(name_or_id).await?;
        let volumes_removed = if with_volumes { self.remove_volumes(context).await? } else { Vec::new() };
        let removed = self.engine.store().write(REMOVE, |tx| async move {
            tx.contexts().remove(&context.id).await?;
            let data = serde_json::json!({ "vm_name": context.vm_name, "was": context.id });
            tx.events().append(&NewEvent { kind: EventKind::ContextRemoved, job: None, context: None, data }).await
        });
        removed.await?;
        Ok(RemovedContext { context: context.id.clone(), vm_name: context.vm_name.clone(), volumes_removed })
    }

    /// Removes the volumes of a VM, those that only their tag tells of included. A row goes when its volume is gone.
    async fn remove_volumes(&self, context: &Context) -> Result<Vec<VolumeId>> {
        let id = &context.id;
        let target = self.engine.target_of(context).await?;
        let tagged = target.volumes().await?.into_iter().filter_map(|entry| entry.volume.ok()).filter(|volume| volume.tag.context == *id);
        let tagged: Vec<VolumeId> = tagged.map(|volume| volume.id).collect();
        let known = self.engine.store().write(REMOVE, |tx| async move { give_up(&tx, id).await }).await?;
        let mut removed = Vec::new();
        for volume in &known {
            target.remove_volume(&volume.id).await?;
            self.engine.store().write(REMOVE, |tx| async move { tx.replicas().forget_volume(id, volume.disk).await }).await?;
            removed.push(volume.id.clone());
        }
        for stray in tagged {
            if !removed.contains(&stray) && target.remove_volume(&stray).await? {
                removed.push(stray);
            }
        }
        Ok(removed)
    }
}

/// The point of no return of a removal. A VM that may be failed over, or that moved for good, keeps its volumes: they are in use.
async fn give_up(tx: &Tx, id: &ContextId) -> Result<Vec<Volume>> {
    let context = tx.contexts().hold(id).await?;
    let volumes = match context.status {
        ContextStatus::FailedOverTest | ContextStatus::FailedOverLive | ContextStatus::Completed => {
            let text = "the machine in the cloud runs on them";
            return Err(Error::new(ErrorKind::Busy, "remove the volumes of a VM", text).with("VM", context.vm_name));
        }
        _ => tx.replicas().give_up(id).await?,
    };
    if !volumes.is_empty() && context.status != ContextStatus::CleanupRequired {
        let to = tx.contexts().change(&context, ContextTrigger::LeftBehind).await?;
        let data = serde_json::json!({ "from": context.status, "to": to });
        tx.events().append(&NewEvent { kind: EventKind::ContextStatus, job: None, context: Some(id.clone()), data }).await?;
    }
    Ok(volumes)
}

/// A disk, and the file or device of its volume where the target can be reached.
async fn line(disk: Disk, size_bytes: u64, target: Option<&Arc<dyn Target>>) -> DiskLine {
    let tag = VolumeTag { context: disk.context.clone(), disk: disk.spec.key };
    let volume = match (disk.volume, target) {
        (None, _) => None,
        (Some(id), None) => Some(VolumeLine { id, size_bytes, path: None }),
        (Some(id), Some(target)) => {
            let found = target.find_volume(&tag).await.ok().flatten();
            let place = match &found {
                Some(volume) => target.open_volume(volume).await.ok(),
                None => None,
            };
            Some(VolumeLine { id, size_bytes, path: place.map(|place| place.path) })
        }
    };
    DiskLine {
        key: disk.spec.key,
        label: disk.spec.label,
        capacity_bytes: disk.spec.capacity_bytes,
        path: disk.spec.path,
        change_id: disk.change_id,
        removed_at: disk.removed_at,
        volume,
    }
}

fn missing(name: &str) -> Error {
    let text = "no VM under management has this name or id; `migratekit vm list` shows those that are";
    Error::new(ErrorKind::NotFound, "find a VM", text).with("VM", name)
}

/// The machines that are meant; a place without one is left out of `All`, and said when it is looked at.
fn chosen(listed: Vec<crate::platform::Listed>, which: &Which) -> Result<Vec<Machine>> {
    let machines: Vec<Machine> = listed.into_iter().filter_map(|entry| entry.machine.ok()).collect();
    let Which::Named(names) = which else { return Ok(machines) };
    for name in names {
        if !machines.iter().any(|machine| machine.name == *name) {
            let text = "the source has no machine of this name that can be read; `migratekit vm discover` shows what it has";
            return Err(Error::new(ErrorKind::NotFound, "take a VM under management", text).with("machine", name));
        }
    }
    Ok(machines.into_iter().filter(|machine| names.contains(&machine.name)).collect())
}
