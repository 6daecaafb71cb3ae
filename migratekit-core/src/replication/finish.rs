//! The pivot and what comes behind it: the point is committed, put into the volumes, and the source let go.

use super::moving::FrozenAt;
use super::pass::DiskDone;
use super::records::{self, NewPoint};
use super::saga::Replication;
use super::setup::missing;
use crate::copy::{Decision, Ends, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::id::PointId;
use crate::jobs::{Progress, StepContext};
use crate::model::Percent;
use crate::platform::Consistency;

/// What of a disk passes while its spool is applied: all of it is read and checked, then all of it is written.
fn to_apply(disk: &DiskDone) -> u64 {
    let spooled = disk.bytes_written.saturating_add(disk.bytes_zeroed).saturating_add(disk.bytes_resumed);
    if disk.direct { 0 } else { spooled.saturating_mul(2) }
}

impl Replication {
    pub(super) async fn commit(&self, cx: &StepContext) -> Result<()> {
        let plan = self.plan(cx).await?;
        let disks = self.done(cx).await?;
        if !plan.disks.iter().map(|d| d.key).eq(disks.iter().map(|d| d.key)) {
            return Err(Error::new(ErrorKind::Internal, "commit a point", "not every planned disk is complete"));
        }
        let id: PointId = cx.recall("point").await?.ok_or_else(|| missing("point"))?;
        let frozen: FrozenAt = cx.recall("frozen").await?.ok_or_else(|| missing("frozen"))?;
        let (taken_at, quiesced) = (frozen.taken_at, frozen.consistency == Consistency::Quiesced);
        let point = &NewPoint { id, context: cx.context()?.clone(), job: cx.job().clone(), taken_at, quiesced, disks };
        cx.pivot(|tx| async move { records::commit_point(&tx, point).await }).await
    }

    pub(super) async fn apply(&self, cx: &StepContext) -> Result<()> {
        let known = self.know(cx).await?;
        let target = &*self.reach.target(&known.context).await?;
        let name = self.point(cx).await?;
        let disks = self.done(cx).await?;
        let total = disks.iter().map(to_apply).fold(0_u64, u64::saturating_add);
        let mut before = 0_u64;
        for disk in &disks {
            cx.check()?;
            let replica = self.replica(cx, target, &known, disk.key, disk.capacity_bytes).await?;
            let after = before.saturating_add(to_apply(disk));
            let (decision, passed) = (Decision::Committed(name.clone()), cx.passing(before, after, total));
            replica.settle_telling(&decision, &passed, cx.token()).await.map_err(|e| e.with("disk", disk.key))?;
            let ends = Ends::from_hex(&disk.first_digest, &disk.last_digest)?;
            replica.check(&Point { name: name.clone(), ends }).await.map_err(|e| e.with("disk", disk.key))?;
            cx.progress(Progress::part(Percent::of(after, total)));
            before = after;
        }
        let id: PointId = cx.recall("point").await?.ok_or_else(|| missing("point"))?;
        let (id, context) = (&id, cx.context()?);
        cx.commit(|tx| async move { records::applied(&tx, context, id).await }).await
    }

    pub(super) async fn release(&self, cx: &StepContext) -> Result<()> {
        self.remove_snapshot(cx).await?;
        self.close_all().await
    }
}
