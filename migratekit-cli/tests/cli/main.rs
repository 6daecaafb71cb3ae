//! The command line as its users meet it: real processes, real peers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub
)]

mod bad_input;
mod copy;
mod crowd;
mod demo;
mod engine_bad_input;
mod engine_credentials;
mod engine_db;
mod engine_full_disk;
mod engine_keeping;
mod engine_key;
mod engine_mariadb;
mod engine_refusals;
mod engine_replicate;
mod engine_rig;
mod engine_vm;
mod info;
mod key;
mod kill;
mod reference;
mod resume;
mod run;
mod signals;
mod small_disk;
mod tunnel;
mod tunnel_catalog;
mod tunnel_kill;
mod vma;
mod vma_rotate;
