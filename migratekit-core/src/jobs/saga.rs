//! What a saga is: steps as data, and the code behind them.

use std::sync::Arc;
use std::time::Duration;

use super::StepContext;
use crate::block::BoxFuture;
use crate::error::{Error, Result};
use crate::id::DiskKey;
use crate::model::messages::Action;
use crate::model::{Job, JobKind, OtherSide, Percent};
use crate::store::{JobFailure as Failure, Tx};

/// How long a step may go without a sign of progress, unless it names another time: 10 minutes, more than the longest single call of a
/// cloud we wait for (300 s).
pub const QUIET: Duration = Duration::from_secs(600);

/// One step, as data; what people read of it is in [`messages`](crate::model::messages::step_words). Written at the top of a saga's file:
///
/// ```
/// use migratekit_core::jobs::StepSpec;
/// const STEPS: &[StepSpec] = &[
///     StepSpec::new("provisioning", 10),
///     StepSpec::new("replicating", 80),
///     StepSpec::new("committing", 1).pivot(),
/// ];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSpec {
    /// Its name in the catalog; unique in the saga.
    pub name: &'static str,
    /// Whether this is the pivot: before it everything is undone on failure, behind it everything is finished.
    pub pivot: bool,
    /// Its part of the whole way, relative to the other steps; at least 1.
    pub weight: u32,
    /// How long it may go without a sign of progress ([`StepContext::progress`], [`StepContext::alive`], a commit, an effect).
    pub quiet: Duration,
    /// How often it is begun. Before the pivot only crashes use it up (a failure turns the job back at once), behind it failures too: then the
    /// job needs attention. An attempt that was ended by request does not count.
    pub attempts: u32,
}

impl StepSpec {
    /// A step that is no pivot.
    #[must_use]
    pub const fn new(name: &'static str, weight: u32) -> Self {
        StepSpec { name, pivot: false, weight, quiet: QUIET, attempts: 5 }
    }

    /// Makes it the pivot. Its decisive commit goes through [`StepContext::pivot`].
    #[must_use]
    pub const fn pivot(mut self) -> Self {
        self.pivot = true;
        self
    }

    /// Names the time it may be quiet.
    #[must_use]
    pub const fn quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// Names how often it is begun.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }
}

/// What a saga is, as data: one for each [`JobKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SagaDefinition {
    /// What its jobs are called.
    pub kind: JobKind,
    /// Its steps in order; at most one is the pivot. Without one, everything is undone until the last step ended.
    pub steps: &'static [StepSpec],
    /// What a person does when the job cannot go on by itself.
    pub next_action: Action,
}

/// How a step ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepEnd {
    /// Done.
    Done,
    /// Not needed this time.
    Skipped,
}

/// How a job comes to rest; [`Saga::settle`] writes the rows of its domain by it.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// Every step is done.
    Completed,
    /// A step failed before the pivot, and everything is undone. The error of that step, and its name.
    Failed(&'a Failure),
    /// Ended by request, and everything is undone.
    Cancelled,
    /// It needed attention, a person sent it back, and everything is undone.
    RolledBack,
    /// Neither forward nor back: an undo failed, or a step behind the pivot. The next action is in the catalog.
    NeedsAttention(&'a Failure),
}

/// The failure of `step` by `error`, as the catalog keeps it.
pub(super) fn failure_of(step: &str, error: &Error) -> Failure {
    Failure { step: step.to_owned(), kind: error.kind().code().to_owned(), message: error.to_string() }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The part of the step that is done. It never goes back; lower ones are ignored.
    pub part: Percent,
    /// Bytes dealt with so far: compared, found to be the same, written.
    pub bytes_done: u64,
    /// Bytes to deal with; 0 while nobody knows.
    pub bytes_total: u64,
    /// Bytes of these that were written, zeros among them.
    pub bytes_written: u64,
}

impl Progress {
    /// Progress of dealing with bytes.
    #[must_use]
    pub fn bytes(done: u64, total: u64) -> Self {
        let part = if total == 0 { Percent::ZERO } else { Percent::of(done, total) };
        Progress { part, bytes_done: done, bytes_total: total, bytes_written: 0 }
    }

    /// So many of them were written.
    #[must_use]
    pub fn written(mut self, bytes: u64) -> Self {
        self.bytes_written = bytes;
        self
    }

    /// Progress that is only a part of the way.
    #[must_use]
    pub fn part(part: Percent) -> Self {
        Progress { part, ..Progress::default() }
    }
}

/// The code behind the steps of one job. Made by a [`SagaFactory`] from the job's row, anew in each process that runs the job, so all it
/// must remember lies in the catalog: the job's input, [`StepContext::once`], and the domain's own rows.
///
/// Every step is idempotent: it may have been begun before, and ended anywhere.
pub trait Saga: Send + Sync {
    /// Does `step`. It watches [`StepContext::token`] wherever it waits, and then ends with an error (its kind does not matter).
    fn run<'a>(&'a self, step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<StepEnd>>;

    /// Takes back what `step` made, as far as it came; called for each step that was begun, last first, never once the
    /// pivot is crossed. What is gone already is no error. Here the token ends only with the lease or the process.
    fn undo<'a>(&'a self, step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<()>>;

    /// Writes the domain's rows in the transaction that ends the job. It only writes rows: the world was dealt with before. The
    /// transaction may be repeated as a whole.
    fn settle<'a>(&'a self, outcome: &'a Outcome<'a>, job: &'a Job, tx: &'a Tx) -> BoxFuture<'a, Result<()>>;

    /// Writes the domain's own rows of progress, in the transaction (at most one a second) that writes the job's. By default none.
    fn record<'a>(&'a self, _progress: Progress, _job: &'a Job, _tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// Makes the code of a job from its row.
pub trait SagaFactory: Send + Sync {
    /// What the saga is.
    fn definition(&self) -> &'static SagaDefinition;

    /// The code for this job. With an error the job needs attention: this program cannot read it ([`SagaFactory::abandon`]).
    fn load(&self, job: &Job) -> Result<Arc<dyn Saga>>;

    /// Writes the domain's rows in the transaction that leaves a job to a person which this program cannot read ([`SagaFactory::load`] fails),
    /// so that nothing says for ever that it is under way. There is only the job's row. By default the domain has no rows of its own.
    fn abandon<'a>(&'a self, _outcome: &'a Outcome<'a>, _job: &'a Job, _tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// What the other side (a mover in another process) says of a job whose runner is gone, and the disks that the pass is for. By default there is none: all work is done by
    /// the runner itself.
    fn other_side<'a>(&'a self, _job: &'a Job) -> BoxFuture<'a, (OtherSide, Vec<DiskKey>)> {
        Box::pin(async { (OtherSide::None, Vec::new()) })
    }
}
