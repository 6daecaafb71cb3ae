//! Jobs: the runner and all around it, on both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

mod child;
mod clock_step;
mod cost;
mod crash;
mod fence;
mod following;
mod long_step;
mod mover;
mod outage;
mod processes;
mod recovering;
mod rig;
mod running;
