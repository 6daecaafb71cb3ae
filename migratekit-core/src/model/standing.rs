//! Where a context stands, derived: from what its disks hold, never from what a job says of itself.

use serde::{Deserialize, Serialize};

use super::{ContextStatus, JobKind, JobStatus, Point, PointDisk, PointStatus};

codes! {
    /// Something to know of a VM that is ready all the same.
    StandingWarning ("warning of a context") {
        /// The last pass failed; the point is older than wanted.
        LastPassFailed => "last_pass_failed",
        /// The last pass left something behind at the source that a person has to remove.
        LeftOver => "left_over",
        /// The other side of the last pass cannot be reached, and may still run.
        LastPassUnresolved => "last_pass_unresolved",
    }
}

/// Which failover of the VM is in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailoverMark {
    /// None.
    None,
    /// A test runs.
    Test,
    /// The VM runs at its destination.
    Live,
    /// It does, for good.
    Final,
}

/// How the last job of a VM that came to rest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LastJob {
    /// What it did.
    pub kind: JobKind,
    /// How it ended.
    pub status: JobStatus,
    /// Whether an undo of it failed.
    pub left_over: bool,
}

/// What the standing is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StandingFacts {
    /// Whether all disks hold one complete point: see [`hold_one_point`].
    pub has_point: bool,
    /// Whether a replication of it is busy.
    pub replicating: bool,
    /// Which failover is in effect.
    pub failover: FailoverMark,
    /// The last job that came to rest.
    pub last_job: Option<LastJob>,
}

/// Where a context stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Standing {
    /// Its status.
    pub status: ContextStatus,
    /// What to know besides.
    pub warning: Option<StandingWarning>,
}

/// Whether this point, whose disks these are, is whole and can be read: every disk of it lies in its volume, or in a spool beside it until it
/// is applied. Disks that the source has had since are not in it, and do not count: a pass that would bring them may fail, and the point
/// is what it was.
#[must_use]
pub fn hold_one_point(point: &Point, held: &[PointDisk]) -> bool {
    let all = !held.is_empty() && u32::try_from(held.len()) == Ok(point.disk_count) && held.iter().all(|disk| disk.point == point.id);
    all && match point.status {
        PointStatus::Committed => held.iter().all(|disk| disk.applied || disk.spool.is_some()),
        PointStatus::Applied => held.iter().all(|disk| disk.applied),
        PointStatus::Superseded => false,
    }
}

/// Whether a failover of the VM may begin, once no job holds it: it has a whole point, and nobody is at its machines.
#[must_use]
pub fn ready_for_failover(status: ContextStatus, has_point: bool) -> bool {
    use ContextStatus as S;
    has_point && !matches!(status, S::FailedOverTest | S::FailedOverLive | S::Completed | S::CleanupRequired)
}

/// The standing.
#[must_use]
pub fn standing(facts: StandingFacts) -> Standing {
    let plain = |status| Standing { status, warning: None };
    match facts.failover {
        FailoverMark::Final => return plain(ContextStatus::Completed),
        FailoverMark::Live if !needs_hands(facts.last_job) => return plain(ContextStatus::FailedOverLive),
        FailoverMark::Test if !needs_hands(facts.last_job) => return plain(ContextStatus::FailedOverTest),
        FailoverMark::Live | FailoverMark::Test => return plain(ContextStatus::CleanupRequired),
        FailoverMark::None => {}
    }
    if facts.replicating {
        return plain(ContextStatus::Replicating);
    }
    if needs_hands(facts.last_job) {
        return plain(ContextStatus::CleanupRequired);
    }
    let Some(last) = facts.last_job else {
        return plain(if facts.has_point { ContextStatus::ReadyForFailover } else { ContextStatus::Discovered });
    };
    let pass = last.kind == JobKind::Replication;
    if facts.has_point {
        let warning = match last.status {
            JobStatus::NeedsAttention if pass && last.left_over => Some(StandingWarning::LeftOver),
            JobStatus::NeedsAttention if pass => Some(StandingWarning::LastPassUnresolved),
            JobStatus::Failed if pass => Some(StandingWarning::LastPassFailed),
            _ => None,
        };
        return Standing { status: ContextStatus::ReadyForFailover, warning };
    }
    match last.status {
        JobStatus::NeedsAttention => plain(ContextStatus::CleanupRequired),
        JobStatus::Failed => plain(ContextStatus::Failed),
        _ => plain(ContextStatus::Discovered),
    }
}

/// Whether a failover, or what undoes one, left the VM's volumes or machines so that only a person can go on.
fn needs_hands(last: Option<LastJob>) -> bool {
    last.is_some_and(|last| last.status == JobStatus::NeedsAttention && last.kind.holds_back())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::{ContextId, DiskId, DiskKey, JobId, PointId, VolumeId};

    fn disk(point: &PointId, key: u32, applied: bool) -> PointDisk {
        PointDisk {
            point: point.clone(),
            disk: DiskId::try_from(i64::from(key)).unwrap(),
            key: DiskKey::new(key),
            volume: VolumeId::generate(),
            capacity_bytes: 1 << 30,
            change_id: Some("52 e1/9".into()),
            first_digest: String::new(),
            last_digest: String::new(),
            pass: "p".into(),
            spool: None,
            applied,
        }
    }

    fn point(status: PointStatus, disk_count: u32) -> Point {
        let at = Timestamp::from_micros(0).unwrap();
        let (id, context, job) = (PointId::generate(), ContextId::generate(), JobId::generate());
        Point { id, context, job, status, taken_at: at, committed_at: at, applied_at: None, quiesced: false, disk_count }
    }

    #[test]
    fn a_point_counts_when_all_its_disks_hold_it_or_have_it_beside_them() {
        use PointStatus as P;
        let whole = |point: &Point| [disk(&point.id, 2000, true), disk(&point.id, 2001, true)];
        let applied = point(P::Applied, 2);
        assert!(hold_one_point(&applied, &whole(&applied)));
        assert!(!hold_one_point(&applied, &whole(&applied)[..1]), "a disk of it is missing");
        assert!(!hold_one_point(&applied, &[disk(&applied.id, 2000, true), disk(&applied.id, 2001, false)]), "one not applied");
        assert!(!hold_one_point(&applied, &[disk(&applied.id, 2000, true), disk(&PointId::generate(), 2001, true)]), "two points");
        assert!(!hold_one_point(&point(P::Applied, 0), &[]), "a VM without disks is never ready");
        let superseded = point(P::Superseded, 2);
        assert!(!hold_one_point(&superseded, &whole(&superseded)));

        let committed = point(P::Committed, 2);
        let [held, mut waits] = whole(&committed);
        (waits.applied, waits.spool) = (false, Some("p".into()));
        assert!(hold_one_point(&committed, &[held.clone(), waits.clone()]), "a reader finds what is not applied yet in the spool");
        waits.spool = None;
        assert!(!hold_one_point(&committed, &[held, waits]), "neither here nor there");
    }

    #[test]
    fn a_failover_may_begin_from_a_point_unless_somebody_is_at_the_machines() {
        use ContextStatus as S;
        let ready: Vec<_> = S::ALL.iter().filter(|status| ready_for_failover(**status, true)).collect();
        assert_eq!(ready, [&S::Discovered, &S::Replicating, &S::ReadyForFailover, &S::Failed]);
        assert!(!S::ALL.iter().any(|status| ready_for_failover(*status, false)));
    }

    fn facts(has_point: bool, last: Option<(JobKind, JobStatus)>) -> StandingFacts {
        let last_job = last.map(|(kind, status)| LastJob { kind, status, left_over: false });
        StandingFacts { has_point, replicating: false, failover: FailoverMark::None, last_job }
    }

    #[test]
    fn readiness_follows_from_the_point_and_a_failed_pass_only_warns() {
        use {ContextStatus as C, JobKind as K, JobStatus as S, StandingWarning as W};
        for (has_point, last, status, warning) in [
            (false, None, C::Discovered, None),
            (false, Some((K::Discovery, S::Failed)), C::Failed, None),
            (false, Some((K::Replication, S::Failed)), C::Failed, None),
            (false, Some((K::Replication, S::Cancelled)), C::Discovered, None),
            (false, Some((K::Replication, S::NeedsAttention)), C::CleanupRequired, None),
            (true, Some((K::Replication, S::Completed)), C::ReadyForFailover, None),
            (true, Some((K::Replication, S::Failed)), C::ReadyForFailover, Some(W::LastPassFailed)),
            (true, Some((K::Replication, S::Cancelled)), C::ReadyForFailover, None),
            (true, Some((K::Replication, S::NeedsAttention)), C::ReadyForFailover, Some(W::LastPassUnresolved)),
            (true, Some((K::TestFailover, S::Failed)), C::ReadyForFailover, None),
            (true, Some((K::TestFailover, S::NeedsAttention)), C::CleanupRequired, None),
        ] {
            assert_eq!(standing(facts(has_point, last)), Standing { status, warning }, "{has_point} {last:?}");
        }
        let left = LastJob { kind: K::Replication, status: S::NeedsAttention, left_over: true };
        let found = standing(StandingFacts { last_job: Some(left), ..facts(true, None) });
        assert_eq!(found, Standing { status: C::ReadyForFailover, warning: Some(W::LeftOver) });
    }

    /// Without a complete point no combination of facts is ready; with a busy replication none is anything but replicating.
    #[test]
    fn no_job_status_makes_a_vm_ready() {
        for &kind in JobKind::ALL {
            for &status in JobStatus::ALL {
                for failover in [FailoverMark::None, FailoverMark::Test, FailoverMark::Live, FailoverMark::Final] {
                    for (replicating, left_over) in [(false, false), (false, true), (true, false), (true, true)] {
                        let last_job = Some(LastJob { kind, status, left_over });
                        let found = standing(StandingFacts { has_point: false, replicating, failover, last_job });
                        assert_ne!(found.status, ContextStatus::ReadyForFailover);
                        if failover == FailoverMark::None {
                            assert_eq!(found.status == ContextStatus::Replicating, replicating);
                        }
                    }
                }
            }
        }
    }
}
