//! A runner: one process that runs jobs.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::RunnerId;

/// A row of `runners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Its id, made anew at each start.
    pub id: RunnerId,
    /// The host it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// The version of the program.
    pub version: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last gave a sign, by the database's clock.
    pub seen_at: Timestamp,
    /// How often it gave one: an observer watches this stand still by its own monotonic clock.
    pub heartbeats: u64,
    /// When it ended in good order, or was found to have ended.
    pub stopped_at: Option<Timestamp>,
}
