//! A spool by itself in a world that dies: the contract of a disk, with no ledger that would have everything written again.
//!
//! Each sector holds the number of the write that made it. After a death a sector is what a flush covered, or something written after
//! it; and the spool can be sealed and read, whatever was under way.

use std::sync::Arc;

use bytes::Bytes;
use migratekit_core::block::{BlockRead, BlockWrite, MemoryDisk, Persist, ZeroMode};
use migratekit_core::copy::{ReplicaSite, Spool, SpoolName};
use migratekit_core::testing::Rng;
use migratekit_core::testing::volatile::World;
use migratekit_core::units::ByteRange;

use crate::site::WorldSite;

const SECTOR: u64 = 512;
const SIZE: u64 = 3 * 65_536 - 5 * SECTOR;

/// Runs so many rounds from a seed; tells how often the world died.
///
/// # Panics
/// When a byte is there that nobody wrote, or one is lost that a flush covered.
pub(crate) fn rounds(first: u64, count: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    (first..first + count).map(|seed| runtime.block_on(round(seed))).sum()
}

/// What each sector may hold: first what is sure to be there, or something later.
struct Model(Vec<Vec<u64>>);

impl Model {
    fn write(&mut self, range: ByteRange, value: u64) {
        for sector in range.offset() / SECTOR..range.end() / SECTOR {
            self.0[sector as usize].push(value);
        }
    }

    fn flushed(&mut self) {
        for sector in &mut self.0 {
            *sector = sector.split_off(sector.len() - 1);
        }
    }

    /// Checks, and takes what is found for what is there.
    fn check(&mut self, content: &[u8], seed: u64) {
        for (number, (sector, bytes)) in self.0.iter_mut().zip(content.chunks(SECTOR as usize)).enumerate() {
            let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(sector.contains(&value), "seed {seed}: sector {number} holds {value}, not one of {sector:?}");
            assert_eq!(bytes, value.to_le_bytes().repeat(SECTOR as usize / 8), "seed {seed}: sector {number} is torn");
            *sector = vec![value];
        }
    }
}

async fn round(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let base: Vec<u8> = (0..SIZE / SECTOR).flat_map(|sector| (1_000_000 + sector).to_le_bytes().repeat(SECTOR as usize / 8)).collect();
    let volume = Arc::new(MemoryDisk::from_bytes("volume", &base));
    let mut model = Model((0..SIZE / SECTOR).map(|sector| vec![1_000_000 + sector]).collect());
    let name = SpoolName { volume: "v".to_owned(), size: SIZE, base: "a".parse().unwrap(), point: "b".parse().unwrap() };
    let mut site = WorldSite { world: World::new(WorldSite::world_size(&[SIZE]), seed), number: 0, sizes: vec![SIZE] };
    let made = site.create_spool(Spool::file_size(SIZE)).await.unwrap();
    let mut spool = Spool::create(made.disk, Arc::clone(&volume) as _, &name).await.unwrap();
    let (mut value, mut deaths) = (0, 0);
    for _ in 0..4 {
        site.world.set_fuse(5 + rng.below(80));
        for _ in 0..40 {
            let aligned = rng.chance(40);
            let at = rng.below(SIZE / SECTOR) * SECTOR;
            let at = if aligned { at / 65_536 * 65_536 } else { at };
            let length = if aligned { 65_536 } else { SECTOR * (1 + rng.below(90)) };
            let range = ByteRange::between(at, (at + length).min(SIZE));
            match rng.below(10) {
                0..6 => {
                    value += 1;
                    model.write(range, value);
                    let data = Bytes::from(value.to_le_bytes().repeat(range.length() as usize / 8));
                    let _ = spool.write(range.offset(), data, Persist::Cached).await;
                }
                6 | 7 => {
                    model.write(range, 0);
                    let _ = spool.zero(range, ZeroMode::default(), Persist::Cached).await;
                }
                _ => {
                    if spool.flush().await.is_ok() && !site.world.is_dead() {
                        model.flushed();
                    }
                }
            }
            if site.world.is_dead() {
                break;
            }
        }
        deaths += u64::from(site.world.is_dead());
        site.world = site.world.reborn(rng.next_u64());
        let disk = site.open_spool().await.unwrap().unwrap().disk;
        spool = Spool::open(disk, Arc::clone(&volume) as _, &name).await.unwrap().unwrap();
        model.check(&spool.read(ByteRange::between(0, SIZE)).await.unwrap(), seed);
    }
    spool.complete().await.unwrap();
    site.world = site.world.reborn(rng.next_u64());
    let disk = site.open_spool().await.unwrap().unwrap().disk;
    let sealed = Spool::open(disk, volume, &name).await.unwrap().unwrap();
    assert!(sealed.is_sealed());
    match sealed.read(ByteRange::between(0, SIZE)).await {
        Ok(content) => model.check(&content, seed),
        Err(e) => panic!("seed {seed}: a sealed spool cannot be read: {e}"),
    }
    deaths
}
