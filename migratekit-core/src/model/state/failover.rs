//! The state of a failover.

use super::{JobStatus, Refused};
use crate::model::{FailoverKind, Percent};

codes! {
    /// Where a failover is.
    FailoverStatus ("status of a failover") {
        /// Asked for; no runner has it.
        Pending => "pending",
        /// Whether it can be done is looked at.
        Validating => "validating",
        /// Every volume gets a snapshot.
        Snapshotting => "snapshotting",
        /// The destination VM is made.
        CreatingVm => "creating_vm",
        /// The volumes go over to it.
        SwitchingVolume => "switching_volume",
        /// It is started.
        PoweringOn => "powering_on",
        /// It runs.
        Completed => "completed",
        /// It failed, and everything is as before.
        Failed => "failed",
        /// A test is being ended.
        Cleanup => "cleanup",
        /// The volumes go back to their snapshots.
        Reverting => "reverting",
        /// It was undone.
        RolledBack => "rolled_back",
        /// Something was left behind that a person has to remove.
        CleanupRequired => "cleanup_required",
        /// It was cancelled, and everything is as before.
        Cancelled => "cancelled",
    }

    /// What happened to a failover. A step that is begun again gives the trigger of its state again, and the state stays.
    FailoverTrigger ("change of a failover") {
        /// A runner took it.
        Validate => "validate",
        /// It can be done.
        Snapshot => "snapshot",
        /// Every volume has its snapshot.
        CreateVm => "create_vm",
        /// The destination VM exists.
        SwitchVolume => "switch_volume",
        /// It has the volumes.
        PowerOn => "power_on",
        /// It runs, and was seen to.
        Succeed => "succeed",
        /// What it made is taken away again.
        CleanUp => "clean_up",
        /// The volumes go back to their snapshots.
        Revert => "revert",
        /// Everything is as before, after a failure.
        Fail => "fail",
        /// Everything is as before, by request while it ran.
        Cancel => "cancel",
        /// Everything is as before, by request after it had succeeded.
        Undone => "undone",
        /// Something was left behind that a person has to remove.
        LeaveBehind => "leave_behind",
    }
}

impl FailoverTrigger {
    /// What the begin of this step of the saga is to the failover; none for a step that is not known.
    #[must_use]
    pub fn of_step(name: &str) -> Option<Self> {
        use FailoverTrigger as T;
        Some(match name {
            "validation" | "source-vm-power-off" | "final-sync" => T::Validate,
            "multi-volume-snapshot-creation" | "virtio-driver-injection" => T::Snapshot,
            "vm-creation" => T::CreateVm,
            "volume-attachment" => T::SwitchVolume,
            "vm-startup-and-validation" | "status-update" => T::PowerOn,
            _ => return None,
        })
    }

    /// What the end of its job in this status is to the failover; none while the job is busy.
    #[must_use]
    pub fn of_end(job: JobStatus) -> Option<Self> {
        use FailoverTrigger as T;
        match job {
            JobStatus::Completed => Some(T::Succeed),
            JobStatus::Failed => Some(T::Fail),
            JobStatus::Cancelled => Some(T::Cancel),
            JobStatus::RolledBack => Some(T::Undone),
            JobStatus::NeedsAttention => Some(T::LeaveBehind),
            _ => None,
        }
    }
}

impl FailoverStatus {
    /// What becomes of the state.
    pub fn next(self, on: FailoverTrigger) -> Result<Self, Refused> {
        use {FailoverStatus as S, FailoverTrigger as T};
        Ok(match (on, self) {
            (T::Validate, S::Pending | S::Validating) => S::Validating,
            (T::Snapshot, S::Validating | S::Snapshotting) => S::Snapshotting,
            (T::CreateVm, S::Snapshotting | S::CreatingVm) => S::CreatingVm,
            (T::SwitchVolume, S::CreatingVm | S::SwitchingVolume) => S::SwitchingVolume,
            // Behind the pivot a person may send it forward again.
            (T::PowerOn, S::SwitchingVolume | S::PoweringOn | S::CleanupRequired) => S::PoweringOn,
            (T::Succeed, S::PoweringOn) => S::Completed,
            (T::CleanUp, S::Completed | S::CleanupRequired | S::Cleanup) => S::Cleanup,
            (T::CleanUp, from) if from.is_forward() => S::Cleanup,
            (T::Revert, S::Cleanup | S::Reverting) => S::Reverting,
            // Until the snapshots are made there is nothing to revert.
            (T::Fail, S::Pending | S::Validating | S::Cleanup | S::Reverting | S::CleanupRequired) => S::Failed,
            (T::Cancel, S::Pending | S::Validating | S::Cleanup | S::Reverting) => S::Cancelled,
            (T::Undone, S::Cleanup | S::Reverting) => S::RolledBack,
            (T::LeaveBehind, from) if from.is_busy() => S::CleanupRequired,
            _ => return Err(Refused { machine: "failover", from: self.code(), on: on.code() }),
        })
    }

    fn is_forward(self) -> bool {
        use FailoverStatus as S;
        matches!(self, S::Validating | S::Snapshotting | S::CreatingVm | S::SwitchingVolume | S::PoweringOn)
    }

    /// Whether nothing happens any more. One that completed is not final: it can be cleaned up or rolled back.
    #[must_use]
    pub fn is_final(self) -> bool {
        use FailoverStatus as S;
        matches!(self, S::Failed | S::Cancelled | S::RolledBack)
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        use FailoverStatus as S;
        self == S::Pending || self.is_forward() || matches!(self, S::Cleanup | S::Reverting)
    }

    /// How far a failover of this kind is when this state begins. What is shown is the most that was ever reached.
    #[must_use]
    pub fn percent(self, kind: FailoverKind) -> Percent {
        use FailoverStatus as S;
        let (live, test) = match self {
            S::Pending => (0, 0),
            S::Validating => (10, 8),
            S::Snapshotting => (30, 25),
            S::CreatingVm => (50, 40),
            S::SwitchingVolume => (70, 55),
            S::PoweringOn => (85, 70),
            S::Cleanup => (85, 85),
            S::Reverting => (95, 95),
            S::Completed | S::RolledBack => (100, 100),
            // What these keep is what was shown before.
            S::Failed | S::Cancelled | S::CleanupRequired => (0, 0),
        };
        Percent::capped(match kind {
            FailoverKind::Live => live,
            FailoverKind::Test => test,
        })
    }
}
