//! Enrollment over the tunnel's own port: real TLS, real SSH, a real catalog, and somebody in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

mod bounds;
mod enrolling;
mod middle;
mod port;
mod rig;
