//! Whole copies onto a target that forgets: the copier, the export, its disk and its ledger die together at a random step, and what
//! was not flushed is lost in a random order. The next life resumes from what the ledger says. When a copy at last reports success,
//! the power fails once more; what is then durable must be the source.
//!
//! `MIGRATEKIT_VOLATILE_ROUNDS` sets the rounds (default 1,000; `make test-long` takes ten times that).

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::Result;
use migratekit_core::block::{BoxFuture, Extent, ExtentKind, MemoryDisk};
use migratekit_core::copy::ledger::{Ledger, LedgerOptions};
use migratekit_core::copy::{Copy, CopyOptions, CopyReport, ExportOptions, LedgeredExport, PieceRetry, ResumeMap};
use migratekit_core::nbd::wire::ledger_state;
use migratekit_core::testing::Rng;
use migratekit_core::testing::volatile::World;
use migratekit_core::units::ByteRange;

use crate::rig::{Faults, Rig};

struct Map(Arc<Ledger>, String);

impl ResumeMap for Map {
    fn proven(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<ByteRange>>> {
        let states = self.0.states(Some(&self.1), range);
        Box::pin(async move { Ok(states.into_iter().filter(|s| s.1 & ledger_state::PROVEN != 0).map(|s| s.0).collect()) })
    }
}

struct Round {
    seed: u64,
    rng: Rng,
    size: u64,
    block: u32,
    source: Arc<Rig>,
    /// Deaths, and bytes that a resume did not have to copy again.
    deaths: u64,
    resumed: u64,
}

impl Round {
    async fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let block = 4096_u32 << rng.below(4);
        let size = u64::from(block) * (4 + rng.below(28)) - 512 * rng.below(8);
        let source = Arc::new(Rig::of(MemoryDisk::new("source", size), Faults { percent: 3, ..Faults::default() }, rng.next_u64()));
        let mut round = Round { seed, rng, size, block, source, deaths: 0, resumed: 0 };
        round.change(60).await;
        round
    }

    /// Writes over about so many percent of the source; tells where, in whole sectors.
    async fn change(&mut self, percent: u64) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut at = 0;
        while at < self.size {
            let length = (512 * (1 + self.rng.below(64))).min(self.size - at);
            if self.rng.chance(percent) {
                let mut data = vec![0; length as usize];
                if self.rng.chance(80) {
                    self.rng.fill(&mut data);
                }
                self.source.put(at, data).await;
                extents.push(Extent { range: ByteRange::between(at, at + length), kind: ExtentKind::Data });
            }
            at += length;
        }
        extents
    }

    /// One life of a copy: `None` when the world died.
    async fn live(&mut self, world: &World, pass: &str, extents: Option<&[Extent]>, resume: bool) -> Option<CopyReport> {
        let (file, digests) = (Arc::new(world.file("ledger", false)), Arc::new(world.file("digests", false)));
        let options = LedgerOptions { block_size: self.block, ..LedgerOptions::new("volume", self.size) };
        let (ledger, _) = Ledger::open(file, Some(digests), options).await.ok()?;
        let export_options = ExportOptions {
            interval_bytes: u64::from(self.block) << self.rng.below(4),
            interval_time: Duration::from_micros(100 + self.rng.below(1000)),
            ..ExportOptions::default()
        };
        let export = LedgeredExport::new(Arc::new(world.disk()), Arc::clone(&ledger), export_options).ok()?;
        let target = export.view(Some(pass)).await.ok()?;
        let map: Option<Arc<dyn ResumeMap>> = if resume { Some(Arc::new(Map(ledger, pass.to_owned()))) } else { None };
        let options = CopyOptions {
            extents: extents.map(<[Extent]>::to_vec),
            request_size: 4096 << self.rng.below(4),
            in_flight: Some(4096 << self.rng.below(6)),
            explicit_zeros: true,
            resume: map,
            retry: PieceRetry { attempts: 6, first_wait: Duration::from_micros(1), longest_wait: Duration::from_micros(5) },
            ..CopyOptions::default()
        };
        let report = Copy::new(Arc::clone(&self.source) as _, target, options).unwrap().run().await.ok()?;
        export.close().await.ok()?;
        (!world.is_dead()).then_some(report)
    }

    /// Brings the target to the state of the source, however often the world dies.
    async fn pass(&mut self, mut world: World, pass: &str, extents: Option<&[Extent]>) -> World {
        for life in 0..20 {
            if life < 6 && self.rng.chance(80) {
                world.set_fuse(1 + self.rng.below(150));
            }
            let report = self.live(&world, pass, extents, life > 0).await;
            // Also after a success: what is not durable then was not promised.
            world.kill();
            world = world.reborn(self.rng.next_u64());
            if let Some(report) = report {
                self.resumed += report.counts.bytes_resumed;
                let (is, should) = (world.image(), self.source.contents().await);
                let at = is.iter().zip(&should).position(|(a, b)| a != b);
                assert!(is == should, "seed {}, pass {pass}, life {life}: differs at {at:?} of {}", self.seed, self.size);
                return world;
            }
            self.deaths += 1;
        }
        panic!("seed {}: no copy ever succeeded", self.seed);
    }
}

#[test]
fn what_a_copy_calls_done_survives_the_loss_of_power() {
    let rounds: u64 = std::env::var("MIGRATEKIT_VOLATILE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let first: u64 = std::env::var("MIGRATEKIT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (mut deaths, mut resumed) = (0, 0);
    for seed in first..first + rounds {
        runtime.block_on(async {
            let mut round = Round::new(seed).await;
            let world = World::new(round.size as usize, seed);
            let mut world = round.pass(world, "full", None).await;
            for increment in 0..2 {
                let extents = round.change(20).await;
                world = round.pass(world, &format!("increment-{increment}"), Some(&extents)).await;
            }
            deaths += round.deaths;
            resumed += round.resumed;
        });
    }
    // Rounds in which nothing ever died, or nothing was ever resumed, would prove nothing.
    assert!(deaths >= rounds / 2, "{deaths} deaths in {rounds} rounds");
    assert!(resumed > 0 || rounds < 50, "no resume found anything proven");
}
