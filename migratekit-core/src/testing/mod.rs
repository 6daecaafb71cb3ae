//! For tests, ours and those of adapter authors: peers, faults, recorders. Only with feature `testing`.

pub mod catalog;
mod contract;
mod fault;
pub mod galera;
mod gated;
pub mod jobs;
pub mod line;
pub mod mariadb;
pub mod mutation;
pub mod peer;
pub mod platform;
mod recorder;
pub mod relay;
pub mod replication;
mod rng;
pub mod scale;
pub mod volatile;
pub mod write_log;

pub use self::contract::check_contract;
pub use self::fault::{Effect, Fault, Faulty, When};
pub use self::gated::Gated;
pub use self::recorder::{Operation, Recorder, Request};
pub use self::rng::Rng;

/// BLAKE3 of some bytes, in hex.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
