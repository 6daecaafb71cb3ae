//! The state of one run of a schedule.

use super::Refused;

codes! {
    /// Where a schedule's run is.
    ExecutionStatus ("status of a schedule execution") {
        /// It is due, and has not begun.
        Scheduled => "scheduled",
        /// Jobs of it run or wait.
        Running => "running",
        /// All its jobs completed.
        Completed => "completed",
        /// A job of it failed, or none could be begun.
        Failed => "failed",
        /// There was nothing to do.
        Skipped => "skipped",
        /// Somebody ended it.
        Cancelled => "cancelled",
    }

    /// What happened to a schedule's run.
    ExecutionTrigger ("change of a schedule execution") {
        /// It began.
        Begin => "begin",
        /// The last of its jobs ended, and all completed.
        Complete => "complete",
        /// The last of its jobs ended, and not all completed; or none could be begun.
        Fail => "fail",
        /// There was nothing to do.
        Skip => "skip",
        /// Somebody ended it.
        Cancel => "cancel",
    }
}

impl ExecutionStatus {
    /// What becomes of the state.
    pub fn next(self, on: ExecutionTrigger) -> Result<Self, Refused> {
        use {ExecutionStatus as S, ExecutionTrigger as T};
        Ok(match (on, self) {
            (T::Begin, S::Scheduled | S::Running) => S::Running,
            (T::Complete, S::Running) => S::Completed,
            (T::Fail, S::Scheduled | S::Running) => S::Failed,
            (T::Skip, S::Scheduled | S::Running) => S::Skipped,
            (T::Cancel, S::Scheduled | S::Running) => S::Cancelled,
            _ => return Err(Refused { machine: "schedule execution", from: self.code(), on: on.code() }),
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
        matches!(self, ExecutionStatus::Scheduled | ExecutionStatus::Running)
    }
}
