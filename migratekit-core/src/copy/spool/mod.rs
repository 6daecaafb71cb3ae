//! The spool: where the bytes of a pass wait until their point is committed.
//!
//! An increment never touches the volume while it runs. It writes into a sparse file beside it, in which each byte lies at its own
//! offset; what the pass did not write is a hole, and is read from the volume beneath. So a [`Spool`] is a disk: the volume as it will
//! be. [`Replica`](super::Replica) makes, settles and removes spools; this module is their file.
//!
//! ```text
//!  create ──▶ open: written, flushed, resumed ──▶ sealed: read only, every byte checked ──▶ applied, removed
//! ```
//!
//! ```text
//!  format  the file: pages, table, digests of clusters
//!  core    what is known of each cluster, without input and output
//!  disk    requests; flush: durability, sealing, opening; apply: into the volume
//! ```
//!
//! # What it promises
//!
//! - The [contract of a disk](crate::block): a flush covers what was completed before; of the rest a crash keeps any part.
//! - An entry with a digest is true of the storage at every moment. It is written only after the data it speaks of is durable, and
//!   withdrawn, durably, before that data changes. So a crash leaves a spool that can be opened and written on.
//! - A sealed spool is checked whenever it is read: cluster by cluster while reading, the table as a whole when it is opened.
//! - The unit is a cluster of 64 KiB (larger above 4 TiB). A request that covers part of one brings the rest from the volume, once.
//!   Zeros of whole clusters are a mark of 32 bytes for each; the data of a cluster written twice is there once.
//! - Memory: four bits for each cluster in the worst pattern (32 MiB for 16 TiB), usually kilobytes; and some 3 MiB of what waits
//!   for a flush, which the spool begins by itself when it is more.
//! - A write costs one write of the file and one BLAKE3 of its bytes. A flush costs two syncs.

mod apply;
mod core;
mod disk;
mod flush;
mod format;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

pub(super) use self::apply::ApplyTo;
use self::core::Core;
use self::disk::Sources;
use self::format::{Footer, Header, Layout, Seals};
pub use self::format::{MOST_CLUSTERS, SMALLEST_CLUSTER};
use super::replica::{Ends, PointName};
use crate::block::{BlockInfo, BlockRead, BlockWrite, Capabilities, Persist};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ByteRange, ByteSize, MIB};
use bytes::Bytes;

/// Locks for requests; a cluster takes that of its number modulo this. More than any number of clusters usually in flight.
const STRIPES: u64 = 1024;

/// What a spool needs beyond its data and its table, in bytes: its pages and ledger, and what the file system needs to map it.
const MARGIN: u64 = 16 * MIB;

/// What a pass into a spool is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolName {
    /// The volume's identity.
    pub volume: String,
    /// The size of the volume, in bytes.
    pub size: u64,
    /// The point the volume holds.
    pub base: PointName,
    /// The point it is to hold.
    pub point: PointName,
}

/// The bytes of a pass; see the [module documentation](self). Clones are the same spool.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    file: Arc<dyn BlockWrite>,
    base: Arc<dyn BlockRead>,
    header: Header,
    layout: Layout,
    seals: Seals,
    info: BlockInfo,
    core: Mutex<Core>,
    footer: Mutex<Option<Footer>>,
    stripes: Vec<Arc<AsyncMutex<()>>>,
    /// Held while entries are written.
    turn: AsyncMutex<()>,
}

impl Inner {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn footer(&self) -> Option<Footer> {
        self.footer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put_footer(&self, footer: Footer) {
        *self.footer.lock().unwrap_or_else(PoisonError::into_inner) = Some(footer);
    }

    fn is_sealed(&self) -> bool {
        self.footer.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn damaged(&self, message: &'static str) -> Error {
        Error::new(ErrorKind::Mismatch, "read a spool", message)
            .with("spool", &self.file.info().name)
            .with("point", &self.header.point)
            .with("base", &self.header.base)
    }
}

impl Spool {
    /// How large the file of a spool for a volume of `size` bytes is; all of it holes at first.
    #[must_use]
    pub fn file_size(size: u64) -> u64 {
        Layout::new(size).file_size()
    }

    /// The room a pass of `expected` bytes takes: its data, its table, and a margin.
    #[must_use]
    pub fn room_for(expected: u64) -> u64 {
        // Of the table 32 bytes for each 64 KiB, in pages of 4 KiB; the file system's own tree is smaller than that.
        expected.saturating_add(expected / 64).saturating_add(MARGIN)
    }

    /// Refuses a pass that has no room for `expected` bytes where `free` are free, at `place`.
    ///
    /// # Errors
    /// `NoSpace`, with what it needs, what there is, and where.
    pub fn check_room(place: &str, expected: u64, free: u64) -> Result<()> {
        let needs = Spool::room_for(expected);
        if free >= needs {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            "make room for a spool",
            "the changes of a pass are kept beside the volume until they are committed, and there is not enough room for them",
        )
        .with("needs", ByteSize(needs))
        .with("free", ByteSize(free))
        .with("at", place))
    }

    /// Makes a spool in `file`, which reads as zero and has [`Spool::file_size`] bytes, over `base`, the volume. Its header is durable
    /// when this returns.
    ///
    /// # Errors
    /// `InvalidInput`: sizes do not fit, or names are too long. Else as the file fails.
    pub async fn create(file: Arc<dyn BlockWrite>, base: Arc<dyn BlockRead>, name: &SpoolName) -> Result<Spool> {
        let layout = Layout::new(name.size);
        if file.info().size != layout.file_size() || base.info().size != name.size {
            return Err(Error::new(ErrorKind::InvalidInput, "make a spool", "file or volume are not of the size they should be")
                .with("file", file.info().size)
                .with("volume", base.info().size)
                .with("size", name.size));
        }
        let header = Header {
            version: format::VERSION,
            id: format::new_id()?,
            volume: name.volume.clone(),
            size: name.size,
            cluster_bits: layout.bits,
            base: name.base.to_string(),
            point: name.point.to_string(),
        };
        flush::write_header(&*file, &header).await?;
        Ok(Spool::with(file, base, header, Core::new(layout.clusters()), None))
    }

    /// Opens the spool in `file`, after a crash or to read it; `None` when there is none for this name. One that was sealed is
    /// checked: all of its table, not yet its data.
    ///
    /// # Errors
    /// `Mismatch`: it was sealed, and its table is damaged. Else as reading fails.
    pub async fn open(file: Arc<dyn BlockWrite>, base: Arc<dyn BlockRead>, name: &SpoolName) -> Result<Option<Spool>> {
        let Some((header, footer)) = flush::read_pages(&*file).await? else { return Ok(None) };
        let is_it = header.volume == name.volume
            && header.size == name.size
            && header.base == name.base.as_str()
            && header.point == name.point.as_str()
            && base.info().size == name.size;
        if !is_it {
            return Ok(None);
        }
        let seals = Seals::of(&header.id);
        let Some(core) = flush::load(&*file, &Layout::new(header.size), &seals, footer.as_ref()).await? else {
            return Err(Error::new(ErrorKind::Mismatch, "open a spool", "its table is not the one that was sealed")
                .with("spool", &file.info().name)
                .with("point", &header.point)
                .with("base", &header.base));
        };
        Ok(Some(Spool::with(file, base, header, core, footer)))
    }

    fn with(file: Arc<dyn BlockWrite>, base: Arc<dyn BlockRead>, header: Header, core: Core, footer: Option<Footer>) -> Spool {
        let layout = Layout::new(header.size);
        let (below, own) = (base.info(), file.info());
        let info = BlockInfo {
            name: format!("{} at point {}", below.name, header.point),
            size: header.size,
            read_only: footer.is_some(),
            min_block: below.min_block,
            preferred_block: below.preferred_block.max(own.preferred_block),
            max_request: below.max_request.min(own.max_request),
            can: Capabilities {
                flush: true,
                fua: true,
                discard: false,
                zero: true,
                fast_zero: true,
                extents: true,
                multi_conn: true,
                cache: false,
            },
        };
        let stripes = (0..STRIPES).map(|_| Arc::default()).collect();
        Spool(Arc::new(Inner {
            seals: Seals::of(&header.id),
            file,
            base,
            header,
            layout,
            info,
            core: Mutex::new(core),
            footer: Mutex::new(footer),
            stripes,
            turn: AsyncMutex::new(()),
        }))
    }

    /// The random id of this spool: its ledger is named by it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.header.id
    }

    /// The point it is to become.
    #[must_use]
    pub fn point(&self) -> &str {
        &self.0.header.point
    }

    /// Whether it is sealed: complete, and read only.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.0.is_sealed()
    }

    /// The digests of the volume's ends as it will be; `None` before it is sealed.
    ///
    /// # Errors
    /// `Mismatch`: the footer holds no digests.
    pub fn ends(&self) -> Result<Option<Ends>> {
        self.0.footer().map(|footer| Ends::from_hex(&footer.first, &footer.last)).transpose()
    }

    /// How many bytes of the volume it holds as data, and how many as zeros, in whole clusters.
    #[must_use]
    pub fn holds(&self) -> (u64, u64) {
        let (data, zero) = self.0.core().counts();
        (data.saturating_mul(self.0.layout.cluster_size()), zero.saturating_mul(self.0.layout.cluster_size()))
    }

    /// The memory held, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.0.core().memory_bytes() + size_of::<Inner>() + self.0.stripes.len() * 64
    }

    /// Takes no more writes, waits for those under way, makes all durable and seals. Tells the digests of the volume's ends as it will
    /// be. Sealed already, it only tells them. Runs to its end even if the caller stops waiting.
    ///
    /// # Errors
    /// As the flush fails; the spool must then be opened again.
    pub async fn complete(&self) -> Result<Ends> {
        let inner = Arc::clone(&self.0);
        crate::task::to_the_end(inner.seal()).await?
    }

    /// This object takes nothing any more, and nothing of it is under way when this returns: another may be opened over its file.
    pub(super) async fn stop(&self) {
        {
            let mut core = self.0.core();
            (core.closed, core.failed) = (true, true);
        }
        let _locks = self.0.lock_all().await;
        let _turn = self.0.turn.lock().await;
    }

    /// Opens a seal that nobody was told of: the pass goes on.
    pub(super) async fn unseal(&self) -> Result<Spool> {
        let inner = &self.0;
        let zeros = Bytes::from(vec![0; usize::try_from(format::PAGE).unwrap_or(0)]);
        inner.file.write(format::FOOTER_AT, zeros, Persist::Cached).await?;
        inner.file.flush().await?;
        let core =
            flush::load(&*inner.file, &inner.layout, &inner.seals, None).await?.unwrap_or_else(|| Core::new(inner.layout.clusters()));
        Ok(Spool::with(Arc::clone(&inner.file), Arc::clone(&inner.base), inner.header.clone(), core, None))
    }

    /// Reads by other ways: past the page cache.
    pub(super) async fn read_by(&self, base: &dyn BlockRead, file: &dyn BlockRead, range: ByteRange) -> Result<Bytes> {
        self.0.read_from(Sources { base, file }, range).await
    }
}
