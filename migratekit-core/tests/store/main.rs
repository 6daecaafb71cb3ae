//! The catalog, on SQLite and on MariaDB.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

mod complete;
mod contexts;
mod dump;
mod jobs;
mod logs;
mod others;
mod refusals;
mod replicas;
mod rows;
mod saved;
mod schema;
mod servers;
mod tls;
mod transactions;
mod vma_connections;
mod volumes;
