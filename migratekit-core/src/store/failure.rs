//! What the databases' errors mean: in our kinds and words, and whether the transaction should be run again.

use sqlx::mysql::MySqlDatabaseError;

use crate::error::{Error, ErrorKind, Retry};

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The same would happen again.
    Final,
    /// Somebody else was in the way; the transaction is rolled back and run again.
    Conflict,
    /// The connection or the server is gone or not fit; run again on another connection, maybe of another host.
    Lost,
}

/// The context key under which a violated unique key stands: its columns, with commas between.
pub(super) const UNIQUE: &str = "unique";

/// An error of a driver, in our words.
pub(super) fn of(operation: &'static str, sql: &str, source: sqlx::Error) -> (Cause, Error) {
    let (cause, kind, message) = match &source {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<MySqlDatabaseError>() {
            Some(error) => mariadb(error.number()),
            None => sqlite(database.code().and_then(|code| code.parse().ok()).unwrap_or(1), sql),
        },
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => {
            (Cause::Lost, ErrorKind::Unreachable, "the connection to the database broke")
        }
        sqlx::Error::Protocol(_) => (Cause::Lost, ErrorKind::Protocol, "the database sent something that is not understood"),
        sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (Cause::Final, ErrorKind::Mismatch, "the catalog answers in a form that this version cannot read")
        }
        _ => (Cause::Final, ErrorKind::Internal, "the database's driver failed"),
    };
    let unique = (kind == ErrorKind::AlreadyExists).then(|| violated_key(&source.to_string())).flatten();
    let mut error = Error::new(kind, operation, message);
    if let Some(columns) = unique {
        error = error.with(UNIQUE, columns);
    }
    if cause == Cause::Final && error.retry() != Retry::Never {
        error = error.with_retry(Retry::Never);
    }
    (cause, error.with_source(source))
}

/// A write was refused in a snapshot for reading: a fault of the caller's, whatever the database says of itself.
pub(super) fn only_reads(operation: &'static str, source: Error) -> Error {
    Error::new(ErrorKind::ReadOnly, operation, "the transaction is one that only reads").with_retry(Retry::Never).with_source(source)
}

/// The same again without its source, which cannot be copied.
pub(super) fn copy_of(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.operation(), error.message().to_owned()).with_retry(error.retry());
    let copy = error.context().fold(copy, |copy, (key, value)| if key == UNIQUE { copy.with(UNIQUE, value) } else { copy });
    match std::error::Error::source(error) {
        Some(source) => copy.with_source(source.to_string()),
        None => copy,
    }
}

/// The columns of the unique key that a driver's message names. MariaDB's keys are named after their columns for this.
fn violated_key(message: &str) -> Option<String> {
    if let Some((_, columns)) = message.split_once("UNIQUE constraint failed: ") {
        let columns = columns.trim_end_matches([')', ' ']).split(", ").map(|column| column.rsplit('.').next().unwrap_or(column));
        return Some(columns.collect::<Vec<_>>().join(","));
    }
    let (_, key) = message.rsplit_once("for key '")?;
    key.split_once('\'').map(|(key, _)| key.to_owned())
}

fn mariadb(number: u16) -> (Cause, ErrorKind, &'static str) {
    use Cause::{Conflict, Final, Lost};
    match number {
        1213 => (Conflict, ErrorKind::Busy, "another transaction changed the same rows"),
        1205 => (Conflict, ErrorKind::Busy, "another transaction holds the rows for too long"),
        1020 => (Conflict, ErrorKind::Busy, "a row changed since this transaction read it"),
        1180 => (Conflict, ErrorKind::Busy, "the database could not commit"),
        1047 => (Lost, ErrorKind::Unreachable, "this node is not part of the cluster at present"),
        1053 | 1152 | 1927 | 2006 | 2013 => (Lost, ErrorKind::Unreachable, "the database ended the connection"),
        1040 | 1203 => (Lost, ErrorKind::Busy, "the database has as many connections as it allows"),
        1290 | 1792 | 1836 => (Lost, ErrorKind::ReadOnly, "the database is read-only"),
        1062 | 1169 | 1586 => (Final, ErrorKind::AlreadyExists, "a row with the same key exists already"),
        1451 => (Final, ErrorKind::Busy, "other rows still refer to it"),
        1452 | 1216 => (Final, ErrorKind::NotFound, "something it refers to does not exist"),
        1048 | 1364 => (Final, ErrorKind::InvalidInput, "a value is missing that must be there"),
        4025 | 1264 | 1366 => (Final, ErrorKind::InvalidInput, "a value is not one that the catalog allows"),
        1406 => (Final, ErrorKind::InvalidInput, "a text is longer than the catalog allows"),
        1021 | 1114 | 1041 => (Final, ErrorKind::NoSpace, "the database has no space left"),
        1044 | 1045 | 1698 => {
            (Final, ErrorKind::Denied, "the database does not let this user in; check user, password and the rights on the database")
        }
        1142 | 1143 | 1227 | 1370 => {
            (Final, ErrorKind::Denied, "the database's user lacks a right that is needed; grant it all rights on this database")
        }
        1049 => (Final, ErrorKind::NotFound, "the server has no such database; create it, empty, first"),
        1146 | 1054 => (Final, ErrorKind::Mismatch, "a table or column is missing; the schema is not complete"),
        1033..=1035 | 1194 | 1195 => (Final, ErrorKind::Mismatch, "a table is damaged"),
        _ => (Final, ErrorKind::Io, "the database refused the statement"),
    }
}

/// SQLite's extended result codes; the low byte is the plain one.
fn sqlite(code: i32, sql: &str) -> (Cause, ErrorKind, &'static str) {
    use Cause::{Conflict, Final};
    match (code, code & 0xff) {
        (_, 5 | 6) => (Conflict, ErrorKind::Busy, "another process writes to the catalog for too long"),
        (2067 | 1555 | 2579, _) => (Final, ErrorKind::AlreadyExists, "a row with the same key exists already"),
        (787 | 1811, _) if sql.trim_start().starts_with("DELETE") => (Final, ErrorKind::Busy, "other rows still refer to it"),
        (787 | 1811, _) => (Final, ErrorKind::NotFound, "something it refers to does not exist"),
        (1299, _) => (Final, ErrorKind::InvalidInput, "a value is missing that must be there"),
        (275 | 3091, _) => (Final, ErrorKind::InvalidInput, "a value is not one that the catalog allows"),
        (_, 8) => (Final, ErrorKind::ReadOnly, "the catalog's file cannot be written"),
        (_, 10) => (Final, ErrorKind::Io, "the catalog's file could not be read or written"),
        (_, 11) => (Final, ErrorKind::Mismatch, "the catalog's file is damaged; restore it from a backup"),
        (_, 26) => (Final, ErrorKind::Mismatch, "the file is no SQLite database"),
        (_, 13) => (Final, ErrorKind::NoSpace, "the disk that holds the catalog is full"),
        (_, 14) => (Final, ErrorKind::Io, "the catalog's file cannot be opened"),
        (_, 3 | 23) => (Final, ErrorKind::Denied, "the operating system denies access to the catalog's file"),
        (_, 18) => (Final, ErrorKind::InvalidInput, "a text is longer than the catalog allows"),
        _ => (Final, ErrorKind::Internal, "the database refused the statement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violated_key_is_named_alike_by_both() {
        assert_eq!(violated_key("error returned from database: (code: 2067) UNIQUE constraint failed: t.a, t.b").unwrap(), "a,b");
        assert_eq!(violated_key("1062 (23000): Duplicate entry 'x-y' for key 'a,b'").unwrap(), "a,b");
        assert_eq!(violated_key("nothing of the kind"), None);
    }

    #[test]
    fn what_is_to_be_run_again_is_not_final() {
        for number in [1213, 1205, 1020] {
            assert_eq!(mariadb(number).0, Cause::Conflict);
        }
        for number in [1047, 2013, 1053] {
            assert_eq!(mariadb(number).0, Cause::Lost);
        }
        assert_eq!(sqlite(517, "").0, Cause::Conflict);
        assert_eq!(sqlite(787, "DELETE FROM x").1, ErrorKind::Busy);
        assert_eq!(sqlite(787, "INSERT INTO x").1, ErrorKind::NotFound);
    }
}
