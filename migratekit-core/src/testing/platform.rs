//! What every platform must do in its roles, whatever it is: run on each adapter, with a *rig* that plays the world behind it.
//!
//! What is tested follows from the adapter's [`Capabilities`](crate::platform::Capabilities). An error names the step.

use std::sync::Arc;

use crate::block::{BlockRead, BoxFuture, ExtentMap};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, JobId, VolumeId};
use crate::platform::{
    ChangeId, Changes, Inventory, Machine, MachineRef, Snapshot, SnapshotListed, SnapshotName, Source, SourceCapabilities, Target,
    TargetCapabilities, Volume, VolumeListed, VolumePlace, VolumeTag, check_blank,
};
use crate::task::{CancellationToken, Passed};
use crate::units::{ByteRange, MIB};

/// The world behind a source: a machine that is off, with two disks or more of 1 to 16 MiB, and what happens to it.
pub trait SourceRig: Send + Sync {
    /// The source.
    fn source(&self) -> Arc<dyn Source>;

    /// Its inventory.
    fn inventory(&self) -> Arc<dyn Inventory>;

    /// The machine. It has no snapshot.
    fn machine(&self) -> MachineRef;

    /// The bytes of a disk now.
    fn bytes(&self, disk: DiskKey) -> Vec<u8>;

    /// The guest writes.
    fn write(&self, disk: DiskKey, offset: u64, bytes: &[u8]);

    /// Makes a disk this large.
    fn grow(&self, disk: DiskKey, size: u64);

    /// Somebody else takes a snapshot of this name.
    fn foreign_snapshot(&self, name: &str);

    /// What the platform knows of changes of this disk is lost.
    fn lose_changes(&self, disk: DiskKey);
}

fn broken(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Mismatch, "keep the contract of a platform", text)
}

fn ensure(holds: bool, text: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(broken(text)) }
}

fn kind_of<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

/// A source under test.
struct SourceCheck<'a> {
    rig: &'a dyn SourceRig,
    source: Arc<dyn Source>,
    machine: MachineRef,
    cancel: CancellationToken,
}

/// Checks that a source keeps the contract of [`crate::platform`].
///
/// # Errors
/// `Mismatch` with the step, when it does not; else what the source says.
pub async fn check_source(rig: &dyn SourceRig) -> Result<()> {
    let check = SourceCheck { rig, source: rig.source(), machine: rig.machine(), cancel: CancellationToken::new() };
    let step = |name: &'static str| move |e: Error| e.with("step", name);
    let machine = check.describes().await.map_err(step("describe"))?;
    let keys: Vec<DiskKey> = machine.disks.iter().map(|d| d.key).collect();
    check.unknown().await.map_err(step("unknown things"))?;
    check.names().await.map_err(step("names"))?;
    check.frozen(&keys).await.map_err(step("frozen bytes"))?;
    check.changed(&keys).await.map_err(step("changes"))?;
    check.refused(&keys).await.map_err(step("change ids not believed"))?;
    check.cancelled().await.map_err(step("cancellation"))?;
    check.foreign().await.map_err(step("foreign snapshots"))
}

impl SourceCheck<'_> {
    async fn snap(&self) -> Result<Snapshot> {
        self.source.create_snapshot(&self.machine, &SnapshotName::of(&JobId::generate()), &Passed::default(), &self.cancel).await
    }

    async fn drop_snapshot(&self, snapshot: &Snapshot) -> Result<()> {
        let removed = self.source.remove_snapshot(&self.machine, &snapshot.name).await?;
        ensure(removed, "removing a snapshot says there was none")
    }

    async fn areas(&self, snapshot: &Snapshot, disk: DiskKey, since: &ChangeId) -> Result<ExtentMap> {
        match self.source.changes(snapshot, disk, since, &self.cancel).await? {
            Changes::Areas(areas) => Ok(areas),
            Changes::Refused(why) => Err(broken(format!("a good change id is refused: {why}"))),
        }
    }

    async fn describes(&self) -> Result<Machine> {
        let machine = self.source.describe(&self.machine).await?;
        ensure(machine.disks.len() >= 2, "the rig's machine has fewer than two disks")?;
        ensure(machine.disks.windows(2).all(|pair| matches!(pair, [a, b] if a.key < b.key)), "disks are not in the order of their keys")?;
        for disk in &machine.disks {
            ensure(disk.capacity_bytes == self.rig.bytes(disk.key).len() as u64, "a disk's size is wrong")?;
        }
        let listed = self.rig.inventory().machines().await?;
        let found: Vec<_> = listed.iter().filter_map(|l| l.machine.as_ref().ok()).filter(|m| m.reference == self.machine).collect();
        ensure(found == [&machine], "the inventory does not list the machine as it is described, once")?;
        Ok(machine)
    }

    async fn unknown(&self) -> Result<()> {
        let nobody: MachineRef = "no-such-machine".parse()?;
        let name = SnapshotName::of(&JobId::generate());
        ensure(kind_of(self.source.describe(&nobody).await) == Some(ErrorKind::NotFound), "a machine that is not there is described")?;
        let made = self.source.create_snapshot(&nobody, &name, &Passed::default(), &self.cancel).await;
        ensure(kind_of(made) == Some(ErrorKind::NotFound), "a snapshot of a machine that is not there")?;
        ensure(self.source.find_snapshot(&self.machine, &name).await?.is_none(), "a snapshot that was never made is found")?;
        ensure(!self.source.remove_snapshot(&self.machine, &name).await?, "a snapshot that was never made is removed")
    }

    async fn names(&self) -> Result<()> {
        let made = self.snap().await?;
        let again = self.source.create_snapshot(&self.machine, &made.name, &Passed::default(), &self.cancel).await;
        ensure(kind_of(again) == Some(ErrorKind::AlreadyExists), "a second snapshot of the same name is made")?;
        ensure(
            self.source.find_snapshot(&self.machine, &made.name).await?.as_ref() == Some(&made),
            "the snapshot is not found as it was made",
        )?;
        let listed = self.source.snapshots(&self.machine).await?;
        ensure(
            listed.len() == 1 && listed.iter().all(|l| l.ours.as_ref() == Some(&made.name)),
            "the snapshot is not listed as ours, once",
        )?;
        self.drop_snapshot(&made).await?;
        ensure(self.source.find_snapshot(&self.machine, &made.name).await?.is_none(), "a removed snapshot is found")?;
        ensure(!self.source.remove_snapshot(&self.machine, &made.name).await?, "a snapshot is removed twice")?;
        ensure(self.source.snapshots(&self.machine).await?.is_empty(), "a removed snapshot is listed")
    }

    /// What is written after a snapshot is not seen in it.
    async fn frozen(&self, keys: &[DiskKey]) -> Result<()> {
        let before: Vec<Vec<u8>> = keys.iter().map(|key| self.rig.bytes(*key)).collect();
        let made = self.snap().await?;
        for key in keys {
            self.rig.write(*key, 7, b"written after the snapshot");
        }
        for (key, bytes) in keys.iter().zip(&before) {
            let disk = self.source.open_disk(&made, *key).await?;
            ensure(disk.info().read_only, "a frozen disk can be written")?;
            ensure(read_all(&*disk).await? == *bytes, "a frozen disk has not the bytes of its moment")?;
            ensure(made.disk(*key)?.size_bytes == bytes.len() as u64, "a frozen disk's size is wrong")?;
        }
        let other = self.source.open_disk(&made, DiskKey::new(u32::MAX)).await;
        ensure(kind_of(other) == Some(ErrorKind::NotFound), "a disk that is not in the snapshot is opened")?;
        self.drop_snapshot(&made).await
    }

    /// Every byte that differs lies in the areas told, over one and over several snapshots; where nothing changed nothing is told.
    async fn changed(&self, keys: &[DiskKey]) -> Result<()> {
        let first = self.snap().await?;
        self.drop_snapshot(&first).await?;
        let then: Vec<Vec<u8>> = keys.iter().map(|key| self.rig.bytes(*key)).collect();
        let (Some(key), Some(size)) = (keys.first().copied(), then.first().map(|b| b.len() as u64)) else { return Ok(()) };
        for offset in [0, size / 2 + 1, size - 1] {
            self.rig.write(key, offset, &[0xa5]);
        }
        let second = self.snap().await?;
        let areas = self.areas(&second, key, &first.disk(key)?.change_id).await?;
        covers(&areas, then.first().map_or(&[], Vec::as_slice), &self.rig.bytes(key))?;
        for other in keys.iter().skip(1) {
            ensure(self.areas(&second, *other, &first.disk(*other)?.change_id).await?.is_empty(), "a disk nobody wrote to has changes")?;
        }
        ensure(self.areas(&second, key, &second.disk(key)?.change_id).await?.is_empty(), "changes since the snapshot itself")?;
        self.drop_snapshot(&second).await?;

        self.rig.write(key, size / 3, b"once more");
        self.rig.grow(key, size + MIB + 512);
        let third = self.snap().await?;
        let areas = self.areas(&third, key, &first.disk(key)?.change_id).await?;
        covers(&areas, then.first().map_or(&[], Vec::as_slice), &self.rig.bytes(key))?;
        ensure(areas.covers(ByteRange::between(size, size + MIB + 512)), "the new part of a disk that grew is not told as changed")?;
        self.drop_snapshot(&third).await
    }

    async fn refused(&self, keys: &[DiskKey]) -> Result<()> {
        let (Some(key), Some(other)) = (keys.first().copied(), keys.get(1).copied()) else { return Ok(()) };
        let first = self.snap().await?;
        self.drop_snapshot(&first).await?;
        let second = self.snap().await?;
        let nonsense: ChangeId = "52 de c0 de/1".parse()?;
        let unbelievable = [("nonsense", &nonsense), ("another disk's", &first.disk(other)?.change_id)];
        for (what, id) in unbelievable {
            let answer = self.source.changes(&second, key, id, &self.cancel).await?;
            if !matches!(answer, Changes::Refused(ref why) if !why.is_empty()) {
                return Err(broken(format!("a change id is believed that is {what}")));
            }
        }
        self.rig.lose_changes(key);
        let answer = self.source.changes(&second, key, &first.disk(key)?.change_id, &self.cancel).await?;
        ensure(matches!(answer, Changes::Refused(_)), "a change id is believed of which all knowledge was lost")?;
        self.drop_snapshot(&second).await?;
        // From here on it is known again.
        let third = self.snap().await?;
        ensure(self.areas(&third, key, &third.disk(key)?.change_id).await?.is_empty(), "changes since the snapshot itself, after a loss")?;
        self.drop_snapshot(&third).await
    }

    async fn cancelled(&self) -> Result<()> {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let name = SnapshotName::of(&JobId::generate());
        match self.source.create_snapshot(&self.machine, &name, &Passed::default(), &cancel).await {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Cancelled => {}
            Err(e) => return Err(e),
        }
        self.source.remove_snapshot(&self.machine, &name).await?;
        ensure(self.source.snapshots(&self.machine).await?.is_empty(), "a cancelled snapshot cannot be removed by its name")
    }

    async fn foreign(&self) -> Result<()> {
        self.rig.foreign_snapshot("nightly");
        let listed = self.source.snapshots(&self.machine).await?;
        ensure(
            listed.len() == 1 && listed.iter().all(|l| l.ours.is_none() && l.name == "nightly"),
            "a foreign snapshot is not told as it is",
        )
    }
}

async fn read_all(disk: &dyn BlockRead) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in ByteRange::whole(disk.info().size)?.pieces(MIB) {
        bytes.extend_from_slice(&disk.read(piece).await?);
    }
    Ok(bytes)
}

/// Whether all that differs lies in `areas`, and these in the disk.
fn covers(areas: &ExtentMap, then: &[u8], now: &[u8]) -> Result<()> {
    ensure(areas.iter().all(|(range, ())| range.end() <= now.len() as u64), "a changed area lies outside the disk")?;
    let missed = then.iter().zip(now).zip(0u64..).find(|((a, b), at)| a != b && areas.get(*at).is_none());
    match missed {
        None => Ok(()),
        Some((_, at)) => Err(broken(format!("the change at {at} is not told"))),
    }
}

/// Checks that a target keeps the contract of [`crate::platform`]. It makes volumes of a few MiB and removes them; those it had stay.
///
/// # Errors
/// `Mismatch` with the step, when it does not; else what the target says.
pub async fn check_target(target: &dyn Target) -> Result<()> {
    let step = |name: &'static str| move |e: Error| e.with("step", name);
    let before = target.volumes().await?.len();
    let tag = VolumeTag { context: ContextId::generate(), disk: DiskKey::new(2000) };
    let other = VolumeTag { disk: DiskKey::new(2001), ..tag.clone() };
    let volume = target_makes(target, &tag, &other).await.map_err(step("make"))?;
    target_opens(target, &volume).await.map_err(step("open"))?;
    if target.capabilities().resize {
        target_grows(target, &volume).await.map_err(step("grow"))?;
    }
    target_removes(target, &tag, volume).await.map_err(step("remove"))?;
    ensure(target.volumes().await?.len() == before, "volumes are left")
}

async fn target_makes(target: &dyn Target, tag: &VolumeTag, other: &VolumeTag) -> Result<Volume> {
    ensure(target.find_volume(tag).await?.is_none(), "a volume that was never made is found")?;
    ensure(kind_of(target.create_volume(tag, 0).await) == Some(ErrorKind::InvalidInput), "a volume without bytes is made")?;
    let asked = 3 * MIB + 512;
    let volume = target.create_volume(tag, asked).await?;
    let step = target.capabilities().size_step_bytes.max(1);
    ensure(volume.size_bytes == asked.next_multiple_of(step), "the volume has another size than asked for, rounded up")?;
    ensure(volume.tag == *tag && !volume.serial.is_empty(), "the volume has not its tag, or no serial number")?;
    ensure(target.find_volume(tag).await?.as_ref() == Some(&volume), "the volume is not found as it was made")?;
    ensure(kind_of(target.create_volume(tag, asked).await) == Some(ErrorKind::AlreadyExists), "a second volume with the same tag is made")?;
    ensure(target.find_volume(other).await?.is_none(), "another disk's volume is found")?;
    let second = target.create_volume(other, MIB).await?;
    ensure(second.id != volume.id && second.serial != volume.serial, "two volumes have the same id or serial number")?;
    ensure(target.remove_volume(&second.id).await?, "removing a volume says there was none")?;
    Ok(volume)
}

async fn target_opens(target: &dyn Target, volume: &Volume) -> Result<()> {
    let place = target.open_volume(volume).await?;
    ensure(place.volume == *volume, "the volume is opened as another")?;
    ensure(place.records.is_dir(), "there is no folder for its records")?;
    let disk = crate::block::FileDisk::open(&place.path, crate::block::OpenOptions::default()).await?;
    ensure(disk.info().size == volume.size_bytes, "the volume has another size than it says")?;
    if target.capabilities().zeroed {
        check_blank(&disk).await?;
    }
    ensure(kind_of(target.remove_volume(&volume.id).await) == Some(ErrorKind::Busy), "a volume is removed that is open for writing")?;
    drop(disk);
    let changes: [fn(&mut Volume); 3] =
        [|v| v.tag.disk = DiskKey::new(9), |v| v.serial.push('0'), |v| v.size_bytes = v.size_bytes.saturating_add(MIB)];
    for change in changes {
        let mut wrong = volume.clone();
        change(&mut wrong);
        ensure(kind_of(target.open_volume(&wrong).await) == Some(ErrorKind::Changed), "a volume is opened that is not the expected one")?;
    }
    Ok(())
}

async fn target_grows(target: &dyn Target, volume: &Volume) -> Result<()> {
    let larger = target.resize_volume(&volume.id, volume.size_bytes + 1).await?;
    ensure(larger.size_bytes > volume.size_bytes && larger.id == volume.id, "the volume did not grow")?;
    let same = target.resize_volume(&volume.id, MIB).await?;
    ensure(same == larger, "a volume was made smaller")?;
    let place = target.open_volume(volume).await?;
    ensure(place.volume == larger, "a volume that grew is not opened as it is now")
}

async fn target_removes(target: &dyn Target, tag: &VolumeTag, volume: Volume) -> Result<()> {
    ensure(target.remove_volume(&volume.id).await?, "removing a volume says there was none")?;
    ensure(!target.remove_volume(&volume.id).await?, "a volume is removed twice")?;
    ensure(target.find_volume(tag).await?.is_none(), "a removed volume is found")?;
    ensure(kind_of(target.open_volume(&volume).await) == Some(ErrorKind::NotFound), "a removed volume is opened")?;
    let grown = target.resize_volume(&volume.id, 2 * volume.size_bytes).await;
    ensure(matches!(kind_of(grown), Some(ErrorKind::NotFound | ErrorKind::Unsupported)), "a removed volume grows")?;
    let again = target.create_volume(tag, MIB).await?;
    ensure(again.id != volume.id, "the id of a removed volume is given again")?;
    let unknown = target.remove_volume(&VolumeId::generate()).await?;
    ensure(!unknown, "a volume that was never made is removed")?;
    target.remove_volume(&again.id).await.map(|_| ())
}

/// Which calls fail, by their names.
struct Faults(Box<dyn Fn(&'static str) -> Option<Error> + Send + Sync>);

impl Faults {
    fn call<'a, T>(&'a self, name: &'static str, call: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>>
    where
        T: Send + 'a,
    {
        match (self.0)(name) {
            None => call,
            Some(error) => Box::pin(async move { Err(error) }),
        }
    }
}

/// A source whose calls may fail before they are made.
pub struct FaultySource {
    inner: Arc<dyn Source>,
    faults: Faults,
}

impl FaultySource {
    /// `fail` is told the name of each call, and gives the error it shall fail with.
    #[must_use]
    pub fn new(inner: Arc<dyn Source>, fail: impl Fn(&'static str) -> Option<Error> + Send + Sync + 'static) -> Self {
        FaultySource { inner, faults: Faults(Box::new(fail)) }
    }
}

impl Source for FaultySource {
    fn capabilities(&self) -> SourceCapabilities {
        self.inner.capabilities()
    }

    fn describe<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Machine>> {
        self.faults.call("describe", self.inner.describe(machine))
    }

    fn snapshots<'a>(&'a self, machine: &'a MachineRef) -> BoxFuture<'a, Result<Vec<SnapshotListed>>> {
        self.faults.call("snapshots", self.inner.snapshots(machine))
    }

    fn create_snapshot<'a>(
        &'a self,
        machine: &'a MachineRef,
        name: &'a SnapshotName,
        passed: &'a Passed,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        self.faults.call("create_snapshot", self.inner.create_snapshot(machine, name, passed, cancel))
    }

    fn find_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        self.faults.call("find_snapshot", self.inner.find_snapshot(machine, name))
    }

    fn remove_snapshot<'a>(&'a self, machine: &'a MachineRef, name: &'a SnapshotName) -> BoxFuture<'a, Result<bool>> {
        self.faults.call("remove_snapshot", self.inner.remove_snapshot(machine, name))
    }

    fn open_disk<'a>(&'a self, snapshot: &'a Snapshot, disk: DiskKey) -> BoxFuture<'a, Result<Arc<dyn BlockRead>>> {
        self.faults.call("open_disk", self.inner.open_disk(snapshot, disk))
    }

    fn changes<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        disk: DiskKey,
        since: &'a ChangeId,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Changes>> {
        self.faults.call("changes", self.inner.changes(snapshot, disk, since, cancel))
    }
}

/// A target whose calls may fail before they are made.
pub struct FaultyTarget {
    inner: Arc<dyn Target>,
    faults: Faults,
}

impl FaultyTarget {
    /// `fail` is told the name of each call, and gives the error it shall fail with.
    #[must_use]
    pub fn new(inner: Arc<dyn Target>, fail: impl Fn(&'static str) -> Option<Error> + Send + Sync + 'static) -> Self {
        FaultyTarget { inner, faults: Faults(Box::new(fail)) }
    }
}

impl Target for FaultyTarget {
    fn capabilities(&self) -> TargetCapabilities {
        self.inner.capabilities()
    }

    fn create_volume<'a>(&'a self, tag: &'a VolumeTag, size: u64) -> BoxFuture<'a, Result<Volume>> {
        self.faults.call("create_volume", self.inner.create_volume(tag, size))
    }

    fn find_volume<'a>(&'a self, tag: &'a VolumeTag) -> BoxFuture<'a, Result<Option<Volume>>> {
        self.faults.call("find_volume", self.inner.find_volume(tag))
    }

    fn volumes(&self) -> BoxFuture<'_, Result<Vec<VolumeListed>>> {
        self.faults.call("volumes", self.inner.volumes())
    }

    fn resize_volume<'a>(&'a self, id: &'a VolumeId, size: u64) -> BoxFuture<'a, Result<Volume>> {
        self.faults.call("resize_volume", self.inner.resize_volume(id, size))
    }

    fn remove_volume<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<bool>> {
        self.faults.call("remove_volume", self.inner.remove_volume(id))
    }

    fn open_volume<'a>(&'a self, expected: &'a Volume) -> BoxFuture<'a, Result<VolumePlace>> {
        self.faults.call("open_volume", self.inner.open_volume(expected))
    }
}
