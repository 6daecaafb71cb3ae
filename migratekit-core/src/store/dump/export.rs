//! Writing a dump.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Content, DumpReport, FORMAT, FORMAT_VERSION, Header, Table, TableLine, Trailer, tables};
use crate::error::{Error, ErrorKind, Result};
use crate::store::home::OWN_FACTS;
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
    /// Writes the catalog, or a part of it, to a new file. One snapshot, written to `PATH.partial` beside it; the file appears when it is
    /// whole and on disk, and never in the place of another one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the schema is older than this program; [`ErrorKind::AlreadyExists`] when the file is there;
    /// [`ErrorKind::Busy`] when another export writes it now;
    /// [`ErrorKind::NoSpace`] when it does not fit: then nothing is left of it.
    pub async fn export(&self, path: &Path, content: Content) -> Result<DumpReport> {
        let partial = task::blocking({
            let path = path.to_path_buf();
            move || Partial::beside(&path)
        });
        let partial = partial.await?.map_err(|e| e.with("path", path.display()))?;
        let status = self.schema_status().await?;
        if !status.pending.is_empty() {
            let message = "the schema is older than this program; bring it up to date first";
            return Err(Error::new(ErrorKind::InvalidInput, EXPORT, message).with("catalog", self.url()));
        }
        let schema = status.applied.last().map(|(version, _)| version.clone()).unwrap_or_default();
        let (schema, sink) = (&schema, &partial.sink);
        let written = self.read(EXPORT, |tx| async move {
            // Begun anew whenever the transaction is.
            sink.begin().await?;
            write_all(&tx, sink.clone(), content, schema).await
        });
        let report = written.await.map_err(|e| e.with("path", path.display()))?;
        let path = path.to_path_buf();
        task::blocking(move || partial.appear_as(&path).map_err(|e| e.with("path", path.display()))).await??;
        Ok(report)
    }
}

/// A file in the making, locked; it is removed unless it was renamed. What a killed export left is taken over by the next one.
struct Partial {
    path: PathBuf,
    sink: Sink,
}

impl Partial {
    fn beside(target: &Path) -> Result<Self> {
        if target.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let mut path = target.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        let failed = |e: Errno| Error::from_io(EXPORT, e.into());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::open(&path, flags, mode).map_err(failed)?;
        let busy = || Error::new(ErrorKind::Busy, EXPORT, "another export writes this file now");
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            Err(e) => return Err(failed(e)),
        }
        // Another one may have given it its name, or removed it, before we had the lock: then it is not ours to empty.
        let ours = rustix::fs::fstat(&fd).map_err(failed)?;
        match rustix::fs::lstat(&path) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {}
            _ => return Err(busy()),
        }
        rustix::fs::fchmod(&fd, mode).map_err(failed)?;
        Ok(Partial { path, sink: Sink(Arc::new(Mutex::new((File::from(fd), blake3::Hasher::new())))) })
    }

    /// Gives it its name, which nothing may have, and brings the name to disk.
    fn appear_as(self, target: &Path) -> Result<()> {
        match rustix::fs::renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(exists()),
            // A file system that cannot promise it: what came since we looked is seen here, but for an instant.
            Err(Errno::INVAL | Errno::NOSYS) if target.symlink_metadata().is_ok() => return Err(exists()),
            Err(Errno::INVAL | Errno::NOSYS) => fs::rename(&self.path, target).map_err(|e| Error::from_io(EXPORT, e))?,
            Err(e) => return Err(Error::from_io(EXPORT, e.into())),
        }
        let folder = target.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::from_io(EXPORT, e))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn exists() -> Error {
    Error::new(ErrorKind::AlreadyExists, EXPORT, "a file of this name exists")
}

/// Where the lines go, with their digest.
#[derive(Clone)]
struct Sink(Arc<Mutex<(File, blake3::Hasher)>>);

impl Sink {
    /// Empties the file.
    async fn begin(&self) -> Result<()> {
        self.with(|file, hasher| {
            *hasher = blake3::Hasher::new();
            file.set_len(0)?;
            std::io::Seek::rewind(file)
        })
        .await
    }

    async fn write(&self, text: String) -> Result<()> {
        self.with(move |file, hasher| {
            hasher.update(text.as_bytes());
            file.write_all(text.as_bytes())
        })
        .await
    }

    fn digest(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.finalize().to_hex().to_string()
    }

    async fn sync(&self) -> Result<()> {
        self.with(|file, _| file.sync_all()).await
    }

    async fn with(&self, work: impl FnOnce(&mut File, &mut blake3::Hasher) -> std::io::Result<()> + Send + 'static) -> Result<()> {
        let sink = self.clone();
        let done = task::blocking(move || {
            let mut inner = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (file, hasher) = &mut *inner;
            work(file, hasher)
        });
        done.await?.map_err(|e| Error::from_io(EXPORT, e))
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
