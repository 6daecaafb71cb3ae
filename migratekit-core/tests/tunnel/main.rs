//! The tunnel: copies through it, what it refuses, what a stopped consumer and a revoked key do, and OpenSSH at the other end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod audit;
mod copies;
mod doors;
mod exports;
mod flow;
mod openssh;
mod packets;
mod revocation;
mod rig;
mod sshd;
