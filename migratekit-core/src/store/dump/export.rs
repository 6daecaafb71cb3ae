//! Writing a dump.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Content, DumpReport, FORMAT, FORMAT_VERSION, Header, OWN_FACTS, Table, TableLine, Trailer, tables};
use crate::error::{Error, ErrorKind, Result};
use crate::store::row::Row;
use crate::store::value::Value;
use crate::store::{Store, Tx, dialect};
use crate::task;

const EXPORT: &str = "export the catalog";
/// Rows read at once: enough to be quick, few enough to need no memory to speak of.
const BATCH: u32 = 500;

/// A column, and how its values are read.
struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Int,
    Real,
    Text,
}

impl Store {
    /// Writes the catalog, or a part of it, to a new file. One snapshot; the file appears when it is whole and on disk.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the file is there.
    pub async fn export(&self, path: &Path, content: Content) -> Result<DumpReport> {
        if path.exists() {
            return Err(Error::new(ErrorKind::AlreadyExists, EXPORT, "a file of this name exists").with("path", path.display()));
        }
        let partial = Partial(path.with_extension("partial"));
        let partial = &partial;
        let schema = self.schema_status().await?.applied.last().map(|(version, _)| version.clone()).unwrap_or_default();
        let schema = &schema;
        let report = self
            .read(EXPORT, |tx| async move {
                // Begun anew whenever the transaction is.
                let sink = Sink::begin(&partial.0)?;
                write_all(&tx, sink, content, schema).await
            })
            .await?;
        let (from, to) = (partial.0.clone(), path.to_path_buf());
        task::blocking(move || fs::rename(&from, &to)).await?.map_err(|e| Error::from_io(EXPORT, e).with("path", path.display()))?;
        Ok(report)
    }
}

/// A file that is removed unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Where the lines go, with their digest.
#[derive(Clone)]
struct Sink(Arc<Mutex<(File, blake3::Hasher)>>);

impl Sink {
    fn begin(path: &Path) -> Result<Self> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.map_err(|e| Error::from_io(EXPORT, e).with("path", path.display()))?;
        Ok(Sink(Arc::new(Mutex::new((file, blake3::Hasher::new())))))
    }

    async fn write(&self, text: String) -> Result<()> {
        let sink = self.clone();
        let written = task::blocking(move || {
            let mut inner = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
            inner.1.update(text.as_bytes());
            inner.0.write_all(text.as_bytes())
        });
        written.await?.map_err(|e| Error::from_io(EXPORT, e))
    }

    fn digest(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.finalize().to_hex().to_string()
    }

    async fn sync(&self) -> Result<()> {
        let sink = self.clone();
        let synced = task::blocking(move || sink.0.lock().unwrap_or_else(PoisonError::into_inner).0.sync_all());
        synced.await?.map_err(|e| Error::from_io(EXPORT, e))
    }
}

fn line(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|e| Error::new(ErrorKind::Internal, EXPORT, "a line cannot be written").with_source(e));
    text.map(|text| text + "\n")
}

async fn write_all(tx: &Tx, sink: Sink, content: Content, schema: &str) -> Result<DumpReport> {
    let header = Header {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        schema: schema.to_owned(),
        backend: tx.backend().to_string(),
        content,
    };
    sink.write(line(&header)?).await?;
    let mut counts = Vec::new();
    for table in tables(content) {
        let columns = columns(tx, table.name).await?;
        let names = columns.iter().map(|column| column.name.clone()).collect();
        sink.write(line(&TableLine { table: table.name.to_owned(), columns: names })?).await?;
        let rows = if content == Content::Schema { 0 } else { write_rows(tx, &sink, table, &columns).await? };
        counts.push((table.name.to_owned(), rows));
    }
    let blake3 = sink.digest();
    sink.write(line(&Trailer { counts: counts.iter().cloned().collect(), blake3: blake3.clone() })?).await?;
    sink.sync().await?;
    Ok(DumpReport { content, schema: schema.to_owned(), counts, blake3 })
}

async fn columns(tx: &Tx, table: &str) -> Result<Vec<Column>> {
    let read = |row: &Row| {
        let kind = match row.text("kind")?.to_ascii_lowercase().as_str() {
            "integer" | "bigint" | "int" | "tinyint" => Kind::Int,
            "real" | "double" => Kind::Real,
            _ => Kind::Text,
        };
        Ok(Column { name: row.text("name")?, kind })
    };
    tx.sql(EXPORT, dialect::columns(tx.backend())).bind(table).all(read).await
}

async fn write_rows(tx: &Tx, sink: &Sink, table: &Table, columns: &[Column]) -> Result<u64> {
    let key = columns.first().ok_or_else(|| Error::new(ErrorKind::Mismatch, EXPORT, "a table is missing").with("table", table.name))?;
    let list = columns.iter().map(|column| dialect::quoted(tx.backend(), &column.name)).collect::<Vec<_>>().join(", ");
    let (mut count, mut after) = (0_u64, None);
    loop {
        let behind = if after.is_some() { format!("WHERE {} > ?", key.name) } else { String::new() };
        let text = format!("SELECT {list} FROM {} {behind} ORDER BY {} LIMIT {BATCH}", table.name, key.name);
        let mut statement = tx.sql(EXPORT, text);
        if let Some(after) = after.take() {
            statement = statement.bind(after);
        }
        let rows = statement.rows().await?;
        let mut lines = String::new();
        for row in &rows {
            let values = columns.iter().map(|column| value(row, column)).collect::<Result<Vec<_>>>()?;
            after = values.first().and_then(|first| match first {
                serde_json::Value::Number(number) => number.as_i64().map(Value::Int),
                serde_json::Value::String(text) => Some(Value::Text(text.clone())),
                _ => None,
            });
            let own =
                table.name == "store_facts" && values.first().and_then(|name| name.as_str()).is_some_and(|name| OWN_FACTS.contains(&name));
            if !own {
                lines.push_str(&line(&values)?);
                count += 1;
            }
        }
        sink.write(lines).await?;
        if rows.len() < BATCH as usize {
            return Ok(count);
        }
    }
}

fn value(row: &Row, column: &Column) -> Result<serde_json::Value> {
    Ok(match column.kind {
        Kind::Int => row.int_or_none(&column.name)?.map_or(serde_json::Value::Null, Into::into),
        Kind::Real => row.real_or_none(&column.name)?.map_or(serde_json::Value::Null, Into::into),
        Kind::Text => row.text_or_none(&column.name)?.map_or(serde_json::Value::Null, Into::into),
    })
}
