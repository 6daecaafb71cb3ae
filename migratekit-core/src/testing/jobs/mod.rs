//! Jobs under test: a world of marker files with a saga that works in it, failpoints that stop the world, and the crash harness that runs
//! any saga failing, crashing and repeating at every step.

mod harness;
mod marker;
mod points;

pub use self::harness::{CrashHarness, Report, Trial};
pub use self::marker::{MarkerInput, MarkerTrial, MarkerWorld, context};
pub use self::points::{Blow, Points, VARIABLE};
