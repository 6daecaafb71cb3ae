//! The copy engine against disks that misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub
)]

mod comes_back;
mod limits;
mod random;
mod rig;
mod volatile;
