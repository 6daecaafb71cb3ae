//! Volumes served by NBD, as the catalog knows them: `nbd_exports`, and the older names of exports, by VM and disk: `vm_export_mappings`.

use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskId, Epoch, ExportId, JobId, VolumeId};
use crate::model::{Export, ExportMapping, ExportStatus, MappingStatus};

/// The most exports of one VM: disks it can have, and then some.
const MOST: u32 = 1000;

/// Exports, in one transaction.
#[derive(Debug)]
pub struct Exports<'t>(&'t Tx);

/// The older names of exports, in one transaction.
#[derive(Debug)]
pub struct ExportNames<'t>(&'t Tx);

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

    /// The older names of exports.
    #[must_use]
    pub fn export_names(&self) -> ExportNames<'_> {
        ExportNames(self)
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

impl ExportNames<'_> {
    /// Gives a VM's disk the name of its export, or the one that it had before: a name stays with its disk, and is in use again.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]: the name or the device is another disk's.
    pub async fn assign(&self, new: &ExportMapping) -> Result<ExportMapping> {
        const ASSIGN: &str = "give an export its name";
        let now = dialect::now(self.0.backend());
        let text = format!(
            "UPDATE vm_export_mappings SET vm_name = ?, device_path = ?, status = ?, updated_at = {now} WHERE vm_id = ? AND disk_unit_number = ?"
        );
        let statement = self.0.sql(ASSIGN, text).bind(&new.vm_name).bind(new.device_path.as_ref()).bind(new.status.code());
        if statement.bind(&new.vm_id).bind(new.disk_unit_number).run().await? == 0 {
            let text = format!(
                "INSERT INTO vm_export_mappings (vm_id, disk_unit_number, vm_name, export_name, device_path, status, created_at, updated_at) \
                 VALUES (?, ?, ?, ?, ?, ?, {now}, {now})"
            );
            let statement = self.0.sql(ASSIGN, text).bind(&new.vm_id).bind(new.disk_unit_number).bind(&new.vm_name);
            statement.bind(&new.export_name).bind(new.device_path.as_ref()).bind(new.status.code()).run().await?;
        }
        let text = format!("SELECT {MAPPING} FROM vm_export_mappings WHERE vm_id = ? AND disk_unit_number = ?");
        self.0.sql(ASSIGN, text).bind(&new.vm_id).bind(new.disk_unit_number).one("the new row is not there", mapping).await
    }

    /// The names of a VM's exports, by disk.
    pub async fn of(&self, vm_id: &str) -> Result<Vec<ExportMapping>> {
        let text = format!("SELECT {MAPPING} FROM vm_export_mappings WHERE vm_id = ? ORDER BY disk_unit_number LIMIT {MOST}");
        self.0.sql("list the names of a VM's exports", text).bind(vm_id).all(mapping).await
    }

    /// A VM's exports are not in use any more; their names stay theirs.
    pub async fn retire(&self, vm_id: &str) -> Result<u64> {
        let text = format!(
            "UPDATE vm_export_mappings SET status = ?, device_path = NULL, updated_at = {} WHERE vm_id = ?",
            dialect::now(self.0.backend())
        );
        self.0.sql("end the use of a VM's exports", text).bind(MappingStatus::Inactive.code()).bind(vm_id).run().await
    }
}

const MAPPING: &str = "vm_id, disk_unit_number, vm_name, export_name, device_path, status, created_at, updated_at";

fn mapping(row: &Row) -> Result<ExportMapping> {
    Ok(ExportMapping {
        vm_id: row.text("vm_id")?,
        disk_unit_number: row.number("disk_unit_number")?,
        vm_name: row.text("vm_name")?,
        export_name: row.text("export_name")?,
        device_path: row.text_or_none("device_path")?,
        status: row.parse("status")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
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
