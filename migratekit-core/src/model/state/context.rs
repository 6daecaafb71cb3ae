//! The state of a context. It is derived ([`standing`](super::super::standing)); the machine says which changes can be true.
//!
//! ```text
//!  discovered ─▶ replicating ─▶ ready_for_failover ─▶ failed_over_test ─▶ ready_for_failover
//!       ▲            │  ▲               │  ▲
//!       └────────────┤  │               ▼  └─── rollback
//!                    ▼  │         failed_over_live ─▶ completed
//!                  failed            (any but completed) ─▶ cleanup_required ─▶ replicating, ready_for_failover, failed, discovered
//! ```
//!
//! `holds_point`, `lacks_point` and `nothing_yet` say how things are: a job that a person sends on ends well wherever its VM stands. A point
//! that was complete is never lost.

use super::Refused;

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

    /// What happened to a context.
    ContextTrigger ("change of a context") {
        /// A replication began.
        Began => "began",
        /// All its disks hold one complete point, and nothing runs.
        HoldsPoint => "holds_point",
        /// It has no point, its last job failed, and nothing runs.
        LacksPoint => "lacks_point",
        /// It has no point and never failed to make one, and nothing runs.
        NothingYet => "nothing_yet",
        /// A test failover runs.
        TestRuns => "test_runs",
        /// A live failover runs.
        LiveRuns => "live_runs",
        /// The live failover was made final.
        Committed => "committed",
        /// Something was left behind that a person has to remove.
        LeftBehind => "left_behind",
    }
}

impl ContextStatus {
    /// What becomes of the state.
    pub fn next(self, on: ContextTrigger) -> Result<Self, Refused> {
        use {ContextStatus as S, ContextTrigger as T};
        Ok(match (on, self) {
            // That none runs already is the database's to say (one active job of each VM), not this column's, which only follows. What a
            // replication left behind, the next one mends; who asks for it looks whether it was a failover that did.
            (T::Began, S::Discovered | S::Replicating | S::ReadyForFailover | S::Failed | S::CleanupRequired) => S::Replicating,
            (T::HoldsPoint, S::Discovered | S::Replicating | S::Failed | S::CleanupRequired) => S::ReadyForFailover,
            (T::HoldsPoint, S::FailedOverTest | S::FailedOverLive) => S::ReadyForFailover,
            (T::LacksPoint, S::Discovered | S::Replicating | S::CleanupRequired) => S::Failed,
            (T::NothingYet, S::Replicating | S::Failed | S::CleanupRequired) => S::Discovered,
            (T::TestRuns, S::ReadyForFailover) => S::FailedOverTest,
            (T::LiveRuns, S::ReadyForFailover) => S::FailedOverLive,
            (T::Committed, S::FailedOverLive) => S::Completed,
            (T::LeftBehind, S::Discovered | S::Replicating | S::ReadyForFailover | S::Failed | S::FailedOverTest | S::FailedOverLive) => {
                S::CleanupRequired
            }
            _ => return Err(Refused { machine: "context", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        self == ContextStatus::Completed
    }

    /// Whether it says that something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        self == ContextStatus::Replicating
    }
}
