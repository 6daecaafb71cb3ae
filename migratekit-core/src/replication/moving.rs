//! The steps that need the source frozen: the snapshot, and all disks in parallel.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::again::again;
use super::disks::Plan;
use super::pass::{DiskDone, DiskPass, DiskProgress};
use super::records::{self, Known};
use super::saga::Replication;
use super::setup::{missing, refuse_foreign};
use super::world::SourceMachine;
use crate::clock::{self, Timestamp};
use crate::copy::{Decision, PointName};
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::jobs::{Progress, StepContext, Thing};
use crate::model::{Intent, IntentStatus};
use crate::planted::planted;
use crate::platform::{Consistency, Snapshot, SnapshotName, Source};
use crate::task::Scope;

/// How many disks of one VM are copied at the same time. Each has buffers of at most 16 MiB; more than four readers slow a source down.
pub const DISKS_AT_ONCE: usize = 4;

/// How often the disks' progress is added up: twice as often as it is stored.
const LOOK: Duration = Duration::from_millis(500);

/// What kind of thing a snapshot is in the journal.
const SNAPSHOT: &str = "snapshot";

/// What of the snapshot is needed when it is gone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct FrozenAt {
    pub(super) taken_at: Timestamp,
    pub(super) consistency: Consistency,
}

impl Replication {
    pub(super) async fn snapshot(&self, cx: &StepContext) -> Result<()> {
        let world = &self.reach.source(&self.know(cx).await?.context).await?;
        let name = SnapshotName::of(cx.job());
        let machine = again(cx.token(), || world.source.describe(&world.machine)).await?;
        let found = again(cx.token(), || world.source.snapshots(&world.machine)).await?;
        refuse_foreign(&found, &machine)?;
        for old in found.iter().filter_map(|listed| listed.ours.as_ref()).filter(|ours| **ours != name) {
            tracing::warn!(snapshot = %old, "a snapshot that an earlier job left is removed");
            again(cx.token(), || world.source.remove_snapshot(&world.machine, old)).await?;
        }
        let size = machine.disks.iter().map(|disk| disk.capacity_bytes).fold(0, u64::saturating_add);
        let passed = cx.passing(0, size, size);
        cx.effect(
            &Thing::new(SNAPSHOT, name.to_string()),
            async { Ok(world.source.find_snapshot(&world.machine, &name).await?.map(|snapshot| snapshot.reference)) },
            async { Ok(again(cx.token(), || world.source.create_snapshot(&world.machine, &name, &passed, cx.token())).await?.reference) },
        )
        .await?;
        let snapshot = self.frozen(cx, world).await?;
        cx.once("frozen", || FrozenAt { taken_at: Timestamp::now(), consistency: snapshot.consistency }).await?;
        check_disks(&self.plan(cx).await?, &snapshot)
    }

    /// The snapshot of this job.
    pub(super) async fn frozen(&self, cx: &StepContext, world: &SourceMachine) -> Result<Snapshot> {
        let name = SnapshotName::of(cx.job());
        again(cx.token(), || world.source.find_snapshot(&world.machine, &name)).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find the snapshot of this job", "somebody removed it while it was in use")
                .with("snapshot", &name)
                .with("machine", &world.machine)
        })
    }

    pub(super) async fn undo_snapshot(&self, cx: &StepContext) -> Result<()> {
        self.remove_snapshot(cx).await
    }

    /// Removes the snapshot of this job, complete or not. The source is asked for nothing when the journal has none of it.
    pub(super) async fn remove_snapshot(&self, cx: &StepContext) -> Result<()> {
        let is_there = |intent: &Intent| intent.kind == SNAPSHOT && intent.status != IntentStatus::Undone;
        if !cx.things().await?.iter().any(is_there) {
            return Ok(());
        }
        let world = &self.reach.source(&self.know(cx).await?.context).await?;
        let name = SnapshotName::of(cx.job());
        // What is there in part has no reference, but has the name.
        let find = async {
            let found = again(cx.token(), || world.source.snapshots(&world.machine)).await?;
            Ok(found.into_iter().find(|listed| listed.ours.as_ref() == Some(&name)).map(|listed| listed.name))
        };
        let remove = |_| async { again(cx.token(), || world.source.remove_snapshot(&world.machine, &name)).await.map(|_| ()) };
        cx.remove(&Thing::new(SNAPSHOT, name.to_string()), find, remove).await.map(|_| ())
    }

    pub(super) async fn replicate(&self, cx: &StepContext) -> Result<()> {
        let known = self.know(cx).await?;
        let at = self.reach.source(&known.context).await?;
        let plan = self.plan(cx).await?;
        let snapshot = Arc::new(self.frozen(cx, &at).await?);
        check_disks(&plan, &snapshot)?;
        let passes = self.passes(cx, &known, &at.source, &plan, &snapshot).await?;
        let mut done = run_all(cx, passes).await?;
        done.sort_by_key(|disk| disk.key);
        let refused: Vec<_> = done.iter().filter(|d| d.refused.is_some()).map(|d| d.key.to_string()).collect();
        if !refused.is_empty() {
            tracing::warn!(disks = refused.join(" "), "change ids were not believed; these disks were compared");
        }
        if planted("change-ids-before-commit") {
            let (context, done) = (cx.context()?, &done);
            cx.commit(|tx| async move { records::remember(&tx, context, cx.job(), done).await }).await?;
        }
        cx.once("done", || done).await.map(|_| ())
    }

    async fn passes(
        &self,
        cx: &StepContext,
        known: &Known,
        source: &Arc<dyn Source>,
        plan: &Plan,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Vec<DiskPass>> {
        let target = &*self.reach.target(&known.context).await?;
        let point = self.point(cx).await?;
        let mut passes = Vec::new();
        for disk in &plan.disks {
            let replica = self.replica(cx, target, known, disk.key, disk.capacity_bytes).await?;
            passes.push(DiskPass {
                source: Arc::clone(source),
                snapshot: Arc::clone(snapshot),
                disk: disk.clone(),
                committed: known.replica(disk.key)?.committed.as_ref().map(|c| c.name.clone()),
                replica,
                point: point.clone(),
                earlier: cx.recall(&done_key(disk.key)).await?,
                progress: Arc::default(),
                cancel: cx.token().clone(),
            });
        }
        Ok(passes)
    }

    /// What the disks' passes came to.
    pub(super) async fn done(&self, cx: &StepContext) -> Result<Vec<DiskDone>> {
        cx.recall("done").await?.ok_or_else(|| missing("done"))
    }

    /// Removes the spools of this job's point; nothing was committed.
    pub(super) async fn undo_spools(&self, cx: &StepContext) -> Result<()> {
        let Some(plan): Option<Plan> = cx.recall("plan").await? else { return Ok(()) };
        let Some(point): Option<PointName> = cx.recall("point").await? else { return Ok(()) };
        let known = self.know(cx).await?;
        let target = &*self.reach.target(&known.context).await?;
        for disk in &plan.disks {
            // A volume without a point was made by this job, and is removed as a whole.
            if !known.replica(disk.key).is_ok_and(|replica| replica.committed.is_some()) {
                continue;
            }
            let replica = self.replica(cx, target, &known, disk.key, disk.capacity_bytes).await?;
            if replica.pending().is_none_or(|pending| pending.point == point) {
                replica.settle(&Decision::Abandoned, cx.token()).await?;
            }
        }
        self.close_all().await
    }
}

/// The snapshot is of the disks that were planned.
fn check_disks(plan: &Plan, snapshot: &Snapshot) -> Result<()> {
    let planned = plan.disks.iter().map(|disk| (disk.key, disk.capacity_bytes));
    if planned.eq(snapshot.disks.iter().map(|disk| (disk.key, disk.size_bytes))) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Changed, "freeze the source", "its disks changed between the look at it and its snapshot; replicate again")
        .with("machine", &snapshot.machine))
}

/// Runs all disks, so many at a time. The first failure ends the others; what they wrote is kept for the next run.
async fn run_all(cx: &StepContext, passes: Vec<DiskPass>) -> Result<Vec<DiskDone>> {
    let ended: Arc<Mutex<(Vec<DiskDone>, Option<Error>)>> = Arc::default();
    let room = Arc::new(Semaphore::new(DISKS_AT_ONCE));
    let progress: Vec<Arc<DiskProgress>> = passes.iter().map(|pass| Arc::clone(&pass.progress)).collect();
    let mut scope = Scope::child_of(cx.token());
    let token = scope.token().clone();
    for mut pass in passes {
        pass.cancel = token.clone();
        let (room, ended, token) = (Arc::clone(&room), Arc::clone(&ended), token.clone());
        scope.spawn(async move {
            let end = match token.run_until_cancelled(room.acquire_owned()).await {
                Some(Ok(_place)) => pass.run().await,
                _ => return,
            };
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            match end {
                Ok(done) => ended.0.push(done),
                Err(error) => {
                    ended.1.get_or_insert(error);
                    token.cancel();
                }
            }
        });
    }
    let (mut told, mut kept) = ((0, 0), 0);
    loop {
        tokio::select! {
            end = scope.join_one() => if end?.is_none() { break },
            () = clock::sleep(LOOK) => {}
        }
        if let Some(progress) = news(&mut told, &progress) {
            cx.progress(progress);
        }
        let done = ended.lock().unwrap_or_else(PoisonError::into_inner).0.get(kept..).unwrap_or_default().to_vec();
        for disk in done {
            kept += 1;
            if let Err(error) = cx.once(&done_key(disk.key), || disk).await {
                tracing::warn!(%error, "what a disk's part came to is not known to a run that continues this one");
            }
        }
    }
    let (done, failure) = std::mem::take(&mut *ended.lock().unwrap_or_else(PoisonError::into_inner));
    match failure {
        Some(error) => Err(error),
        None => cx.check().map(|()| done),
    }
}

/// Under which key a job remembers what came of one disk.
fn done_key(disk: DiskKey) -> String {
    format!("done-{disk}")
}

/// How far the disks are together, if they are further than `told`. Only that is a sign of life: a source or target that hangs gives none,
/// and the step is told to end after its time.
fn news(told: &mut (u64, u64), disks: &[Arc<DiskProgress>]) -> Option<Progress> {
    let (done, total) = disks
        .iter()
        .map(|disk| disk.bytes())
        .fold((0_u64, 0_u64), |sum, disk| (sum.0.saturating_add(disk.0), sum.1.saturating_add(disk.1)));
    let written = disks.iter().map(|disk| disk.written()).fold(0, u64::saturating_add);
    let before = std::mem::replace(told, (done, total));
    (before != *told).then(|| Progress::bytes(done, total).written(written))
}
