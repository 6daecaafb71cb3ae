//! A pass over a replica: what the mover writes into, and how it ends.
//!
//! Whether it is the volume itself (no point to protect yet) or a spool, it is an export with a ledger: it can be served by NBD, with
//! passes and epochs, or written here through a view; what was flushed is known to the run that continues it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::point::{Ends, Point, PointName};
use super::record::Phase;
use super::{Inner, Replica};
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent};
use crate::copy::engine::ResumeMap;
use crate::copy::export::LedgeredExport;
use crate::copy::served::LedgerMap;
use crate::copy::spool::Spool;
use crate::error::Result;
use crate::nbd::export::Export;
use crate::planted::planted;
use crate::task::{CancellationToken, Passed};
use crate::units::ByteRange;

/// Where a pass writes.
#[derive(Clone)]
pub(super) enum Destination {
    /// The volume, which holds no point yet.
    Volume,
    /// A spool; another object after a failed flush.
    Spool(Arc<Mutex<Spool>>),
}

/// A pass that is under way; made by [`Replica::begin`]. Dropped, it can be continued by the same call.
pub struct ReplicaPass {
    pub(super) replica: Replica,
    pub(super) point: PointName,
    pub(super) export: LedgeredExport,
    pub(super) into: Destination,
    pub(super) resumed: bool,
    /// One pass, or one settling, at a time.
    pub(super) _turn: OwnedMutexGuard<()>,
}

impl ReplicaPass {
    /// The export, ready for [`nbd::Server::add_fenced`](crate::nbd::Server::add_fenced). Take it off the server before
    /// [`ReplicaPass::complete`]; what still comes then is refused.
    #[must_use]
    pub fn export(&self) -> Arc<dyn Export> {
        Arc::new(self.export.clone())
    }

    /// The disk as a mover in this process writes it, for the pass of this id.
    ///
    /// # Errors
    /// As [`LedgeredExport::view`].
    pub async fn view(&self, pass: &str) -> Result<Arc<dyn BlockWrite>> {
        self.export.view(Some(pass)).await
    }

    /// What is proven already of the pass of this id: for [`CopyOptions::resume`](crate::copy::CopyOptions::resume).
    #[must_use]
    pub fn resume_map(&self, pass: &str) -> Arc<dyn ResumeMap> {
        Arc::new(LedgerMap { ledger: Arc::clone(self.export.ledger()), pass: pass.to_owned() })
    }

    /// The id of the last pass that wrote here: what a run that continues resumes.
    #[must_use]
    pub fn last_pass(&self) -> Option<String> {
        self.export.ledger().last_pass()
    }

    /// Whether an interrupted pass of this point was found.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Whether it writes straight into the volume, which held no point.
    #[must_use]
    pub fn is_first(&self) -> bool {
        matches!(self.into, Destination::Volume)
    }

    /// All bytes of the point are written, and the mover's own last flush succeeded: takes no more, flushes, seals, and records it durably. A spool is now *complete*; whether it
    /// is *committed* is decided elsewhere, for all disks of the VM at once, and [`Replica::settle`] told. A first pass makes the
    /// volume hold the point.
    ///
    /// # Errors
    /// As flushing fails: the pass is not complete, and can be continued by [`Replica::begin`].
    pub async fn complete(self) -> Result<Point> {
        self.export.retire().await?;
        let (ends, spool) = match &self.into {
            Destination::Volume => (Ends::of(&*self.export.disk()).await?, None),
            Destination::Spool(slot) => {
                let spool = current(slot);
                (spool.complete().await?, Some(spool))
            }
        };
        let point = Point { name: self.point.clone(), ends };
        let inner = &self.replica.inner;
        match spool {
            None => inner.first_point(&point).await?,
            Some(spool) => {
                inner.put_spool(spool);
                if !planted("commit-before-complete") {
                    inner.set_phase(Phase::Sealed).await?;
                }
            }
        }
        if planted("apply-before-commit") && !self.is_first() {
            inner.apply(&Passed::default(), &CancellationToken::new()).await?;
        }
        Ok(point)
    }

    /// Ends this run without completing the pass: what was written is flushed and known to the next [`Replica::begin`].
    ///
    /// # Errors
    /// As the flush fails.
    pub async fn suspend(self) -> Result<()> {
        self.export.retire().await
    }
}

pub(super) fn current(slot: &Mutex<Spool>) -> Spool {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The spool of a pass, read past the page cache: for digests.
pub(super) struct PastCache {
    pub(super) info: BlockInfo,
    pub(super) slot: Arc<Mutex<Spool>>,
    pub(super) base: Arc<dyn BlockRead>,
    pub(super) file: Arc<dyn BlockRead>,
}

impl BlockRead for PastCache {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move { current(&self.slot).read_by(&*self.base, &*self.file, range).await })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { current(&self.slot).extents(range).await })
    }
}

impl Inner {
    /// Stops those who still write for an earlier pass of this process, and waits for what they have under way. A complete spool is
    /// only read.
    pub(super) async fn stop_last(&self) {
        let Some((export, into)) = self.state().last.take() else { return };
        if let Err(error) = export.retire().await {
            tracing::warn!(volume = self.site.name(), %error, "what an earlier run wrote last is not known to be there");
        }
        match into {
            Destination::Spool(slot) if !current(&slot).is_sealed() => current(&slot).stop().await,
            _ => {}
        }
    }

    /// The volume wholly holds its first point.
    async fn first_point(&self, point: &Point) -> Result<()> {
        self.record_commit(point).await?;
        self.change_record(|record| record.holds = Some(super::record::Held::new(point))).await
    }
}
