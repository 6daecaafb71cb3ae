//! The trust in VMAs, without sockets: what a reception takes and refuses, what an administrator does, on both catalogs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

mod administering;
mod cutting;
mod enrolling;
mod rig;
mod rotating;
