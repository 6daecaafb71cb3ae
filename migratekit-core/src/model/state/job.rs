//! The states of jobs, their steps and their intents.
//!
//! ```text
//!  pending ─▶ running ─▶ completed
//!     │        │  ▲ └──▶ rolling_back ─▶ failed | cancelled | rolled_back
//!     │        ▼  │          │
//!     │      paused          └─▶ needs_attention (an undo failed, or the steps behind the pivot: the next action is named)
//!     └▶ cancelled    running ─▶ cancelling ─▶ rolling_back ..
//! ```

use super::Refused;

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
        /// It needed attention, and a person had it undone.
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

    /// Where an intent is.
    IntentStatus ("status of an intent") {
        /// Written down; whether the thing exists only the world knows.
        Intended => "intended",
        /// The thing exists, and its id is written down.
        Effected => "effected",
        /// The thing is gone again, or was never made.
        Undone => "undone",
        /// It may still exist and could not be removed.
        LeftOver => "left_over",
    }

    /// What happened to a job.
    JobTrigger ("change of a job") {
        /// A runner took it.
        Take => "take",
        /// It was asked to pause, and the step in hand came to an end.
        Pause => "pause",
        /// It was asked to go on.
        Resume => "resume",
        /// It was asked to end.
        Cancel => "cancel",
        /// It was asked to end, and its pivot was crossed meanwhile.
        TooLate => "too_late",
        /// A step before the pivot failed, or the end was asked for: back.
        TurnBack => "turn_back",
        /// Every step is done: the proof is in the same transaction.
        Complete => "complete",
        /// Everything is undone, after a failure.
        UndoneAfterFailure => "undone_after_failure",
        /// Everything is undone, by request.
        UndoneAfterCancel => "undone_after_cancel",
        /// Everything is undone, by a person who was asked for.
        UndoneByPerson => "undone_by_person",
        /// An undo failed, the steps behind the pivot failed, or nobody knows what the other side does: a person is needed.
        GiveUp => "give_up",
        /// A person sends it forward again.
        RetryForward => "retry_forward",
        /// A person sends it back again.
        RetryUndo => "retry_undo",
        /// A person has dealt with it.
        Dismiss => "dismiss",
    }

    /// What happened to a step.
    StepTrigger ("change of a step") {
        /// It is begun, or begun again.
        Begin => "begin",
        /// It is done.
        Complete => "complete",
        /// It is not done.
        Fail => "fail",
        /// It is not needed.
        Skip => "skip",
        /// Its undo is begun, or begun again.
        Undo => "undo",
        /// It is undone.
        UndoDone => "undo_done",
        /// It could not be undone.
        UndoFail => "undo_fail",
    }

    /// What happened to an intent.
    IntentTrigger ("change of an intent") {
        /// The thing was made, or was found.
        Effect => "effect",
        /// The thing was removed, or was found not to exist.
        Undo => "undo",
        /// The thing could not be removed.
        LeaveOver => "leave_over",
    }
}

impl JobStatus {
    /// What becomes of the state.
    pub fn next(self, on: JobTrigger) -> Result<Self, Refused> {
        use {JobStatus as S, JobTrigger as T};
        Ok(match (on, self) {
            (T::Take, S::Pending | S::Running) => S::Running,
            (T::Take, S::Cancelling) => S::Cancelling,
            (T::Take, S::RollingBack) => S::RollingBack,
            (T::Pause, S::Running) => S::Paused,
            (T::Resume, S::Paused) => S::Running,
            (T::Cancel, S::Pending) => S::Cancelled,
            (T::Cancel, S::Running | S::Paused) => S::Cancelling,
            (T::TooLate, S::Cancelling) => S::Running,
            (T::TurnBack, S::Running | S::Cancelling) => S::RollingBack,
            (T::Complete, S::Running) => S::Completed,
            (T::UndoneAfterFailure, S::RollingBack) => S::Failed,
            (T::UndoneAfterCancel, S::RollingBack) => S::Cancelled,
            (T::UndoneByPerson, S::RollingBack) => S::RolledBack,
            (T::GiveUp, S::Running | S::Cancelling | S::RollingBack) => S::NeedsAttention,
            (T::RetryForward, S::NeedsAttention) => S::Running,
            (T::RetryUndo, S::NeedsAttention) => S::RollingBack,
            (T::Dismiss, S::NeedsAttention) => S::Failed,
            _ => return Err(Refused { machine: "job", from: self.code(), on: on.code() }),
        })
    }

    /// Whether the job holds its VM: no other of it may begin. The one list of "active" states.
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

impl StepStatus {
    /// What becomes of the state.
    pub fn next(self, on: StepTrigger) -> Result<Self, Refused> {
        use {StepStatus as S, StepTrigger as T};
        Ok(match (on, self) {
            (T::Begin, S::Pending | S::Running | S::Failed) => S::Running,
            (T::Complete, S::Running) => S::Completed,
            (T::Fail, S::Running) => S::Failed,
            (T::Skip, S::Pending | S::Running) => S::Skipped,
            (T::Undo, S::Running | S::Completed | S::Failed | S::Undoing | S::UndoFailed) => S::Undoing,
            (T::UndoDone, S::Undoing) => S::Undone,
            (T::UndoFail, S::Undoing) => S::UndoFailed,
            _ => return Err(Refused { machine: "step", from: self.code(), on: on.code() }),
        })
    }

    /// Whether the step asks for nothing more while its job goes forward, or back.
    #[must_use]
    pub fn is_final(self) -> bool {
        use StepStatus as S;
        matches!(self, S::Completed | S::Skipped | S::Undone)
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        matches!(self, StepStatus::Running | StepStatus::Undoing)
    }
}

impl IntentStatus {
    /// What becomes of the state.
    pub fn next(self, on: IntentTrigger) -> Result<Self, Refused> {
        use {IntentStatus as S, IntentTrigger as T};
        Ok(match (on, self) {
            (T::Effect, S::Intended | S::Effected) => S::Effected,
            (T::Undo, S::Intended | S::Effected | S::LeftOver | S::Undone) => S::Undone,
            (T::LeaveOver, S::Intended | S::Effected | S::LeftOver) => S::LeftOver,
            _ => return Err(Refused { machine: "intent", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing of it is left outside.
    #[must_use]
    pub fn is_final(self) -> bool {
        self == IntentStatus::Undone
    }

    /// Whether only the world knows what is.
    #[must_use]
    pub fn is_busy(self) -> bool {
        self == IntentStatus::Intended
    }
}
