//! Events (`events`): what changed, in the order of the changes.
//!
//! A reader remembers the last number it saw and asks for what is above. So a number must never become visible after a higher one. An
//! AUTO_INCREMENT column does not keep that: of two transactions the one with the higher number may commit first, and the nodes of a
//! Galera cluster give numbers of their own. Here each event takes its number from one row of `counters`, which is thereby locked until
//! the transaction ends: the order of the numbers is the order of the commits, on one server and on a cluster. The price is that
//! transactions with events commit one after the other; they are small, and a transaction appends its events last.

use super::row::Row;
use super::{Tx, dialect};
use crate::error::Result;
use crate::id::{ContextId, EventId, JobId};
use crate::model::{Event, EventKind};

/// The most events in one answer.
const PAGE: u32 = 500;

/// The events, in one transaction.
#[derive(Debug)]
pub struct Events<'t>(&'t Tx);

/// An event before it has its number.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What it tells.
    pub kind: EventKind,
    /// The job.
    pub job: Option<JobId>,
    /// The VM.
    pub context: Option<ContextId>,
    /// What belongs to it: codes and numbers, no technical text.
    pub data: serde_json::Value,
}

impl Tx {
    /// The events.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        Events(self)
    }
}

impl Events<'_> {
    /// Appends an event. Best as the last statements of the transaction: until its end no other can append.
    pub async fn append(&self, event: &NewEvent) -> Result<EventId> {
        const APPEND: &str = "append an event";
        let raise = "UPDATE counters SET value = value + 1 WHERE name = 'events'";
        self.0.sql(APPEND, raise).run_found("the counter of events is missing; the schema is not complete").await?;
        let read = "SELECT value FROM counters WHERE name = 'events'";
        let id: EventId =
            self.0.sql(APPEND, read).one("the counter of events is missing; the schema is not complete", |row| row.number("value")).await?;
        let text = format!(
            "INSERT INTO events (id, at, kind, job_id, context_id, payload) VALUES (?, {}, ?, ?, ?, ?)",
            dialect::now(self.0.backend())
        );
        let statement = self.0.sql(APPEND, text).bind(id).bind(event.kind.code()).bind(event.job.as_ref());
        statement.bind(event.context.as_ref()).bind(&event.data).run().await?;
        Ok(id)
    }

    /// The events above `after` (none: from the first), rising; at most 500.
    pub async fn after(&self, after: Option<EventId>) -> Result<Vec<Event>> {
        let text = format!("SELECT id, at, kind, job_id, context_id, payload FROM events WHERE id > ? ORDER BY id LIMIT {PAGE}");
        self.0.sql("read events", text).bind(after.map_or(0, EventId::get)).all(event).await
    }

    /// The events of one job above `after`, rising; at most 500.
    pub async fn of_job_after(&self, job: &JobId, after: Option<EventId>) -> Result<Vec<Event>> {
        let text =
            format!("SELECT id, at, kind, job_id, context_id, payload FROM events WHERE job_id = ? AND id > ? ORDER BY id LIMIT {PAGE}");
        self.0.sql("read a job's events", text).bind(job).bind(after.map_or(0, EventId::get)).all(event).await
    }

    /// The number of the last event: where a reader begins that wants only what is new.
    pub async fn last(&self) -> Result<Option<EventId>> {
        let text = "SELECT id FROM events ORDER BY id DESC LIMIT 1";
        self.0.sql("read the last event", text).first(|row| row.number("id")).await
    }
}

fn event(row: &Row) -> Result<Event> {
    Ok(Event {
        id: row.number("id")?,
        kind: row.parse("kind")?,
        context: row.parse_or_none("context_id")?,
        job: row.parse_or_none("job_id")?,
        data: row.json("payload")?,
        at: row.time("at")?,
    })
}
