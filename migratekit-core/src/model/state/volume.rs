//! The states of volumes, their snapshots, their devices, their exports, and of what is done to them.

use super::Refused;

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

    /// What happened to a volume.
    VolumeTrigger ("change of a volume") {
        /// The cloud knows it.
        Allocate => "allocate",
        /// The cloud has placed it.
        Place => "place",
        /// It was attached.
        Attach => "attach",
        /// It was detached.
        Detach => "detach",
        /// It is being removed.
        Destroy => "destroy",
    }

    /// What happened to a volume's snapshot.
    SnapshotTrigger ("change of a volume's snapshot") {
        /// It is being made.
        Begin => "begin",
        /// It was made.
        Made => "made",
        /// It was not made.
        Fail => "fail",
        /// The volume went back to it, and that was confirmed.
        RollBack => "roll_back",
        /// It was removed.
        Remove => "remove",
    }

    /// What happened to a volume operation.
    OperationTrigger ("change of a volume operation") {
        /// It is being done.
        Begin => "begin",
        /// It is done.
        Complete => "complete",
        /// It is not done.
        Fail => "fail",
        /// It is not wanted any more.
        Cancel => "cancel",
    }

    /// What happened to an export.
    ExportTrigger ("change of an export") {
        /// It is served, and was found reachable.
        Serve => "serve",
        /// It could not be served, or is not any more.
        Fail => "fail",
        /// It shall be served again.
        Retry => "retry",
    }
}

impl VolumeStatus {
    /// What becomes of the state.
    pub fn next(self, on: VolumeTrigger) -> Result<Self, Refused> {
        use {VolumeStatus as S, VolumeTrigger as T};
        Ok(match (on, self) {
            (T::Allocate, S::Creating) => S::Allocated,
            (T::Place, S::Creating | S::Allocated) => S::Ready,
            // A cloud may place a volume only when it is attached first.
            (T::Attach, S::Allocated | S::Ready | S::Detached) => S::Attached,
            (T::Detach, S::Attached) => S::Detached,
            (T::Destroy, S::Creating | S::Allocated | S::Ready | S::Detached) => S::Destroy,
            _ => return Err(Refused { machine: "volume", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        self == VolumeStatus::Destroy
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        self == VolumeStatus::Creating
    }
}

impl SnapshotStatus {
    /// What becomes of the state.
    pub fn next(self, on: SnapshotTrigger) -> Result<Self, Refused> {
        use {SnapshotStatus as S, SnapshotTrigger as T};
        Ok(match (on, self) {
            (T::Begin, S::None) => S::Creating,
            (T::Made, S::Creating) => S::Ready,
            (T::Fail, S::Creating) => S::Failed,
            (T::RollBack, S::Ready) => S::RollbackComplete,
            // One that is ready is removed only when what came after it is to stay.
            (T::Remove, S::Ready | S::Failed | S::RollbackComplete) => S::None,
            _ => return Err(Refused { machine: "volume's snapshot", from: self.code(), on: on.code() }),
        })
    }

    /// Whether there is nothing to remove.
    #[must_use]
    pub fn is_final(self) -> bool {
        self == SnapshotStatus::None
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        self == SnapshotStatus::Creating
    }
}

impl OperationMode {
    /// The other one: a volume goes over to a failover's VM, or comes back.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            OperationMode::Oma => OperationMode::Failover,
            OperationMode::Failover => OperationMode::Oma,
        }
    }
}

impl OperationStatus {
    /// What becomes of the state.
    pub fn next(self, on: OperationTrigger) -> Result<Self, Refused> {
        use {OperationStatus as S, OperationTrigger as T};
        Ok(match (on, self) {
            (T::Begin, S::Pending | S::Executing) => S::Executing,
            (T::Complete, S::Executing) => S::Completed,
            (T::Fail, S::Pending | S::Executing) => S::Failed,
            (T::Cancel, S::Pending) => S::Cancelled,
            _ => return Err(Refused { machine: "volume operation", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        !self.is_busy()
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        matches!(self, OperationStatus::Pending | OperationStatus::Executing)
    }
}

impl ExportStatus {
    /// What becomes of the state.
    pub fn next(self, on: ExportTrigger) -> Result<Self, Refused> {
        use {ExportStatus as S, ExportTrigger as T};
        Ok(match (on, self) {
            (T::Serve, S::Pending) => S::Active,
            (T::Fail, S::Pending | S::Active) => S::Failed,
            (T::Retry, S::Active | S::Failed) => S::Pending,
            _ => return Err(Refused { machine: "export", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more; an export can always be served again, and ends by losing its row.
    #[must_use]
    pub fn is_final(self) -> bool {
        false
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        self == ExportStatus::Pending
    }
}
