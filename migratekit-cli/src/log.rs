//! The program's log: on stderr as loud as asked for, and in the catalog while jobs run here.

use std::sync::{Mutex, OnceLock, PoisonError};

use migratekit_core::jobs::{LogWriter, catalog_log};
use migratekit_core::model::LogLevel;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The end of the log that writes to the catalog, until a verb takes it.
static WRITER: OnceLock<Mutex<Option<LogWriter>>> = OnceLock::new();

/// Begins to log; called once.
pub(crate) fn begin(verbose: u8) {
    let level = match verbose {
        // What jobs say of themselves in technical words is in their own log; people are told in clean ones. That the catalog cannot be
        // written is in no log: who waits for a job must see here why nothing moves.
        0 => {
            "migratekit_core::jobs=error,migratekit_core::jobs::runner=warn,migratekit_core::jobs::renewal=warn,migratekit_core::replication=error,warn"
        }
        1 => "migratekit_core=info,warn",
        _ => "migratekit_core=debug,info",
    };
    let filter = EnvFilter::try_from_env("MIGRATEKIT_LOG").unwrap_or_else(|_| level.into());
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_filter(filter);
    let (catalog, writer) = catalog_log(LogLevel::Info);
    let _ = WRITER.set(Mutex::new(Some(writer)));
    tracing_subscriber::registry().with(stderr).with(catalog.with_filter(LevelFilter::INFO)).init();
}

/// The writer to the catalog, for the one engine that runs jobs.
pub(crate) fn writer() -> Option<LogWriter> {
    WRITER.get().and_then(|writer| writer.lock().unwrap_or_else(PoisonError::into_inner).take())
}
