//! What a replica holds: the newest point of a VM, opened for reading, whether its spools are in the volumes yet or not.

use super::open::site_of;
use super::records;
use crate::copy::{PointReader, Replica};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey};
use crate::model::Point;
use crate::platform::Target;
use crate::store::Store;

/// A point, opened. As long as it lives no newer one takes its place in the volumes, and no other process opens them.
pub struct OpenPoint {
    /// The point.
    pub point: Point,
    /// Its disks, by key.
    pub disks: Vec<(DiskKey, PointReader)>,
    _held: Vec<Replica>,
}

/// Opens the newest point of a VM; `None` when it has none.
///
/// # Errors
/// `Busy`: a replication holds the volumes. `ForeignContent`, `Mismatch`: a volume does not hold what was committed to it, or was written by
/// somebody else since.
pub async fn open_point(store: &Store, target: &dyn Target, context: &ContextId) -> Result<Option<OpenPoint>> {
    let known = store.read("read what is known of a VM", |tx| async move { records::known(&tx, context).await }).await?;
    let Some(point) = known.point().cloned() else { return Ok(None) };
    let (mut disks, mut held) = (Vec::new(), Vec::new());
    for (key, known) in known.replicas() {
        let Some(committed) = &known.committed else { continue };
        let place = target.open_volume(&known.volume).await?;
        let replica = Replica::open(site_of(&place)?, committed.options(&place)?).await.map_err(|e| e.with("disk", key))?;
        if replica.ledger().generation() > known.generation {
            const FOREIGN: &str = "somebody wrote the volume since the point was committed to it; replicate again";
            return Err(Error::new(ErrorKind::ForeignContent, "open a point", FOREIGN)
                .with("volume", &known.volume.id)
                .with("point", &committed.name)
                .with("disk", key));
        }
        disks.push((key, replica.reader(&committed.name).await?));
        held.push(replica);
    }
    Ok(Some(OpenPoint { point, disks, _held: held }))
}
