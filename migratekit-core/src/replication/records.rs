//! The rows of a replication: what the catalog knows of the VM, and what each step writes.
//!
//! Everything here runs in a transaction of the job, which checks that its runner still owns it. The point, its disks, the change ids
//! and the history are one transaction: that of the pivot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::disks::{HeldDisk, KnownDisk, Plan, no_base};
use super::open::Committed;
use super::pass::DiskDone;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, JobId, PointId};
use crate::jobs::{Outcome, Progress};
use crate::model::{
    CbtEntry, Context, ContextStatus, ContextTrigger, Disk, EventKind, FailoverMark, Job, JobCounts, JobKind, JobStatus, LastJob, Point,
    PointDisk, PointStatus, ReplicationMode, ReplicationTrigger, StandingFacts, VolumeStatus, hold_one_point, standing,
};
use crate::planted::planted;
use crate::platform::{Machine, SnapshotName, Volume, VolumeTag};
use crate::store::{NewEvent, NewVolume, ReplicationEnd, Tx, VmLook};

/// What the catalog knows of a VM.
pub(super) struct Known {
    pub(super) context: Context,
    disks: Vec<Disk>,
    point: Option<(Point, Vec<PointDisk>)>,
    replicas: BTreeMap<DiskKey, KnownReplica>,
}

/// A disk's volume, and what is committed to it.
pub(super) struct KnownReplica {
    pub(super) volume: Volume,
    pub(super) committed: Option<Committed>,
    /// The generation that its ledger had when that was committed: a higher one tells of writes past it.
    pub(super) generation: u64,
}

impl Known {
    /// The replica of a disk. [`ErrorKind::NotFound`] when it has no volume.
    pub(super) fn replica(&self, key: DiskKey) -> Result<&KnownReplica> {
        self.replicas
            .get(&key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "find the volume of a disk", "the catalog knows none").with("disk", key))
    }

    /// The disks that hold a point, those the source has no more included.
    pub(super) fn committed_keys(&self) -> Vec<DiskKey> {
        self.replicas.iter().filter(|(_, replica)| replica.committed.is_some()).map(|(key, _)| *key).collect()
    }

    /// The volumes and what is committed to them, by disk.
    pub(super) fn replicas(&self) -> impl Iterator<Item = (DiskKey, &KnownReplica)> {
        self.replicas.iter().map(|(key, replica)| (*key, replica))
    }

    /// The point that is committed and perhaps not yet in the volumes.
    pub(super) fn unfinished_point(&self) -> Option<&Point> {
        self.point.as_ref().map(|(point, _)| point).filter(|point| point.status == PointStatus::Committed)
    }

    /// The newest point, committed or in the volumes.
    pub(super) fn point(&self) -> Option<&Point> {
        self.point.as_ref().map(|(point, _)| point)
    }

    /// Bytes the last pass moved of a disk.
    pub(super) fn last_pass_bytes(&self, key: DiskKey) -> u64 {
        self.disks.iter().find(|disk| disk.spec.key == key).map_or(0, |disk| disk.bytes_synced)
    }

    /// The disks as a plan wants them: those marked as removed are known, so that one which comes back finds its volume.
    pub(super) fn disks_of_plan(&self) -> Result<Vec<KnownDisk>> {
        let held = |key| self.point.iter().flat_map(|(_, disks)| disks).find(|disk| disk.key == key);
        self.disks
            .iter()
            .map(|disk| {
                let held = held(disk.spec.key).map(|held| {
                    // Those of the point, not those of the disk's row: they are right by themselves.
                    let from = if planted("change-ids-before-commit") { &disk.change_id } else { &held.change_id };
                    let change_id = from.as_ref().map(|id| id.parse()).transpose()?;
                    Ok::<_, Error>(HeldDisk { capacity_bytes: held.capacity_bytes, change_id })
                });
                Ok(KnownDisk { key: disk.spec.key, held: held.transpose()? })
            })
            .collect()
    }
}

/// Reads it all in one snapshot.
pub(super) async fn known(tx: &Tx, context: &ContextId) -> Result<Known> {
    let (disks, volumes) = (tx.replicas().disks(context).await?, tx.replicas().volumes(context).await?);
    let point = tx.replicas().point(context).await?;
    let mut replicas = BTreeMap::new();
    for volume in volumes {
        let held = point.iter().flat_map(|(_, disks)| disks).find(|disk| disk.key == volume.disk && disk.volume == volume.id);
        let committed = held.map(|held| {
            Ok::<_, Error>(Committed {
                name: held.point.as_str().parse()?,
                capacity_bytes: held.capacity_bytes,
                first_digest: held.first_digest.clone(),
                last_digest: held.last_digest.clone(),
            })
        });
        let tag = VolumeTag { context: context.clone(), disk: volume.disk };
        let generation = volume.generation;
        let volume_there = Volume { serial: Volume::serial_of(&volume.id), id: volume.id, tag, size_bytes: volume.size_bytes };
        replicas.insert(volume.disk, KnownReplica { volume: volume_there, committed: committed.transpose()?, generation });
    }
    Ok(Known { context: tx.contexts().get(context).await?, disks, point, replicas })
}

/// A replication is asked for: its row, and the status of its VM, in the transaction that begins its job. An increment to nothing is
/// refused here already, before there is a job that would fail.
pub(super) async fn begin(tx: &Tx, job: &JobId, context: &ContextId, mode: ReplicationMode) -> Result<()> {
    if mode == ReplicationMode::Incremental && tx.replicas().point(context).await?.is_none() {
        return Err(no_base("start a replication").with("context", context));
    }
    let context = tx.contexts().get(context).await?;
    if context.status == ContextStatus::CleanupRequired {
        refuse_unclean(tx, &context).await?;
    }
    tx.replications().begin(job, &context, mode).await?;
    let to = tx.contexts().change(&context, ContextTrigger::Began).await?;
    tell_status(tx, &context, to, Some(job)).await
}

/// What a replication left, the next one mends. What a failover left, or the removal of the VM's volumes, it does not.
async fn refuse_unclean(tx: &Tx, context: &Context) -> Result<()> {
    let refused = |text: &'static str| Error::new(ErrorKind::InvalidInput, "begin a replication", text).with("context", &context.id);
    if let Some(other) = tx.jobs().holding_back(&context.id).await? {
        return Err(refused("what an earlier job of the VM left must be cleaned up first").with("job", other));
    }
    match tx.replicas().volumes(&context.id).await?.iter().find(|volume| volume.status == VolumeStatus::Destroy) {
        Some(volume) => {
            const REMOVED: &str = "its volumes are being removed, and that broke off; `migratekit vm remove --with-volumes` goes on";
            Err(refused(REMOVED).with("volume", &volume.id))
        }
        None => Ok(()),
    }
}

/// A step begins.
pub(super) async fn enter(tx: &Tx, job: &JobId, step: &str) -> Result<()> {
    match ReplicationTrigger::of_step(step) {
        Some(trigger) => tx.replications().enter(job, trigger, step).await,
        None => Ok(()),
    }
}

/// The source was looked at.
pub(super) async fn looked(tx: &Tx, context: &ContextId, machine: &Machine, plan: &Plan) -> Result<()> {
    let look = VmLook {
        name: &machine.name,
        instance_uuid: machine.instance.as_str(),
        path: &machine.path,
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        os: machine.os,
        power: machine.power,
    };
    tx.contexts().look(context, &look).await?;
    for disk in &machine.disks {
        tx.replicas().see_disk(context, disk).await?;
    }
    for key in &plan.removed {
        tx.replicas().lose_disk(context, *key).await?;
    }
    Ok(())
}

/// A volume was made by this job.
pub(super) async fn volume_made(tx: &Tx, job: &JobId, volume: &Volume) -> Result<()> {
    let new =
        NewVolume { id: &volume.id, context: &volume.tag.context, disk: volume.tag.disk, size_bytes: volume.size_bytes, made_by: job };
    tx.replicas().add_volume(&new).await
}

/// A volume grew.
pub(super) async fn volume_grown(tx: &Tx, volume: &Volume) -> Result<()> {
    tx.replicas().resize_volume(&volume.id, volume.size_bytes).await
}

/// A disk of the point that grew with its volume: to how many bytes, and the point as it is recorded there.
pub(super) type GrownDisk = (DiskKey, u64, crate::copy::Point);

/// Disks of the point grew.
pub(super) async fn point_grown(tx: &Tx, grown: &[GrownDisk]) -> Result<()> {
    for (key, size, point) in grown {
        let (first, last) = point.ends.to_hex();
        tx.replicas().grow_point_disk(&point.name.as_str().parse()?, *key, *size, &first, &last).await?;
    }
    Ok(())
}

/// A volume was removed.
pub(super) async fn volume_gone(tx: &Tx, tag: &VolumeTag) -> Result<()> {
    tx.replicas().forget_volume(&tag.context, tag.disk).await
}

/// A point about to be committed.
pub(super) struct NewPoint {
    pub(super) id: PointId,
    pub(super) context: ContextId,
    pub(super) job: JobId,
    pub(super) taken_at: Timestamp,
    pub(super) quiesced: bool,
    pub(super) disks: Vec<DiskDone>,
    /// What the pass was planned on.
    pub(super) base: Base,
}

/// The point that a pass adds to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Base {
    /// The VM's newest point when the pass was planned; none when it had none.
    pub(super) point: Option<PointId>,
}

/// The decisive rows: point, its disks, change ids, history.
///
/// # Errors
/// `Changed`: the VM has another newest point than the pass adds to. The job waited, and a later one made it.
pub(super) async fn commit_point(tx: &Tx, new: &NewPoint) -> Result<()> {
    let newest = tx.replicas().point(&new.context).await?.map(|(point, _)| point.id);
    if newest != new.base.point && newest.as_ref() != Some(&new.id) {
        const LATER: &str = "a later job has made a newer point meanwhile; replicate again";
        let error = Error::new(ErrorKind::Changed, "commit a point", LATER).with("point", &new.id);
        return Err(newest.iter().fold(error, |error, newest| error.with("newest", newest)));
    }
    let rows = tx.replicas().disks(&new.context).await?;
    let mut disks = Vec::new();
    for done in &new.disks {
        let (row, volume) = rows
            .iter()
            .find(|row| row.spec.key == done.key)
            .and_then(|row| Some((row, row.volume.clone()?)))
            .ok_or_else(|| Error::new(ErrorKind::Internal, "commit a point", "a disk of it has no volume").with("disk", done.key))?;
        disks.push(PointDisk {
            point: new.id.clone(),
            disk: row.id,
            key: done.key,
            volume: volume.clone(),
            capacity_bytes: done.capacity_bytes,
            change_id: Some(done.change_id.to_string()),
            first_digest: done.first_digest.clone(),
            last_digest: done.last_digest.clone(),
            pass: new.id.to_string(),
            spool: (!done.direct).then(|| new.id.to_string()),
            applied: done.direct,
        });
        tx.replicas().add_history(&history(new, done, row)).await?;
        tx.replicas().set_generation(&volume, done.generation).await?;
    }
    remember(tx, &new.context, &new.job, &new.disks).await?;
    let point = Point {
        id: new.id.clone(),
        context: new.context.clone(),
        job: new.job.clone(),
        status: PointStatus::Committed,
        taken_at: new.taken_at,
        committed_at: new.taken_at,
        applied_at: None,
        quiesced: new.quiesced,
        disk_count: u32::try_from(disks.len()).unwrap_or(u32::MAX),
    };
    tx.replicas().commit_point(&point, &disks).await?;
    let first = new.disks.first().map(|done| {
        let before = rows.iter().find(|row| row.spec.key == done.key).and_then(|row| row.change_id.as_deref());
        (done.key, done.change_id.as_str(), before)
    });
    tx.replications().marks(&new.job, &SnapshotName::of(&new.job).to_string(), first).await?;
    let data = json!({ "point": new.id, "disks": disks.len() });
    tell(tx, EventKind::PointCommitted, &new.context, Some(&new.job), data).await
}

/// The change ids of the disks, from which the next pass asks.
pub(super) async fn remember(tx: &Tx, context: &ContextId, job: &JobId, disks: &[DiskDone]) -> Result<()> {
    for done in disks {
        tx.replicas().set_change_id(context, done.key, job, Some(done.change_id.as_str()), moved(done)).await?;
    }
    Ok(())
}

/// Bytes that a pass moved of a disk.
fn moved(done: &DiskDone) -> u64 {
    done.bytes_written.saturating_add(done.bytes_zeroed)
}

fn history(new: &NewPoint, done: &DiskDone, row: &Disk) -> CbtEntry {
    CbtEntry {
        context: new.context.clone(),
        job: Some(new.job.clone()),
        disk: done.key,
        change_id: Some(done.change_id.to_string()),
        previous_change_id: row.change_id.clone(),
        sync_type: done.sync,
        blocks_changed: done.areas,
        bytes_transferred: moved(done),
        duration_seconds: done.seconds,
        success: true,
        created_at: new.taken_at,
    }
}

/// The volumes hold the committed point.
pub(super) async fn applied(tx: &Tx, context: &ContextId, id: &PointId) -> Result<()> {
    let found = tx.replicas().point(context).await?.map(|(point, _)| point).filter(|point| point.id == *id);
    let point =
        found.ok_or_else(|| Error::new(ErrorKind::Internal, "mark a point as applied", "it is not the VM's newest").with("point", id))?;
    tx.replicas().applied(&point).await?;
    tell(tx, EventKind::PointApplied, context, Some(&point.job), json!({ "point": id })).await
}

/// How far the job is, in the replication's own row.
pub(super) async fn progress(progress: Progress, job: &Job, tx: &Tx) -> Result<()> {
    tx.replications().progress(&job.id, job.percent, progress.bytes_written, progress.bytes_total).await
}

/// The job came to rest: its row, its VM's counts, and where the VM stands now, which follows from its points alone.
pub(super) async fn settle(outcome: &Outcome<'_>, job: &Job, tx: &Tx) -> Result<()> {
    let Some(id) = &job.context else {
        return Err(Error::new(ErrorKind::Internal, "end a replication", "its job is of no VM").with("job", &job.id));
    };
    let status = status_of(outcome);
    let point = tx.replicas().point(id).await?;
    let failure = match outcome {
        Outcome::Failed(failure) | Outcome::NeedsAttention(failure) => Some(*failure),
        Outcome::Completed | Outcome::Cancelled | Outcome::RolledBack => None,
    };
    let trigger = ReplicationTrigger::of_end(status)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "end a replication", "its job has not come to rest").with("status", status))?;
    let end = ReplicationEnd {
        trigger,
        error: failure.map(|f| f.message.as_str()),
        error_kind: failure.map(|f| f.kind.as_str()),
        point: point.as_ref().filter(|(point, _)| point.job == job.id && status == JobStatus::Completed).map(|(point, _)| &point.id),
    };
    tx.replications().end(&job.id, &end).await?;
    stand(tx, id, job, status, point).await
}

fn status_of(outcome: &Outcome<'_>) -> JobStatus {
    match outcome {
        Outcome::Completed => JobStatus::Completed,
        Outcome::Failed(_) => JobStatus::Failed,
        Outcome::Cancelled => JobStatus::Cancelled,
        Outcome::RolledBack => JobStatus::RolledBack,
        Outcome::NeedsAttention(_) => JobStatus::NeedsAttention,
    }
}

async fn stand(tx: &Tx, id: &ContextId, job: &Job, status: JobStatus, point: Option<(Point, Vec<PointDisk>)>) -> Result<()> {
    let context = tx.contexts().get(id).await?;
    let has_point = point.as_ref().is_some_and(|(point, held)| hold_one_point(point, held));
    let failover = match context.status {
        ContextStatus::FailedOverTest => FailoverMark::Test,
        ContextStatus::FailedOverLive => FailoverMark::Live,
        ContextStatus::Completed => FailoverMark::Final,
        _ => FailoverMark::None,
    };
    let last_job = Some(LastJob { kind: JobKind::Replication, status, left_over: status == JobStatus::NeedsAttention });
    let stands = standing(StandingFacts { has_point, replicating: false, failover, last_job }).status;
    // A job that a person sent on finds its VM where it belongs already, or where a failover has left it.
    let stays =
        stands == context.status || (context.status == ContextStatus::CleanupRequired && tx.jobs().holding_back(id).await?.is_some());
    let to = match stands {
        _ if stays => context.status,
        ContextStatus::ReadyForFailover => tx.contexts().change(&context, ContextTrigger::HoldsPoint).await?,
        ContextStatus::Failed => tx.contexts().change(&context, ContextTrigger::LacksPoint).await?,
        ContextStatus::CleanupRequired => tx.contexts().change(&context, ContextTrigger::LeftBehind).await?,
        _ => tx.contexts().change(&context, ContextTrigger::NothingYet).await?,
    };
    let counts = JobCounts {
        total: context.jobs.total.saturating_add(1),
        successful: context.jobs.successful.saturating_add(u64::from(status == JobStatus::Completed)),
        failed: context.jobs.failed.saturating_add(u64::from(matches!(status, JobStatus::Failed | JobStatus::NeedsAttention))),
    };
    tx.contexts().count(id, &job.id, counts, status == JobStatus::Completed).await?;
    tell_status(tx, &context, to, Some(&job.id)).await
}

async fn tell_status(tx: &Tx, context: &Context, to: ContextStatus, job: Option<&JobId>) -> Result<()> {
    tell(tx, EventKind::ContextStatus, &context.id, job, json!({ "from": context.status, "to": to })).await
}

async fn tell(tx: &Tx, kind: EventKind, context: &ContextId, job: Option<&JobId>, data: serde_json::Value) -> Result<()> {
    let event = NewEvent { kind, job: job.cloned(), context: Some(context.clone()), data };
    tx.events().append(&event).await.map(|_| ())
}
