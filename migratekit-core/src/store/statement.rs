//! One statement: its text, its values, its answer. The only place where the two databases' drivers are told apart by a macro.
//!
//! `tx.sql("rename a group", "UPDATE vm_machine_groups SET name = ? WHERE id = ?").bind(name).bind(&id).run().await?`

use std::borrow::Cow;

use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Database, Encode, Type};

use super::row::Row;
use super::session::{Session, Tx};
use super::value::Value;
use crate::error::{Error, ErrorKind, Result};

/// Runs `$body` with the connection of whichever database it is, and its driver's type as `DB`.
macro_rules! on {
    ($session:expr, $connection:ident => $body:expr) => {
        match $session {
            $crate::store::session::Session::Sqlite($connection) => {
                type DB = sqlx::Sqlite;
                $body
            }
            $crate::store::session::Session::MariaDb($connection) => {
                type DB = sqlx::MySql;
                $body
            }
        }
    };
}
pub(super) use on;

/// A statement about to run in a transaction.
#[must_use]
pub(crate) struct Statement<'t> {
    tx: &'t Tx,
    operation: &'static str,
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

impl Tx {
    /// A statement with `?` for each value; `operation` is a verb phrase for its errors. The text must not hold any value from outside.
    pub(crate) fn sql(&self, operation: &'static str, sql: impl Into<Cow<'static, str>>) -> Statement<'_> {
        Statement { tx: self, operation, sql: sql.into(), values: Vec::new() }
    }
}

impl Statement<'_> {
    /// The next value.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs it and tells the number of rows that it matched.
    pub(crate) async fn run(self) -> Result<u64> {
        let (operation, sql, values) = self.checked()?;
        let mut session = self.tx.take(operation).await?;
        let answer = on!(&mut session, connection => prepared::<DB>(sql.clone(), values).execute(&mut **connection).await.map(|done| done.rows_affected()));
        self.tx.put_back(operation, sql, session, answer).await
    }

    /// Runs it; fails with [`ErrorKind::NotFound`] and `missing` unless it matched a row.
    pub(crate) async fn run_found(self, missing: &'static str) -> Result<()> {
        let operation = self.operation;
        match self.run().await? {
            0 => Err(Error::new(ErrorKind::NotFound, operation, missing)),
            _ => Ok(()),
        }
    }

    /// All rows of its answer. The text must bound them.
    pub(crate) async fn rows(self) -> Result<Vec<Row>> {
        let (operation, sql, values) = self.checked()?;
        let mut session = self.tx.take(operation).await?;
        let answer: sqlx::Result<Vec<Row>> = match &mut session {
            Session::Sqlite(connection) => prepared::<sqlx::Sqlite>(sql.clone(), values)
                .fetch_all(&mut **connection)
                .await
                .map(|rows| rows.into_iter().map(Row::Sqlite).collect()),
            Session::MariaDb(connection) => prepared::<sqlx::MySql>(sql.clone(), values)
                .fetch_all(&mut **connection)
                .await
                .map(|rows| rows.into_iter().map(Row::MariaDb).collect()),
        };
        self.tx.put_back(operation, sql, session, answer).await
    }

    /// All rows, each read by `read`.
    pub(crate) async fn all<T>(self, read: impl Fn(&Row) -> Result<T>) -> Result<Vec<T>> {
        self.rows().await?.iter().map(read).collect()
    }

    /// The first row, read by `read`.
    pub(crate) async fn first<T>(self, read: impl FnOnce(&Row) -> Result<T>) -> Result<Option<T>> {
        self.rows().await?.first().map(read).transpose()
    }

    /// The first row, read by `read`; [`ErrorKind::NotFound`] with `missing` when there is none.
    pub(crate) async fn one<T>(self, missing: &'static str, read: impl FnOnce(&Row) -> Result<T>) -> Result<T> {
        let operation = self.operation;
        self.first(read).await?.ok_or_else(|| Error::new(ErrorKind::NotFound, operation, missing))
    }

    fn checked(&self) -> Result<(&'static str, &Cow<'static, str>, &[Value])> {
        if let Some(Value::TooLarge(number)) = self.values.iter().find(|value| matches!(value, Value::TooLarge(_))) {
            let error = Error::new(ErrorKind::InvalidInput, self.operation, "a number is above 2^63-1, more than the catalog holds");
            return Err(error.with("value", number));
        }
        Ok((self.operation, &self.sql, &self.values))
    }
}

/// A statement of one driver with its values. Prepared statements are kept for each connection, by their text.
fn prepared<'q, DB: Database>(sql: Cow<'static, str>, values: &[Value]) -> Query<'q, DB, DB::Arguments>
where
    DB::Arguments: sqlx::IntoArguments<DB>,
    Option<String>: for<'a> Encode<'a, DB> + Type<DB>,
    i64: for<'a> Encode<'a, DB> + Type<DB>,
    f64: for<'a> Encode<'a, DB> + Type<DB>,
    String: for<'a> Encode<'a, DB> + Type<DB>,
{
    let mut query = match sql {
        Cow::Borrowed(text) => sqlx::query::<DB>(text),
        Cow::Owned(text) => sqlx::query::<DB>(AssertSqlSafe(text)),
    };
    for value in values {
        query = match value {
            // A text without a value: beside a number's MariaDB would read a column of texts as numbers, and fail at the first that is none.
            Value::Null | Value::TooLarge(_) => query.bind(None::<String>),
            Value::Int(number) => query.bind(*number),
            Value::Real(number) => query.bind(*number),
            Value::Text(text) => query.bind(text.clone()),
        };
    }
    query
}
