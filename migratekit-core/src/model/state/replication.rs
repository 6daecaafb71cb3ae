//! The state of a replication.

codes! {
    /// Where a replication is.
    ReplicationStatus ("status of a replication") {
        /// Asked for; no runner has it.
        Pending => "pending",
        /// The source is looked at afresh.
        Initializing => "initializing",
        /// The mode of each disk is decided.
        Analyzing => "analyzing",
        /// Volumes are found or made.
        Provisioning => "provisioning",
        /// Volumes are attached here.
        Attaching => "attaching",
        /// Exports or locks are made at this epoch.
        Configuring => "configuring",
        /// All is set up.
        ReadyForSync => "ready_for_sync",
        /// The source's snapshot is made.
        Snapshotting => "snapshotting",
        /// Bytes move.
        Replicating => "replicating",
        /// The point is committed, and put into the volumes.
        Finalizing => "finalizing",
        /// The point is in the volumes, with proof.
        Completed => "completed",
        /// It failed; the last point is as it was.
        Failed => "failed",
        /// It was cancelled; the last point is as it was.
        Cancelled => "cancelled",
        /// Neither goes on nor back without a person.
        NeedsAttention => "needs_attention",
    }
}
