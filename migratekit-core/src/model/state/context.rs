//! The state of a context.

codes! {
    /// Where a VM stands.
    ContextStatus ("status of a context") {
        /// Known, and never replicated.
        Discovered => "discovered",
        /// A replication runs.
        Replicating => "replicating",
        /// All its disks hold one complete point.
        ReadyForFailover => "ready_for_failover",
        /// A test failover runs.
        FailedOverTest => "failed_over_test",
        /// A live failover runs.
        FailedOverLive => "failed_over_live",
        /// The live failover was made final.
        Completed => "completed",
        /// It has no point, and its last job failed.
        Failed => "failed",
        /// Something was left behind that a person has to remove.
        CleanupRequired => "cleanup_required",
    }
}
