//! The processes that run jobs (`runners`).

use std::time::Duration;

use super::jobs::micros;
use super::row::Row;
use super::{Tx, dialect};
use crate::error::Result;
use crate::id::RunnerId;
use crate::model::Runner;

/// The most runners in one answer.
const LIST: u32 = 1000;

const COLUMNS: &str = "id, host, pid, version, started_at, seen_at, heartbeats, stopped_at";

/// The runners, in one transaction.
#[derive(Debug)]
pub struct Runners<'t>(&'t Tx);

/// A runner's row as it begins.
#[derive(Debug, Clone)]
pub struct NewRunner<'a> {
    /// Its id.
    pub id: &'a RunnerId,
    /// The host it runs on.
    pub host: &'a str,
    /// Its process id there.
    pub pid: u32,
}

impl Tx {
    /// The processes that run jobs.
    #[must_use]
    pub fn runners(&self) -> Runners<'_> {
        Runners(self)
    }
}

impl Runners<'_> {
    /// Writes a runner down.
    pub async fn insert(&self, runner: &NewRunner<'_>) -> Result<()> {
        let now = dialect::now(self.0.backend());
        let text = format!("INSERT INTO runners (id, host, pid, version, started_at, seen_at) VALUES (?, ?, ?, ?, {now}, {now})");
        let statement = self.0.sql("register a runner", text).bind(runner.id).bind(runner.host).bind(runner.pid);
        statement.bind(env!("CARGO_PKG_VERSION")).run().await.map(|_| ())
    }

    /// A sign of life.
    pub async fn beat(&self, id: &RunnerId) -> Result<()> {
        let text = format!("UPDATE runners SET seen_at = {}, heartbeats = heartbeats + 1 WHERE id = ?", dialect::now(self.0.backend()));
        self.0.sql("give a sign of life", text).bind(id).run().await.map(|_| ())
    }

    /// The runner ended in order.
    pub async fn stopped(&self, id: &RunnerId) -> Result<()> {
        let text = format!("UPDATE runners SET stopped_at = {} WHERE id = ?", dialect::now(self.0.backend()));
        self.0.sql("write down a runner's end", text).bind(id).run().await.map(|_| ())
    }

    /// A runner; none when it is forgotten, or never was.
    pub async fn find(&self, id: &RunnerId) -> Result<Option<Runner>> {
        self.0.sql("look for a runner", format!("SELECT {COLUMNS} FROM runners WHERE id = ?")).bind(id).first(runner).await
    }

    /// All runners that did not end in order, the latest first.
    pub async fn running(&self) -> Result<Vec<Runner>> {
        let text = format!("SELECT {COLUMNS} FROM runners WHERE stopped_at IS NULL ORDER BY seen_at DESC LIMIT {LIST}");
        self.0.sql("list runners", text).all(runner).await
    }

    /// Forgets runners that gave no sign for so long and hold no job, at most so many. Gives their number.
    pub async fn sweep(&self, silent: Duration, most: u32) -> Result<u64> {
        let text = format!(
            "SELECT r.id FROM runners r WHERE r.seen_at < {} - ? \
             AND NOT EXISTS (SELECT 1 FROM job_tracking j WHERE j.lease_owner = r.id) ORDER BY r.id LIMIT ?",
            dialect::now(self.0.backend())
        );
        let ids = self.0.sql("find old runners", text).bind(micros(silent)).bind(most).all(|row| row.text("id")).await?;
        if ids.is_empty() {
            return Ok(0);
        }
        let marks = vec!["?"; ids.len()].join(", ");
        let statement = self.0.sql("forget old runners", format!("DELETE FROM runners WHERE id IN ({marks})"));
        ids.into_iter().fold(statement, |statement, id| statement.bind(id)).run().await
    }
}

fn runner(row: &Row) -> Result<Runner> {
    Ok(Runner {
        id: row.parse("id")?,
        host: row.text("host")?,
        pid: row.number("pid")?,
        version: row.text("version")?,
        started_at: row.time("started_at")?,
        seen_at: row.time("seen_at")?,
        heartbeats: row.number("heartbeats")?,
        stopped_at: row.time_or_none("stopped_at")?,
    })
}
