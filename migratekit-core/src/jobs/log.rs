//! The program's log in the catalog: a [`tracing`] layer that never waits, and a writer that stores lines in batches.
//!
//! [`catalog_log`] gives both ends of a bounded queue. [`CatalogLayer`] goes into the subscriber; whoever logs pays for one `try_send`. When
//! the queue is full the line is dropped and counted, and the writer stores one line that says how many are missing. [`LogWriter::run`]
//! stores what comes in transactions of its own, so that no job's transaction grows by its log, and none waits for it.
//!
//! A span's fields `job` and `step` (the row's number) link the lines said in it. Lines of a job at `INFO` and above also go to
//! `job_execution_log`. What the catalog itself logs while it is written to is left out below `WARN`: else each line would make another.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::clock::{self, Timestamp};
use crate::id::{JobId, StepId};
use crate::model::LogLevel;
use crate::store::{NewLogLine, Store};
use crate::task::CancellationToken;

/// Lines that may wait for the writer; at 1 KiB each about 8 MiB, some seconds of a loud program.
const QUEUE: usize = 8192;

/// Lines in one transaction: enough to keep up, few enough that a writer is held for milliseconds only.
const BATCH: usize = 256;

/// The longest message, in bytes; the rest is cut.
const MAX_MESSAGE: usize = 8 * 1024;

/// How long the writer gathers lines before it stores them, unless a batch is full already.
const GATHER: Duration = Duration::from_millis(500);

/// How long it waits after the catalog refused a batch, before it tries the same batch again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the last lines may take at the end of the program.
const LAST: Duration = Duration::from_secs(2);

/// Both ends: lines of `level` and above are kept.
#[must_use]
pub fn catalog_log(level: LogLevel) -> (CatalogLayer, LogWriter) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    (CatalogLayer { sender, dropped: Arc::clone(&dropped), level }, LogWriter { receiver, dropped, lost: 0 })
}

/// The end that listens; a layer of a [`tracing_subscriber::Registry`].
#[derive(Debug)]
pub struct CatalogLayer {
    sender: mpsc::Sender<NewLogLine>,
    dropped: Arc<AtomicU64>,
    level: LogLevel,
}

/// What a span says about its lines.
#[derive(Debug, Clone, Default)]
struct Links {
    job: Option<JobId>,
    step: Option<StepId>,
    name: Option<String>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for CatalogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = Fields::default();
        attributes.record(&mut found);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(found.links);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut found = Fields::default();
            if let Some(links) = span.extensions().get::<Links>() {
                found.links = links.clone();
            }
            values.record(&mut found);
            span.extensions_mut().replace(found.links);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = level_of(event.metadata().level());
        if level < self.level || own_echo(event.metadata(), level) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut links = fields.links;
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Links>() {
                links.job = links.job.or_else(|| outer.job.clone());
                links.step = links.step.or(outer.step);
                links.name = links.name.or_else(|| outer.name.clone());
            }
        }
        let line = NewLogLine {
            at: Timestamp::now(),
            level,
            message: cut(fields.message),
            attrs: (!fields.rest.is_empty()).then_some(serde_json::Value::Object(fields.rest)),
            job: links.job,
            step: links.step,
            phase: links.name,
        };
        if self.sender.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lines about writing lines.
fn own_echo(metadata: &Metadata<'_>, level: LogLevel) -> bool {
    let target = metadata.target();
    target == module_path!() || (level < LogLevel::Warn && (target.starts_with("sqlx") || target.starts_with("migratekit_core::store")))
}

fn level_of(level: &Level) -> LogLevel {
    match *level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        _ => LogLevel::Debug,
    }
}

/// At most `MAX_MESSAGE` bytes of `text`, cut between characters.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_MESSAGE));
    text
}

/// The fields of a span or of a line.
#[derive(Default)]
struct Fields {
    message: String,
    links: Links,
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), &value) {
            ("message", serde_json::Value::String(text)) => self.message.clone_from(text),
            ("job", serde_json::Value::String(text)) => self.links.job = text.parse().ok(),
            ("step_name", serde_json::Value::String(text)) => self.links.name = Some(text.clone()),
            ("step", value) => self.links.step = value.as_i64().and_then(|row| StepId::try_from(row).ok()),
            (name, _) => {
                self.rest.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, serde_json::Value::String(cut(format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, serde_json::Value::String(cut(value.to_owned())));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// The end that stores.
#[derive(Debug)]
pub struct LogWriter {
    receiver: mpsc::Receiver<NewLogLine>,
    dropped: Arc<AtomicU64>,
    /// Lines dropped and not yet told of.
    lost: u64,
}

impl LogWriter {
    /// Stores lines until `token` ends, then what still waits, for two seconds at most. A catalog that cannot be reached keeps the batch
    /// waiting; meanwhile the queue fills, and what does not fit is counted.
    pub async fn run(mut self, store: Store, token: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(Some(first)) = token.run_until_cancelled(self.receiver.recv()).await {
            batch.push(first);
            if self.receiver.len() < BATCH {
                let _ = token.run_until_cancelled(clock::sleep(GATHER)).await;
            }
            self.fill(&mut batch);
            while !self.store(&store, &mut batch).await && !token.is_cancelled() {
                let _ = token.run_until_cancelled(clock::sleep(AGAIN)).await;
            }
        }
        let rest = async {
            loop {
                self.fill(&mut batch);
                if batch.is_empty() || !self.store(&store, &mut batch).await {
                    return;
                }
            }
        };
        let _ = clock::within(LAST, rest).await;
    }

    /// Takes what waits, without waiting, and adds the line about what is missing.
    fn fill(&mut self, batch: &mut Vec<NewLogLine>) {
        while batch.len() < BATCH {
            match self.receiver.try_recv() {
                Ok(line) => batch.push(line),
                Err(_) => break,
            }
        }
        self.lost += self.dropped.swap(0, Ordering::Relaxed);
        if self.lost > 0 {
            batch.push(NewLogLine {
                at: Timestamp::now(),
                level: LogLevel::Warn,
                message: format!("{} log lines are missing here: they came faster than the catalog could store them", self.lost),
                attrs: Some(serde_json::json!({ "dropped": self.lost })),
                job: None,
                step: None,
                phase: None,
            });
            self.lost = 0;
        }
    }

    /// Whether the batch was stored; it is then empty.
    async fn store(&mut self, store: &Store, batch: &mut Vec<NewLogLine>) -> bool {
        let lines = &*batch;
        match store.write("store log lines", |tx| async move { tx.logs().append(lines).await }).await {
            Ok(()) => {
                batch.clear();
                true
            }
            Err(error) => {
                tracing::warn!(%error, lines = batch.len(), "log lines wait for the catalog");
                false
            }
        }
    }
}
