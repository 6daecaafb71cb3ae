//! The states of a mover at the source's side (a VMA), as it reports them.

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
}
