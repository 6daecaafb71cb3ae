//! Volumes one by one (`ossea_volumes`), their snapshots, and where the ledgers of their generations lie (`volume_ledgers`). What a VM's
//! replica is made of is told by [`Replicas`](super::Replicas).

use super::contexts::MAX_PAGE;
use super::replicas::{VOLUME, volume};
use super::row::Row;
use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{VolumeId, VolumeRow};
use crate::model::{LedgerPlace, SnapshotStatus, SnapshotTrigger, Volume, VolumeStatus, VolumeTrigger};

/// Volumes, in one transaction.
#[derive(Debug)]
pub struct Volumes<'t>(&'t Tx);

impl Tx {
    /// Volumes.
    #[must_use]
    pub fn volumes(&self) -> Volumes<'_> {
        Volumes(self)
    }
}

const NO_VOLUME: &str = "there is no such volume";

impl Volumes<'_> {
    fn now(&self) -> &'static str {
        dialect::now(self.0.backend())
    }

    /// The volume. [`ErrorKind::NotFound`] when the catalog knows none of this id.
    pub async fn get(&self, id: &VolumeId) -> Result<Volume> {
        let text = format!("SELECT {VOLUME} FROM ossea_volumes WHERE volume_id = ?");
        self.0.sql("read a volume", text).bind(id).one(NO_VOLUME, volume).await.map_err(|e| e.with("volume", id))
    }

    /// At most `limit` (up to 1000) volumes of all VMs behind `after`, in the order in which they were made.
    pub async fn page(&self, after: Option<VolumeRow>, limit: u32) -> Result<Vec<Volume>> {
        let text = format!("SELECT {VOLUME} FROM ossea_volumes WHERE id > ? ORDER BY id LIMIT {}", limit.clamp(1, MAX_PAGE));
        self.0.sql("list volumes", text).bind(after.map_or(0, VolumeRow::get)).all(volume).await
    }

    /// Changes the status of a volume, provided it is as it was read; [`ErrorKind::Changed`] otherwise.
    pub async fn change(&self, seen: &Volume, on: VolumeTrigger) -> Result<VolumeStatus> {
        let to = seen.status.next(on)?;
        let text = format!("UPDATE ossea_volumes SET status = ?, updated_at = {} WHERE id = ? AND status = ?", self.now());
        let statement = self.0.sql("change a volume", text).bind(to.code()).bind(seen.row).bind(seen.status.code());
        as_seen(statement.run().await?, &seen.id).map(|()| to)
    }

    /// Changes the status of a volume's snapshot, provided it is as it was read. `id` is the cloud's id of one that was made; it is known
    /// until the snapshot is removed.
    pub async fn change_snapshot(&self, seen: &Volume, on: SnapshotTrigger, id: Option<&str>) -> Result<SnapshotStatus> {
        let to = seen.snapshot_status.next(on)?;
        let marks = match on {
            SnapshotTrigger::Made => format!("snapshot_id = ?, snapshot_created_at = {}", self.now()),
            SnapshotTrigger::Remove => "snapshot_id = ?, snapshot_created_at = NULL".to_owned(),
            SnapshotTrigger::Begin | SnapshotTrigger::Fail | SnapshotTrigger::RollBack => {
                "snapshot_id = COALESCE(?, snapshot_id)".to_owned()
            }
        };
        let text = format!(
            "UPDATE ossea_volumes SET {marks}, snapshot_status = ?, updated_at = {} WHERE id = ? AND snapshot_status = ?",
            self.now()
        );
        let id = id.filter(|_| on != SnapshotTrigger::Remove);
        let statement = self.0.sql("change a volume's snapshot", text).bind(id).bind(to.code());
        as_seen(statement.bind(seen.row).bind(seen.snapshot_status.code()).run().await?, &seen.id).map(|()| to)
    }

    /// Something wrote to the volume that did not come through its export: its generation rises, and what a ledger says of it is void.
    pub async fn raise_generation(&self, id: &VolumeId) -> Result<u64> {
        const RAISE: &str = "raise a volume's generation";
        let text = format!("UPDATE ossea_volumes SET generation = generation + 1, updated_at = {} WHERE volume_id = ?", self.now());
        self.0.sql(RAISE, text).bind(id).run_found(NO_VOLUME).await?;
        let text = format!("UPDATE volume_ledgers SET voided_at = {} WHERE volume_id = ? AND voided_at IS NULL", self.now());
        self.0.sql(RAISE, text).bind(id).run().await?;
        self.get(id).await.map(|volume| volume.generation)
    }

    /// Writes down where the ledger of a volume's present generation lies; written already, nothing changes.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]: it lies elsewhere.
    pub async fn keep_ledger(&self, id: &VolumeId, path: &str) -> Result<()> {
        const KEEP: &str = "keep the place of a ledger";
        let generation = self.get(id).await?.generation;
        match self.ledgers(id).await?.into_iter().find(|ledger| ledger.generation == generation) {
            Some(ledger) if ledger.path == path => return Ok(()),
            Some(ledger) => {
                let error = Error::new(ErrorKind::AlreadyExists, KEEP, "the ledger of this generation lies elsewhere");
                return Err(error.with("volume", id).with("path", ledger.path));
            }
            None => {}
        }
        let text = format!("INSERT INTO volume_ledgers (volume_id, generation, path, created_at) VALUES (?, ?, ?, {})", self.now());
        self.0.sql(KEEP, text).bind(id).bind(generation).bind(path).run().await.map(|_| ())
    }

    /// The ledgers of a volume, the newest generation first, at most 1000: one at most is not void. The void ones' files can go.
    pub async fn ledgers(&self, id: &VolumeId) -> Result<Vec<LedgerPlace>> {
        let text = format!(
            "SELECT volume_id, generation, path, created_at, voided_at FROM volume_ledgers WHERE volume_id = ? \
             ORDER BY generation DESC LIMIT {MAX_PAGE}"
        );
        self.0.sql("read the places of a volume's ledgers", text).bind(id).all(ledger).await
    }

    /// Forgets a ledger whose file is gone.
    pub async fn forget_ledger(&self, id: &VolumeId, generation: u64) -> Result<()> {
        let text = "DELETE FROM volume_ledgers WHERE volume_id = ? AND generation = ?";
        self.0.sql("forget a ledger", text).bind(id).bind(generation).run_found("there is no such ledger").await
    }
}

fn as_seen(rows: u64, id: &VolumeId) -> Result<()> {
    match rows {
        0 => Err(Error::new(ErrorKind::Changed, "change a volume", "it is not what it was").with("volume", id)),
        _ => Ok(()),
    }
}

fn ledger(row: &Row) -> Result<LedgerPlace> {
    Ok(LedgerPlace {
        volume: row.parse("volume_id")?,
        generation: row.number("generation")?,
        path: row.text("path")?,
        created_at: row.time("created_at")?,
        voided_at: row.time_or_none("voided_at")?,
    })
}
