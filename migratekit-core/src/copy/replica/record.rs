//! The record beside a volume: which point it wholly holds, and which pass waits beside it.
//!
//! A small text file, replaced as a whole: JSON, and a line with its BLAKE3. It is never guessed at: damaged, or of another volume, it
//! is an error that says so.

use std::io::Read;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::point::{Ends, Point, PointName};
use crate::copy::ledger::RecordFile;
use crate::error::{Error, ErrorKind, Result};
use crate::task;

/// The version of the format.
const VERSION: u32 = 1;
/// The longest record, in bytes; a longer file is none of ours.
const MAX_LENGTH: u64 = 64 * 1024;

const READ: &str = "read which point a volume holds";

/// How far a pass into a spool has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// It is being written.
    Writing,
    /// Complete, and sealed; whether it is committed is decided elsewhere.
    Sealed,
    /// Committed; the volume is being written and holds neither point by itself.
    Applying,
}

/// The point a volume holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    point: PointName,
    first: String,
    last: String,
}

impl Held {
    pub(super) fn new(point: &Point) -> Self {
        let (first, last) = point.ends.to_hex();
        Held { point: point.name.clone(), first, last }
    }

    pub(super) fn point(&self) -> Result<Point> {
        Ok(Point { name: self.point.clone(), ends: Ends::from_hex(&self.first, &self.last)? })
    }

    pub(super) fn name(&self) -> &PointName {
        &self.point
    }
}

/// A pass whose spool lies beside the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PassRecord {
    pub(super) base: PointName,
    pub(super) point: PointName,
    pub(super) spool: String,
    pub(super) phase: Phase,
    /// The generation of the volume that the pass was begun over.
    #[serde(default)]
    pub(super) generation: Option<u64>,
}

/// What the record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) volume: String,
    pub(super) size: u64,
    pub(super) holds: Option<Held>,
    pub(super) pass: Option<PassRecord>,
}

impl Record {
    /// Of a volume that holds no point.
    pub(super) fn new(volume: &str, size: u64) -> Self {
        Record { version: VERSION, volume: volume.to_owned(), size, holds: None, pass: None }
    }

    /// Reads it, whatever size it speaks of; `None`: there is none.
    pub(super) async fn find(file: Arc<dyn RecordFile>, volume: &str) -> Result<Option<Self>> {
        let name = file.name();
        let wrong = |message: &'static str| Error::new(ErrorKind::Mismatch, READ, message).with("record", &name);
        let text = run(&file, |file| {
            let Some(from) = file.open()? else { return Ok(None) };
            let mut text = String::new();
            from.take(MAX_LENGTH).read_to_string(&mut text).map_err(|e| Error::from_io("read a record file", e))?;
            Ok(Some(text))
        })
        .await?;
        let Some(text) = text else { return Ok(None) };
        let (body, hash) = text.trim_end().rsplit_once('\n').unwrap_or(("", ""));
        let record: Option<Record> =
            (blake3::hash(body.as_bytes()).to_hex().as_str() == hash).then(|| serde_json::from_str(body).ok()).flatten();
        let record = record.ok_or_else(|| wrong("the record is damaged; the volume must be replicated in full again"))?;
        if record.version != VERSION {
            return Err(wrong("the record was written by a newer version").with("version", record.version));
        }
        if record.volume != volume {
            return Err(wrong("the record is of another volume").with("volume", volume).with("recorded", &record.volume));
        }
        Ok(Some(record))
    }

    /// The refusal of a record whose size is not the disk's.
    pub(super) fn of_another_size(&self, name: &str, size: u64) -> Error {
        Error::new(ErrorKind::Mismatch, READ, "the record is of another size of the volume")
            .with("record", name)
            .with("volume", &self.volume)
            .with("size", size)
            .with("recorded size", self.size)
    }

    /// Replaces it; durable when this returns.
    pub(super) async fn write(&self, file: &Arc<dyn RecordFile>) -> Result<()> {
        let body = serde_json::to_string_pretty(self)
            .map_err(|e| Error::new(ErrorKind::Internal, "record which point a volume holds", "it cannot be encoded").with_source(e))?;
        let text = format!("{body}\n{}\n", blake3::hash(body.as_bytes()).to_hex());
        run(file, move |file| file.replace(&mut |out| out.write_all(text.as_bytes()))).await
    }
}

/// Runs work on a file: off the async threads if it may wait.
async fn run<T: Send + 'static>(file: &Arc<dyn RecordFile>, work: impl FnOnce(&dyn RecordFile) -> Result<T> + Send + 'static) -> Result<T> {
    if !file.blocks() {
        return work(&**file);
    }
    let file = Arc::clone(file);
    task::blocking(move || work(&*file)).await?
}
