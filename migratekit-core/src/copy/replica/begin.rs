//! Beginning a pass: where it writes, and what is known of an earlier run of it.

use std::sync::{Arc, Mutex, PoisonError};

use super::Inner;
use super::pass::{Destination, PastCache, current};
use super::record::PassRecord;
use super::site::SiteDisk;
use crate::block::{BlockRead, BlockWrite};
use crate::copy::export::{ExportOptions, LedgeredExport, Reopen};
use crate::copy::spool::{Spool, SpoolName};
use crate::error::{Error, ErrorKind, Result};

impl Inner {
    /// A pass straight into the volume.
    pub(super) async fn straight_to_volume(&self) -> Result<(LedgeredExport, Destination, bool)> {
        let reopen = self.volume.reopen.clone().map(|reopen| Box::new(move || reopen()) as Reopen);
        let options =
            ExportOptions { description: self.site.name(), reopen, uncached: self.volume.uncached.clone(), ..ExportOptions::default() };
        // It holds no point: what somebody else wrote is written over.
        self.unseal().await?;
        let resumed = self.ledger.last_pass().is_some();
        let export = LedgeredExport::new(Arc::clone(&self.volume.disk), Arc::clone(&self.ledger), options)?;
        Ok((export, Destination::Volume, resumed))
    }

    /// A pass into a spool: that which is there, or a new one.
    pub(super) async fn by_spool(&self, pass: PassRecord, expected: u64) -> Result<(LedgeredExport, Destination, bool)> {
        let name = self.name_of(&pass);
        let found = match self.site.open_spool().await? {
            Some(disk) if !pass.spool.is_empty() => {
                let spool = Spool::open(Arc::clone(&disk.disk), Arc::clone(&self.volume.disk) as _, &name).await?;
                spool.filter(|spool| spool.id() == pass.spool).map(|spool| (spool, disk))
            }
            _ => None,
        };
        let there = found.as_ref().map_or(0, |(spool, _)| spool.holds().0);
        Spool::check_room(&self.site.name(), expected.saturating_sub(there), self.site.free_bytes().await?)?;
        let (spool, disk, resumed) = match found {
            Some((spool, disk)) if spool.is_sealed() => (spool.unseal().await?, disk, true),
            Some((spool, disk)) => (spool, disk, true),
            None => {
                let disk = self.site.create_spool(Spool::file_size(self.size)).await?;
                (Spool::create(Arc::clone(&disk.disk), Arc::clone(&self.volume.disk) as _, &name).await?, disk, false)
            }
        };
        let ledger = self.spool_ledger(spool.id()).await?;
        ledger.raise_epoch(self.ledger.highest_epoch()).await?;
        if !resumed {
            let pass = PassRecord { spool: spool.id().to_owned(), ..pass };
            self.change_record(|record| record.pass = Some(pass)).await?;
        }
        let slot = Arc::new(Mutex::new(spool));
        let export = LedgeredExport::new(Arc::new(current(&slot)), ledger, self.spool_options(&slot, disk, name))?;
        Ok((export, Destination::Spool(slot), resumed))
    }

    fn spool_options(&self, slot: &Arc<Mutex<Spool>>, disk: SiteDisk, name: SpoolName) -> ExportOptions {
        let uncached = match (&self.volume.uncached, disk.uncached) {
            (Some(base), Some(file)) => {
                let info = current(slot).info().clone();
                Some(Arc::new(PastCache { info, slot: Arc::clone(slot), base: Arc::clone(base), file }) as Arc<dyn BlockRead>)
            }
            _ => None,
        };
        let (site, base, slot) = (Arc::clone(&self.site), Arc::clone(&self.volume.disk), Arc::clone(slot));
        let reopen: Reopen = Box::new(move || {
            let (site, base, slot, name) = (Arc::clone(&site), Arc::clone(&base), Arc::clone(&slot), name.clone());
            Box::pin(async move {
                let gone = || Error::new(ErrorKind::NotFound, "open a spool again", "it is gone").with("volume", site.name());
                // What the old object has under way must not land beside the new one's.
                current(&slot).stop().await;
                let disk = site.open_spool().await?.ok_or_else(gone)?;
                let spool = Spool::open(disk.disk, base as _, &name).await?.ok_or_else(gone)?;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = spool.clone();
                Ok(Arc::new(spool) as Arc<dyn BlockWrite>)
            })
        });
        ExportOptions { description: self.site.name(), reopen: Some(reopen), uncached, ..ExportOptions::default() }
    }
}
