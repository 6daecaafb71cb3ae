//! The steps before the source is frozen: look, plan, volumes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use super::again::again;
use super::disks::{self, Plan, PlannedDisk};
use super::open::{site_of, when_free};
use super::records::{self, Base, GrownDisk, Known};
use super::saga::Replication;
use crate::block::{FileDisk, OpenOptions};
use crate::copy::{Decision, PointName, Replica, SideFile, Spool};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DiskKey, PointId, VolumeId};
use crate::jobs::{StepContext, Thing};
use crate::model::SyncType;
use crate::platform::{Machine, SnapshotListed, Target, Volume, VolumeTag, check_blank};
use crate::task;

impl Replication {
    /// What the catalog knows of the VM.
    pub(super) async fn know(&self, cx: &StepContext) -> Result<Known> {
        let context = cx.context()?;
        cx.store().read("read what is known of a VM", |tx| async move { records::known(&tx, context).await }).await
    }

    /// The plan of this job, made once.
    pub(super) async fn plan(&self, cx: &StepContext) -> Result<Plan> {
        cx.recall("plan").await?.ok_or_else(|| missing("plan"))
    }

    /// The point this job makes, and the pass in all ledgers.
    pub(super) async fn point(&self, cx: &StepContext) -> Result<PointName> {
        cx.once("point", PointId::generate).await?.as_str().parse()
    }

    pub(super) async fn initialize(&self, cx: &StepContext) -> Result<()> {
        let known = self.know(cx).await?;
        let at = self.reach.source(&known.context).await?;
        let machine = again(cx.token(), || at.source.describe(&at.machine)).await?;
        same_machine(&known, &machine)?;
        refuse_foreign(&again(cx.token(), || at.source.snapshots(&at.machine)).await?, &machine)?;
        let plan = disks::plan(self.input.mode, &machine.disks, &known.disks_of_plan()?)?;
        let plan = cx.once("plan", || plan).await?;
        cx.once("base", || Base { point: known.point().map(|point| point.id.clone()) }).await?;
        let (machine, plan) = (&machine, &plan);
        cx.commit(|tx| async move { records::looked(&tx, cx.context()?, machine, plan).await }).await
    }

    /// Settles what earlier runs left beside the volumes, and looks for room.
    pub(super) async fn analyze(&self, cx: &StepContext) -> Result<()> {
        let known = self.know(cx).await?;
        let target = &*self.reach.target(&known.context).await?;
        let mut rooms: BTreeMap<u64, Room> = BTreeMap::new();
        for key in known.committed_keys() {
            cx.check()?;
            self.settle_earlier(cx, target, &known, key).await?;
        }
        for disk in &self.plan(cx).await?.disks {
            cx.check()?;
            if let Some(replica) = known.replica(disk.key).ok().filter(|replica| replica.committed.is_some()) {
                let place = target.open_volume(&replica.volume).await?;
                let device = std::fs::metadata(&place.records).map_err(|e| Error::from_io("look for room", e))?.dev();
                let free = site_of(&place)?.free_bytes().await?;
                let room = rooms.entry(device).or_insert(Room { at: place.records.display().to_string(), free, needs: 0 });
                room.needs = room.needs.saturating_add(expected(&known, disk));
            }
        }
        if let Some(point) = known.unfinished_point() {
            let (id, context) = (&point.id, cx.context()?);
            cx.commit(|tx| async move { records::applied(&tx, context, id).await }).await?;
        }
        rooms.values().try_for_each(|room| Spool::check_room(&room.at, room.needs, room.free))
    }

    async fn settle_earlier(&self, cx: &StepContext, target: &dyn Target, known: &Known, key: DiskKey) -> Result<()> {
        let replica = self.replica(cx, target, known, key, 0).await?;
        let Some(pending) = replica.pending() else { return Ok(()) };
        let committed = known.replica(key)?.committed.as_ref().map(|c| c.name.clone());
        let ours: Option<PointName> = cx.recall("point").await?;
        let decision = match committed {
            Some(point) if point == pending.point => Decision::Committed(point),
            // Begun by this very job before it was interrupted: it goes on.
            _ if ours.as_ref() == Some(&pending.point) => return Ok(()),
            _ => Decision::Abandoned,
        };
        replica.settle_telling(&decision, &cx.passing(0, 0, 0), cx.token()).await.map(|_| ())
    }

    pub(super) async fn provision(&self, cx: &StepContext) -> Result<()> {
        let known = self.know(cx).await?;
        let target = &*self.reach.target(&known.context).await?;
        let mut grown = Vec::new();
        for disk in &self.plan(cx).await?.disks {
            cx.check()?;
            match known.replica(disk.key) {
                Err(_) => self.make_volume(cx, target, &known, disk).await?,
                Ok(_) => grown.extend(self.grow(cx, target, &known, disk.key, disk.capacity_bytes).await?),
            }
        }
        if grown.is_empty() {
            return Ok(());
        }
        // All at once: nobody reads a point of which some disks grew and others not.
        let grown = &grown;
        cx.commit(|tx| async move { records::point_grown(&tx, grown).await }).await
    }

    async fn make_volume(&self, cx: &StepContext, target: &dyn Target, known: &Known, disk: &PlannedDisk) -> Result<()> {
        let (tag, size) = (VolumeTag { context: known.context.id.clone(), disk: disk.key }, disk.capacity_bytes);
        let thing = volume_thing(&tag);
        let begun = cx.things().await?.iter().any(|intent| intent.kind == VOLUME && intent.name == thing.name);
        // What a job made that ended before it could say so is taken over; what holds anything is not: undoing this job would remove it.
        if !begun && let Some(there) = target.find_volume(&tag).await? {
            never_written(target, &there).await.map_err(|e| e.with("tag", &tag))?;
        }
        let find = async { Ok(target.find_volume(&tag).await?.map(|volume| volume.id.to_string())) };
        let make = async {
            let made = match target.find_volume(&tag).await? {
                Some(there) if there.size_bytes < size => target.resize_volume(&there.id, size).await?,
                Some(there) => there,
                None => target.create_volume(&tag, size).await?,
            };
            Ok(made.id.to_string())
        };
        let id = cx.effect(&thing, find, make).await?;
        let made = target.find_volume(&tag).await?.filter(|volume| volume.id.as_str() == id);
        let made = &made.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "make a volume", "it was made, and is gone").with("volume", &id).with("tag", &tag)
        })?;
        cx.commit(|tx| async move { records::volume_made(&tx, cx.job(), made).await }).await
    }

    /// Makes the volume of a disk, and the point in it, so large; gives that point, for the catalog. Nothing is done when they are; what an
    /// interruption left is finished.
    async fn grow(&self, cx: &StepContext, target: &dyn Target, known: &Known, key: DiskKey, size: u64) -> Result<Option<GrownDisk>> {
        let replica = known.replica(key)?;
        let grows = replica.committed.as_ref().filter(|committed| committed.capacity_bytes < size);
        if grows.is_some() {
            // Who wrote it before us is seen now; once it is larger, nobody could tell.
            self.replica(cx, target, known, key, 0).await?.unseal().await?;
            self.forget(key).await;
        }
        if replica.volume.size_bytes < size {
            let grown = &target.resize_volume(&replica.volume.id, size).await?;
            cx.commit(|tx| async move { records::volume_grown(&tx, grown).await }).await?;
        }
        let Some(committed) = grows else { return Ok(None) };
        let place = target.open_volume(&replica.volume).await?;
        let point = Replica::grow(site_of(&place)?, &committed.options(&place)?, size).await.map_err(|e| e.with("disk", key))?;
        Ok(Some((key, size, point)))
    }

    pub(super) async fn configure(&self, cx: &StepContext) -> Result<()> {
        let known = self.know(cx).await?;
        let target = &*self.reach.target(&known.context).await?;
        self.point(cx).await?;
        for disk in &self.plan(cx).await?.disks {
            cx.check()?;
            self.replica(cx, target, &known, disk.key, disk.capacity_bytes).await?;
        }
        Ok(())
    }

    /// Removes the volumes that this very job made, unless a later job, while this one waited for a person, has committed a point to them:
    /// then they are that point's.
    pub(super) async fn undo_volumes(&self, cx: &StepContext) -> Result<()> {
        self.let_go().await;
        let made: Vec<_> = cx.things().await?.into_iter().filter(|intent| intent.kind == VOLUME).collect();
        if made.is_empty() {
            return Ok(());
        }
        let known = self.know(cx).await?;
        let target = &*self.reach.target(&known.context).await?;
        for intent in made {
            let tag = tag_of(&intent.name)?;
            if known.replica(tag.disk).is_ok_and(|replica| replica.committed.is_some()) {
                cx.remove(&volume_thing(&tag), async { Ok(None) }, |_| async { Ok(()) }).await?;
                continue;
            }
            let find = async { Ok(target.find_volume(&tag).await?.map(|volume| volume.id.to_string())) };
            let remove = |id: String| async move {
                let id = &id.parse::<VolumeId>()?;
                when_free(cx.token(), || cx.alive(), || target.remove_volume(id)).await.map(|_| ())
            };
            cx.remove(&volume_thing(&tag), find, remove).await?;
            let tag = &tag;
            cx.commit(|tx| async move { records::volume_gone(&tx, tag).await }).await?;
        }
        Ok(())
    }
}

/// The volume, which the catalog does not know, was made and never used: no record lies beside it, and nothing in it.
async fn never_written(target: &dyn Target, volume: &Volume) -> Result<()> {
    let place = target.open_volume(volume).await?;
    let record = site_of(&place)?.file(SideFile::Point);
    let blank = match task::blocking(move || record.open().map(|file| file.is_none())).await?? {
        true => check_blank(&FileDisk::open(&place.path, OpenOptions::read_only()).await?).await,
        false => Err(Error::new(ErrorKind::Mismatch, "look beside a volume", "a replica's record lies beside it")),
    };
    blank.map_err(|e| {
        const THERE: &str = "a volume that the catalog does not know carries this disk's tag, and holds data; remove it if nobody needs it";
        Error::new(ErrorKind::AlreadyExists, "make a volume", THERE).with("volume", &volume.id).with_source(e)
    })
}

/// The room of one file system.
struct Room {
    at: String,
    free: u64,
    needs: u64,
}

/// What a pass over this disk is expected to write into its spool: as much as the last one did. What it really is, is checked when the
/// changes are known.
fn expected(known: &Known, disk: &PlannedDisk) -> u64 {
    match disk.sync {
        SyncType::Full => 0,
        SyncType::Incremental | SyncType::Compare => known.last_pass_bytes(disk.key),
    }
}

/// What kind of thing a volume is in the journal.
const VOLUME: &str = "volume";

fn volume_thing(tag: &VolumeTag) -> Thing {
    Thing::new(VOLUME, tag.to_string())
}

fn tag_of(name: &str) -> Result<VolumeTag> {
    let wrong = || {
        Error::new(ErrorKind::Mismatch, "read the name of a volume", "the journal's text is not what this program writes")
            .with("name", name)
    };
    let (context, disk) = name.split_once('/').ok_or_else(wrong)?;
    Ok(VolumeTag { context: context.parse()?, disk: disk.parse()? })
}

/// The machine at this place is the one that was replicated before.
fn same_machine(known: &Known, machine: &Machine) -> Result<()> {
    match &known.context.instance_uuid {
        Some(uuid) if uuid != machine.instance.as_str() => {
            Err(Error::new(ErrorKind::Changed, "look at the source", "another machine lies where this one was; add it as a VM of its own")
                .with("machine", &machine.reference)
                .with("uuid_was", uuid)
                .with("uuid_is", &machine.instance))
        }
        _ => Ok(()),
    }
}

/// Another's snapshot would be caught between ours and the disk.
pub(super) fn refuse_foreign(found: &[SnapshotListed], machine: &Machine) -> Result<()> {
    match found.iter().find(|snapshot| snapshot.ours.is_none()) {
        None => Ok(()),
        Some(foreign) => Err(Error::new(
            ErrorKind::Busy,
            "freeze the source",
            "the machine has a snapshot that is not ours (a backup's, perhaps); remove it, or wait until its owner has",
        )
        .with("machine", &machine.name)
        .with("snapshot", &foreign.name)),
    }
}

/// What an earlier step of this job must have written down.
pub(super) fn missing(what: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "run a step of a replication", "an earlier step left nothing").with("what", what)
}
