//! Volumes served by NBD, as the catalog knows them: `nbd_exports`.

use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskId, Epoch, ExportId, JobId, VolumeId};
use crate::model::{Export, ExportStatus};

/// The most exports of one VM: disks it can have, and then some.
const MOST: u32 = 1000;

/// Exports, in one transaction.
#[derive(Debug)]
pub struct Exports<'t>(&'t Tx);

/// An export as it begins.
#[derive(Debug, Clone, Copy)]
pub struct NewExport<'a> {
    /// Its VM.
    pub context: &'a ContextId,
    /// The job it is served for.
    pub job: Option<&'a JobId>,
    /// The volume.
    pub volume: &'a VolumeId,
    /// The disk whose replica it is.
    pub disk: Option<DiskId>,
    /// Its name, unique.
    pub name: &'a str,
    /// The TCP port; none for a Unix socket.
    pub port: Option<u16>,
    /// The device or file behind it.
    pub device_path: Option<&'a str>,
    /// The lowest epoch it admits.
    pub epoch: Epoch,
}

impl Tx {
    /// Exports.
    #[must_use]
    pub fn exports(&self) -> Exports<'_> {
        Exports(self)
    }
}

const COLUMNS: &str =
    "id, vm_context_id, job_id, volume_id, vm_disk_id, export_name, port, device_path, epoch, status, created_at, updated_at";

impl Exports<'_> {
    /// Writes a new export down, pending. [`ErrorKind::AlreadyExists`] when the name is taken.
    pub async fn add(&self, new: &NewExport<'_>, at: Timestamp) -> Result<Export> {
        let text = "INSERT INTO nbd_exports (vm_context_id, job_id, volume_id, vm_disk_id, export_name, port, device_path, epoch, status, \
             created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let statement = self.0.sql("add an export", text).bind(new.context).bind(new.job).bind(new.volume).bind(new.disk).bind(new.name);
        let statement = statement.bind(new.port).bind(new.device_path).bind(new.epoch).bind(ExportStatus::Pending.code());
        statement.bind(at).bind(at).run().await?;
        self.by_name(new.name).await?.ok_or_else(|| Error::new(ErrorKind::Internal, "add an export", "the new row is not there"))
    }

    /// The export of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<Export>> {
        self.0.sql("look for an export", format!("SELECT {COLUMNS} FROM nbd_exports WHERE export_name = ?")).bind(name).first(read).await
    }

    /// The exports of a VM.
    pub async fn of(&self, context: &ContextId) -> Result<Vec<Export>> {
        let text = format!("SELECT {COLUMNS} FROM nbd_exports WHERE vm_context_id = ? ORDER BY export_name LIMIT {MOST}");
        self.0.sql("list a VM's exports", text).bind(context).all(read).await
    }

    /// Changes the status of an export, provided it is as it was read; [`ErrorKind::Changed`] otherwise.
    pub async fn set_status(&self, seen: &Export, to: ExportStatus) -> Result<()> {
        let text =
            format!("UPDATE nbd_exports SET status = ?, updated_at = {} WHERE id = ? AND status = ?", dialect::now(self.0.backend()));
        changed(self.0.sql("change an export", text).bind(to.code()).bind(seen.id).bind(seen.status.code()).run().await?, seen.id)
    }

    /// Raises the lowest epoch that an export admits, for the job that has it; it never falls: [`ErrorKind::Changed`] when it is higher already.
    pub async fn raise(&self, id: ExportId, epoch: Epoch, job: &JobId) -> Result<()> {
        let text = format!(
            "UPDATE nbd_exports SET epoch = ?, job_id = ?, updated_at = {} WHERE id = ? AND epoch <= ?",
            dialect::now(self.0.backend())
        );
        changed(self.0.sql("raise an export's epoch", text).bind(epoch).bind(job).bind(id).bind(epoch).run().await?, id)
    }

    /// Forgets an export that is no more.
    pub async fn remove(&self, id: ExportId) -> Result<()> {
        self.0.sql("forget an export", "DELETE FROM nbd_exports WHERE id = ?").bind(id).run_found("there is no such export").await
    }
}

fn changed(rows: u64, id: ExportId) -> Result<()> {
    match rows {
        0 => Err(Error::new(ErrorKind::Changed, "change an export", "it is not what it was").with("export", id)),
        _ => Ok(()),
    }
}

fn read(row: &Row) -> Result<Export> {
    Ok(Export {
        id: row.number("id")?,
        context: row.parse("vm_context_id")?,
        job: row.parse_or_none("job_id")?,
        volume: row.parse("volume_id")?,
        disk: row.number_or_none("vm_disk_id")?,
        name: row.text("export_name")?,
        port: row.number_or_none("port")?,
        device_path: row.text_or_none("device_path")?,
        epoch: row.number("epoch")?,
        status: row.parse("status")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
