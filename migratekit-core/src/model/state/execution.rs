//! The state of one run of a schedule.

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
}
