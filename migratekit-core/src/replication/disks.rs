//! Which disks a pass is about, and how each is brought up to date: decided from what the source says now and what the catalog knows.
//!
//! Pure: no reading, no writing. A disk is known by its key alone; its path, label or place may change.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::model::{DiskSpec, ReplicationMode, SyncType};
use crate::platform::ChangeId;

/// A disk as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownDisk {
    /// Which.
    pub(super) key: DiskKey,
    /// What the last complete point holds of it; none when it holds nothing.
    pub(super) held: Option<HeldDisk>,
}

/// A disk in the last complete point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldDisk {
    /// Its size in that point, in bytes.
    pub(super) capacity_bytes: u64,
    /// The source's mark of that state, if it gave one.
    pub(super) change_id: Option<ChangeId>,
}

/// What became of a disk since the last point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFate {
    /// It is not in the last point: it gets a volume, and all of it is copied.
    New,
    /// It is as large as it was.
    Same,
    /// It grew: its volume grows, and the new part is copied too.
    Grown,
}

/// One disk of a pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDisk {
    /// Which.
    pub key: DiskKey,
    /// Its size now, in bytes.
    pub capacity_bytes: u64,
    /// What became of it.
    pub fate: DiskFate,
    /// How it is brought up to date.
    pub sync: SyncType,
    /// The mark to ask from; only for an incremental pass.
    pub since: Option<ChangeId>,
}

/// What a pass is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The disks, by key.
    pub disks: Vec<PlannedDisk>,
    /// Disks the source has no more; their volumes are kept, and the new point does not have them.
    pub removed: Vec<DiskKey>,
}

/// Decides.
///
/// # Errors
/// `InvalidInput`: the machine has no disks, or an increment was asked for and there is nothing to add it to. `Changed`: a disk became
/// smaller, which no disk that is the same does. `Mismatch`: two disks have the same key.
pub(super) fn plan(mode: ReplicationMode, now: &[DiskSpec], known: &[KnownDisk]) -> Result<Plan> {
    const PLAN: &str = "plan a replication";
    if now.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, PLAN, "the machine has no disks"));
    }
    let held: BTreeMap<DiskKey, &HeldDisk> = known.iter().filter_map(|k| Some((k.key, k.held.as_ref()?))).collect();
    if mode == ReplicationMode::Incremental && held.is_empty() {
        return Err(no_base(PLAN));
    }
    let (mut disks, mut keys) = (Vec::new(), BTreeSet::new());
    for spec in now {
        if !keys.insert(spec.key) {
            return Err(Error::new(ErrorKind::Mismatch, PLAN, "the source names two disks with the same key").with("disk", spec.key));
        }
        disks.push(plan_disk(mode, spec, held.get(&spec.key).copied())?);
    }
    disks.sort_by_key(|disk| disk.key);
    let removed = known.iter().map(|k| k.key).filter(|key| !keys.contains(key)).collect();
    Ok(Plan { disks, removed })
}

/// An increment was asked for, and there is nothing to add it to.
pub(super) fn no_base(operation: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, operation, "an increment needs a point to add to, and there is none; replicate in full first")
}

fn plan_disk(mode: ReplicationMode, spec: &DiskSpec, held: Option<&HeldDisk>) -> Result<PlannedDisk> {
    let planned = |fate, sync, since| PlannedDisk { key: spec.key, capacity_bytes: spec.capacity_bytes, fate, sync, since };
    let Some(held) = held else { return Ok(planned(DiskFate::New, SyncType::Full, None)) };
    if spec.capacity_bytes < held.capacity_bytes {
        return Err(Error::new(
            ErrorKind::Changed,
            "plan a replication",
            "a disk became smaller, so it is another disk under the same key",
        )
        .with("disk", spec.key)
        .with("size_was", held.capacity_bytes)
        .with("size_is", spec.capacity_bytes));
    }
    let fate = if spec.capacity_bytes > held.capacity_bytes { DiskFate::Grown } else { DiskFate::Same };
    Ok(match (&held.change_id, mode) {
        (Some(id), ReplicationMode::Incremental | ReplicationMode::Auto) => planned(fate, SyncType::Incremental, Some(id.clone())),
        // A volume that holds a point is never overwritten: a full pass finds by digests what differs.
        _ => planned(fate, SyncType::Compare, None),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Provisioning;

    fn spec(key: u32, size: u64) -> DiskSpec {
        DiskSpec {
            key: DiskKey::new(key),
            path: format!("{key}.img"),
            capacity_bytes: size,
            datastore: String::new(),
            unit_number: None,
            label: String::new(),
            provisioning: Provisioning::Unknown,
            uuid: None,
        }
    }

    fn known(key: u32, held: Option<(u64, Option<&str>)>) -> KnownDisk {
        let held = held.map(|(capacity_bytes, id)| HeldDisk { capacity_bytes, change_id: id.map(|id| id.parse().unwrap()) });
        KnownDisk { key: DiskKey::new(key), held }
    }

    #[test]
    fn each_disk_goes_its_own_way() {
        let now = [spec(2003, 10), spec(2000, 10), spec(2001, 30), spec(2002, 10)];
        let before = [
            known(2000, Some((10, Some("a/1")))),
            known(2001, Some((20, Some("b/1")))),
            known(2002, Some((10, None))),
            known(2004, Some((10, Some("e/1")))),
        ];
        let plan = plan(ReplicationMode::Auto, &now, &before).unwrap();
        let ways: Vec<_> = plan.disks.iter().map(|d| (d.key.device_key(), d.fate, d.sync, d.since.is_some())).collect();
        assert_eq!(
            ways,
            [
                (2000, DiskFate::Same, SyncType::Incremental, true),
                (2001, DiskFate::Grown, SyncType::Incremental, true),
                (2002, DiskFate::Same, SyncType::Compare, false),
                (2003, DiskFate::New, SyncType::Full, false),
            ]
        );
        assert_eq!(plan.removed, [DiskKey::new(2004)]);
    }

    #[test]
    fn what_cannot_be_is_refused_each_by_its_own_text() {
        let before = [known(2000, Some((10, Some("a/1"))))];
        let text = |mode, now: &[DiskSpec], before: &[KnownDisk]| plan(mode, now, before).unwrap_err().to_string();
        assert!(text(ReplicationMode::Auto, &[], &before).contains("no disks"));
        assert!(text(ReplicationMode::Incremental, &[spec(2000, 10)], &[known(2000, None)]).contains("in full first"));
        assert!(text(ReplicationMode::Auto, &[spec(2000, 9)], &before).contains("became smaller"));
        assert!(text(ReplicationMode::Auto, &[spec(2000, 10), spec(2000, 10)], &before).contains("same key"));
        // One disk with a point is enough: the new one is copied in full in the same pass.
        assert!(plan(ReplicationMode::Incremental, &[spec(2000, 10), spec(2001, 1)], &before).is_ok());
    }

    proptest! {
        /// Every disk of the source is planned once; what holds a point is never written over; nothing is asked from an id of another disk.
        #[test]
        fn a_plan_covers_the_source_and_destroys_no_point(
            now in proptest::collection::btree_map(0_u32..6, 1_u64..4, 1..6),
            before in proptest::collection::btree_map(0_u32..6, proptest::option::of((1_u64..4, any::<bool>())), 0..6),
            mode in 0..3_usize,
        ) {
            let specs: Vec<_> = now.iter().map(|(key, size)| spec(*key, *size)).collect();
            let disks: Vec<_> = before.iter().map(|(key, held)| {
                let id = format!("id-of-{key}/1");
                known(*key, held.map(|(size, marked)| (size, marked.then_some(id.as_str()))))
            }).collect();
            let mode = ReplicationMode::ALL[mode];
            let Ok(plan) = plan(mode, &specs, &disks) else { return Ok(()) };
            prop_assert_eq!(plan.disks.iter().map(|d| d.key.device_key()).collect::<Vec<_>>(), now.keys().copied().collect::<Vec<_>>());
            for disk in &plan.disks {
                let held = before.get(&disk.key.device_key()).copied().flatten();
                prop_assert_eq!(disk.sync == SyncType::Full, held.is_none());
                prop_assert_eq!(disk.fate == DiskFate::New, held.is_none());
                let own = format!("id-of-{}/1", disk.key.device_key());
                prop_assert!(disk.since.as_ref().is_none_or(|id| id.as_str() == own));
                prop_assert_eq!(disk.since.is_some(), disk.sync == SyncType::Incremental);
            }
            let gone: Vec<_> = before.keys().filter(|key| !now.contains_key(key)).copied().collect();
            prop_assert_eq!(plan.removed.iter().map(|k| k.device_key()).collect::<Vec<_>>(), gone);
        }
    }
}
