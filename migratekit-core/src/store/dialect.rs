//! Everything in which the two databases' SQL differs. One SQL text serves both; where that is not possible it asks here.

use super::Backend;

/// Begins a transaction that writes. SQLite takes the writer's lock at once, so it cannot fail half-way for want of it.
pub(super) fn begin_write(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "BEGIN IMMEDIATE",
        Backend::MariaDb => "START TRANSACTION READ WRITE",
    }
}

/// Begins one snapshot for reading.
pub(super) fn begin_read(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "BEGIN DEFERRED",
        Backend::MariaDb => "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    }
}

/// Now by the database's clock, in microseconds since 1970 UTC. Every connection's time zone is UTC. SQLite's clock has milliseconds.
pub(super) fn now(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)",
        Backend::MariaDb => "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
    }
}

/// What follows an INSERT so that a row that exists (by the unique key `key`) is updated: each of `columns` takes the new value.
pub(super) fn upsert(backend: Backend, key: &str, columns: &[&str]) -> String {
    let mut text = match backend {
        Backend::Sqlite => format!(" ON CONFLICT ({key}) DO UPDATE SET "),
        Backend::MariaDb => " ON DUPLICATE KEY UPDATE ".to_owned(),
    };
    for (i, column) in columns.iter().enumerate() {
        text.push_str(if i == 0 { "" } else { ", " });
        text.push_str(column);
        match backend {
            Backend::Sqlite => text.push_str(" = excluded."),
            Backend::MariaDb => text.push_str(" = VALUES("),
        }
        text.push_str(column);
        text.push_str(if backend == Backend::MariaDb { ")" } else { "" });
    }
    text
}

/// What follows a SELECT whose rows the same transaction will change on the strength of what it read. SQLite has one writer anyway.
pub(super) fn for_update(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "",
        Backend::MariaDb => " FOR UPDATE",
    }
}

/// The names of the tables and views there are, as one column `name`.
pub(super) fn tables(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name",
        Backend::MariaDb => "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY name",
    }
}

/// The columns of one table (the value), but generated ones, in order: `name` and `kind`.
pub(super) fn columns(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "SELECT name, type AS kind FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid",
        Backend::MariaDb => {
            "SELECT column_name AS name, data_type AS kind FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = ? AND is_generated = 'NEVER' ORDER BY ordinal_position"
        }
    }
}

/// The name of a column where it may be a word of SQL.
pub(super) fn quoted(backend: Backend, column: &str) -> String {
    match backend {
        Backend::Sqlite => format!("\"{column}\""),
        Backend::MariaDb => format!("`{column}`"),
    }
}
