//! A site as an inventory and as a source: the traits, in terms of this folder's files.

use std::path::Path;
use std::sync::Arc;

use super::{LocalSite, file, snapshots};
use crate::block::{BlockRead, BoxFuture, FileDisk, OpenOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::platform::capability::SourceCapabilities;
use crate::platform::machine::{Inventory, Listed, Machine};
use crate::platform::names::{ChangeId, MachineRef, SnapshotName};
use crate::platform::source::{Changes, Snapshot, SnapshotListed, Source};
use crate::task::{self, CancellationToken, Passed};

impl Inventory for LocalSite {
    fn machines(&self) -> BoxFuture<'_, Result<Vec<Listed>>> {
        let site = self.clone();
        Box::pin(async move { task::blocking(move || file::list(&site)).await? })
    }
}

impl Source for LocalSite {
    fn capabilities(&self) -> SourceCapabilities {
        self.source_capabilities()
    }

    fn describe<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Machine>> {
        let (site, machine) = (self.clone(), machine.clone());
        Box::pin(async move { task::blocking(move || file::describe(&site, &machine)).await? })
    }

    fn snapshots<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Vec<SnapshotListed>>> {
        let (site, machine) = (self.clone(), machine.clone());
        Box::pin(async move { task::blocking(move || snapshots::list(&site, &machine)).await? })
    }

    fn create_snapshot<'a>(
        &'a self,
        machine: &'a MachineRef,
        name: &'a SnapshotName,
        passed: &'a Passed,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        Box::pin(snapshots::create(self, machine, name, passed, cancel))
    }

    fn find_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        let (site, machine, name) = (self.clone(), machine.clone(), name.clone());
        Box::pin(async move { task::blocking(move || snapshots::find(&site, &machine, &name)).await? })
    }

    fn remove_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<bool>> {
        Box::pin(snapshots::remove(self, machine, name))
    }

    fn open_disk<'a>(&'a self, snapshot: &'a Snapshot, disk: DiskKey) -> BoxFuture<'a, Result<Arc<dyn BlockRead>>> {
        Box::pin(async move {
            let frozen = snapshot.disk(disk)?;
            let open = FileDisk::open(Path::new(&frozen.file), OpenOptions::read_only()).await?;
            if open.info().size != frozen.size_bytes {
                return Err(Error::new(ErrorKind::Changed, "open a frozen disk", "its file has not the size it had when it was frozen")
                    .with("path", &frozen.file)
                    .with("size_was", frozen.size_bytes)
                    .with("size_is", open.info().size));
            }
            Ok(Arc::new(open) as Arc<dyn BlockRead>)
        })
    }

    fn changes<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        disk: DiskKey,
        since: &'a ChangeId,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Changes>> {
        Box::pin(async move {
            let frozen = snapshot.disk(disk)?;
            tokio::select! {
                answer = snapshots::changes(self, snapshot, frozen, since) => answer,
                () = cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "ask what changed", "it was cancelled").with("disk", disk)),
            }
        })
    }
}
