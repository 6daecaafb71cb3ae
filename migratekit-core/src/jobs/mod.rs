//! The engine room: how anything long runs, so that no crash leaves it stuck and no row says more than was proven.
//!
//! A *saga* is data ([`SagaDefinition`]: its steps, one of them the pivot) and code ([`Saga`]: run a step, undo a step, settle the end).
//! [`Jobs`] writes down that one is wanted; a [`Runner`], one for each process, takes it and does the steps.
//!
//! ```text
//!  pending ─▶ running ─▶ completed
//!     │        │  ▲ └──▶ rolling_back ─▶ failed | cancelled
//!     │        ▼  │          │
//!     │      paused          └─▶ needs_attention (an undo failed, or a step behind the pivot: the next action is named)
//!     └▶ cancelled    running ─▶ cancelling ─▶ rolling_back …
//! ```
//!
//! # What this promises
//!
//! - **Before the pivot** failure and cancellation run `undo` backwards, from the step that failed. **Behind it** steps are repeated forward
//!   with growing pauses; when they are used up the job needs attention and names what to do. Cancelling behind the pivot is refused.
//! - **Everything outside is written down first.** [`StepContext::effect`] commits an intent, makes the thing, commits its id. After a
//!   crash the world is asked for the intent's name before anything is made again.
//! - **One owner.** A runner holds a job by a lease with an epoch (`lease.rs`). Each transaction of a running job checks owner and epoch in
//!   itself; who lost the lease gets [`ErrorKind::Fenced`](crate::ErrorKind::Fenced) and stops.
//! - **Steps are never dropped.** They get a token and end by themselves: on cancel, on pause, when they made no progress for their time.
//! - **A hiccup of the catalog fails no job.** Writes of a job are repeated for as long as its lease can be valid.
//! - Percent never goes back. Events are rows in the transaction of the change they tell ([`Jobs::follow`]).
//!
//! # What it does not do
//!
//! It does not know what a replication is: sagas live above. It does not decide what a crash means: [`decide`](crate::model::decide) does, for the
//! start and for the health monitor alike.

mod attend;
mod book;
mod clockstep;
mod context;
mod desk;
mod drive;
mod effect;
mod failpoint;
mod follow;
mod home;
mod housekeeping;
mod lease;
mod log;
mod office;
mod recovery;
mod renewal;
mod runner;
mod saga;
mod signal;

// What a saga is made of.
pub use crate::store::JobFailure as Failure;
pub use context::StepContext;
pub use effect::Thing;
pub use saga::{Outcome, Progress, QUIET, Saga, SagaDefinition, SagaFactory, StepEnd, StepSpec};

// Asking for jobs, and following them.
pub use desk::Sagas;
pub use follow::Follow;
pub use office::{Jobs, NewJob};

// Running them.
pub use desk::Pace;
pub use failpoint::Failpoints;
#[cfg(feature = "testing")]
pub use failpoint::Hook;
pub use housekeeping::{HOUSEKEEPING, housekeep};
pub use lease::LeaseTimes;
pub use recovery::{MONITOR, Recovered, STALE};
pub use runner::{JOBS_AT_ONCE, Orphans, Runner, RunnerConfig, Wanted};
pub use signal::StopSignals;

// The log in the catalog.
pub use log::{CatalogLayer, LogWriter, catalog_log};
