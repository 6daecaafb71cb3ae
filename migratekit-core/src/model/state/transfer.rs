//! The states of a mover at the source's side (a VMA), as it reports them.

use super::{Refused, ReplicationStatus};

codes! {
    /// What a mover does.
    TransferStage ("stage of a transfer") {
        /// It looks at the VM.
        Discover => "Discover",
        /// It turns change tracking on.
        EnableCbt => "EnableCBT",
        /// It asks what changed.
        QueryCbt => "QueryCBT",
        /// It makes the snapshot.
        Snapshot => "Snapshot",
        /// The target's volumes are made ready.
        PrepareVolumes => "PrepareVolumes",
        /// The target's exports are made ready.
        StartExports => "StartExports",
        /// Bytes move.
        Transfer => "Transfer",
        /// Everything is flushed.
        Finalize => "Finalize",
        /// The new change ids are handed over.
        PersistChangeIds => "PersistChangeIDs",
    }

    /// Where the whole transfer is.
    TransferStatus ("status of a transfer") {
        /// It waits for its turn.
        Queued => "Queued",
        /// It is set up.
        Preparing => "Preparing",
        /// The snapshot is made.
        Snapshotting => "Snapshotting",
        /// Bytes move.
        Streaming => "Streaming",
        /// Everything is flushed and handed over.
        Finalizing => "Finalizing",
        /// Done.
        Succeeded => "Succeeded",
        /// Not done.
        Failed => "Failed",
    }

    /// Where one disk of it is.
    DiskProgress ("status of a disk's transfer") {
        /// It waits for its turn.
        Queued => "Queued",
        /// Its snapshot is made.
        Snapshotting => "Snapshotting",
        /// Its bytes move.
        Streaming => "Streaming",
        /// Done.
        Completed => "Completed",
        /// Not done.
        Failed => "Failed",
    }

    /// What happened to a transfer, or to one disk of it.
    TransferTrigger ("change of a transfer") {
        /// Its turn came.
        Prepare => "prepare",
        /// The snapshot is made.
        Snapshot => "snapshot",
        /// Bytes move.
        Stream => "stream",
        /// All bytes are there.
        Finalize => "finalize",
        /// All is flushed and handed over.
        Succeed => "succeed",
        /// It is not done.
        Fail => "fail",
    }
}

impl TransferStage {
    /// The state of the replication while its mover does this.
    #[must_use]
    pub fn status(self) -> ReplicationStatus {
        use {ReplicationStatus as S, TransferStage as T};
        match self {
            T::Discover => S::Initializing,
            T::EnableCbt | T::QueryCbt => S::Analyzing,
            T::PrepareVolumes => S::Provisioning,
            T::StartExports => S::Configuring,
            T::Snapshot => S::Snapshotting,
            T::Transfer => S::Replicating,
            T::Finalize | T::PersistChangeIds => S::Finalizing,
        }
    }
}

impl TransferStatus {
    /// What becomes of the state.
    pub fn next(self, on: TransferTrigger) -> Result<Self, Refused> {
        use {TransferStatus as S, TransferTrigger as T};
        Ok(match (on, self) {
            (T::Prepare, S::Queued) => S::Preparing,
            (T::Snapshot, S::Preparing) => S::Snapshotting,
            (T::Stream, S::Snapshotting) => S::Streaming,
            (T::Finalize, S::Streaming) => S::Finalizing,
            (T::Succeed, S::Finalizing) => S::Succeeded,
            (T::Fail, from) if !from.is_final() => S::Failed,
            _ => return Err(Refused { machine: "transfer", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, TransferStatus::Succeeded | TransferStatus::Failed)
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        !self.is_final()
    }
}

impl DiskProgress {
    /// What becomes of the state.
    pub fn next(self, on: TransferTrigger) -> Result<Self, Refused> {
        use {DiskProgress as S, TransferTrigger as T};
        Ok(match (on, self) {
            (T::Snapshot, S::Queued) => S::Snapshotting,
            (T::Stream, S::Snapshotting) => S::Streaming,
            (T::Succeed, S::Streaming) => S::Completed,
            (T::Fail, from) if !from.is_final() => S::Failed,
            _ => return Err(Refused { machine: "disk's transfer", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, DiskProgress::Completed | DiskProgress::Failed)
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        !self.is_final()
    }
}
