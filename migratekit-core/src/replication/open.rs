//! The volumes of a replication, opened: known again, locked, older epochs shut out.

use std::sync::Arc;
use std::time::Duration;

use super::records::{Known, KnownReplica};
use super::saga::Replication;
use crate::block::{BoxFuture, FileDisk, OpenOptions};
use crate::clock;
use crate::copy::{Ends, FileSite, Holding, Point, PointName, Replica, ReplicaOptions, ReplicaSite};
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::jobs::StepContext;
use crate::platform::{Target, VolumePlace, check_blank};
use crate::task::CancellationToken;

/// How long is waited for a volume that somebody holds: a process of ours that was stopped (by a debugger, by a host that was paused) holds it
/// until it goes on and finds that it is fenced. That delays a job; it is no reason to hand it to a person.
const HOLD_TIME: Duration = Duration::from_secs(300);

/// How often it is tried: at first at once again, for who died a moment ago lets go when its last request has ended.
const HOLD_TRY: Duration = Duration::from_millis(50);
const LONGEST_TRY: Duration = Duration::from_secs(2);

impl Replication {
    /// The replica of a disk, opened and kept open until the job lets go. `capacity`: the disk's size for a first pass.
    ///
    /// # Errors
    /// `Busy`: another process holds the volume. `ForeignContent`, `Mismatch`: it is not what was committed to it, or holds bytes although
    /// nothing was ever written. `Fenced`: a newer runner wrote it.
    pub(super) async fn replica(
        &self,
        cx: &StepContext,
        target: &dyn Target,
        known: &Known,
        key: DiskKey,
        capacity: u64,
    ) -> Result<Replica> {
        let mut open = self.open.lock().await;
        if let Some(replica) = open.get(&key) {
            return Ok(replica.clone());
        }
        let replica = open_replica(cx, target, known.replica(key)?, capacity).await.map_err(|e| e.with("disk", key))?;
        open.insert(key, replica.clone());
        Ok(replica)
    }

    /// Lets go of one volume.
    pub(super) async fn forget(&self, key: DiskKey) {
        self.open.lock().await.remove(&key);
    }

    /// Lets go of every volume, in whatever state it is; what was recorded is found again.
    pub(super) async fn let_go(&self) {
        self.open.lock().await.clear();
    }

    /// Lets go of every volume after all went well, so that the next to open it can tell whether somebody else wrote it meanwhile.
    pub(super) async fn close_all(&self) -> Result<()> {
        let mut open = self.open.lock().await;
        while let Some((_, replica)) = open.pop_first() {
            replica.close().await?;
        }
        Ok(())
    }
}

async fn open_replica(cx: &StepContext, target: &dyn Target, known: &KnownReplica, capacity: u64) -> Result<Replica> {
    let place = target.open_volume(&known.volume).await?;
    let site = site_of(&place)?;
    let replica = match &known.committed {
        Some(committed) => {
            let options = committed.options(&place)?;
            when_free(cx.token(), || cx.alive(), || Box::pin(Replica::open(Arc::clone(&site), options.clone()))).await?
        }
        None => {
            let options = ReplicaOptions { identity: place.volume.id.to_string(), size: capacity, committed: None };
            open_empty(cx, site, &place, options).await?
        }
    };
    let highest = replica.ledger().highest_epoch();
    if highest > cx.epoch().get() {
        return Err(Error::new(ErrorKind::Fenced, "open a volume", "a newer run of this job, or a later job, has written it")
            .with("epoch", cx.epoch())
            .with("newer", highest));
    }
    replica.ledger().raise_epoch(cx.epoch().get()).await?;
    Ok(replica)
}

/// A volume no point was ever committed to. What a pass of this job wrote is continued; what another pass left does not count.
async fn open_empty(cx: &StepContext, site: Arc<dyn ReplicaSite>, place: &VolumePlace, options: ReplicaOptions) -> Result<Replica> {
    let ours: Option<PointName> = cx.recall("point").await?;
    let replica = match when_free(cx.token(), || cx.alive(), || Box::pin(Replica::open(Arc::clone(&site), options.clone()))).await {
        // There is no point to protect. It is that of a disk which had another size when it was here last, say.
        Err(error) if error.kind() == ErrorKind::Mismatch => {
            tracing::warn!(volume = %place.volume.id, %error, "what was written to the volume does not count; it is written anew");
            return Replica::start_over(site, options, "its record is not that of this disk").await;
        }
        opened => opened?,
    };
    let holds_other = match replica.holding() {
        Holding::Nothing => false,
        Holding::Point(point) => Some(&point) != ours.as_ref(),
        Holding::Applying { .. } => true,
    };
    if holds_other || replica.pending().is_some() {
        drop(replica);
        return Replica::start_over(site, options, "no point of this volume was ever committed").await;
    }
    // A later generation: we have written it before, and its bytes are no longer wanted.
    let never_ours = replica.ledger().last_pass().is_none() && replica.ledger().generation() == 0;
    if never_ours {
        check_blank(&FileDisk::open(&place.path, OpenOptions::read_only()).await?).await?;
    }
    Ok(replica)
}

/// Where a volume's files lie.
pub(super) fn site_of(place: &VolumePlace) -> Result<Arc<dyn ReplicaSite>> {
    Ok(match place.path.parent() == Some(place.records.as_path()) {
        true => Arc::new(FileSite::beside(&place.path)?),
        false => Arc::new(FileSite::in_folder(&place.path, &place.records, place.volume.id.as_str())),
    })
}

/// What is committed to a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) name: PointName,
    pub(super) capacity_bytes: u64,
    pub(super) first_digest: String,
    pub(super) last_digest: String,
}

impl Committed {
    pub(super) fn options(&self, place: &VolumePlace) -> Result<ReplicaOptions> {
        let point = Point { name: self.name.clone(), ends: Ends::from_hex(&self.first_digest, &self.last_digest)? };
        Ok(ReplicaOptions { identity: place.volume.id.to_string(), size: self.capacity_bytes, committed: Some(point) })
    }
}

/// Does something to a volume as soon as whoever holds it lets go. `alive` is told that the wait goes on.
///
/// # Errors
/// `Busy`, with the pid that holds it, after [`HOLD_TIME`].
pub(super) async fn when_free<'a, T>(
    cancel: &CancellationToken,
    alive: impl Fn(),
    mut attempt: impl FnMut() -> BoxFuture<'a, Result<T>>,
) -> Result<T> {
    let (end, mut pause) = (clock::now() + HOLD_TIME, HOLD_TRY);
    loop {
        match attempt().await {
            Err(error) if error.kind() == ErrorKind::Busy && clock::now() < end => {
                if pause == HOLD_TRY {
                    tracing::warn!(%error, "somebody holds a volume; it is waited for");
                }
                alive();
                if cancel.run_until_cancelled(clock::sleep(pause)).await.is_none() {
                    return Err(error);
                }
                pause = (pause * 2).min(LONGEST_TRY);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Held for so many seconds.
    async fn held(seconds: u64, cancel: &CancellationToken) -> (u32, Result<()>) {
        let (begun, signs) = (clock::now(), Cell::new(0));
        let attempt = || -> BoxFuture<'static, Result<()>> {
            let free = clock::now().duration_since(begun) >= Duration::from_secs(seconds);
            Box::pin(async move { if free { Ok(()) } else { Err(Error::new(ErrorKind::Busy, "open", "pid 7 holds it")) } })
        };
        let end = when_free(cancel, || signs.set(signs.get() + 1), attempt).await;
        (signs.get(), end)
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_a_volume_and_is_stopped_for_minutes_only_delays() {
        let (signs, end) = held(240, &CancellationToken::new()).await;
        assert!(end.is_ok() && signs > 100, "{signs} signs of life");
        assert_eq!(held(3600, &CancellationToken::new()).await.1.unwrap_err().kind(), ErrorKind::Busy);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_cancelled_does_not_wait() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert_eq!(held(240, &cancel).await.0, 1);
    }
}
