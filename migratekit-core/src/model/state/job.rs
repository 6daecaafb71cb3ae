//! The states of jobs and steps.

codes! {
    /// Where a job is.
    JobStatus ("status of a job") {
        /// Asked for; no runner has it.
        Pending => "pending",
        /// A runner does its steps.
        Running => "running",
        /// Somebody stopped it for a while; it goes on from where it is.
        Paused => "paused",
        /// Somebody asked for its end; the running step is told.
        Cancelling => "cancelling",
        /// Its steps are undone, last first.
        RollingBack => "rolling_back",
        /// Done, with proof.
        Completed => "completed",
        /// Not done; what it made is undone.
        Failed => "failed",
        /// Ended by request; what it made is undone.
        Cancelled => "cancelled",
        /// Undone by request after it was complete.
        RolledBack => "rolled_back",
        /// Neither forward nor back without a person; the next action is named.
        NeedsAttention => "needs_attention",
    }

    /// Where a step is.
    StepStatus ("status of a step") {
        /// Not begun.
        Pending => "pending",
        /// Being done.
        Running => "running",
        /// Done.
        Completed => "completed",
        /// Not done.
        Failed => "failed",
        /// Not needed.
        Skipped => "skipped",
        /// Being undone.
        Undoing => "undoing",
        /// Undone.
        Undone => "undone",
        /// Its undo failed; what it made may be left.
        UndoFailed => "undo_failed",
    }
}

impl JobStatus {
    /// Whether the job holds its VM: no other of it may begin.
    #[must_use]
    pub fn is_busy(self) -> bool {
        use JobStatus as S;
        matches!(self, S::Pending | S::Running | S::Paused | S::Cancelling | S::RollingBack)
    }

    /// Whether nothing happens any more by itself or by a person.
    #[must_use]
    pub fn is_final(self) -> bool {
        use JobStatus as S;
        matches!(self, S::Completed | S::Failed | S::Cancelled | S::RolledBack)
    }
}
