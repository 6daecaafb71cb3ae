//! Rows on their way out, with checked conversions: what a column cannot mean is found where it is read, with the column's name.

use std::str::FromStr;

use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use sqlx::sqlite::SqliteRow;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// One row of either database.
pub(crate) enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of MariaDB.
    MariaDb(MySqlRow),
}

macro_rules! get {
    ($row:expr, $column:expr, $kind:ty) => {
        match $row {
            Row::Sqlite(row) => row.try_get::<$kind, _>($column),
            Row::MariaDb(row) => row.try_get::<$kind, _>($column),
        }
        .map_err(|source| unreadable($column).with_source(source))
    };
}

fn unreadable(column: &str) -> Error {
    Error::new(ErrorKind::Mismatch, "read the catalog", "a row holds a value that this version cannot read").with("column", column)
}

fn missing(column: &str) -> Error {
    Error::new(ErrorKind::Mismatch, "read the catalog", "a row lacks a value that it must have").with("column", column)
}

impl Row {
    /// Text, or NULL.
    pub(crate) fn text_or_none(&self, column: &str) -> Result<Option<String>> {
        get!(self, column, Option<String>)
    }

    /// Text.
    pub(crate) fn text(&self, column: &str) -> Result<String> {
        self.text_or_none(column)?.ok_or_else(|| missing(column))
    }

    /// An integer, or NULL.
    pub(crate) fn int_or_none(&self, column: &str) -> Result<Option<i64>> {
        get!(self, column, Option<i64>)
    }

    /// An integer.
    pub(crate) fn int(&self, column: &str) -> Result<i64> {
        self.int_or_none(column)?.ok_or_else(|| missing(column))
    }

    /// A number with a fraction, or NULL.
    pub(crate) fn real_or_none(&self, column: &str) -> Result<Option<f64>> {
        get!(self, column, Option<f64>)
    }

    /// A flag.
    pub(crate) fn flag(&self, column: &str) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    /// A number of the wanted width or a row's id, or NULL.
    pub(crate) fn number_or_none<T: TryFrom<i64>>(&self, column: &str) -> Result<Option<T>> {
        self.int_or_none(column)?.map(|number| T::try_from(number).map_err(|_| unreadable(column).with("value", number))).transpose()
    }

    /// A number of the wanted width, or a row's id.
    pub(crate) fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T> {
        self.number_or_none(column)?.ok_or_else(|| missing(column))
    }

    /// An id or a code, or NULL.
    pub(crate) fn parse_or_none<T: FromStr<Err = Error>>(&self, column: &str) -> Result<Option<T>> {
        self.text_or_none(column)?.map(|text| text.parse().map_err(|source: Error| unreadable(column).with_source(source))).transpose()
    }

    /// An id or a code.
    pub(crate) fn parse<T: FromStr<Err = Error>>(&self, column: &str) -> Result<T> {
        self.parse_or_none(column)?.ok_or_else(|| missing(column))
    }

    /// A time, or NULL.
    pub(crate) fn time_or_none(&self, column: &str) -> Result<Option<Timestamp>> {
        self.int_or_none(column)?
            .map(|micros| Timestamp::from_micros(micros).map_err(|source| unreadable(column).with_source(source)))
            .transpose()
    }

    /// A time.
    pub(crate) fn time(&self, column: &str) -> Result<Timestamp> {
        self.time_or_none(column)?.ok_or_else(|| missing(column))
    }

    /// JSON, or NULL.
    pub(crate) fn json_or_none(&self, column: &str) -> Result<Option<serde_json::Value>> {
        self.text_or_none(column)?
            .map(|text| serde_json::from_str(&text).map_err(|source| unreadable(column).with_source(source)))
            .transpose()
    }

    /// JSON.
    pub(crate) fn json(&self, column: &str) -> Result<serde_json::Value> {
        self.json_or_none(column)?.ok_or_else(|| missing(column))
    }

    /// A record that was kept as JSON.
    pub(crate) fn record<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T> {
        serde_json::from_value(self.json(column)?).map_err(|source| unreadable(column).with_source(source))
    }
}
