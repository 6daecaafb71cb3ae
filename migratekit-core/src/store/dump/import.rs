//! Reading a dump: checked as a whole first, then put into an empty catalog in one transaction.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Content, DumpReport, FORMAT, FORMAT_VERSION, Header, MAX_LINE, Table, TableLine, Trailer, tables};
use crate::error::{Error, ErrorKind, Result};
use crate::store::home::OWN_FACTS;
use crate::store::value::Value;
use crate::store::{Store, Tx, dialect};
use crate::task;

const IMPORT: &str = "import into the catalog";
/// Rows read at once.
const BATCH: usize = 500;

impl Store {
    /// Puts the dump at `path` into this catalog, which must be empty. All or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the catalog has rows; [`ErrorKind::Mismatch`] when the dump is damaged;
    /// [`ErrorKind::Unsupported`] when it is of another format or schema; [`ErrorKind::InvalidInput`] when it is no dump.
    pub async fn import(&self, path: &Path) -> Result<DumpReport> {
        let report = task::blocking({
            let path = path.to_path_buf();
            move || check(&path)
        })
        .await??;
        let here = self.schema_status().await?.applied.last().map(|(version, _)| version.clone()).unwrap_or_default();
        if report.schema != here {
            let message = "the dump is of another schema; import it with the version of this program that made it, and migrate then";
            let error = Error::new(ErrorKind::Unsupported, IMPORT, message).with("path", path.display());
            return Err(error.with("dump", &report.schema).with("catalog", here));
        }
        let report = &report;
        let filled = self.write(IMPORT, |tx| async move {
            refuse_full(&tx).await?;
            if report.content != Content::Schema {
                fill(&tx, Lines::open(path)?, report).await?;
            }
            Ok(())
        });
        filled.await.map_err(|e| e.with("path", path.display()).with("catalog", self.url()))?;
        Ok(report.clone())
    }
}

fn damaged(message: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, IMPORT, message)
}

/// Reads the whole file: its header, its end, its digest, its counts.
fn check(path: &Path) -> Result<DumpReport> {
    let named = |e: Error| e.with("path", path.display());
    let mut lines = Lines::open(path).map_err(named)?;
    let first =
        lines.next_blocking().map_err(named)?.ok_or_else(|| named(Error::new(ErrorKind::InvalidInput, IMPORT, "the file is empty")))?;
    let header: Header = serde_json::from_slice(&first)
        .ok()
        .filter(|header: &Header| header.format == FORMAT)
        .ok_or_else(|| named(Error::new(ErrorKind::InvalidInput, IMPORT, "the file is no dump of a catalog")))?;
    if header.format_version != FORMAT_VERSION {
        let message = "the dump is of a newer format; import it with the version of this program that made it, or a later one";
        let error = Error::new(ErrorKind::Unsupported, IMPORT, message).with("program", shown(&header.program));
        return Err(named(error.with("format", header.format_version)));
    }
    let mut hasher = blake3::Hasher::new();
    let (mut held, mut counts, mut table) = (first, std::collections::BTreeMap::new(), None);
    while let Some(line) = lines.next_blocking().map_err(named)? {
        hasher.update(&held);
        match held.first() {
            Some(b'[') => {
                *table.as_ref().and_then(|name| counts.get_mut(name)).ok_or_else(|| named(damaged("rows stand before their table")))? += 1
            }
            _ => {
                if let Ok(begun) = serde_json::from_slice::<TableLine>(&held) {
                    counts.insert(begun.table.clone(), 0_u64);
                    table = Some(begun.table);
                }
            }
        }
        held = line;
    }
    let trailer: Trailer = serde_json::from_slice(&held).map_err(|_| named(damaged("the dump ends too early")))?;
    let digest = hasher.finalize().to_hex().to_string();
    if digest != trailer.blake3 {
        return Err(named(damaged("the dump was changed or damaged: its digest is wrong")));
    }
    if counts != trailer.counts {
        return Err(named(damaged("the dump does not hold as many rows as it says")));
    }
    Ok(DumpReport { content: header.content, schema: header.schema, counts: counts.into_iter().collect(), blake3: digest })
}

/// The lines of a file, each bounded; shared so that reading them can be blocking work.
#[derive(Clone)]
struct Lines(Arc<Mutex<BufReader<File>>>);

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::from_io(IMPORT, e).with("path", path.display()))?;
        Ok(Lines(Arc::new(Mutex::new(BufReader::new(file)))))
    }

    /// The next line with its end, if there is one.
    fn next_blocking(&mut self) -> Result<Option<Vec<u8>>> {
        use std::io::Read as _;
        let mut line = Vec::new();
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (&mut *file).take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(|e| Error::from_io(IMPORT, e))?;
        if line.len() >= MAX_LINE {
            return Err(damaged("a line of the dump is longer than any can be"));
        }
        Ok((!line.is_empty()).then_some(line))
    }

    async fn batch(&self) -> Result<Vec<Vec<u8>>> {
        let mut lines = self.clone();
        let read = task::blocking(move || {
            let mut batch = Vec::new();
            while batch.len() < BATCH {
                match lines.next_blocking()? {
                    Some(line) => batch.push(line),
                    None => break,
                }
            }
            Ok(batch)
        });
        read.await?
    }
}

async fn refuse_full(tx: &Tx) -> Result<()> {
    for table in tables(Content::Data).filter(|table| !table.seeded) {
        let text = format!("SELECT COUNT(*) AS n FROM (SELECT 1 AS one FROM {} LIMIT 1) AS some", table.name);
        if tx.sql(IMPORT, text).one("nothing was counted", |row| row.int("n")).await? > 0 {
            let message = "the catalog is not empty; import into a new one";
            return Err(Error::new(ErrorKind::AlreadyExists, IMPORT, message).with("table", table.name));
        }
    }
    Ok(())
}

/// Where in the dump the import is.
struct Filling {
    table: &'static Table,
    columns: Vec<String>,
    insert: String,
    rows: u64,
    /// Key and value of columns that are filled in at the end.
    later: Vec<(Value, Value)>,
}

async fn fill(tx: &Tx, lines: Lines, report: &DumpReport) -> Result<()> {
    let mut filling: Option<Filling> = None;
    let mut later = Vec::new();
    loop {
        let batch = lines.batch().await?;
        if batch.is_empty() {
            break;
        }
        for line in batch {
            if line.first() == Some(&b'[') {
                let filling = filling.as_mut().ok_or_else(|| damaged("rows stand before their table"))?;
                insert(tx, filling, &line).await?;
            } else if let Ok(next) = serde_json::from_slice::<TableLine>(&line) {
                later.extend(finish(tx, filling.take(), report).await?);
                filling = Some(begin(tx, next, report.content).await?);
            }
        }
    }
    later.extend(finish(tx, filling, report).await?);
    for (table, column, rows) in later {
        let text = format!("UPDATE {table} SET {column} = ? WHERE id = ?");
        let text = if table == "vm_replication_contexts" { text.replace("WHERE id", "WHERE context_id") } else { text };
        for (key, value) in rows {
            tx.sql(IMPORT, text.clone()).bind(value).bind(key).run_found("a row of the dump is missing").await?;
        }
    }
    Ok(())
}

async fn begin(tx: &Tx, line: TableLine, content: Content) -> Result<Filling> {
    let table = tables(content).find(|table| table.name == line.table).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, IMPORT, "the dump holds a table that is not known").with("table", shown(&line.table))
    })?;
    let known = tx.sql(IMPORT, dialect::columns(tx.backend())).bind(table.name).all(|row| row.text("name")).await?;
    if let Some(unknown) = line.columns.iter().find(|column| !known.contains(column)) {
        let error = Error::new(ErrorKind::Unsupported, IMPORT, "the dump holds a column that is not known");
        return Err(error.with("table", table.name).with("column", shown(unknown)));
    }
    if table.seeded {
        tx.sql(IMPORT, format!("DELETE FROM {}{}", table.name, not_own())).run().await?;
    }
    let names = line.columns.iter().map(|column| dialect::quoted(tx.backend(), column)).collect::<Vec<_>>().join(", ");
    let marks = vec!["?"; line.columns.len()].join(", ");
    let insert = format!("INSERT INTO {} ({names}) VALUES ({marks})", table.name);
    Ok(Filling { table, columns: line.columns, insert, rows: 0, later: Vec::new() })
}

async fn insert(tx: &Tx, filling: &mut Filling, line: &[u8]) -> Result<()> {
    let values: Vec<serde_json::Value> =
        serde_json::from_slice(line).map_err(|e| damaged("a row of the dump is no JSON").with_source(e))?;
    if values.len() != filling.columns.len() {
        return Err(damaged("a row of the dump has more or fewer values than its table has columns"));
    }
    let mut statement = tx.sql(IMPORT, filling.insert.clone());
    let mut key = Value::Null;
    for (i, (value, column)) in values.into_iter().zip(&filling.columns).enumerate() {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Value::Int(number),
                (None, Some(number)) => Value::Real(number),
                (None, None) => return Err(damaged("a number of the dump is none that the catalog holds")),
            },
            _ => return Err(damaged("a value of the dump is none that the catalog holds")),
        };
        if i == 0 {
            key = value.clone();
        }
        if filling.table.later == Some(column) && value != Value::Null {
            filling.later.push((key.clone(), value));
            statement = statement.bind(Value::Null);
        } else {
            statement = statement.bind(value);
        }
    }
    statement.run().await.map_err(|error| error.with("table", filling.table.name))?;
    filling.rows += 1;
    Ok(())
}

/// The rows of a table with facts that are not this catalog's own.
fn not_own() -> String {
    let names = OWN_FACTS.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    format!(" WHERE name NOT IN ({names})")
}

type Later = (&'static str, &'static str, Vec<(Value, Value)>);

/// A table is through: as many rows as the dump says must be there.
async fn finish(tx: &Tx, filling: Option<Filling>, report: &DumpReport) -> Result<Option<Later>> {
    let Some(filling) = filling else { return Ok(None) };
    let name = filling.table.name;
    let said = report.counts.iter().find(|(table, _)| table == name).map_or(0, |(_, rows)| *rows);
    let others = if filling.table.seeded { not_own() } else { String::new() };
    let counted = tx.sql(IMPORT, format!("SELECT COUNT(*) AS n FROM {name}{others}"));
    let counted: u64 = counted.one("nothing was counted", |row| row.number("n")).await?;
    if counted != said || filling.rows != said {
        return Err(damaged("the catalog does not hold as many rows as the dump after the import").with("table", name));
    }
    Ok(filling.table.later.map(|column| (name, column, filling.later)))
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}
