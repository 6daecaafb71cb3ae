//! The platforms: the contract of each role, and what is peculiar to each adapter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod inventory;
mod site;
mod snapshots;
mod volumes;
