//! Settling a pass: it was committed, and is applied; or it was abandoned, and is removed.

use std::sync::Arc;

use super::point::{Point, PointName};
use super::record::{Held, PassRecord, Phase};
use super::{Inner, Replica};
use crate::copy::ledger::Commit;
use crate::copy::spool::ApplyTo;
use crate::error::{Error, ErrorKind, Result};
use crate::planted::planted;
use crate::task::{CancellationToken, Passed};

/// What was decided of a pass, once, for all disks of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This point is the committed one.
    Committed(PointName),
    /// The pass that lies beside the volume, if any, is given up.
    Abandoned,
}

/// What settling did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The spool was applied: the volume holds the committed point.
    Applied,
    /// The volume held the committed point already. A pass to another point, if one lies beside it, is left for its own decision.
    Held,
    /// A spool was removed; the volume was not touched.
    Removed,
    /// There was nothing to do.
    Nothing,
}

impl Replica {
    /// Does what was decided. Idempotent: after a crash, an error or a cancellation it is called again with the same decision, and
    /// needs no source. With `Committed` of the pass's point the spool is applied; with `Abandoned` it is removed.
    ///
    /// # Errors
    /// `Mismatch`: the volume neither holds the committed point nor has a complete spool of it (both are named); the pass to be
    /// abandoned is being applied, so it was committed before; or the spool is damaged, with what the volume holds then. `Busy`:
    /// somebody reads the point that would be overwritten. `Cancelled`. Else as reading and writing fail.
    pub async fn settle(&self, decision: &Decision, cancel: &CancellationToken) -> Result<Settled> {
        self.settle_telling(decision, &Passed::default(), cancel).await
    }

    /// As [`Replica::settle`], which may take long: `passed` is told what is read and checked of the spool, and then what of it is written,
    /// in pieces of at most 1 GiB (of zeros; of data 4 MiB).
    ///
    /// # Errors
    /// As [`Replica::settle`].
    pub async fn settle_telling(&self, decision: &Decision, passed: &Passed, cancel: &CancellationToken) -> Result<Settled> {
        let _turn = self.inner.take_turn("settle a pass")?;
        self.inner.stop_last().await;
        if planted("commit-before-complete") {
            self.inner.set_phase(Phase::Sealed).await?;
        }
        let record = self.inner.state().record.clone();
        match (decision, record.pass) {
            (Decision::Committed(point), Some(pass)) if pass.point == *point && pass.phase != Phase::Writing => {
                self.inner.apply(passed, cancel).await?;
                Ok(Settled::Applied)
            }
            (Decision::Committed(point), pass) => {
                let mixed = pass.as_ref().is_some_and(|pass| pass.phase == Phase::Applying);
                if mixed || record.holds.is_none_or(|held| held.name() != point) {
                    return Err(self.inner.other_point("settle a pass", point));
                }
                if pass.is_none() {
                    self.inner.site.remove_spool().await?;
                }
                Ok(Settled::Held)
            }
            (Decision::Abandoned, Some(pass)) => {
                self.inner.abandon(&pass).await?;
                Ok(Settled::Removed)
            }
            (Decision::Abandoned, None) => {
                self.inner.site.remove_spool().await?;
                Ok(Settled::Nothing)
            }
        }
    }
}

impl Inner {
    async fn abandon(&self, pass: &PassRecord) -> Result<()> {
        if pass.phase == Phase::Applying {
            return Err(Error::new(
                ErrorKind::Mismatch,
                "abandon a pass",
                "it was committed before: the volume is being brought to its point",
            )
            .with("volume", self.site.name())
            .with("point", &pass.point)
            .with("base", &pass.base));
        }
        self.carry_epoch(pass).await?;
        self.change_record(|record| record.pass = None).await?;
        self.state().spool = None;
        self.site.remove_spool().await
    }

    /// Brings the volume to the point of the complete spool.
    pub(super) async fn apply(&self, passed: &Passed, cancel: &CancellationToken) -> Result<()> {
        let Some(pass) = self.state().record.pass.clone() else { return Ok(()) };
        let first = pass.phase == Phase::Sealed;
        let advise = |e: Error| match (e.kind(), first) {
            (ErrorKind::Mismatch, true) => {
                e.with("next", format!("the volume still holds {}: abandon the pass and replicate again", pass.base))
            }
            (ErrorKind::Mismatch, false) => e.with("next", "the volume holds no point by itself: start over and replicate in full"),
            _ => e,
        };
        let spool = self.sealed_spool(&pass).await.map_err(advise)?;
        let ends = spool.ends()?.ok_or_else(|| Error::new(ErrorKind::Internal, "apply a spool", "it is not sealed"))?;
        if first {
            spool.verify(passed, cancel).await.map_err(advise)?;
            self.begin_applying(&pass.base)?;
            if let Err(e) = self.set_phase(Phase::Applying).await {
                // Not known whether it was recorded; the volume was not touched, so either is right.
                self.state().applying = false;
                return Err(e);
            }
        }
        let followed = self.unseal().await? && !self.is_stale(&pass);
        let (volume, ledger) = (Arc::clone(&self.volume.disk), Arc::clone(&self.ledger));
        let ledger_pass = ledger.begin_pass(pass.point.as_str()).await?;
        spool
            .apply(ApplyTo { volume: Arc::clone(&volume), ledger: Arc::clone(&ledger), pass: ledger_pass }, passed, cancel)
            .await
            .map_err(advise)?;
        ledger.begin_flush();
        let flushed = volume.flush().await;
        ledger.end_flush(flushed.is_ok());
        ledger.save(true).await?;
        flushed?;
        let point = Point { name: pass.point.clone(), ends };
        // What somebody else wrote beside the spool's bytes is still there: the next pass compares.
        if followed {
            self.record_commit(&point).await?;
        }
        self.carry_epoch(&pass).await?;
        self.change_record(|record| (record.holds, record.pass) = (Some(Held::new(&point)), None)).await?;
        {
            let mut state = self.state();
            (state.spool, state.applying) = (None, false);
        }
        self.site.remove_spool().await
    }

    /// Nobody may be reading the point that is about to be overwritten, and nobody may begin to.
    fn begin_applying(&self, base: &PointName) -> Result<()> {
        let mut state = self.state();
        state.readers.retain(|(_, reader)| reader.strong_count() > 0);
        if state.readers.iter().any(|(point, _)| point == base) {
            return Err(Error::new(ErrorKind::Busy, "apply a spool", "somebody reads the point that it would overwrite")
                .with("volume", self.site.name())
                .with("point", base));
        }
        state.applying = true;
        Ok(())
    }

    /// Records in the volume's ledger what it is recognized by.
    pub(super) async fn record_commit(&self, point: &Point) -> Result<()> {
        let Point { name, ends } = point;
        self.ledger.commit(Commit { pass: name.to_string(), first: ends.first, last: ends.last }).await
    }

    /// The highest epoch that the spool's export admitted is kept beside the volume: an old writer stays out.
    async fn carry_epoch(&self, pass: &PassRecord) -> Result<()> {
        let epoch = self.spool_ledger(&pass.spool).await?.highest_epoch();
        self.ledger.raise_epoch(epoch).await
    }
}
