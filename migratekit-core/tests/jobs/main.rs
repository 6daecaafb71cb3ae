//! Jobs: the runner and all around it, on both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

mod crash;
mod rig;
mod running;
