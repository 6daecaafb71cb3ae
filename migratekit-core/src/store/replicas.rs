//! What is known of a VM's replica: its disks (`vm_disks`), their volumes (`ossea_volumes`), its points (`replica_points`,
//! `replica_point_disks`) and the history of its passes (`cbt_history`).

use super::row::Row;
use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, JobId, PointId, VolumeId};
use crate::model::{
    CbtEntry, Disk, DiskSpec, Point, PointDisk, PointStatus, PointTrigger, SnapshotStatus, Volume, VolumeRole, VolumeStatus, VolumeTrigger,
};

const DISK: &str = "vm_disks.id, vm_disks.vm_context_id, vm_disks.disk_id, vm_dk_path, datastore, unit_number, label, capacity_bytes, \
     provisioning_type, disk_uuid, disk_change_id, bytes_synced, removed_at, vm_disks.created_at, vm_disks.updated_at, ossea_volumes.volume_id";

pub(super) const VOLUME: &str = "id, vm_context_id, disk_key, volume_id, volume_name, size_bytes, ossea_config_id, volume_type, device_path, generation, \
     status, made_by_job_id, snapshot_id, snapshot_created_at, snapshot_status, created_at, updated_at";

const POINT: &str = "id, vm_context_id, job_id, status, quiesced, taken_at, disk_count, committed_at, applied_at";

const POINT_DISK: &str =
    "point_id, vm_disk_id, disk_key, volume_id, change_id, capacity_bytes, first_digest, last_digest, pass, spool, applied";

/// Replicas, in one transaction.
#[derive(Debug)]
pub struct Replicas<'t>(&'t Tx);

/// A volume just made.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    /// The platform's id of it.
    pub id: &'a VolumeId,
    /// Its VM.
    pub context: &'a ContextId,
    /// The disk it is for.
    pub disk: DiskKey,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The job that made it.
    pub made_by: &'a JobId,
}

impl Tx {
    /// Replicas.
    #[must_use]
    pub fn replicas(&self) -> Replicas<'_> {
        Replicas(self)
    }
}

impl Replicas<'_> {
    fn now(&self) -> &'static str {
        dialect::now(self.0.backend())
    }

    /// The disks of a VM, those the source has no more included, in the order of their keys' text.
    pub async fn disks(&self, context: &ContextId) -> Result<Vec<Disk>> {
        let text = format!(
            "SELECT {DISK} FROM vm_disks LEFT JOIN ossea_volumes ON ossea_volumes.id = vm_disks.ossea_volume_id \
             WHERE vm_disks.vm_context_id = ? ORDER BY vm_disks.disk_id"
        );
        self.0.sql("read the disks of a VM", text).bind(context).all(disk).await
    }

    /// Writes down a disk as the source describes it; one that is known keeps its row, its volume and its change id.
    pub async fn see_disk(&self, context: &ContextId, spec: &DiskSpec) -> Result<()> {
        let columns = [
            "vm_dk_path",
            "datastore",
            "unit_number",
            "label",
            "capacity_bytes",
            "provisioning_type",
            "disk_uuid",
            "removed_at",
            "updated_at",
        ];
        let text = format!(
            "INSERT INTO vm_disks (vm_context_id, disk_id, vm_dk_path, datastore, unit_number, label, capacity_bytes, provisioning_type, \
             disk_uuid, removed_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, {now}, {now}){upsert}",
            now = self.now(),
            upsert = dialect::upsert(self.0.backend(), "vm_context_id, disk_id", &columns)
        );
        let statement = self.0.sql("write a disk down", text).bind(context).bind(spec.key).bind(&spec.path).bind(&spec.datastore);
        let statement = statement.bind(spec.unit_number).bind(&spec.label).bind(spec.capacity_bytes).bind(spec.provisioning.code());
        statement.bind(spec.uuid.as_ref()).run().await.map(|_| ())
    }

    /// The source has this disk no more; its replica is kept.
    pub async fn lose_disk(&self, context: &ContextId, key: DiskKey) -> Result<()> {
        let text = format!(
            "UPDATE vm_disks SET removed_at = COALESCE(removed_at, {0}), updated_at = {0} WHERE vm_context_id = ? AND disk_id = ?",
            self.now()
        );
        self.0.sql("mark a disk as removed", text).bind(context).bind(key).run_found("there is no such disk").await
    }

    /// What a pass left of a disk: the mark of the state that the new point holds, and the bytes moved. Only with the point's own commit.
    pub async fn set_change_id(&self, context: &ContextId, key: DiskKey, job: &JobId, change_id: Option<&str>, bytes: u64) -> Result<()> {
        let text = format!(
            "UPDATE vm_disks SET disk_change_id = ?, bytes_synced = ?, job_id = ?, updated_at = {} WHERE vm_context_id = ? AND disk_id = ?",
            self.now()
        );
        let statement = self.0.sql("store a change id", text).bind(change_id).bind(bytes).bind(job).bind(context).bind(key);
        statement.run_found("there is no such disk").await
    }

    /// The volumes of a VM.
    pub async fn volumes(&self, context: &ContextId) -> Result<Vec<Volume>> {
        let text = format!("SELECT {VOLUME} FROM ossea_volumes WHERE vm_context_id = ? ORDER BY disk_key");
        self.0.sql("read the volumes of a VM", text).bind(context).all(volume).await
    }

    /// Writes down a volume that was made, and gives it to its disk. Known already, nothing changes.
    pub async fn add_volume(&self, new: &NewVolume<'_>) -> Result<()> {
        if self.volumes(new.context).await?.iter().any(|volume| volume.id == *new.id) {
            return Ok(());
        }
        let text = format!(
            "INSERT INTO ossea_volumes (vm_context_id, disk_key, volume_id, volume_name, size_bytes, volume_type, status, made_by_job_id, \
             created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, {now}, {now})",
            now = self.now()
        );
        // It was made and found before this row is written.
        let status = VolumeStatus::Creating.next(VolumeTrigger::Place)?;
        let statement = self.0.sql("write a volume down", text).bind(new.context).bind(new.disk).bind(new.id).bind(new.id.as_str());
        let statement = statement.bind(new.size_bytes).bind(VolumeRole::Data.code()).bind(status.code()).bind(new.made_by);
        statement.run().await?;
        let text = format!(
            "UPDATE vm_disks SET ossea_volume_id = (SELECT id FROM ossea_volumes WHERE volume_id = ?), updated_at = {} \
             WHERE vm_context_id = ? AND disk_id = ?",
            self.now()
        );
        self.0.sql("give a volume to its disk", text).bind(new.id).bind(new.context).bind(new.disk).run_found("there is no such disk").await
    }

    /// The volume has this size now, in bytes.
    pub async fn resize_volume(&self, id: &VolumeId, size_bytes: u64) -> Result<()> {
        let text = format!("UPDATE ossea_volumes SET size_bytes = ?, updated_at = {} WHERE volume_id = ?", self.now());
        self.0.sql("store a volume's size", text).bind(size_bytes).bind(id).run_found("there is no such volume").await
    }

    /// The generation of the volume's ledger as a point is committed to it: what comes past the ledger later raises it above this.
    pub async fn set_generation(&self, id: &VolumeId, generation: u64) -> Result<()> {
        let text = format!("UPDATE ossea_volumes SET generation = ?, updated_at = {} WHERE volume_id = ?", self.now());
        self.0.sql("store a volume's generation", text).bind(generation).bind(id).run_found("there is no such volume").await
    }

    /// Forgets the volume of a disk; there may be none. [`ErrorKind::Busy`] when a point is in it.
    pub async fn forget_volume(&self, context: &ContextId, disk: DiskKey) -> Result<()> {
        const FORGET: &str = "forget a volume";
        let held = "SELECT 1 AS held FROM replica_point_disks JOIN ossea_volumes ON ossea_volumes.volume_id = replica_point_disks.volume_id \
             WHERE ossea_volumes.vm_context_id = ? AND ossea_volumes.disk_key = ? LIMIT 1";
        if self.0.sql(FORGET, held).bind(context).bind(disk).first(|row| row.int("held")).await?.is_some() {
            return Err(Error::new(ErrorKind::Busy, FORGET, "a point is in it").with("disk", disk));
        }
        let text = "DELETE FROM ossea_volumes WHERE vm_context_id = ? AND disk_key = ?";
        self.0.sql(FORGET, text).bind(context).bind(disk).run().await.map(|_| ())
    }

    /// Gives a VM's replica up, before the first of its volumes is removed: its points and change ids are gone, so that nobody takes what is
    /// left for a replica, and its volumes are marked, so that whoever goes on knows which are left. Given up already, nothing changes.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: a volume of it is attached.
    pub async fn give_up(&self, context: &ContextId) -> Result<Vec<Volume>> {
        const GIVE_UP: &str = "give a replica up";
        let volumes = self.volumes(context).await?;
        for volume in volumes.iter().filter(|volume| volume.status != VolumeStatus::Destroy) {
            if volume.status == VolumeStatus::Attached {
                let busy = Error::new(ErrorKind::Busy, GIVE_UP, "a volume of it is attached; detach it first");
                return Err(busy.with("volume", &volume.id));
            }
            self.0.volumes().change(volume, VolumeTrigger::Destroy).await?;
        }
        self.0.sql(GIVE_UP, "DELETE FROM replica_points WHERE vm_context_id = ?").bind(context).run().await?;
        let text = format!("UPDATE vm_disks SET disk_change_id = NULL, updated_at = {} WHERE vm_context_id = ?", self.now());
        self.0.sql(GIVE_UP, text).bind(context).run().await?;
        Ok(volumes)
    }

    /// The newest point of a VM that is in its volumes or on its way there, and its disks.
    pub async fn point(&self, context: &ContextId) -> Result<Option<(Point, Vec<PointDisk>)>> {
        let text = format!("SELECT {POINT} FROM replica_points WHERE vm_context_id = ? AND status <> ? ORDER BY seq DESC LIMIT 1");
        let statement = self.0.sql("read the point of a VM", text).bind(context).bind(PointStatus::Superseded.code());
        let Some(point) = statement.first(point).await? else { return Ok(None) };
        let text = format!("SELECT {POINT_DISK} FROM replica_point_disks WHERE point_id = ? ORDER BY disk_key");
        let disks = self.0.sql("read the disks of a point", text).bind(&point.id).all(point_disk).await?;
        Ok(Some((point, disks)))
    }

    /// Writes a point down with its disks, and supersedes the one before, which must be in the volumes. Written already, nothing changes.
    pub async fn commit_point(&self, new: &Point, disks: &[PointDisk]) -> Result<()> {
        if let Some((before, _)) = self.point(&new.context).await? {
            if before.id == new.id {
                return Ok(());
            }
            self.change_point(&before, PointTrigger::Supersede).await?;
        }
        let text = format!(
            "INSERT INTO replica_points (id, vm_context_id, job_id, seq, status, quiesced, taken_at, disk_count, committed_at) \
             SELECT ?, ?, ?, COALESCE(MAX(seq), 0) + 1, ?, ?, ?, ?, {} FROM replica_points WHERE vm_context_id = ?",
            self.now()
        );
        let statement =
            self.0.sql("commit a point", text).bind(&new.id).bind(&new.context).bind(&new.job).bind(PointStatus::Committed.code());
        statement.bind(new.quiesced).bind(new.taken_at).bind(new.disk_count).bind(&new.context).run().await?;
        for disk in disks {
            let text = "INSERT INTO replica_point_disks (point_id, vm_disk_id, disk_key, volume_id, change_id, capacity_bytes, first_digest, \
                 last_digest, pass, spool, applied) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let statement = self.0.sql("commit a point", text).bind(&disk.point).bind(disk.disk).bind(disk.key).bind(&disk.volume);
            let statement =
                statement.bind(disk.change_id.as_ref()).bind(disk.capacity_bytes).bind(&disk.first_digest).bind(&disk.last_digest);
            statement.bind(&disk.pass).bind(disk.spool.as_ref()).bind(disk.applied).run().await?;
        }
        Ok(())
    }

    /// The volumes hold all of the point. Known already, nothing changes.
    pub async fn applied(&self, point: &Point) -> Result<()> {
        if point.status == PointStatus::Applied {
            return Ok(());
        }
        self.change_point(point, PointTrigger::Apply).await?;
        let text = "UPDATE replica_point_disks SET applied = 1, spool = NULL WHERE point_id = ?";
        self.0.sql("mark a point as applied", text).bind(&point.id).run().await?;
        let text = format!("UPDATE replica_points SET applied_at = {} WHERE id = ?", self.now());
        self.0.sql("mark a point as applied", text).bind(&point.id).run().await.map(|_| ())
    }

    /// A disk of a point grew, by zeros: its size and its last block are others now. Size in bytes, digest in hexadecimal digits.
    pub async fn grow_point_disk(&self, point: &PointId, key: DiskKey, capacity_bytes: u64, first: &str, last: &str) -> Result<()> {
        let text =
            "UPDATE replica_point_disks SET capacity_bytes = ?, first_digest = ?, last_digest = ? WHERE point_id = ? AND disk_key = ?";
        let statement = self.0.sql("store that a disk of a point grew", text).bind(capacity_bytes).bind(first).bind(last);
        statement.bind(point).bind(key).run_found("the point has no such disk").await
    }

    async fn change_point(&self, point: &Point, on: PointTrigger) -> Result<()> {
        let text = "UPDATE replica_points SET status = ? WHERE id = ? AND status = ?";
        let statement = self.0.sql("change the state of a point", text).bind(point.status.next(on)?.code()).bind(&point.id);
        match statement.bind(point.status.code()).run().await? {
            0 => Err(Error::new(ErrorKind::Changed, "change the state of a point", "it is not what it was").with("point", &point.id)),
            _ => Ok(()),
        }
    }

    /// Keeps what a pass did to a disk.
    pub async fn add_history(&self, entry: &CbtEntry) -> Result<()> {
        let text = format!(
            "INSERT INTO cbt_history (vm_context_id, job_id, disk_id, change_id, previous_change_id, sync_type, blocks_changed, \
             bytes_transferred, sync_duration_seconds, sync_success, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {})",
            self.now()
        );
        let statement = self.0.sql("keep what a pass did", text).bind(&entry.context).bind(entry.job.as_ref()).bind(entry.disk);
        let statement = statement.bind(entry.change_id.as_ref()).bind(entry.previous_change_id.as_ref()).bind(entry.sync_type.code());
        let statement = statement.bind(entry.blocks_changed).bind(entry.bytes_transferred).bind(entry.duration_seconds);
        statement.bind(entry.success).run().await.map(|_| ())
    }

    /// What the last passes did to a VM's disks, newest first.
    pub async fn history(&self, context: &ContextId, limit: u32) -> Result<Vec<CbtEntry>> {
        let text = "SELECT vm_context_id, job_id, disk_id, change_id, previous_change_id, sync_type, blocks_changed, bytes_transferred, \
             sync_duration_seconds, sync_success, created_at FROM cbt_history WHERE vm_context_id = ? ORDER BY id DESC LIMIT ?";
        self.0.sql("read what passes did", text).bind(context).bind(limit).all(entry).await
    }
}

fn disk(row: &Row) -> Result<Disk> {
    Ok(Disk {
        id: row.number("id")?,
        context: row.parse("vm_context_id")?,
        spec: DiskSpec {
            key: row.parse("disk_id")?,
            path: row.text("vm_dk_path")?,
            capacity_bytes: row.number("capacity_bytes")?,
            datastore: row.text("datastore")?,
            unit_number: row.number_or_none("unit_number")?,
            label: row.text("label")?,
            provisioning: row.parse("provisioning_type")?,
            uuid: row.text_or_none("disk_uuid")?,
        },
        volume: row.parse_or_none("volume_id")?,
        change_id: row.text_or_none("disk_change_id")?,
        bytes_synced: row.number("bytes_synced")?,
        removed_at: row.time_or_none("removed_at")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

pub(super) fn volume(row: &Row) -> Result<Volume> {
    Ok(Volume {
        row: row.number("id")?,
        id: row.parse("volume_id")?,
        context: row.parse("vm_context_id")?,
        disk: row.parse("disk_key")?,
        name: row.text("volume_name")?,
        size_bytes: row.number("size_bytes")?,
        cloud_config: row.number_or_none("ossea_config_id")?,
        role: row.parse("volume_type")?,
        device_path: row.text_or_none("device_path")?,
        status: row.parse("status")?,
        generation: row.number("generation")?,
        made_by: row.parse_or_none("made_by_job_id")?,
        snapshot_id: row.text_or_none("snapshot_id")?,
        snapshot_created_at: row.time_or_none("snapshot_created_at")?,
        snapshot_status: row.parse::<SnapshotStatus>("snapshot_status")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn point(row: &Row) -> Result<Point> {
    Ok(Point {
        id: row.parse("id")?,
        context: row.parse("vm_context_id")?,
        job: row.parse("job_id")?,
        status: row.parse("status")?,
        taken_at: row.time("taken_at")?,
        committed_at: row.time("committed_at")?,
        applied_at: row.time_or_none("applied_at")?,
        quiesced: row.flag("quiesced")?,
        disk_count: row.number("disk_count")?,
    })
}

fn point_disk(row: &Row) -> Result<PointDisk> {
    Ok(PointDisk {
        point: row.parse("point_id")?,
        disk: row.number("vm_disk_id")?,
        key: row.parse("disk_key")?,
        volume: row.parse("volume_id")?,
        capacity_bytes: row.number("capacity_bytes")?,
        change_id: row.text_or_none("change_id")?,
        first_digest: row.text("first_digest")?,
        last_digest: row.text("last_digest")?,
        pass: row.text("pass")?,
        spool: row.text_or_none("spool")?,
        applied: row.flag("applied")?,
    })
}

pub(super) fn entry(row: &Row) -> Result<CbtEntry> {
    Ok(CbtEntry {
        context: row.parse("vm_context_id")?,
        job: row.parse_or_none("job_id")?,
        disk: row.parse("disk_id")?,
        change_id: row.text_or_none("change_id")?,
        previous_change_id: row.text_or_none("previous_change_id")?,
        sync_type: row.parse("sync_type")?,
        blocks_changed: row.number("blocks_changed")?,
        bytes_transferred: row.number("bytes_transferred")?,
        duration_seconds: row.number("sync_duration_seconds")?,
        success: row.flag("sync_success")?,
        created_at: row.time("created_at")?,
    })
}
