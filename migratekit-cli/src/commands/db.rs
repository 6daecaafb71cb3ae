//! `migratekit db`: the catalog itself.

use migratekit_core::Result;
use migratekit_core::clock::Timestamp;
use migratekit_core::credentials::KeyPlace;
use migratekit_core::engine::{Diagnosis, key_of};
use migratekit_core::store::{Migration, SchemaStatus, Store};
use serde::Serialize;

use crate::args::{DbArgs, DbCommand, Global};
use crate::table::{Table, facts, when};
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: DbArgs) -> Result<()> {
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
        DbCommand::Adopt => {
            let store = place::store(&args.place, options.create(false).adopt(true)).await?;
            let adopted = Adopted { catalog: store.url().to_string() };
            output::result(global, &adopted, |adopted| format!("{} belongs to this host now", adopted.catalog))
        }
    }
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
