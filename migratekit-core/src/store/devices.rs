//! Where volumes appear: attached to which machine and as which device here (`device_mappings`), mounted where (`volume_mounts`).

use super::contexts::MAX_PAGE;
use super::row::Row;
use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, MappingId, VolumeId, VolumeRow};
use crate::model::{DeviceMapping, OperationMode, VolumeMount};

/// The devices of volumes, in one transaction.
#[derive(Debug)]
pub struct Devices<'t>(&'t Tx);

/// The mounts of volumes, in one transaction.
#[derive(Debug)]
pub struct Mounts<'t>(&'t Tx);

/// A volume just attached.
#[derive(Debug, Clone, Copy)]
pub struct NewDevice<'a> {
    /// The volume.
    pub volume: &'a VolumeId,
    /// The machine it is attached to.
    pub vm_id: &'a str,
    /// Whose it is.
    pub mode: OperationMode,
    /// The cloud's number of the device.
    pub cloud_device_id: Option<u32>,
    /// The cloud's word for its state.
    pub cloud_state: &'a str,
    /// Its size, in bytes.
    pub size_bytes: u64,
}

impl Tx {
    /// The devices of volumes.
    #[must_use]
    pub fn devices(&self) -> Devices<'_> {
        Devices(self)
    }

    /// The mounts of volumes.
    #[must_use]
    pub fn mounts(&self) -> Mounts<'_> {
        Mounts(self)
    }
}

const DEVICE: &str = "id, vm_context_id, volume_uuid, vm_id, operation_mode, cloudstack_device_id, device_path, cloudstack_state, linux_state, \
     size_bytes, last_sync, created_at, updated_at";

/// `device_mappings.linux_state` of a device that was found here.
const DETECTED: &str = "detected";
/// And of one that was not.
const NOT_HERE: &str = "n/a";

impl Devices<'_> {
    fn now(&self) -> &'static str {
        dialect::now(self.0.backend())
    }

    /// Writes down to what a volume was attached; its device is not known yet.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]: it is attached already. [`ErrorKind::NotFound`]: the catalog has no such volume.
    pub async fn attach(&self, new: &NewDevice<'_>) -> Result<DeviceMapping> {
        const ATTACH: &str = "write a volume's device down";
        let text = format!(
            "INSERT INTO device_mappings (id, vm_context_id, volume_uuid, vm_id, operation_mode, cloudstack_device_id, cloudstack_state, \
             linux_state, size_bytes, created_at, updated_at) \
             SELECT ?, vm_context_id, volume_id, ?, ?, ?, ?, ?, ?, {now}, {now} FROM ossea_volumes WHERE volume_id = ?",
            now = self.now()
        );
        let statement = self.0.sql(ATTACH, text).bind(&MappingId::generate()).bind(new.vm_id).bind(new.mode.code());
        let statement = statement.bind(new.cloud_device_id).bind(new.cloud_state).bind(NOT_HERE).bind(new.size_bytes);
        statement.bind(new.volume).run_found("there is no such volume").await?;
        let gone = || Error::new(ErrorKind::Internal, ATTACH, "the new row is not there");
        self.of_volume(new.volume).await?.ok_or_else(gone)
    }

    /// The device of a volume; none while it is attached to nothing.
    pub async fn of_volume(&self, volume: &VolumeId) -> Result<Option<DeviceMapping>> {
        self.first("volume_uuid", volume.as_str()).await
    }

    /// The volume that is this device here.
    pub async fn by_path(&self, path: &str) -> Result<Option<DeviceMapping>> {
        self.first("device_path", path).await
    }

    async fn first(&self, column: &'static str, value: &str) -> Result<Option<DeviceMapping>> {
        let text = format!("SELECT {DEVICE} FROM device_mappings WHERE {column} = ?");
        self.0.sql("look for a volume's device", text).bind(value).first(device).await
    }

    /// The volumes that are attached to a machine, at most 1000.
    pub async fn of_machine(&self, vm_id: &str) -> Result<Vec<DeviceMapping>> {
        let text = format!("SELECT {DEVICE} FROM device_mappings WHERE vm_id = ? ORDER BY id LIMIT {MAX_PAGE}");
        self.0.sql("list a machine's volumes", text).bind(vm_id).all(device).await
    }

    /// All devices behind `after`, at most 1000: what the cloud and this host are compared with.
    pub async fn page(&self, after: Option<&MappingId>) -> Result<Vec<DeviceMapping>> {
        let text = format!("SELECT {DEVICE} FROM device_mappings WHERE id > ? ORDER BY id LIMIT {MAX_PAGE}");
        self.0.sql("list devices", text).bind(after.map_or("", MappingId::as_str)).all(device).await
    }

    /// The device was found here, or is here no more. [`ErrorKind::AlreadyExists`]: another volume is this device.
    pub async fn found(&self, seen: &DeviceMapping, path: Option<&str>) -> Result<()> {
        let text = format!("UPDATE device_mappings SET device_path = ?, linux_state = ?, updated_at = {} WHERE id = ?", self.now());
        let state = if path.is_some() { DETECTED } else { NOT_HERE };
        self.0.sql("note a volume's device", text).bind(path).bind(state).bind(&seen.id).run_found(NO_DEVICE).await
    }

    /// The cloud was asked: its word for the state, and its number of the device.
    pub async fn synced(&self, seen: &DeviceMapping, cloud_state: &str, cloud_device_id: Option<u32>) -> Result<()> {
        let text = format!(
            "UPDATE device_mappings SET cloudstack_state = ?, cloudstack_device_id = ?, last_sync = {0}, updated_at = {0} WHERE id = ?",
            self.now()
        );
        let statement = self.0.sql("note what the cloud says of a volume", text).bind(cloud_state).bind(cloud_device_id);
        statement.bind(&seen.id).run_found(NO_DEVICE).await
    }

    /// The volume goes over to a failover's machine, or comes back, provided it is as it was read; [`ErrorKind::Changed`] otherwise. Its
    /// device there is not known yet.
    pub async fn switch(&self, seen: &DeviceMapping, vm_id: &str) -> Result<OperationMode> {
        let to = seen.mode.other();
        let text = format!(
            "UPDATE device_mappings SET operation_mode = ?, vm_id = ?, cloudstack_device_id = NULL, device_path = NULL, linux_state = ?, \
             updated_at = {} WHERE id = ? AND operation_mode = ? AND vm_id = ?",
            self.now()
        );
        let statement = self.0.sql("switch a volume's mode", text).bind(to.code()).bind(vm_id).bind(NOT_HERE).bind(&seen.id);
        match statement.bind(seen.mode.code()).bind(&seen.vm_id).run().await? {
            0 => Err(Error::new(ErrorKind::Changed, "switch a volume's mode", "it is not what it was").with("volume", &seen.volume)),
            _ => Ok(to),
        }
    }

    /// The volume was detached.
    pub async fn detach(&self, volume: &VolumeId) -> Result<()> {
        let text = "DELETE FROM device_mappings WHERE volume_uuid = ?";
        self.0.sql("forget a volume's device", text).bind(volume).run_found(NO_DEVICE).await
    }
}

const NO_DEVICE: &str = "the volume is attached to nothing";

impl Mounts<'_> {
    /// Writes down that a volume is mounted.
    pub async fn mounted(&self, new: &VolumeMount) -> Result<()> {
        let text = "INSERT INTO volume_mounts (ossea_volume_id, job_id, device_path, mount_point, filesystem_type, is_read_only, mounted_at, \
             unmounted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        let statement = self.0.sql("note a mount", text).bind(new.volume).bind(new.job.as_ref()).bind(&new.device_path);
        let statement = statement.bind(&new.mount_point).bind(new.filesystem.as_ref()).bind(new.is_read_only).bind(new.mounted_at);
        statement.bind(new.unmounted_at).run().await.map(|_| ())
    }

    /// Writes down that nothing is mounted there any more.
    pub async fn unmounted(&self, volume: VolumeRow, mount_point: &str) -> Result<()> {
        let text = format!(
            "UPDATE volume_mounts SET unmounted_at = {} WHERE ossea_volume_id = ? AND mount_point = ? AND unmounted_at IS NULL",
            dialect::now(self.0.backend())
        );
        self.0.sql("note the end of a mount", text).bind(volume).bind(mount_point).run_found("nothing of it is mounted there").await
    }

    /// What is mounted, by one job or by all, oldest first, at most 1000: what a crash left is unmounted by it.
    pub async fn open(&self, job: Option<&JobId>) -> Result<Vec<VolumeMount>> {
        let of = if job.is_some() { " AND job_id = ?" } else { "" };
        let text = format!(
            "SELECT ossea_volume_id, job_id, device_path, mount_point, filesystem_type, is_read_only, mounted_at, unmounted_at \
             FROM volume_mounts WHERE unmounted_at IS NULL{of} ORDER BY id LIMIT {MAX_PAGE}"
        );
        let statement = self.0.sql("list mounts", text);
        let statement = if let Some(job) = job { statement.bind(job) } else { statement };
        statement.all(mount).await
    }
}

fn device(row: &Row) -> Result<DeviceMapping> {
    Ok(DeviceMapping {
        id: row.parse("id")?,
        context: row.parse("vm_context_id")?,
        volume: row.parse("volume_uuid")?,
        vm_id: row.text("vm_id")?,
        mode: row.parse("operation_mode")?,
        cloud_device_id: row.number_or_none("cloudstack_device_id")?,
        device_path: row.text_or_none("device_path")?,
        cloud_state: row.text("cloudstack_state")?,
        seen_here: row.text("linux_state")? == DETECTED,
        size_bytes: row.number("size_bytes")?,
        last_sync: row.time_or_none("last_sync")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn mount(row: &Row) -> Result<VolumeMount> {
    Ok(VolumeMount {
        volume: row.number("ossea_volume_id")?,
        job: row.parse_or_none("job_id")?,
        device_path: row.text("device_path")?,
        mount_point: row.text("mount_point")?,
        filesystem: row.text_or_none("filesystem_type")?,
        is_read_only: row.flag("is_read_only")?,
        mounted_at: row.time("mounted_at")?,
        unmounted_at: row.time_or_none("unmounted_at")?,
    })
}
