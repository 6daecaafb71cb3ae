//! The NBD client against real servers and hostile ones, and the corpus of its fuzz targets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::cast_possible_truncation)]
#![allow(unreachable_pub)]

mod bounds;
mod corpus;
mod fake;
mod hostile;
mod images;
mod nbdkit;
mod others;
mod reconnect;
mod servers;
mod tls;
