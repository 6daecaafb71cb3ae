//! A volume that became larger: its point becomes larger with it, by zeros.

use std::sync::Arc;

use super::point::{END_BLOCK, Ends, Point};
use super::record::{Held, Record};
use super::{Replica, ReplicaOptions, ReplicaSite, SideFile};
use crate::block::{BlockRead, Persist, ZeroMode};
use crate::copy::digest::digest_of;
use crate::copy::ledger::{Ledger, LedgerOptions, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

const GROW: &str = "let a replica grow";

impl Replica {
    /// The volume, which has `size` bytes now, was smaller when its point was committed, as `before` says. What is new is made zero, and
    /// the point is recorded with its new ends, which are told: the caller records them where it recorded the old ones. Its ledger begins
    /// anew; a point that the old one had not followed, or whose seal is whole ([`Replica::unseal`]), is not followed by the new one either.
    /// Repeated after a crash, also with a larger size, it finishes what was begun, or only tells.
    ///
    /// # Errors
    /// `InvalidInput`: no point, or not larger. `AlreadyExists`: a pass waits beside the volume; it must be settled first. `Changed`: the
    /// volume has another size. `ForeignContent`: it has not the content that was committed. Else as [`Replica::open`].
    pub async fn grow(site: Arc<dyn ReplicaSite>, before: &ReplicaOptions, size: u64) -> Result<Point> {
        let Some(committed) = before.committed.as_ref().filter(|_| size > before.size) else {
            return Err(
                Error::new(ErrorKind::InvalidInput, GROW, "it holds no point, or is not to become larger").with("volume", site.name())
            );
        };
        let now = ReplicaOptions { size, committed: None, ..before.clone() };
        let volume = super::open::open_volume(&*site, size).await?;
        let file = site.file(SideFile::Point);
        let name = file.name();
        let record = Record::find(file, &before.identity).await?.unwrap_or_else(|| Record::new(&before.identity, before.size));
        if record.size == size {
            // Once the record speaks of the new size, all was done.
            let held = record.holds.as_ref().map(Held::point).transpose()?;
            return held.filter(|held| held.name == committed.name).ok_or_else(|| other(&*site, committed));
        }
        // It may have grown before, not so far, and the caller does not know it.
        if !(before.size..size).contains(&record.size) {
            return Err(record.of_another_size(&name, size));
        }
        if record.pass.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, GROW, "a pass waits beside the volume; it must be settled first")
                .with("volume", site.name()));
        }
        if record.holds.as_ref().is_none_or(|held| *held.name() != committed.name) {
            return Err(other(&*site, committed));
        }
        check_old_ends(&*volume.disk, &*site, before.size, committed).await?;
        volume.disk.zero(ByteRange::between(before.size, size), ZeroMode { may_punch: true, only_fast: false }, Persist::Cached).await?;
        volume.disk.flush().await?;
        let point = Point { name: committed.name.clone(), ends: Ends::of(&*volume.disk).await? };
        let followed = was_followed(&*site, before, [before.size, record.size, size], committed).await?;
        let replica = Replica::assemble(Arc::clone(&site), volume, &now, Record::new(&before.identity, size)).await?;
        if followed {
            replica.inner.record_commit(&point).await?;
        }
        replica.inner.change_record(|record| record.holds = Some(Held::new(&point))).await?;
        replica.close().await?;
        Ok(point)
    }
}

/// Whether the ledger, that of the old size or, after a crash, that of a size after it, has followed every write since the point came into the
/// volume. A seal that is whole was not broken by who made the volume larger: what else he wrote nobody knows.
async fn was_followed(site: &dyn ReplicaSite, before: &ReplicaOptions, sizes: [u64; 3], committed: &Point) -> Result<bool> {
    for size in sizes {
        let (ledger, opened) = Ledger::open(site.file(SideFile::Ledger), None, LedgerOptions::new(before.identity.clone(), size)).await?;
        if opened == Opened::Continued {
            return Ok(!ledger.is_sealed() && ledger.committed().is_some_and(|commit| commit.pass == committed.name.as_str()));
        }
    }
    Ok(false)
}

fn other(site: &dyn ReplicaSite, committed: &Point) -> Error {
    Error::new(ErrorKind::Mismatch, GROW, "the volume holds another point than the committed one")
        .with("volume", site.name())
        .with("committed", &committed.name)
}

/// The volume is the one that was committed, as far as it reached then.
async fn check_old_ends(disk: &dyn BlockRead, site: &dyn ReplicaSite, size: u64, committed: &Point) -> Result<()> {
    let last = size.saturating_sub(1) / END_BLOCK * END_BLOCK;
    let found = Ends {
        first: digest_of(disk, ByteRange::between(0, size.min(END_BLOCK))).await?,
        last: digest_of(disk, ByteRange::between(last, size)).await?,
    };
    if found == committed.ends {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ForeignContent,
        GROW,
        "it has not the content that was committed: another volume, or written by somebody else",
    )
    .with("volume", site.name())
    .with("point", &committed.name))
}
