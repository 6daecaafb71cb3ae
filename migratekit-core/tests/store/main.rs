//! The catalog, on SQLite and on MariaDB.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

mod contexts;
mod dump;
mod logs;
mod others;
mod refusals;
mod rows;
mod schema;
mod servers;
mod transactions;
