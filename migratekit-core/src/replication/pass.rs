//! One disk's part of a pass: ask what changed, copy it, complete the spool.
//!
//! ```text
//!  incremental ─▶ changes(since) ─┬─ areas ─────────────┐
//!                                 └─ refused ─┐         ├─▶ begin ─▶ copy ─▶ complete: the ends
//!  compare ─▶ digests of both sides ◀─────────┘─ areas ─┤
//!  full ─▶ all of it, straight into the volume ─────────┘
//! ```
//!
//! Idempotent: what an interrupted run has proven in the spool is not copied again, and a disk that was complete stays so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::again::again;
use super::differing::differing;
use super::disks::PlannedDisk;
use crate::block::{BlockRead, Extent, ExtentKind, ExtentMap};
use crate::clock;
use crate::copy::{
    Copy, CopyOptions, Decision, Ends, Holding, LocalDigests, PointName, Progress as CopyProgress, ProgressSnapshot, ReadMode, Replica,
    ReplicaPass,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::model::SyncType;
use crate::platform::{ChangeId, Changes, Snapshot, Source};
use crate::task::CancellationToken;

/// What one disk's part needs.
pub(super) struct DiskPass {
    pub(super) source: Arc<dyn Source>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) disk: PlannedDisk,
    pub(super) replica: Replica,
    /// The point the replica holds, if any is committed.
    pub(super) committed: Option<PointName>,
    /// The point it is brought to. It also names the pass in the ledger: one point is one state of the source.
    pub(super) point: PointName,
    /// What came of the disk in a run that was interrupted later.
    pub(super) earlier: Option<DiskDone>,
    pub(super) progress: Arc<DiskProgress>,
    pub(super) cancel: CancellationToken,
}

/// How far one disk is, in bytes; read while it runs.
#[derive(Debug, Default)]
pub(super) struct DiskProgress {
    total: AtomicU64,
    compared: AtomicU64,
    copy: Mutex<Option<Arc<CopyProgress>>>,
}

impl DiskProgress {
    /// Bytes dealt with, and bytes in all. A comparison is part of the way.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let copied = self.copy.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |copy| copy.snapshot().bytes_done);
        let total = self.total.load(Ordering::Relaxed);
        (self.compared.load(Ordering::Relaxed).saturating_add(copied).min(total), total)
    }

    /// Bytes written so far, zeros among them.
    pub(super) fn written(&self) -> u64 {
        let counts = self.copy.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|copy| copy.snapshot()).unwrap_or_default();
        counts.bytes_written.saturating_add(counts.bytes_zeroed)
    }

    fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A disk whose part is complete, and not yet committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDone {
    /// Which.
    pub key: DiskKey,
    /// How it was brought up to date.
    pub sync: SyncType,
    /// Why its change id was not believed, if it was not: then it was compared.
    pub refused: Option<String>,
    /// Its size in bytes.
    pub capacity_bytes: u64,
    /// The source's mark of the state it was brought to.
    pub change_id: ChangeId,
    /// BLAKE3 of the first MiB, in hexadecimal digits.
    pub first_digest: String,
    /// BLAKE3 of the last MiB.
    pub last_digest: String,
    /// It went straight into a volume that held no point; there is no spool to apply.
    pub direct: bool,
    /// Areas that the source named or the comparison found.
    pub areas: u64,
    /// Bytes read at the source for the copy, not counting a comparison.
    pub bytes_read: u64,
    /// Bytes of data written.
    pub bytes_written: u64,
    /// Bytes written as zeros.
    pub bytes_zeroed: u64,
    /// Bytes of the disk that were not touched, because they had not changed.
    pub bytes_skipped: u64,
    /// Bytes an earlier run of the same pass had proven.
    pub bytes_resumed: u64,
    /// How long it took, in seconds.
    pub seconds: u64,
    /// The generation of the volume that it was added to.
    #[serde(default)]
    pub generation: u64,
}

/// What is to be copied, and how that was found.
struct Found {
    sync: SyncType,
    refused: Option<String>,
    /// None: all of it.
    areas: Option<ExtentMap>,
}

impl DiskPass {
    /// Brings the disk to the point, up to and with the completion of its spool.
    ///
    /// # Errors
    /// As the source, the copy and the replica say; what was written is kept for the next run of the same pass.
    pub(super) async fn run(self) -> Result<DiskDone> {
        let key = self.disk.key;
        self.run_disk().await.map_err(|e| e.with("disk", key))
    }

    async fn run_disk(self) -> Result<DiskDone> {
        let begun = clock::now();
        let change_id = self.snapshot.disk(self.disk.key)?.change_id.clone();
        if self.replica.is_stale() {
            tracing::warn!(disk = %self.disk.key, "somebody wrote the volume since this pass was begun; it begins again");
            self.replica.settle(&Decision::Abandoned, &self.cancel).await?;
        }
        if let Some(ends) = self.complete_already().await? {
            if let Some(earlier) = &self.earlier {
                return Ok(earlier.clone());
            }
            let found = Found { sync: self.disk.sync, refused: None, areas: None };
            return Ok(self.done(found, change_id, ends, ProgressSnapshot::default(), 0));
        }
        let frozen = again(&self.cancel, || self.source.open_disk(&self.snapshot, self.disk.key)).await?;
        if frozen.info().size != self.disk.capacity_bytes {
            return Err(Error::new(ErrorKind::Changed, "copy a disk", "its size changed between the look at the machine and its snapshot")
                .with("size_was", self.disk.capacity_bytes)
                .with("size_is", frozen.info().size));
        }
        let found = self.find(&frozen).await?;
        let expected = found.areas.as_ref().map_or(self.disk.capacity_bytes, ExtentMap::total);
        let pass = self.replica.begin(&self.point, expected).await?;
        match self.copy(&pass, frozen, &found).await {
            Ok(counts) => {
                let ends = pass.complete().await?.ends;
                Ok(self.done(found, change_id, ends, counts, clock::now().duration_since(begun).as_secs()))
            }
            Err(error) => {
                if let Err(late) = pass.suspend().await {
                    tracing::warn!(disk = %self.disk.key, error = %late, "what was copied is not known to the next run");
                }
                Err(error)
            }
        }
    }

    /// The ends of the point when an earlier run completed this disk.
    async fn complete_already(&self) -> Result<Option<Ends>> {
        let sealed = self.replica.pending().is_some_and(|pending| pending.complete && pending.point == self.point);
        if sealed {
            return Ends::of(&self.replica.reader(&self.point).await?).await.map(Some);
        }
        match self.replica.holding() {
            Holding::Point(point) if point == self.point => Ok(self.replica.held()?.map(|held| held.ends)),
            _ => Ok(None),
        }
    }

    /// Changes are asked for only where they are added to what they are changes of: a volume that somebody else wrote is compared.
    async fn find(&self, frozen: &Arc<dyn BlockRead>) -> Result<Found> {
        let mut refused = None;
        if self.committed.as_ref().is_some_and(|point| !self.replica.is_followed(point)) {
            const WRITTEN: &str = "the volume was written by another way, or what is known of it was lost";
            tracing::warn!(disk = %self.disk.key, "{WRITTEN}; the disk is compared");
            refused = Some(WRITTEN.to_owned());
        } else if let Some(since) = &self.disk.since {
            let answer = again(&self.cancel, || self.source.changes(&self.snapshot, self.disk.key, since, &self.cancel)).await?;
            match answer {
                Changes::Areas(areas) => return Ok(Found { sync: SyncType::Incremental, refused, areas: Some(areas) }),
                Changes::Refused(why) => {
                    tracing::warn!(disk = %self.disk.key, why, "the change id is not believed; the disk is compared");
                    refused = Some(why);
                }
            }
        }
        if self.disk.sync == SyncType::Full {
            return Ok(Found { sync: SyncType::Full, refused, areas: None });
        }
        let areas = self.compare(frozen).await?;
        Ok(Found { sync: SyncType::Compare, refused, areas: Some(areas) })
    }

    async fn compare(&self, frozen: &Arc<dyn BlockRead>) -> Result<ExtentMap> {
        let Some(committed) = &self.committed else {
            return Err(Error::new(ErrorKind::Internal, "compare a disk with its replica", "the replica holds no point"));
        };
        self.progress.expect(frozen.info().size);
        let ours = LocalDigests::new(Arc::clone(frozen), ReadMode::Cached);
        let theirs = LocalDigests::new(Arc::new(self.replica.reader(committed).await?), ReadMode::Cached);
        differing(&ours, &theirs, &self.cancel, |bytes| {
            self.progress.compared.fetch_add(bytes, Ordering::Relaxed);
        })
        .await
    }

    async fn copy(&self, pass: &ReplicaPass, frozen: Arc<dyn BlockRead>, found: &Found) -> Result<ProgressSnapshot> {
        self.progress.expect(found.areas.as_ref().map_or(self.disk.capacity_bytes, ExtentMap::total));
        let options = CopyOptions {
            extents: found.areas.as_ref().map(extents),
            explicit_zeros: true,
            resume: Some(pass.resume_map(self.point.as_str())),
            cancel: self.cancel.clone(),
            ..CopyOptions::default()
        };
        let copy = Copy::new(frozen, pass.view(self.point.as_str()).await?, options)?;
        *self.progress.copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy.progress());
        Ok(copy.run().await?.counts)
    }

    fn done(&self, found: Found, change_id: ChangeId, ends: Ends, counts: ProgressSnapshot, seconds: u64) -> DiskDone {
        let (first_digest, last_digest) = ends.to_hex();
        let touched = found.areas.as_ref().map_or(self.disk.capacity_bytes, ExtentMap::total);
        DiskDone {
            key: self.disk.key,
            sync: found.sync,
            refused: found.refused,
            capacity_bytes: self.disk.capacity_bytes,
            change_id,
            first_digest,
            last_digest,
            direct: self.committed.is_none(),
            areas: found.areas.as_ref().map_or(1, |areas| areas.len() as u64),
            bytes_read: counts.bytes_read,
            bytes_written: counts.bytes_written,
            bytes_zeroed: counts.bytes_zeroed,
            bytes_skipped: self.disk.capacity_bytes.saturating_sub(touched),
            bytes_resumed: counts.bytes_resumed,
            seconds,
            generation: self.replica.ledger().generation(),
        }
    }
}

fn extents(areas: &ExtentMap) -> Vec<Extent> {
    areas.iter().map(|(range, ())| Extent { range, kind: ExtentKind::Data }).collect()
}
