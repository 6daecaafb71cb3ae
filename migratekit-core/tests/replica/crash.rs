//! Three disks of one VM in a world that dies again and again: at every moment what a reader of the committed point sees is exactly
//! that point, on all three, as the commit record says that lies in the same world.
//!
//! A round: a first pass, then increments. Each life goes on as a site would: it reads the commit record, opens the replicas with what
//! is committed, reads all of them, and then settles, resumes or abandons; until the point is committed and applied.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::block::{BlockRead, BlockWrite, Extent, ExtentKind, MemoryDisk, Persist, ZeroMode};
use migratekit_core::copy::ledger::RecordFile;
use migratekit_core::copy::{
    Copy, CopyOptions, Decision, Ends, Holding, PieceRetry, Point, PointName, Replica, ReplicaOptions, ReplicaSite, Settled,
};
use migratekit_core::testing::Rng;
use migratekit_core::testing::volatile::World;
use migratekit_core::units::ByteRange;
use migratekit_core::{CancellationToken, Error, ErrorKind, Result};

use crate::site::WorldSite;

const DISKS: usize = 3;
const SECTOR: u64 = 512;

/// What the rounds saw, so that a test can demand that they saw enough.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub deaths: u64,
    /// Checks of all three disks after a death: of the old point, and of the new one.
    pub old: u64,
    pub new: u64,
    /// Of these, with a spool half applied.
    pub half: u64,
    pub resumed: u64,
    pub abandoned: u64,
    /// Bytes that a resume did not copy again.
    pub proven: u64,
}

/// A state of all disks.
#[derive(Clone)]
struct State {
    name: PointName,
    images: Vec<Vec<u8>>,
    ends: Vec<Ends>,
}

struct Round<'a> {
    seed: u64,
    rng: Rng,
    sizes: Vec<u64>,
    world: World,
    sources: Vec<Arc<MemoryDisk>>,
    /// Every point there ever was.
    points: BTreeMap<String, State>,
    seen: &'a mut Seen,
}

/// Runs so many rounds from a seed.
///
/// # Panics
/// When a reader sees anything but the committed point; the message names the seed.
pub(crate) fn rounds(first: u64, count: u64) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seen = Seen::default();
    for seed in first..first + count {
        runtime.block_on(async {
            let mut round = Round::new(seed, &mut seen);
            round.reach("p0", None, true).await;
            for number in 1..3 {
                let extents = round.change(25).await;
                round.reach(&format!("p{number}"), Some(extents), true).await;
            }
        });
    }
    seen
}

/// One increment that dies at exactly this step; tells whether it died at all. With each step once, every moment between two effects is met.
pub(crate) fn dies_at(step: u64, seen: &mut Seen) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut round = Round::new(77, seen);
        round.reach("p0", None, false).await;
        let extents = round.change(25).await;
        let before = round.seen.deaths;
        round.world.set_fuse(step);
        round.reach("p1", Some(extents), false).await;
        round.seen.deaths > before
    })
}

fn whole(size: u64) -> ByteRange {
    ByteRange::between(0, size)
}

impl<'a> Round<'a> {
    fn new(seed: u64, seen: &'a mut Seen) -> Self {
        let mut rng = Rng::new(seed);
        let sizes: Vec<u64> = (0..DISKS)
            .map(|disk| {
                let large = if disk == 0 && rng.chance(15) { 17 } else { 0 };
                65_536 * (1 + large + rng.below(4)) - SECTOR * rng.below(70)
            })
            .collect();
        let world = World::new(WorldSite::world_size(&sizes), rng.next_u64());
        let sources = sizes.iter().map(|size| Arc::new(MemoryDisk::new("source", *size))).collect();
        let mut round = Round { seed, rng, sizes, world, sources, points: BTreeMap::new(), seen };
        round.fill_sources();
        round
    }

    fn fill_sources(&mut self) {
        for disk in 0..DISKS {
            let mut image = vec![0; self.sizes[disk] as usize];
            self.rng.fill(&mut image);
            let hole = self.rng.below(image.len() as u64) as usize;
            image[hole / 2..hole].fill(0);
            self.sources[disk] = Arc::new(MemoryDisk::from_bytes("source", &image));
        }
    }

    /// Changes about so many percent of the sources; tells where. Data and zeros, in sectors, often longer than a cluster.
    async fn change(&mut self, percent: u64) -> Vec<Vec<Extent>> {
        let mut all = Vec::new();
        for disk in 0..DISKS {
            let (size, mut at, mut extents) = (self.sizes[disk], 0, Vec::new());
            while at < size {
                let longest = if self.rng.chance(30) { 300 } else { 40 };
                let length = (SECTOR * (1 + self.rng.below(longest))).min(size - at);
                if self.rng.chance(percent) {
                    let mut data = vec![0; length as usize];
                    if self.rng.chance(65) {
                        self.rng.fill(&mut data);
                    }
                    self.sources[disk].write(at, data.into(), Persist::Cached).await.unwrap();
                    extents.push(Extent { range: ByteRange::between(at, at + length), kind: ExtentKind::Data });
                }
                at += length;
            }
            all.push(extents);
        }
        all
    }

    async fn take_point(&mut self, name: &str) {
        let (mut images, mut ends) = (Vec::new(), Vec::new());
        for source in &self.sources {
            images.push(source.read(whole(source.info().size)).await.unwrap().to_vec());
            ends.push(Ends::of(&**source).await.unwrap());
        }
        self.points.insert(name.to_owned(), State { name: name.parse().unwrap(), images, ends });
    }

    /// Brings all disks to the state of the sources, committed and applied, however often the world dies.
    async fn reach(&mut self, point: &str, extents: Option<Vec<Vec<Extent>>>, deadly: bool) {
        self.take_point(point).await;
        for life in 0.. {
            assert!(life < 60, "seed {}: {point} was never reached", self.seed);
            if deadly && life < 8 && self.rng.chance(85) {
                let most = if self.rng.chance(50) { 60 } else { 600 };
                self.world.set_fuse(1 + self.rng.below(most));
            }
            let lived = self.live(point, extents.as_deref()).await;
            let died = self.world.is_dead();
            if let Err(e) = &lived {
                assert!(died, "seed {}, life {life}: {e}", self.seed);
            }
            // Also after a success: what is not durable then was not promised.
            self.world.kill();
            self.world = self.world.reborn(self.rng.next_u64());
            self.seen.deaths += u64::from(died);
            self.look().await;
            if lived.is_ok() && !died {
                for (disk, image) in self.points[point].images.iter().enumerate() {
                    assert!(self.site(disk).image() == *image, "seed {}: volume {disk} is not {point} after the apply", self.seed);
                }
                return;
            }
        }
    }

    fn site(&self, number: usize) -> WorldSite {
        WorldSite { world: self.world.clone(), number, sizes: self.sizes.clone() }
    }

    /// The commit record of the VM: one for all disks.
    fn committed(&self) -> Result<Option<String>> {
        let mut text = String::new();
        if let Some(mut file) = self.world.file("catalog", false).open()? {
            file.read_to_string(&mut text).unwrap();
        }
        Ok((!text.is_empty()).then_some(text))
    }

    async fn open(&self) -> Result<Vec<Replica>> {
        let committed = self.committed()?;
        let mut replicas = Vec::new();
        for disk in 0..DISKS {
            let committed = committed.as_ref().map(|name| {
                let state = &self.points[name];
                Point { name: state.name.clone(), ends: state.ends[disk] }
            });
            let options = ReplicaOptions { identity: format!("uuid-{disk}"), size: self.sizes[disk], committed };
            replicas.push(Replica::open(Arc::new(self.site(disk)) as Arc<dyn ReplicaSite>, options).await?);
        }
        Ok(replicas)
    }

    /// What a reader sees now is the committed point, on all disks.
    async fn see(&self, replicas: &[Replica], when: &str) -> Result<()> {
        let Some(committed) = self.committed()? else { return Ok(()) };
        let state = &self.points[&committed];
        for (disk, replica) in replicas.iter().enumerate() {
            let reader = match replica.reader(&state.name).await {
                Err(e) if !self.world.is_dead() => panic!("seed {}, {when}: {committed} cannot be read: {e}", self.seed),
                other => other?,
            };
            let read = match reader.read(whole(self.sizes[disk])).await {
                Err(e) if !self.world.is_dead() => panic!("seed {}, {when}: {committed} cannot be read: {e}", self.seed),
                other => other?,
            };
            let at = read.iter().zip(&state.images[disk]).position(|(a, b)| a != b);
            assert!(at.is_none(), "seed {}, {when}: disk {disk} is not {committed} at {at:?}", self.seed);
        }
        Ok(())
    }

    /// After a death: the committed point, before anything else is done.
    async fn look(&mut self) {
        let replicas = match self.open().await {
            Ok(replicas) => replicas,
            Err(e) => panic!("seed {}: after a death: {e}", self.seed),
        };
        self.see(&replicas, "after a death").await.unwrap();
        let Some(committed) = self.committed().unwrap() else { return };
        if replicas.iter().any(|r| r.pending().is_some_and(|p| p.point.as_str() == committed)) {
            self.seen.new += 1;
        } else if replicas.iter().any(|r| r.pending().is_some()) {
            self.seen.old += 1;
        }
        self.seen.half += u64::from(replicas.iter().any(|r| matches!(r.holding(), Holding::Applying { .. })));
    }

    /// One life of a job: recovery, then the pass, the commit, and the apply.
    async fn live(&mut self, point: &str, extents: Option<&[Vec<Extent>]>) -> Result<()> {
        let replicas = self.open().await?;
        let name: PointName = point.parse().unwrap();
        if self.committed()?.as_deref() != Some(point) {
            let resume = replicas.iter().any(|r| r.pending().is_some());
            if resume && self.rng.chance(25) {
                for replica in &replicas {
                    let done = replica.settle(&Decision::Abandoned, &CancellationToken::new()).await?;
                    self.seen.abandoned += u64::from(done == Settled::Removed);
                }
                self.see(&replicas, "after abandoning").await?;
            }
            for disk in 0..DISKS {
                self.pass(&replicas[disk], disk, &name, extents.map(|e| e[disk].as_slice())).await?;
            }
            self.see(&replicas, "before the commit").await?;
            self.world.file("catalog", false).replace(&mut |out| out.write_all(point.as_bytes()))?;
        }
        self.see(&replicas, "after the commit").await?;
        for replica in &replicas {
            replica.settle(&Decision::Committed(name.clone()), &CancellationToken::new()).await?;
            if self.rng.chance(30) {
                self.see(&replicas, "between two applies").await?;
            }
        }
        self.see(&replicas, "after the apply").await?;
        for replica in &replicas {
            assert_eq!((replica.holding(), replica.pending()), (Holding::Point(name.clone()), None));
            assert_eq!(replica.settle(&Decision::Committed(name.clone()), &CancellationToken::new()).await?, Settled::Held);
            replica.close().await?;
        }
        Ok(())
    }

    /// One disk of the pass, in some parts, each of which ends with a flush.
    async fn pass(&mut self, replica: &Replica, disk: usize, point: &PointName, extents: Option<&[Extent]>) -> Result<()> {
        if replica.holding() == Holding::Point(point.clone()) || replica.pending().is_some_and(|p| p.complete) {
            return Ok(());
        }
        let pass = replica.begin(point, self.sizes[disk]).await?;
        assert_eq!(pass.is_first(), self.committed()?.is_none());
        assert_eq!(replica.begin(point, 1).await.err().map(|e| e.kind()), Some(ErrorKind::Busy));
        self.seen.resumed += u64::from(pass.is_resumed() && !pass.is_first());
        let id = format!("pass-{point}");
        let view = pass.view(&id).await?;
        if self.rng.chance(30) {
            self.scribble(&*pass.export().disk(), disk, extents).await?;
        }
        let all = vec![Extent { range: whole(self.sizes[disk]), kind: ExtentKind::Data }];
        let extents = extents.unwrap_or(&all);
        let parts = 1 + self.rng.below(3) as usize;
        for part in extents.chunks(extents.len().div_ceil(parts).max(1)) {
            let options = CopyOptions {
                extents: Some(part.to_vec()),
                request_size: 4096 << self.rng.below(6),
                in_flight: Some(4096 << self.rng.below(8)),
                explicit_zeros: true,
                resume: Some(pass.resume_map(&id)),
                retry: PieceRetry { attempts: 1, first_wait: Duration::from_micros(1), longest_wait: Duration::from_micros(1) },
                ..CopyOptions::default()
            };
            let report = Copy::new(Arc::clone(&self.sources[disk]) as _, Arc::clone(&view), options)?.run().await?;
            self.seen.proven += report.counts.bytes_resumed;
        }
        if self.rng.chance(10) {
            return match pass.suspend().await {
                Ok(()) => Box::pin(self.pass(replica, disk, point, Some(extents))).await,
                Err(e) => Err(e),
            };
        }
        let done = pass.complete().await?;
        assert_eq!(done, Point { name: point.clone(), ends: self.points[point.as_str()].ends[disk] }, "seed {}", self.seed);
        late_write(&*view).await
    }

    /// Writes, for no pass, what does not stay: the copy comes after it, over all of it. Flushed in between, so that what is durable is
    /// written over.
    async fn scribble(&mut self, disk_of_nobody: &dyn BlockWrite, disk: usize, extents: Option<&[Extent]>) -> Result<()> {
        let range = match extents {
            Some([]) => return Ok(()),
            Some(extents) => extents[self.rng.below(extents.len() as u64) as usize].range,
            None => whole(self.sizes[disk]),
        };
        for _ in 0..1 + self.rng.below(3) {
            let mut data = vec![0; range.length() as usize];
            self.rng.fill(&mut data);
            disk_of_nobody.write(range.offset(), Bytes::from(data), Persist::Cached).await?;
            if self.rng.chance(50) {
                disk_of_nobody.flush().await?;
            }
            if self.rng.chance(30) {
                disk_of_nobody.zero(range, ZeroMode::default(), Persist::Cached).await?;
            }
        }
        Ok(())
    }
}

/// A writer that comes too late is refused.
async fn late_write(view: &dyn BlockWrite) -> Result<()> {
    let late = view.write(0, Bytes::from_static(b"late"), Persist::Cached).await;
    match late {
        Err(e) if e.kind() == ErrorKind::ReadOnly => Ok(()),
        Err(e) => Err(e),
        Ok(()) => Err(Error::new(ErrorKind::Internal, "write late", "it was taken")),
    }
}
