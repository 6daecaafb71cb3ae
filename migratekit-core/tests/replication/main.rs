//! Replications on a local site: what they do, what they refuse, and what is left when they are interrupted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod attention;
mod crash;
mod disks;
mod flow;
mod foreign;
mod given_up;
mod leaving;
mod outage;
mod pausing;
mod refusals;
mod rig;
mod struck;
mod stuck;
mod volumes;
