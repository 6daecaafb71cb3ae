//! The tunnel: copies through it, what it refuses, what a stopped consumer and a revoked key do, and OpenSSH at the other end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod audit;
mod bad_line;
mod compression;
mod copies;
mod crowd;
mod doors;
mod exports;
mod far_rig;
mod flow;
mod hole;
mod monitor;
mod openssh;
mod packets;
mod refusals;
mod revocation;
mod rig;
mod rotation;
mod rows;
mod slow_disk;
mod sockets;
mod sshd;
mod sshd_standing;
mod standing;
mod standing_rig;
