//! The state of a failover.

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
}
