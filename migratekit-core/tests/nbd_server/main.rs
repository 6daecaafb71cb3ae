//! The NBD server: against the programs people use, against a hostile client of our own, and in its promises about who may write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod bounds;
mod epochs;
mod interop;
mod interop_tls;
mod options;
mod raw;
mod removal;
mod rig;
mod shutdown;
mod transmission;
mod views;
