//! Disks and layers against the contract, and the block devices of the system.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contract;
mod device;
