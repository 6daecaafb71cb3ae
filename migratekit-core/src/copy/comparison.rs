//! Two disks compared, as `migratekit diff` and `copy --verify` do it: both opened anew, read past the page cache where that is
//! possible, and by digests made where the bytes are.

use std::sync::Arc;

use super::digest::{Digests, LocalDigests, ReadMode, RemoteDigests};
use super::endpoint::{Endpoint, Place};
use super::sides::{connect_options, open_image};
use super::verify::{CompareOptions, CompareReport, Side, compare};
use crate::block::{BlockRead, FileDisk, OpenOptions};
use crate::error::Result;
use crate::nbd::ConnectOptions;

/// What is to be compared with what, and how.
#[derive(Clone)]
pub struct DiskCompare {
    /// One side: the truth, where they differ.
    pub source: Endpoint,
    /// The other side.
    pub target: Endpoint,
    /// How.
    pub options: CompareOptions,
    /// Connections to each server.
    pub connections: Option<u32>,
    /// The target is a raw disk whatever its first bytes say: they are those of a guest, who could make it look like an image.
    pub raw_target: bool,
}

impl DiskCompare {
    /// A comparison of all bytes with the defaults.
    #[must_use]
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        DiskCompare { source, target, options: CompareOptions::default(), connections: None, raw_target: false }
    }

    /// Compares. A difference is not an error here; see [`CompareReport::demand_equal`].
    ///
    /// # Errors
    /// As the sides open and read, with `side`.
    pub async fn run(&self) -> Result<CompareReport> {
        let connections = self.connections;
        let source = open(&self.source, connections, self.options.block_size, true).await.map_err(|e| e.with("side", "source"))?;
        let target =
            open(&self.target, connections, self.options.block_size, !self.raw_target).await.map_err(|e| e.with("side", "target"))?;
        compare(&source, &target, &self.options).await
    }
}

async fn open(endpoint: &Endpoint, connections: Option<u32>, block_size: u32, images: bool) -> Result<Side> {
    match endpoint.place() {
        Place::Path(path) => {
            if images && let Some(image) = open_image(path).await? {
                return Ok(local(image, ReadMode::Cached));
            }
            let disk = FileDisk::open(path, OpenOptions { past_cache: true, ..OpenOptions::read_only() }).await?;
            let mode = if disk.read_mode().starts_with("cached") { ReadMode::Cached } else { ReadMode::PastCache };
            Ok(local(Arc::new(disk), mode))
        }
        Place::Export(remote) => {
            let options = ConnectOptions { read_only: true, window: None, ..connect_options(&remote, connections) };
            let disk = Arc::new(remote.connect(options).await?);
            match disk.digests(block_size).await? {
                Some(digests) => {
                    let digests: Arc<dyn Digests> = Arc::new(RemoteDigests::new(Arc::new(digests), disk.info(), block_size)?);
                    Ok(Side { digests, disk })
                }
                None => Ok(local(disk, ReadMode::Cached)),
            }
        }
    }
}

fn local(disk: Arc<dyn BlockRead>, mode: ReadMode) -> Side {
    Side { digests: Arc::new(LocalDigests::new(Arc::clone(&disk), mode)), disk }
}
