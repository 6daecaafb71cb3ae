//! The states of volumes, their snapshots, their devices, their exports, and of what is done to them.

codes! {
    /// Where a volume is; the cloud's own words are among them.
    VolumeStatus ("status of a volume") {
        /// It is being made.
        Creating => "creating",
        /// The cloud knows it and has not placed it.
        Allocated => "allocated",
        /// The cloud has placed it.
        Ready => "ready",
        /// It is attached.
        Attached => "attached",
        /// It is attached to nothing.
        Detached => "detached",
        /// It is being removed.
        Destroy => "destroy",
    }

    /// Where a volume's snapshot is.
    SnapshotStatus ("status of a volume's snapshot") {
        /// There is none.
        None => "none",
        /// It is being made.
        Creating => "creating",
        /// It can be gone back to.
        Ready => "ready",
        /// Making it failed.
        Failed => "failed",
        /// The volume went back to it.
        RollbackComplete => "rollback_complete",
    }

    /// Whose a volume is at present.
    OperationMode ("mode of a volume") {
        /// The appliance's, which replicates into it.
        Oma => "oma",
        /// A failover's VM's.
        Failover => "failover",
    }

    /// What is done to a volume.
    OperationKind ("kind of volume operation") {
        /// It is made.
        Create => "create",
        /// It is attached.
        Attach => "attach",
        /// It is detached.
        Detach => "detach",
        /// It is removed.
        Delete => "delete",
        /// What a failure left is removed.
        Cleanup => "cleanup",
    }

    /// Where that is.
    OperationStatus ("status of a volume operation") {
        /// Asked for.
        Pending => "pending",
        /// Being done.
        Executing => "executing",
        /// Done.
        Completed => "completed",
        /// Not done.
        Failed => "failed",
        /// Not wanted any more.
        Cancelled => "cancelled",
    }

    /// Where an export is.
    ExportStatus ("status of an export") {
        /// Not served yet.
        Pending => "pending",
        /// Served, and found reachable.
        Active => "active",
        /// Could not be served.
        Failed => "failed",
    }

    /// Whether an export mapping is in use.
    MappingStatus ("status of an export mapping") {
        /// It is.
        Active => "active",
        /// It is not.
        Inactive => "inactive",
    }
}
