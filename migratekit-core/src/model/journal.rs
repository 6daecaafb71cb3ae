//! What a runner does next with a job, from its journal alone: the heart of every saga, as a pure function.
//!
//! The journal is what the catalog knows of a job: its status, what was asked of it, and how far each step came. [`Journal::next_move`] reads
//! it and names one move; the runner makes the move, commits what came of it, and asks again. After a crash it does the same: a step that is
//! found `running` was begun and its end is not known. So the normal course and the recovery are one, and the search in `crash` walks it
//! from every state and every moment at which a process can die.
//!
//! What a step makes outside goes by [`effect_move`] forward and [`removal_move`] back: written down, looked for, then made or removed.

use super::{IntentStatus, JobStatus, JobTrigger, Percent, StepStatus};

/// One step, as the journal has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JournalStep {
    /// Where it is.
    pub status: StepStatus,
    /// How often it was begun in its present direction.
    pub attempt: u32,
    /// How often it may be begun in its present direction; at least 1.
    pub attempts: u32,
}

/// What the catalog knows of a job and its steps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Journal {
    /// Where the job is.
    pub status: JobStatus,
    /// Whether the pivot was committed.
    pub crossed: bool,
    /// Whether its end was asked for.
    pub cancel_requested: bool,
    /// Whether a pause was asked for.
    pub pause_requested: bool,
    /// Whether a person had it undone.
    pub undo_requested: bool,
    /// Its steps in their order.
    pub steps: Vec<JournalStep>,
}

/// What the runner does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Change the job's status; with a change that ends it, write the domain's rows in the same transaction.
    Turn(JobTrigger),
    /// Begin (or repeat) this step.
    Begin(usize),
    /// Begin (or repeat) the undo of this step.
    Undo(usize),
    /// Nothing: it is at rest.
    Rest,
}

impl Journal {
    /// What the runner that holds the job's lease does next.
    #[must_use]
    pub fn next_move(&self) -> Move {
        match self.status {
            JobStatus::Pending if self.cancel_requested => Move::Turn(JobTrigger::Cancel),
            JobStatus::Pending => Move::Turn(JobTrigger::Take),
            JobStatus::Paused if self.cancel_requested => Move::Turn(JobTrigger::Cancel),
            JobStatus::Paused if !self.pause_requested => Move::Turn(JobTrigger::Resume),
            JobStatus::Cancelling if self.crossed => Move::Turn(JobTrigger::TooLate),
            JobStatus::Cancelling => Move::Turn(JobTrigger::TurnBack),
            JobStatus::Running if self.cancel_requested && !self.crossed => Move::Turn(JobTrigger::Cancel),
            // Behind the pivot an end that was asked for means: finish. A pause would only keep the volumes between two points.
            JobStatus::Running if self.pause_requested && !self.crossed => Move::Turn(JobTrigger::Pause),
            JobStatus::Running => self.forward(),
            JobStatus::RollingBack => self.back(),
            JobStatus::Paused
            | JobStatus::Completed
            | JobStatus::Failed
            | JobStatus::Cancelled
            | JobStatus::RolledBack
            | JobStatus::NeedsAttention => Move::Rest,
        }
    }

    fn forward(&self) -> Move {
        let Some((at, step)) = self.steps.iter().enumerate().find(|(_, step)| !step.status.is_final() || step.status == StepStatus::Undone)
        else {
            return Move::Turn(JobTrigger::Complete);
        };
        let again = step.attempt < step.attempts;
        match step.status {
            StepStatus::Pending => Move::Begin(at),
            // Its end is not known; it is idempotent.
            StepStatus::Running if again => Move::Begin(at),
            StepStatus::Failed if again && self.crossed => Move::Begin(at),
            StepStatus::Running | StepStatus::Failed if !self.crossed => Move::Turn(JobTrigger::TurnBack),
            // Behind the pivot with its tries used up, or undone in part: forward is no way any more.
            _ => Move::Turn(JobTrigger::GiveUp),
        }
    }

    fn back(&self) -> Move {
        if self.crossed {
            return Move::Turn(JobTrigger::GiveUp);
        }
        let begun = |status| !matches!(status, StepStatus::Pending | StepStatus::Skipped | StepStatus::Undone);
        match self.steps.iter().enumerate().rev().find(|(_, step)| begun(step.status)) {
            None if self.undo_requested => Move::Turn(JobTrigger::UndoneByPerson),
            None if self.cancel_requested => Move::Turn(JobTrigger::UndoneAfterCancel),
            None => Move::Turn(JobTrigger::UndoneAfterFailure),
            Some((_, step)) if matches!(step.status, StepStatus::Undoing | StepStatus::UndoFailed) && step.attempt >= step.attempts => {
                Move::Turn(JobTrigger::GiveUp)
            }
            Some((at, _)) => Move::Undo(at),
        }
    }

    /// The `attempt` that the catalog keeps when the step at `at` is begun or its undo is: counted anew when the direction changes.
    #[must_use]
    pub fn next_attempt(&self, at: usize) -> u32 {
        let Some(step) = self.steps.get(at) else { return 1 };
        match (self.status, step.status) {
            (JobStatus::RollingBack, StepStatus::Undoing | StepStatus::UndoFailed) => step.attempt.saturating_add(1),
            (JobStatus::RollingBack, _) => 1,
            _ => step.attempt.saturating_add(1),
        }
    }

    /// What a person may do with a job that needs attention. Behind the pivot it can only go forward; once an undo began, only back.
    /// Steps begin to count their tries anew.
    #[must_use]
    pub fn retries(&self) -> &'static [JobTrigger] {
        let undone = |step: &JournalStep| matches!(step.status, StepStatus::Undoing | StepStatus::Undone | StepStatus::UndoFailed);
        if self.status != JobStatus::NeedsAttention {
            &[]
        } else if self.crossed {
            &[JobTrigger::RetryForward, JobTrigger::Dismiss]
        } else if self.steps.iter().any(undone) {
            &[JobTrigger::RetryUndo, JobTrigger::Dismiss]
        } else {
            &[JobTrigger::RetryForward, JobTrigger::RetryUndo, JobTrigger::Dismiss]
        }
    }

    /// How far the job is: never less than `shown`, and everything only once it is complete. `weights` are those of the steps, `part` is how
    /// much of the running step is done.
    #[must_use]
    pub fn percent(&self, shown: Percent, weights: &[u32], part: Percent) -> Percent {
        if self.status == JobStatus::Completed {
            return Percent::FULL;
        }
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let done: u64 = self
            .steps
            .iter()
            .zip(weights)
            .map(|(step, weight)| match step.status {
                StepStatus::Completed | StepStatus::Skipped => u64::from(*weight) * 100,
                StepStatus::Running => u64::from(*weight) * u64::from(part.get()),
                _ => 0,
            })
            .sum();
        shown.raised_to(Percent::of(done, total.saturating_mul(100)).min(Percent::capped(99)))
    }
}

/// What is done next to have a thing outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectMove {
    /// Commit the intent.
    WriteDown,
    /// Ask the world for it by its name.
    LookFor,
    /// Make it.
    Make,
    /// Commit its id.
    Record,
    /// It is there and recorded.
    Use,
}

/// Forward: `intent` as the catalog has it, `found` as the world answered (none: it was not asked in this run).
#[must_use]
pub fn effect_move(intent: Option<IntentStatus>, found: Option<bool>) -> EffectMove {
    match (intent, found) {
        (None | Some(IntentStatus::Undone), _) => EffectMove::WriteDown,
        (Some(IntentStatus::Effected), _) => EffectMove::Use,
        (Some(IntentStatus::Intended | IntentStatus::LeftOver), None) => EffectMove::LookFor,
        (Some(IntentStatus::Intended | IntentStatus::LeftOver), Some(true)) => EffectMove::Record,
        (Some(IntentStatus::Intended | IntentStatus::LeftOver), Some(false)) => EffectMove::Make,
    }
}

/// What is done next to be rid of a thing outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalMove {
    /// Ask the world for it by its name.
    LookFor,
    /// Remove it.
    Remove,
    /// Commit that it is gone.
    Record,
    /// There is nothing to do.
    Nothing,
}

/// Back: `intent` as the catalog has it, `found` as the world answered (none: it was not asked in this run).
#[must_use]
pub fn removal_move(intent: Option<IntentStatus>, found: Option<bool>) -> RemovalMove {
    match (intent, found) {
        (None | Some(IntentStatus::Undone), _) => RemovalMove::Nothing,
        (Some(_), None) => RemovalMove::LookFor,
        (Some(_), Some(true)) => RemovalMove::Remove,
        (Some(_), Some(false)) => RemovalMove::Record,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn journal(status: JobStatus, steps: &[(StepStatus, u32)]) -> Journal {
        Journal {
            status,
            crossed: false,
            cancel_requested: false,
            pause_requested: false,
            undo_requested: false,
            steps: steps.iter().map(|(status, attempt)| JournalStep { status: *status, attempt: *attempt, attempts: 2 }).collect(),
        }
    }

    #[test]
    fn a_failure_turns_back_before_the_pivot_and_is_repeated_behind_it() {
        use {JobStatus as J, StepStatus as S};
        let mut failed = journal(J::Running, &[(S::Completed, 1), (S::Failed, 1)]);
        assert_eq!(failed.next_move(), Move::Turn(JobTrigger::TurnBack));
        failed.crossed = true;
        assert_eq!(failed.next_move(), Move::Begin(1));
        failed.steps[1].attempt = 2;
        assert_eq!(failed.next_move(), Move::Turn(JobTrigger::GiveUp));
        assert_eq!(failed.retries(), []);
        failed.status = J::NeedsAttention;
        assert_eq!(failed.retries(), [JobTrigger::RetryForward, JobTrigger::Dismiss]);
    }

    #[test]
    fn undo_goes_backwards_and_leaves_out_what_was_never_begun() {
        use {JobStatus as J, StepStatus as S};
        let mut back = journal(J::RollingBack, &[(S::Completed, 1), (S::Skipped, 1), (S::Failed, 1), (S::Pending, 0)]);
        assert_eq!((back.next_move(), back.next_attempt(2)), (Move::Undo(2), 1));
        back.steps[2] = JournalStep { status: S::UndoFailed, attempt: 1, attempts: 2 };
        assert_eq!((back.next_move(), back.next_attempt(2)), (Move::Undo(2), 2));
        back.steps[2].status = S::Undone;
        assert_eq!(back.next_move(), Move::Undo(0));
        back.steps[0].status = S::Undone;
        assert_eq!(back.next_move(), Move::Turn(JobTrigger::UndoneAfterFailure));
        back.cancel_requested = true;
        assert_eq!(back.next_move(), Move::Turn(JobTrigger::UndoneAfterCancel));
        back.undo_requested = true;
        assert_eq!(back.next_move(), Move::Turn(JobTrigger::UndoneByPerson));
    }

    #[test]
    fn things_outside_are_written_down_looked_for_and_only_then_made() {
        use {EffectMove as E, IntentStatus as I, RemovalMove as R};
        assert_eq!(effect_move(None, Some(true)), E::WriteDown);
        assert_eq!(effect_move(Some(I::Intended), None), E::LookFor);
        assert_eq!(effect_move(Some(I::Intended), Some(false)), E::Make);
        assert_eq!(effect_move(Some(I::Intended), Some(true)), E::Record);
        assert_eq!(effect_move(Some(I::Effected), None), E::Use);
        assert_eq!(removal_move(Some(I::Effected), None), R::LookFor);
        assert_eq!(removal_move(Some(I::Intended), Some(true)), R::Remove);
        assert_eq!(removal_move(Some(I::LeftOver), Some(false)), R::Record);
        assert_eq!(removal_move(Some(I::Undone), None), R::Nothing);
    }

    proptest! {
        #[test]
        fn percent_never_goes_back_and_is_whole_only_when_complete(
            shown in 0_u8..=99, part in 0_u8..=100, weights in prop::collection::vec(1_u32..1000, 1..12), done in 0_usize..12,
        ) {
            let steps: Vec<_> = (0..weights.len()).map(|at| (if at < done { StepStatus::Completed } else { StepStatus::Running }, 1)).collect();
            let mut job = journal(JobStatus::Running, &steps);
            let percent = job.percent(Percent::capped(shown), &weights, Percent::capped(part));
            prop_assert!(percent >= Percent::capped(shown) && percent < Percent::FULL);
            job.status = JobStatus::Completed;
            prop_assert_eq!(job.percent(percent, &weights, Percent::ZERO), Percent::FULL);
        }
    }
}
