//! A site in a volatile world: several volumes, their spools and side files, all of which die at the same moment.

use std::sync::Arc;

use bytes::Bytes;
use migratekit_core::Result;
use migratekit_core::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Persist, ZeroMode};
use migratekit_core::copy::ledger::RecordFile;
use migratekit_core::copy::{ReplicaSite, SideFile, SiteDisk, Spool};
use migratekit_core::testing::volatile::{VolatileDisk, World};
use migratekit_core::units::ByteRange;

/// A part of the world's disk, as a disk.
struct Part {
    disk: VolatileDisk,
    at: u64,
    info: BlockInfo,
}

impl Part {
    fn new(world: &World, name: String, at: u64, size: u64) -> Self {
        let disk = world.disk();
        let info = BlockInfo { name, size, ..disk.info().clone() };
        Part { disk, at, info }
    }

    fn shifted(&self, range: ByteRange) -> ByteRange {
        ByteRange::between(range.offset() + self.at, range.end() + self.at)
    }
}

impl BlockRead for Part {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        assert!(range.end() <= self.info.size, "{range} of {}", self.info.name);
        self.disk.read(self.shifted(range))
    }
}

impl BlockWrite for Part {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        assert!(offset + data.len() as u64 <= self.info.size, "{offset} of {}", self.info.name);
        self.disk.write(self.at + offset, data, persist)
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        assert!(range.end() <= self.info.size, "{range} of {}", self.info.name);
        self.disk.zero(self.shifted(range), mode, persist)
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.disk.discard(self.shifted(range), persist)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.disk.flush()
    }
}

/// The site of volume `number`, in a world whose volumes have these sizes.
#[derive(Clone)]
pub(crate) struct WorldSite {
    pub(crate) world: World,
    pub(crate) number: usize,
    pub(crate) sizes: Vec<u64>,
}

impl WorldSite {
    /// How large the world's disk must be.
    pub(crate) fn world_size(sizes: &[u64]) -> usize {
        sizes.iter().map(|size| size + Spool::file_size(*size)).sum::<u64>() as usize
    }

    fn at(&self) -> u64 {
        self.sizes[..self.number].iter().map(|size| size + Spool::file_size(*size)).sum()
    }

    fn size(&self) -> u64 {
        self.sizes[self.number]
    }

    fn spool(&self) -> Part {
        Part::new(&self.world, format!("spool-{}", self.number), self.at() + self.size(), Spool::file_size(self.size()))
    }

    fn says_there(&self, there: &[u8]) -> Result<()> {
        self.world.file(&format!("{}.there", self.number), false).replace(&mut |out| out.write_all(there))
    }

    /// What the volume's part of the durable image holds.
    pub(crate) fn image(&self) -> Vec<u8> {
        let from = self.at() as usize;
        self.world.image()[from..from + self.size() as usize].to_vec()
    }
}

fn site_disk(part: Part) -> SiteDisk {
    SiteDisk { disk: Arc::new(part), uncached: None, reopen: None, state: None }
}

impl ReplicaSite for WorldSite {
    fn name(&self) -> String {
        format!("volume-{}", self.number)
    }

    fn open_volume(&self) -> BoxFuture<'_, Result<SiteDisk>> {
        Box::pin(async { Ok(site_disk(Part::new(&self.world, self.name(), self.at(), self.size()))) })
    }

    fn file(&self, which: SideFile) -> Arc<dyn RecordFile> {
        Arc::new(self.world.file(&format!("{}.{}", self.number, which.suffix()), false))
    }

    fn create_spool(&self, size: u64) -> BoxFuture<'_, Result<SiteDisk>> {
        Box::pin(async move {
            self.says_there(b"no")?;
            let spool = self.spool();
            assert_eq!(spool.info.size, size);
            spool.zero(ByteRange::whole(size)?, ZeroMode::default(), Persist::Durable).await?;
            self.says_there(b"yes")?;
            Ok(site_disk(spool))
        })
    }

    fn open_spool(&self) -> BoxFuture<'_, Result<Option<SiteDisk>>> {
        Box::pin(async move {
            let mut there = [0; 3];
            let length = self.world.file(&format!("{}.there", self.number), false).read_at(0, &mut there)?;
            Ok((&there[..length] == b"yes").then(|| site_disk(self.spool())))
        })
    }

    fn remove_spool(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.says_there(b"no") })
    }

    fn free_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async { Ok(u64::MAX) })
    }
}
