//! A server's write log: what changed a volume, in the order in which it happened, with the epoch and the job of its connection.
//!
//! [`LoggedExport`] stands before a fenced export. The log is a file of lines ([`Line`]), so that another process reads it while the
//! server works, and after it was killed. A request has two lines: one before it goes to the disk, one after.
//!
//! A [`Hold`] stops requests between the two: they are under way, and stay so until the hold is lifted. That is how a test makes sure that a
//! writer is stopped in the middle of its writes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::Server;
use crate::nbd::export::Export;
use crate::units::ByteRange;

/// How often a request that is held looks whether it still is.
const LOOK: Duration = Duration::from_millis(2);

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The export has a higher epoch; writes of older ones may still be on the disk.
    Raised,
    /// A connection may write from now on.
    Admitted,
    /// A request goes to the disk.
    Begun,
    /// It changed the disk.
    Landed,
    /// It failed; what it changed is not known.
    Failed,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, from 1.
    pub order: u64,
    /// What happened.
    pub what: What,
    /// The volume.
    pub export: String,
    /// The epoch of the connection; of `Raised`, the new one.
    pub epoch: u64,
    /// The job of the connection; of `Raised`, nothing.
    pub job: String,
    /// Where; zero for lines that are of no request.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// Whose requests wait on their way to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Nobody's.
    Nothing,
    /// Those to these exports.
    Only(Vec<String>),
    /// All.
    All,
}

/// The log of a server, in a folder.
#[derive(Debug)]
pub struct WriteLog {
    folder: PathBuf,
    file: Mutex<(u64, fs::File)>,
}

fn io(e: std::io::Error) -> Error {
    Error::from_io("keep a write log", e)
}

impl WriteLog {
    /// A new log in `folder`.
    ///
    /// # Errors
    /// As its file cannot be made.
    pub fn create(folder: &Path) -> Result<Arc<Self>> {
        let file = fs::File::create_new(folder.join("writes.log")).map_err(io)?;
        Ok(Arc::new(WriteLog { folder: folder.to_path_buf(), file: Mutex::new((0, file)) }))
    }

    /// The lines that are in the log of this folder now.
    ///
    /// # Panics
    /// When a line is not one of ours.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn read(folder: &Path) -> Vec<Line> {
        let text = fs::read_to_string(folder.join("writes.log")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of the write log")).collect()
    }

    /// Holds what goes to the disks of this folder's server from now on.
    ///
    /// # Panics
    /// When the folder cannot be written.
    #[allow(clippy::expect_used)]
    pub fn hold(folder: &Path, hold: &Hold) {
        let (file, new) = (folder.join("hold"), folder.join("hold.new"));
        let text = match hold {
            Hold::Nothing => {
                let _ = fs::remove_file(file);
                return;
            }
            Hold::Only(exports) => exports.join("\n"),
            Hold::All => "*".to_owned(),
        };
        fs::write(&new, text).and_then(|()| fs::rename(new, file)).expect("hold the writes");
    }

    fn holds(&self, export: &str) -> bool {
        fs::read_to_string(self.folder.join("hold")).is_ok_and(|text| text == "*" || text.lines().any(|line| line == export))
    }

    fn write(&self, what: What, export: &str, (epoch, job): (u64, &str), range: ByteRange) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.0 += 1;
        let (export, job) = (export.to_owned(), job.to_owned());
        let line = Line { order: file.0, what, export, epoch, job, offset: range.offset(), length: range.length() };
        let mut text = serde_json::to_string(&line)
            .map_err(|e| Error::new(ErrorKind::Internal, "keep a write log", "a line cannot be written").with_source(e))?;
        text.push('\n');
        file.1.write_all(text.as_bytes()).map_err(io)
    }
}

/// A fenced export whose writes are written down. Everything else it leaves to the export behind it.
pub struct LoggedExport {
    export: Arc<dyn Export>,
    name: Arc<str>,
    server: Server,
    log: Arc<WriteLog>,
    /// The connections that have a view.
    known: Mutex<BTreeSet<u64>>,
}

impl LoggedExport {
    /// Before `export`, which `server` is going to serve as `name`, with [`Server::add_fenced`].
    #[must_use]
    pub fn new(export: Arc<dyn Export>, name: &str, server: Server, log: Arc<WriteLog>) -> Self {
        LoggedExport { export, name: name.into(), server, log, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Epoch and job of the connection that is being admitted: the one of this export that has no view yet. The server admits one at a time.
    fn newcomer(&self) -> Result<(u64, String)> {
        let mut known = self.known();
        let mut new = self.server.connections().into_iter().filter(|c| c.export.as_deref() == Some(&*self.name) && !known.contains(&c.id));
        match (new.next(), new.next()) {
            (Some(connection), None) => {
                known.insert(connection.id);
                connection.claim.ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "keep a write log", "the export is not fenced").with("export", &self.name)
                })
            }
            _ => Err(Error::new(ErrorKind::Internal, "keep a write log", "not one connection is being admitted, but none or several")
                .with("export", &self.name)),
        }
    }
}

impl Export for LoggedExport {
    fn disk(&self) -> Arc<dyn BlockWrite> {
        self.export.disk()
    }

    fn description(&self) -> String {
        self.export.description()
    }

    fn open(&self, pass: Option<&str>) -> BoxFuture<'_, Result<Arc<dyn BlockWrite>>> {
        let pass = pass.map(str::to_owned);
        Box::pin(async move {
            let (epoch, job) = self.newcomer()?;
            let disk = self.export.open(pass.as_deref()).await?;
            self.log.write(What::Admitted, &self.name, (epoch, &job), ByteRange::between(0, 0))?;
            Ok(Arc::new(View { disk, name: Arc::clone(&self.name), log: Arc::clone(&self.log), epoch, job }) as Arc<dyn BlockWrite>)
        })
    }

    fn has_ledger(&self) -> bool {
        self.export.has_ledger()
    }

    fn ledger(&self, pass: Option<&str>, range: ByteRange) -> Result<Vec<(ByteRange, u32)>> {
        self.export.ledger(pass, range)
    }

    fn last_pass(&self) -> Option<String> {
        self.export.last_pass()
    }

    fn digests(&self, block_size: u32) -> Option<Arc<dyn BlockRead>> {
        self.export.digests(block_size)
    }

    fn highest_epoch(&self) -> u64 {
        self.export.highest_epoch()
    }

    fn raise_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.export.raise_epoch(epoch).await?;
            self.log.write(What::Raised, &self.name, (epoch, ""), ByteRange::between(0, 0))
        })
    }
}

/// What one connection writes to.
struct View {
    disk: Arc<dyn BlockWrite>,
    name: Arc<str>,
    log: Arc<WriteLog>,
    epoch: u64,
    job: String,
}

impl View {
    async fn record(&self, range: ByteRange, work: impl Future<Output = Result<()>>) -> Result<()> {
        let by = (self.epoch, self.job.as_str());
        self.log.write(What::Begun, &self.name, by, range)?;
        while self.log.holds(&self.name) {
            clock::sleep(LOOK).await;
        }
        let done = work.await;
        self.log.write(if done.is_ok() { What::Landed } else { What::Failed }, &self.name, by, range)?;
        done
    }
}

impl BlockRead for View {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        self.disk.read(range)
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.disk.extents(range)
    }
}

impl BlockWrite for View {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let range = ByteRange::between(offset, offset.saturating_add(length));
        Box::pin(self.record(range, self.disk.write(offset, data, persist)))
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.record(range, self.disk.zero(range, mode, persist)))
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.record(range, self.disk.discard(range, persist)))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.disk.flush()
    }
}
