//! The schema and its versions.
//!
//! A migration has two texts for each database, up and down, in `migrations/`. Every statement in them can be run twice (`IF NOT EXISTS`,
//! `CREATE OR REPLACE`), since MariaDB commits each one by itself: what was interrupted is run again from its beginning. On SQLite a
//! migration is one transaction. Two processes that migrate at once do the same, and the second finds it done.

use super::home::OPEN;
use super::{Backend, Store, Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// One step of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Fourteen digits, rising.
    pub version: &'static str,
    /// What it brings.
    pub description: &'static str,
    sqlite: (&'static str, &'static str),
    mariadb: (&'static str, &'static str),
}

macro_rules! migrations {
    ($($file:literal: $description:literal,)*) => {
        /// Every migration this program knows, in order.
        pub(super) const ALL: &[Migration] = &[$(Migration {
            version: $file.split_at(14).0,
            description: $description,
            sqlite: (
                include_str!(concat!("migrations/sqlite/", $file, ".up.sql")),
                include_str!(concat!("migrations/sqlite/", $file, ".down.sql")),
            ),
            mariadb: (
                include_str!(concat!("migrations/mariadb/", $file, ".up.sql")),
                include_str!(concat!("migrations/mariadb/", $file, ".down.sql")),
            ),
        },)*];
    };
}

migrations! {
    "20261121000001_core": "contexts, disks, replications, failovers, networks",
    "20261121000002_volumes": "target volumes, their devices and exports, points and ledgers",
    "20261121000003_jobs": "jobs, steps, logs, intents, events, runners",
    "20261121000004_scheduling": "schedules, groups, executions",
    "20261121000005_access": "credentials, agents, clouds, sites, users, audit",
    "20261121000006_store": "the store's own",
    "20261121000007_views": "the five views",
}

/// What a catalog's schema is, against what this program knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaStatus {
    /// Versions in the catalog, with the time each was applied.
    pub applied: Vec<(String, Timestamp)>,
    /// Known migrations that the catalog lacks.
    pub pending: Vec<Migration>,
    /// Versions in the catalog that this program does not know: a newer program made them.
    pub unknown: Vec<String>,
}

impl Store {
    /// Every migration this program knows, in order.
    #[must_use]
    pub fn migrations() -> &'static [Migration] {
        ALL
    }

    /// Compares the catalog's schema with what this program knows.
    pub async fn schema_status(&self) -> Result<SchemaStatus> {
        let applied = self.read("read the schema's version", |tx| async move { applied(&tx).await }).await?;
        let has = |version: &str| applied.iter().any(|(applied, _)| applied == version);
        let pending = ALL.iter().filter(|migration| !has(migration.version)).copied().collect();
        let unknown =
            applied.iter().map(|(version, _)| version).filter(|version| !ALL.iter().any(|m| m.version == *version)).cloned().collect();
        Ok(SchemaStatus { applied, pending, unknown })
    }

    /// Brings the schema up to date; tells what was done. Running it twice does nothing the second time.
    pub async fn migrate(&self) -> Result<Vec<Migration>> {
        let status = self.schema_status().await?;
        refuse_newer(&status)?;
        for migration in &status.pending {
            self.apply(migration, true).await?;
        }
        Ok(status.pending)
    }

    /// Takes the schema back to just after `version` (empty: to nothing). The data in what is taken away is lost.
    pub async fn migrate_down(&self, version: &str) -> Result<Vec<Migration>> {
        let status = self.schema_status().await?;
        refuse_newer(&status)?;
        let mut undone = Vec::new();
        for migration in ALL.iter().rev().filter(|m| m.version > version && status.applied.iter().any(|(applied, _)| applied == m.version))
        {
            self.apply(migration, false).await?;
            undone.push(*migration);
        }
        Ok(undone)
    }

    async fn apply(&self, migration: &Migration, up: bool) -> Result<()> {
        let texts = if self.backend() == Backend::Sqlite { migration.sqlite } else { migration.mariadb };
        let text = if up { texts.0 } else { texts.1 };
        self.write_schema("change the schema", |tx| async move {
            for statement in statements(text) {
                tx.plain("change the schema", statement).await?;
            }
            if !up {
                tx.sql("change the schema", "DELETE FROM schema_migrations WHERE version = ?").bind(migration.version).run().await?;
                return Ok(());
            }
            let upsert = dialect::upsert(tx.backend(), "version", &["description"]);
            let now = dialect::now(tx.backend());
            let text = format!("INSERT INTO schema_migrations (version, description, applied_at) VALUES (?, ?, {now}){upsert}");
            tx.sql("change the schema", text).bind(migration.version).bind(migration.description).run().await.map(|_| ())
        })
        .await
        .map_err(|error| error.with("migration", migration.version).with("catalog", self.url()))
    }
}

/// What an open does: the table of versions is made where there is none, a newer schema is refused, an older one brought up to date.
pub(super) async fn opened(store: &Store, migrate: bool) -> Result<()> {
    let tables = store.read(OPEN, |tx| async move { table_names(&tx).await }).await?;
    if !tables.iter().any(|name| name == "schema_migrations") {
        if !tables.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, OPEN, "the database holds tables of another program; name an empty one"));
        }
        let text = if store.backend() == Backend::Sqlite { VERSIONS_SQLITE } else { VERSIONS_MARIADB };
        store.write_schema(OPEN, |tx| async move { tx.plain(OPEN, text).await }).await?;
    }
    if migrate {
        store.migrate().await?;
    } else {
        refuse_newer(&store.schema_status().await?)?;
    }
    Ok(())
}

/// The one table that no migration makes.
const VERSIONS_SQLITE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    -- Fourteen digits.
    version TEXT NOT NULL PRIMARY KEY CHECK (length(version) <= 14),
    -- What it brought.
    description TEXT NOT NULL CHECK (length(description) <= 255),
    -- When.
    applied_at INTEGER NOT NULL
) STRICT";

/// The same for MariaDB.
const VERSIONS_MARIADB: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version VARCHAR(14) NOT NULL COMMENT 'Fourteen digits.',
    description VARCHAR(255) NOT NULL COMMENT 'What it brought.',
    applied_at BIGINT NOT NULL COMMENT 'When.',
    PRIMARY KEY (version)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='The migrations that were applied.'";

fn refuse_newer(status: &SchemaStatus) -> Result<()> {
    match status.unknown.last() {
        None => Ok(()),
        Some(version) => {
            let message = "a newer version of this program made the catalog's schema; use that version, or restore a backup of before";
            Err(Error::new(ErrorKind::Unsupported, OPEN, message).with("schema", version))
        }
    }
}

async fn applied(tx: &Tx) -> Result<Vec<(String, Timestamp)>> {
    tx.sql("read the schema's version", "SELECT version, applied_at FROM schema_migrations ORDER BY version")
        .all(|row| Ok((row.text("version")?, row.time("applied_at")?)))
        .await
}

/// The tables and views there are.
pub(super) async fn table_names(tx: &Tx) -> Result<Vec<String>> {
    tx.sql("list the tables", dialect::tables(tx.backend())).all(|row| row.text("name")).await
}

/// The statements of a text: each ends with a semicolon at the end of a line. Comments stay.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_and_every_text_has_statements_that_can_run_twice() {
        assert!(ALL.windows(2).all(|pair| pair[0].version < pair[1].version));
        for migration in ALL {
            assert!(migration.version.len() == 14 && migration.version.bytes().all(|b| b.is_ascii_digit()));
            for text in [migration.sqlite.0, migration.sqlite.1, migration.mariadb.0, migration.mariadb.1] {
                assert!(statements(text).count() > 0);
                for statement in statements(text) {
                    let code = statement.lines().find(|line| !line.trim_start().starts_with("--") && !line.is_empty()).unwrap();
                    let repeatable = ["IF NOT EXISTS", "IF EXISTS", "OR REPLACE", "INSERT IGNORE", "INSERT OR IGNORE"];
                    assert!(repeatable.iter().any(|words| code.contains(words)), "{statement}");
                }
            }
        }
    }
}
