//! Opening the two sides of a copy: what an [`Endpoint`] is, in the end, as a disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::{Endpoint, Place};
use super::engine::ResumeMap;
use super::export::{ExportOptions, LedgeredExport, Reopen};
use super::image::{ImageDisk, ImageFormat, ImageOptions};
use super::ledger::{LedgerOptions, Opened};
use super::pass::{Fingerprint, PassName};
use super::served::{LedgerMap, LedgerPlace, open_ledger, open_ledger_of, state_of};
use super::tunnelled::Remote;
use crate::block::{BlockRead, BlockWrite, BoxFuture, Extent, FileDisk, OpenOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::wire::ledger_state;
use crate::nbd::{Client, ConnectOptions};
use crate::units::{ByteRange, ByteSize};
use crate::{task, tunnels};

/// Connections to a server that allows several, unless asked otherwise: two keep both ends busy; more only cost cache.
pub const DEFAULT_CONNECTIONS: u32 = 2;

/// How to connect for a copy: as asked, or by default; through a tunnel over a long way more, since its windows bound each connection.
pub(crate) fn connect_options(remote: &Remote<'_>, connections: Option<u32>) -> ConnectOptions {
    let window = (connections.is_none() && remote.tunnel.is_some()).then_some(tunnels::limits::WINDOW);
    let connections = connections.unwrap_or(DEFAULT_CONNECTIONS) as usize;
    ConnectOptions { connections, window, ..ConnectOptions::new(remote.uri.clone()) }
}

/// The disk in an image file; `None` when the file is not an image of a known format.
pub(crate) async fn open_image(path: &Path) -> Result<Option<Arc<dyn BlockRead>>> {
    let file = path.to_owned();
    // Whether it can be opened at all is told where it is opened as a disk.
    let kind = task::blocking(move || if file.is_file() { ImageFormat::detect(&file) } else { Ok(None) }).await??;
    match kind {
        Some(_) => Ok(Some(Arc::new(ImageDisk::open(path, &ImageOptions::default()).await?))),
        None => Ok(None),
    }
}

/// A source, opened.
pub(crate) struct Source {
    pub(crate) disk: Arc<dyn BlockRead>,
    /// When it is a raw file or device.
    pub(crate) file: Option<FileDisk>,
    /// How far it is.
    pub(crate) round_trip: Duration,
    address: String,
    state: String,
}

impl Source {
    /// Opens the source for reading.
    pub(crate) async fn open(endpoint: &Endpoint, connections: Option<u32>) -> Result<Self> {
        let address = endpoint.to_string();
        match endpoint.place() {
            Place::Path(path) => {
                let file = FileDisk::open(path, OpenOptions::read_only()).await.map_err(|e| e.with("side", "source"))?;
                let state = file.state().await?;
                let disk = match open_image(path).await.map_err(|e| e.with("side", "source"))? {
                    Some(image) => image,
                    None => Arc::new(file.clone()),
                };
                Ok(Source { disk, file: Some(file), round_trip: Duration::ZERO, address, state })
            }
            Place::Export(remote) => {
                let options = ConnectOptions { read_only: true, ..connect_options(&remote, connections) };
                let client = remote.connect(options).await.map_err(|e| e.with("side", "source"))?;
                let round_trip = client.round_trip();
                Ok(Source { disk: Arc::new(client), file: None, round_trip, address, state: String::new() })
            }
        }
    }

    /// What the source is known by.
    pub(crate) fn fingerprint(&self, extents: Option<&[Extent]>) -> Fingerprint {
        Fingerprint::new(&self.address, self.disk.info().size, &self.state, extents)
    }

    /// Refuses a source that is not what it was when it was opened: a copy of a file that was written to meanwhile is a copy of
    /// no state it ever had.
    pub(crate) async fn check_unchanged(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.check_size().await.map_err(|e| e.with("side", "source"))?;
        if file.state().await? != self.state {
            return Err(Error::new(ErrorKind::Changed, "copy a disk", "the source was written to while it was copied")
                .with("side", "source")
                .with("path", file.path().display()));
        }
        Ok(())
    }
}

/// A target, opened.
pub(crate) struct Target {
    pub(crate) disk: Arc<dyn BlockWrite>,
    /// When the ledger is kept by this process.
    pub(crate) ledgered: Option<LedgeredExport>,
    /// When the target keeps a ledger.
    pub(crate) pass: Option<Pass>,
    /// All of it was made as a hole just now.
    pub(crate) is_zero: bool,
    /// How far it is.
    pub(crate) round_trip: Duration,
}

/// The pass a copy writes for.
pub(crate) struct Pass {
    pub(crate) name: PassName,
    /// What is proven of it.
    pub(crate) ledger: Arc<dyn ResumeMap>,
    /// An interrupted pass is continued.
    pub(crate) continued: bool,
    /// Why a pass that was to be continued is begun anew.
    pub(crate) instead: Option<&'static str>,
}

impl Target {
    /// Opens a file or device for writing; a missing file is made, as large as the source.
    pub(crate) async fn open_path(path: &Path, source: &Source) -> Result<Self> {
        let size = source.disk.info().size;
        let options = OpenOptions { create_size: Some(size), ..OpenOptions::default() };
        if let Some(from) = &source.file
            && let Ok(to) = FileDisk::open(path, OpenOptions::read_only()).await
            && from.same_file(&to)
        {
            return Err(
                Error::new(ErrorKind::InvalidInput, "copy a disk", "source and target are the same disk").with("path", path.display())
            );
        }
        let file = FileDisk::open(path, options).await.map_err(|e| e.with("side", "target"))?;
        let info = file.info();
        if !file.is_device() && info.size > size {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "copy a disk",
                "the target file is larger than the source, so it would not become a copy; remove it or shorten it",
            )
            .with("target", path.display())
            .with("source size", ByteSize(size))
            .with("target size", ByteSize(info.size)));
        }
        Ok(Target { is_zero: file.was_created(), disk: Arc::new(file), ledgered: None, pass: None, round_trip: Duration::ZERO })
    }

    /// Connects to an export; one that keeps a ledger is told the pass.
    pub(crate) async fn open_nbd(
        remote: Remote<'_>,
        connections: Option<u32>,
        fingerprint: &Fingerprint,
        resume: Option<&[ByteRange]>,
    ) -> Result<Self> {
        let side = |e: Error| e.with("side", "target");
        let look =
            remote.connect(ConnectOptions { want_ledger: true, ..ConnectOptions::glance(remote.uri.clone()) }).await.map_err(side)?;
        let options =
            ConnectOptions { round_trip: look.can_multi_conn().then_some(look.round_trip()), ..connect_options(&remote, connections) };
        if !look.has_ledger() {
            look.close().await?;
            let client = remote.connect(options).await.map_err(side)?;
            let round_trip = client.round_trip();
            return Ok(Target { disk: Arc::new(client), ledgered: None, pass: None, is_zero: false, round_trip });
        }
        let ledger = ExportLedger(look);
        let (name, instead) =
            choose_pass(ledger.0.last_pass(), fingerprint, resume.is_some(), ledger.has_finished(resume.unwrap_or(&[])).await?)?;
        ledger.0.close().await?;
        let continued = resume.is_some() && instead.is_none();
        let options = ConnectOptions { pass: Some(name.as_str().to_owned()), want_ledger: true, ..options };
        let client = Arc::new(remote.connect(options).await.map_err(side)?);
        let ledger = Arc::new(ExportLedger(Arc::clone(&client)));
        let (pass, round_trip) = (Pass { name, ledger, continued, instead }, client.round_trip());
        Ok(Target { disk: client, ledgered: None, pass: Some(pass), is_zero: false, round_trip })
    }
}

impl Target {
    /// Lets this process keep the ledger in `file`, for a target that keeps none itself.
    pub(crate) async fn with_ledger(
        self,
        endpoint: &Endpoint,
        file: &Path,
        fingerprint: &Fingerprint,
        resume: Option<&[ByteRange]>,
    ) -> Result<Self> {
        if self.pass.is_some() {
            return Err(Error::new(ErrorKind::InvalidInput, "keep a ledger", "the target keeps its own; leave out the ledger file")
                .with("target", endpoint)
                .with("ledger", file.display()));
        }
        let place = LedgerPlace::File(file.to_owned());
        let (ledger, opened) = match endpoint.place() {
            Place::Path(path) => open_ledger(path, Arc::clone(&self.disk), &place).await?,
            Place::Export(_) => open_ledger_of(endpoint.to_string(), file, self.disk.info().size, &place).await?,
        };
        let whole = ByteRange::whole(self.disk.info().size)?;
        let last = ledger.last_pass();
        let states = ledger.states(last.as_deref(), whole);
        let complete = last.is_some() && has_all(&states, resume.unwrap_or(&[]), whole.length())?;
        let (name, mut instead) = choose_pass(last.as_deref(), fingerprint, resume.is_some(), complete)?;
        if resume.is_some() && matches!(opened, Opened::Void(_)) {
            instead = Some("the ledger cannot be believed");
        }
        let state = match endpoint.place() {
            Place::Path(path) => Some(state_of(path)),
            Place::Export(_) => None,
        };
        let options = ExportOptions { reopen: Some(reopen(endpoint, &self.disk)), state, ..ExportOptions::default() };
        let export = LedgeredExport::new(Arc::clone(&self.disk), Arc::clone(&ledger), options)?;
        let disk = export.view(Some(name.as_str())).await?;
        let map = LedgerMap { ledger, pass: name.as_str().to_owned() };
        let continued = resume.is_some() && instead.is_none();
        let pass = Pass { name, ledger: Arc::new(map), continued, instead };
        Ok(Target { disk, ledgered: Some(export), pass: Some(pass), is_zero: self.is_zero, round_trip: self.round_trip })
    }
}

/// How the target is opened again after a failed flush: a file anew, since its descriptor is in doubt; an export as it is, since
/// the client connects anew by itself.
fn reopen(endpoint: &Endpoint, disk: &Arc<dyn BlockWrite>) -> Reopen {
    match endpoint.place() {
        Place::Export(_) => {
            let disk = Arc::clone(disk);
            Box::new(move || {
                let disk = Arc::clone(&disk);
                Box::pin(async move { Ok(disk) })
            })
        }
        Place::Path(path) => {
            let (path, lock) = (path.to_owned(), Arc::clone(disk));
            reopen_path(path, lock)
        }
    }
}

/// Opens a file again that this process holds locked by `disk`.
pub(super) fn reopen_locked(disk: FileDisk) -> Reopen {
    reopen_path(disk.path().to_owned(), Arc::new(disk))
}

/// Opens a file again. The old descriptor holds the lock, which a new one could not get; so it is kept, and used for nothing else.
fn reopen_path(path: PathBuf, lock: Arc<dyn BlockWrite>) -> Reopen {
    Box::new(move || {
        let (path, lock) = (path.clone(), Arc::clone(&lock));
        Box::pin(async move {
            let disk = FileDisk::open(path, OpenOptions { exclusive: false, ..OpenOptions::default() }).await?;
            drop(lock);
            Ok(Arc::new(disk) as Arc<dyn BlockWrite>)
        })
    })
}

/// The pass to write for: the interrupted one if it may be continued, else a new one and, if one was to be continued, why not.
pub(crate) fn choose_pass(
    last: Option<&str>,
    source: &Fingerprint,
    resume: bool,
    complete: bool,
) -> Result<(PassName, Option<&'static str>)> {
    if !resume {
        return Ok((PassName::new(source)?, None));
    }
    let instead = match last.map(str::parse::<PassName>) {
        None => "no copy was interrupted here",
        Some(Err(_)) => "the last writes here were not those of a copy of ours",
        Some(Ok(_)) if complete => "the last copy here was finished",
        Some(Ok(last)) => match last.check(source) {
            Ok(()) => return Ok((last, None)),
            Err(_) => "the interrupted copy had another source, or the source has changed since",
        },
    };
    Ok((PassName::new(source)?, Some(instead)))
}

/// Whether the states of a disk of `size` bytes say that a pass wrote all of `wanted`: blocks that lie wholly in it are proven, and
/// those at the edges, which such a pass never fills, at least begun.
fn has_all(states: &[(ByteRange, u32)], wanted: &[ByteRange], size: u64) -> Result<bool> {
    let block = 1_u64 << LedgerOptions::new("", size).block_bits()?;
    let all = |range: ByteRange, flags: u32| {
        let from = states.partition_point(|(part, _)| part.end() <= range.offset());
        let inside = states.iter().skip(from).take_while(|(part, _)| part.offset() < range.end());
        range.is_empty() || inside.fold(true, |all, (_, state)| all && state & flags != 0)
    };
    Ok(!wanted.is_empty()
        && wanted.iter().all(|range| {
            let start = range.offset().next_multiple_of(block);
            let end = if range.end() == size { size } else { range.end() / block * block };
            let full = if start < end { ByteRange::between(start, end) } else { ByteRange::between(0, 0) };
            all(full, ledger_state::PROVEN) && all(*range, ledger_state::PROVEN | ledger_state::PARTIAL)
        }))
}

/// The ledger of an export of ours, asked over NBD.
struct ExportLedger<C>(C);

impl<C: std::ops::Deref<Target = Client> + Send + Sync> ExportLedger<C> {
    async fn proven_parts(&self, range: ByteRange) -> Result<Vec<ByteRange>> {
        let states = self.0.ledger(range).await?;
        Ok(states.into_iter().filter(|(_, flags)| flags & ledger_state::PROVEN != 0).map(|(part, _)| part).collect())
    }
}

impl ExportLedger<Client> {
    /// Whether the last pass wrote all that was wanted of it.
    async fn has_finished(&self, wanted: &[ByteRange]) -> Result<bool> {
        let whole = ByteRange::whole(self.0.info().size)?;
        if whole.is_empty() || self.0.last_pass().is_none() {
            return Ok(false);
        }
        has_all(&self.0.ledger(whole).await?, wanted, whole.length())
    }
}

impl ResumeMap for ExportLedger<Arc<Client>> {
    fn proven(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<ByteRange>>> {
        Box::pin(self.proven_parts(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;
    use ledger_state::{PARTIAL, PROVEN, PROVEN_BEFORE, UNKNOWN};

    #[test]
    fn a_pass_is_finished_when_it_wrote_all_that_was_wanted_of_it() {
        let range = |from: u64, to: u64| ByteRange::between(from * MIB / 2, to * MIB / 2);
        let states = |parts: &[(u64, u64, u32)]| parts.iter().map(|(a, b, f)| (range(*a, *b), *f)).collect::<Vec<_>>();
        let all = |parts: &[(u64, u64, u32)], wanted: &[ByteRange]| has_all(&states(parts), wanted, 10 * MIB).unwrap();
        // The whole of a target of the same size; a source that ends in the middle of a block of a larger target.
        assert!(all(&[(0, 20, PROVEN)], &[range(0, 20)]));
        assert!(!all(&[(0, 18, PROVEN), (18, 20, PARTIAL)], &[range(0, 20)]));
        assert!(all(&[(0, 14, PROVEN), (14, 16, PARTIAL), (16, 20, UNKNOWN)], &[range(0, 15)]));
        assert!(!all(&[(0, 12, PROVEN), (12, 16, PARTIAL), (16, 20, UNKNOWN)], &[range(0, 15)]));
        assert!(!all(&[(0, 14, PROVEN), (14, 20, PROVEN_BEFORE)], &[range(0, 15)]));
        // An increment.
        let increment = [range(2, 6), range(9, 10)];
        assert!(all(&[(0, 2, PROVEN_BEFORE), (2, 6, PROVEN), (6, 8, PROVEN_BEFORE), (8, 10, PARTIAL), (10, 20, UNKNOWN)], &increment));
        assert!(!all(&[(0, 2, PROVEN_BEFORE), (2, 6, PROVEN), (6, 20, PROVEN_BEFORE)], &increment));
        assert!(!all(&[(0, 20, PROVEN)], &[]), "nothing was wanted, so nothing was done");
    }
}
