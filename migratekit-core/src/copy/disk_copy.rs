//! One disk from one place to another, as `migratekit copy` does it: open both sides, find the pass, copy, verify, report.
//!
//! ```no_run
//! # async fn example() -> migratekit_core::Result<()> {
//! use migratekit_core::copy::DiskCopy;
//! let copy = DiskCopy::new("nbd://127.0.0.1/disk".parse()?, "replica.img".parse()?).open().await?;
//! let progress = copy.progress();              // counters, to be read at any time
//! let report = copy.run().await?;              // returns when every byte is written and flushed
//! println!("{} bytes read", report.copy.counts.bytes_read);
//! # drop(progress);
//! # Ok(()) }
//! ```

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::comparison::DiskCompare;
use super::endpoint::{Endpoint, Place};
use super::engine::{Copy, CopyOptions, DEFAULT_REQUEST};
use super::report::{CopyReport, Progress};
use super::sides::{Source, Target};
use super::verify::{CompareOptions, CompareReport};
use crate::block::{Extent, Throttle, Throttled};
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;
use crate::units::ByteRange;

/// What is to be copied, and how. The fields other than the two ends have defaults that suit most.
#[derive(Clone)]
pub struct DiskCopy {
    /// Where from.
    pub source: Endpoint,
    /// Where to. A missing file is made.
    pub target: Endpoint,
    /// Only these ranges; sorted and disjoint.
    pub extents: Option<Vec<Extent>>,
    /// A ledger file, for a target that keeps none itself.
    pub ledger: Option<PathBuf>,
    /// Continue an interrupted copy of the same source.
    pub resume: bool,
    /// Connections to each server.
    pub connections: Option<u32>,
    /// Bytes in flight; `None`: chosen by measurement.
    pub in_flight: Option<u64>,
    /// Bytes in one request; a power of two.
    pub request_size: Option<u32>,
    /// At most so many bytes are read in a second; shared, and changed while the copy runs, through clones.
    pub throttle: Throttle,
    /// The target is known to read as zero.
    pub target_is_zero: bool,
    /// Compare both sides after the copy.
    pub verify: Option<Verify>,
    /// Cancels the copy.
    pub cancel: CancellationToken,
}

/// How much is compared after a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Every block.
    Full,
    /// The first and the last block, and a random sample of the others.
    Sample,
}

/// The report of a [`DiskCopy`].
#[derive(Debug, Clone, Serialize)]
pub struct DiskCopyReport {
    /// What was copied.
    #[serde(flatten)]
    pub copy: CopyReport,
    /// The pass in the target's ledger; `None`: no ledger is kept.
    pub pass: Option<String>,
    /// Whether an interrupted copy was continued.
    pub resumed: bool,
    /// What the comparison found, where one was asked for; a difference is an error, not a report.
    pub verified: Option<CompareReport>,
}

impl DiskCopy {
    /// A copy of the whole disk with the defaults.
    #[must_use]
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        DiskCopy {
            source,
            target,
            extents: None,
            ledger: None,
            resume: false,
            connections: None,
            in_flight: None,
            request_size: None,
            throttle: Throttle::new(None),
            target_is_zero: false,
            verify: None,
            cancel: CancellationToken::new(),
        }
    }

    /// Opens both sides and checks what can be checked before a byte is written. Makes a missing target file.
    ///
    /// # Errors
    /// Of either side, with `side`; see [`Copy::new`] for what is refused.
    pub async fn open(self) -> Result<OpenDiskCopy> {
        if self.source == self.target {
            return Err(Error::new(ErrorKind::InvalidInput, "copy a disk", "source and target are the same").with("address", &self.source));
        }
        let connections = self.connections;
        let source = Source::open(&self.source, connections).await?;
        let fingerprint = source.fingerprint(self.extents.as_deref());
        let mut options = CopyOptions {
            extents: self.extents.clone(),
            request_size: self.request_size.unwrap_or(DEFAULT_REQUEST),
            in_flight: self.in_flight,
            cancel: self.cancel.clone(),
            ..CopyOptions::default()
        };
        // Whatever is wrong with the request itself is told before a target is made or a ledger replaced.
        options.check(source.disk.info())?;
        self.check_ledger_file()?;
        let wanted: Vec<ByteRange> = match &self.extents {
            Some(extents) => extents.iter().map(|e| e.range).collect(),
            None => vec![ByteRange::whole(source.disk.info().size)?],
        };
        let resume = self.resume.then_some(wanted.as_slice());
        let target = match self.target.place() {
            Place::Path(_) if self.resume && self.ledger.is_none() => return Err(self.no_ledger()),
            Place::Path(path) => Target::open_path(path, &source).await?,
            Place::Export(remote) => Target::open_nbd(remote, connections, &fingerprint, resume).await?,
        };
        let target = match &self.ledger {
            Some(file) => target.with_ledger(&self.target, file, &fingerprint, resume).await?,
            None if self.resume && target.pass.is_none() => return Err(self.no_ledger()),
            None => target,
        };
        options.target_is_zero = self.target_is_zero || target.is_zero;
        options.explicit_zeros = target.pass.is_some();
        options.round_trip = source.round_trip.max(target.round_trip);
        options.ledger = target.pass.as_ref().map(|p| Arc::clone(&p.ledger));
        options.resume = target.pass.as_ref().filter(|p| p.continued).map(|p| Arc::clone(&p.ledger));
        let throttled = Arc::new(Throttled::new(Arc::clone(&source.disk), self.throttle.clone()));
        let copy = Copy::new(throttled, Arc::clone(&target.disk), options)?;
        let verification = self.verify.map(|how| {
            let sample = (how == Verify::Sample).then(|| fingerprint.seed());
            let options = CompareOptions { sample, cancel: self.cancel.clone(), ..CompareOptions::default() };
            DiskCompare { options, connections: self.connections, raw_target: true, ..DiskCompare::new(self.source, self.target) }
        });
        Ok(OpenDiskCopy { copy, source, target, verification })
    }

    fn no_ledger(&self) -> Error {
        Error::new(ErrorKind::InvalidInput, "resume a copy", "the target keeps no ledger, and no ledger file was named")
            .with("target", &self.target)
    }

    /// A ledger file is replaced by renaming: it must lie in a folder that is there, and must not be one of the disks.
    fn check_ledger_file(&self) -> Result<()> {
        let Some(file) = self.ledger.as_deref() else { return Ok(()) };
        // Its digests lie beside it, and so does what is to replace it.
        for suffix in ["", ".new", ".digests", ".digests.new"] {
            let mut name = file.as_os_str().to_owned();
            name.push(suffix);
            self.check_own_file("keep a ledger", Path::new(&name))?;
        }
        if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
            return Err(Error::new(ErrorKind::InvalidInput, "keep a ledger", "it is not a regular file").with("file", file.display()));
        }
        Ok(())
    }

    /// Refuses a file of ours (a ledger, a report) that could not be written, or would overwrite one of the disks.
    ///
    /// # Errors
    /// `NotFound`: its folder is not there. `InvalidInput`: it is a directory, or one of the disks.
    pub fn check_own_file(&self, operation: &'static str, file: &Path) -> Result<()> {
        let refuse = |kind, message: &'static str| Err(Error::new(kind, operation, message).with("file", file.display()));
        if !folder_of(file).is_dir() {
            return refuse(ErrorKind::NotFound, "the folder of this file does not exist");
        }
        for disk in [&self.source, &self.target] {
            if let Endpoint::Path(path) = disk
                && same_place(path, file)
            {
                return refuse(ErrorKind::InvalidInput, "the file is one of the disks, and would overwrite it");
            }
        }
        if file.is_dir() {
            return refuse(ErrorKind::InvalidInput, "it is a directory");
        }
        Ok(())
    }
}

/// Whether two paths lead, or would lead, to one file.
fn same_place(a: &Path, b: &Path) -> bool {
    // A file that is not there yet: where it would be made.
    let place = |path: &Path| path.canonicalize().ok().or_else(|| Some(folder_of(path).canonicalize().ok()?.join(path.file_name()?)));
    let identity = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let same_file = identity(a).is_some_and(|a| Some(a) == identity(b));
    same_file || place(a).is_some_and(|a| Some(a) == place(b))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A copy whose sides are open and checked.
pub struct OpenDiskCopy {
    copy: Copy,
    source: Source,
    target: Target,
    verification: Option<DiskCompare>,
}

impl OpenDiskCopy {
    /// The counters, to be read while [`OpenDiskCopy::run`] works.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        self.copy.progress()
    }

    /// Something the one who asked for it should know: why a copy that was to be continued begins anew.
    #[must_use]
    pub fn notice(&self) -> Option<&'static str> {
        self.target.pass.as_ref().and_then(|p| p.instead)
    }

    /// Copies, flushes, and compares if that was asked for: over new connections, past the page cache.
    ///
    /// # Errors
    /// As [`Copy::run`]; `Changed` when a source file was written to meanwhile; `Mismatch` when the comparison found a difference.
    pub async fn run(self) -> Result<DiskCopyReport> {
        let OpenDiskCopy { copy, source, target, verification } = self;
        let copied = copy.run().await;
        let Target { disk, ledgered, pass, .. } = target;
        drop(disk);
        // What was written and flushed is known to the next run, however this one ended; and why it ended comes first.
        let closed = match ledgered {
            Some(export) => export.close().await,
            None => Ok(()),
        };
        let copy = copied?;
        closed?;
        source.check_unchanged().await?;
        let verified = match &verification {
            Some(compare) => Some(compare.run().await?.demand_equal(&copy.source, &copy.target)?),
            None => None,
        };
        let resumed = pass.as_ref().is_some_and(|p| p.continued);
        Ok(DiskCopyReport { copy, pass: pass.map(|p| p.name.to_string()), resumed, verified })
    }
}
