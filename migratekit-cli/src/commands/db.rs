//! `migratekit db`: the catalog itself.

use std::future::Future;
use std::path::{Path, PathBuf};

use migratekit_core::clock::Timestamp;
use migratekit_core::credentials::KeyPlace;
use migratekit_core::engine::{Diagnosis, Health, key_of};
use migratekit_core::store::{Content, DumpReport, Migration, SchemaStatus, Store};
use migratekit_core::task::CancellationToken;
use migratekit_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::args::{DbArgs, DbCommand, Global, Part};
use crate::table::{Table, facts, when};
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: DbArgs, cancel: &CancellationToken) -> Result<()> {
    let options = place::options(&args.place);
    match args.command {
        DbCommand::Migrate => {
            let store = place::store(&args.place, options.migrate(false)).await?;
            let done = Migrated { applied: store.migrate().await?.iter().map(Step::of).collect() };
            output::result(global, &done, migrated)
        }
        DbCommand::Status => {
            let store = place::store(&args.place, options.create(false).migrate(false)).await?;
            let key = key_of(&store, KeyPlace::find(args.place.key_file.as_deref())?).await;
            output::result(global, &Status::of(&store, &store.schema_status().await?, key), shown)
        }
        DbCommand::Export { file, only } => {
            let store = place::store(&args.place, options.create(false).migrate(false)).await?;
            let content = match only {
                None => Content::Data,
                Some(Part::Configuration) => Content::Configuration,
                Some(Part::Schema) => Content::Schema,
            };
            let report = unless(cancel, "export the catalog", store.export(&file, content)).await?;
            output::result(global, &Dumped::of(&store, &file, report, None), dumped)
        }
        DbCommand::Import { file } => {
            let store = place::store(&args.place, options).await?;
            let report = unless(cancel, "import into the catalog", store.import(&file)).await?;
            let key = key_of(&store, KeyPlace::find(args.place.key_file.as_deref())?).await;
            output::result(global, &Dumped::of(&store, &file, report, Some(key)), dumped)
        }
        DbCommand::Adopt => {
            let store = place::store(&args.place, options.create(false).adopt(true)).await?;
            let adopted = Adopted { catalog: store.url().to_string() };
            output::result(global, &adopted, |adopted| format!("{} belongs to this host now", adopted.catalog))
        }
    }
}

/// What `work` gives, unless the program is asked to end: then `work` is dropped, which undoes it.
async fn unless<T>(cancel: &CancellationToken, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let ended = || Error::new(ErrorKind::Cancelled, operation, "it was interrupted; nothing of it is left");
    cancel.run_until_cancelled(work).await.unwrap_or_else(|| Err(ended()))
}

/// What was written to a file or read from one, as it is printed.
#[derive(Serialize)]
struct Dumped {
    catalog: String,
    file: PathBuf,
    content: Content,
    schema: String,
    rows: u64,
    tables: Vec<TableRows>,
    blake3: String,
    /// After an import: whether the key at hand opens what came.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Diagnosis>,
}

#[derive(Serialize)]
struct TableRows {
    table: String,
    rows: u64,
}

impl Dumped {
    fn of(store: &Store, file: &Path, report: DumpReport, key: Option<Diagnosis>) -> Self {
        Dumped {
            catalog: store.url().to_string(),
            file: file.to_owned(),
            content: report.content,
            rows: report.rows(),
            schema: report.schema,
            tables: report.counts.into_iter().map(|(table, rows)| TableRows { table, rows }).collect(),
            blake3: report.blake3,
            key,
        }
    }
}

fn dumped(done: &Dumped) -> String {
    let content = match done.content {
        Content::Data => "everything",
        Content::Configuration => "the configuration",
        Content::Schema => "the schema, no rows",
    };
    let key = done.key.as_ref().map(|key| match key.health {
        Health::Bad => format!("{}; bring the key file of the catalog that was exported", key.found),
        Health::Good | Health::Absent => key.found.clone(),
    });
    let head = facts([
        ("catalog", Some(done.catalog.clone())),
        ("file", Some(done.file.display().to_string())),
        ("content", Some(content.to_owned())),
        ("schema", Some(done.schema.clone())),
        ("blake3", Some(done.blake3.clone())),
        ("key", key),
    ]);
    let mut table = Table::new(["TABLE", "ROWS"]);
    for line in done.tables.iter().filter(|line| line.rows > 0) {
        table.row([line.table.clone(), line.rows.to_string()]);
    }
    format!("{head}\n\n{}", table.text("no rows"))
}

/// A step of the schema, as it is printed.
#[derive(Serialize)]
struct Step {
    version: &'static str,
    brings: &'static str,
}

impl Step {
    fn of(migration: &Migration) -> Self {
        Step { version: migration.version, brings: migration.description }
    }
}

#[derive(Serialize)]
struct Migrated {
    applied: Vec<Step>,
}

fn migrated(done: &Migrated) -> String {
    steps(&done.applied).text("the schema is up to date; nothing was done")
}

fn steps(steps: &[Step]) -> Table {
    let mut table = Table::new(["MIGRATION", "BRINGS"]);
    for step in steps {
        table.row([step.version, step.brings]);
    }
    table
}

#[derive(Serialize)]
struct Adopted {
    catalog: String,
}

/// A catalog, as it is printed.
#[derive(Serialize)]
struct Status {
    catalog: String,
    backend: String,
    schema: Option<String>,
    migrated_at: Option<Timestamp>,
    pending: Vec<Step>,
    key: Diagnosis,
}

impl Status {
    fn of(store: &Store, schema: &SchemaStatus, key: Diagnosis) -> Self {
        let last = schema.applied.last();
        Status {
            catalog: store.url().to_string(),
            backend: store.backend().to_string(),
            schema: last.map(|(version, _)| version.clone()),
            migrated_at: last.map(|(_, at)| *at),
            pending: schema.pending.iter().map(Step::of).collect(),
            key,
        }
    }
}

fn shown(status: &Status) -> String {
    let head = facts([
        ("catalog", Some(status.catalog.clone())),
        ("backend", Some(status.backend.clone())),
        ("schema", Some(status.schema.clone().unwrap_or_else(|| "none yet".to_owned()))),
        ("migrated", status.migrated_at.map(when)),
        ("key", Some(status.key.found.clone())),
    ]);
    match status.pending.is_empty() {
        true => head,
        false => format!("{head}\n\nto be applied by `migratekit db migrate`:\n{}", steps(&status.pending).text("")),
    }
}
