//! A running copy onto a server that dies and comes back, again and again, without what its disk had not flushed. The copy asks the ledger
//! what is proven ([`CopyOptions::ledger`]) and writes the rest again: no less (what is durable at the end is the source), and no more
//! (what a life found proven, it is not sent again, unless the request was under way when the life before ended, or that one had said that
//! it was not proven).
//!
//! All of it is real but the wire and the storage: our client, reconnecting; our server; the export with its ledger.
//!
//! `MIGRATEKIT_ROUNDS_TIMES` multiplies the rounds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use migratekit_core::block::{BoxFuture, MemoryDisk};
use migratekit_core::copy::ledger::{Ledger, LedgerOptions};
use migratekit_core::copy::{Copy, CopyOptions, ExportOptions, LedgeredExport, ResumeMap};
use migratekit_core::nbd::client::{Dial, Reconnect};
use migratekit_core::nbd::stream::{ByteStream, split_any};
use migratekit_core::nbd::uri::Uri;
use migratekit_core::nbd::wire::ledger_state;
use migratekit_core::nbd::{Client, ConnectOptions, Server, ServerConfig};
use migratekit_core::testing::volatile::{VolatileDisk, World};
use migratekit_core::testing::{Operation, Recorder, Request, Rng};
use migratekit_core::units::ByteRange;
use migratekit_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::rig::{Faults, Rig};

const ROUNDS: u64 = 1000;
const PASS: &str = "pass";

/// The server's end of a stream: when its world has died, nothing leaves it any more, as from a process that was killed.
struct Mortal {
    stream: DuplexStream,
    world: World,
}

impl Mortal {
    fn killed<T>(&self) -> Option<Poll<std::io::Result<T>>> {
        self.world.is_dead().then(|| Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into())))
    }
}

impl AsyncRead for Mortal {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if let Some(killed) = self.killed() { killed } else { Pin::new(&mut self.stream).poll_read(cx, buf) }
    }
}

impl AsyncWrite for Mortal {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        if let Some(killed) = self.killed() { killed } else { Pin::new(&mut self.stream).poll_write(cx, buf) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One life of the server.
struct Life {
    world: World,
    server: Server,
    disk: Arc<Recorder<VolatileDisk>>,
    /// What the ledger called proven when it began.
    proven: Vec<ByteRange>,
    /// What the client had under way then.
    under_way: Vec<ByteRange>,
    /// What it had been told before is not proven, by sectors.
    told: Vec<bool>,
}

/// The far side, over all its lives.
struct FarSide {
    life: tokio::sync::Mutex<Life>,
    plan: Mutex<Plan>,
    /// The client as the copy uses it.
    near: Mutex<Weak<Recorder<Arc<Client>>>>,
    /// Sectors that the ledger last told the copy are not proven.
    told: Mutex<Vec<bool>>,
    size: u64,
    block: u32,
}

/// How it goes on.
struct Plan {
    rng: Rng,
    deaths_left: u64,
    deaths: u64,
    /// Bytes that lives found proven.
    kept: u64,
    /// Bytes that lives wrote.
    written: u64,
}

fn changes(requests: Vec<Request>) -> impl Iterator<Item = Request> {
    requests.into_iter().filter(|r| matches!(r.operation, Operation::Write | Operation::Zero))
}

fn proven_of(states: Vec<(ByteRange, u32)>) -> Vec<ByteRange> {
    states.into_iter().filter(|(_, flags)| flags & ledger_state::PROVEN != 0).map(|(range, _)| range).collect()
}

fn sectors(range: ByteRange) -> std::ops::Range<usize> {
    (range.offset() / 512) as usize..range.end().div_ceil(512) as usize
}

impl Life {
    async fn begin(world: World, block: u32, interval: (u64, Duration)) -> Result<Life> {
        let disk = Arc::new(Recorder::new(world.disk()));
        let size = world.image().len() as u64;
        let (file, digests) = (Arc::new(world.file("ledger", false)), Arc::new(world.file("digests", false)));
        let (ledger, _) =
            Ledger::open(file, Some(digests), LedgerOptions { block_size: block, ..LedgerOptions::new("volume", size) }).await?;
        let proven = proven_of(ledger.states(Some(PASS), ByteRange::whole(size)?));
        let options = ExportOptions { interval_bytes: interval.0, interval_time: interval.1, ..ExportOptions::default() };
        let export = LedgeredExport::new(Arc::clone(&disk) as _, ledger, options)?;
        let server = Server::new(ServerConfig::default());
        server.add("disk", Arc::new(export))?;
        Ok(Life { world, server, disk, proven, under_way: Vec::new(), told: Vec::new() })
    }

    /// Nothing that was proven came again, but what was under way. Tells the bytes it wrote.
    fn check(&self, seed: u64) -> u64 {
        for request in changes(self.disk.requests()) {
            if self.under_way.contains(&request.range) {
                continue;
            }
            for proven in &self.proven {
                let told = sectors(proven.intersection(request.range)).all(|at| self.told.get(at) == Some(&true));
                assert!(told, "seed {seed}: of {}, {proven} was proven and is written again", request.range);
            }
        }
        changes(self.disk.requests()).map(|request| request.range.length()).sum()
    }
}

impl FarSide {
    async fn new(rng: &mut Rng, size: u64, block: u32) -> Arc<Self> {
        let world = World::new(size as usize, rng.next_u64());
        let life = Life::begin(world, block, interval(rng, block)).await.unwrap();
        let plan = Plan { rng: Rng::new(rng.next_u64()), deaths_left: 1 + rng.below(4), deaths: 0, kept: 0, written: 0 };
        Arc::new(FarSide {
            life: tokio::sync::Mutex::new(life),
            plan: Mutex::new(plan),
            near: Mutex::default(),
            told: Mutex::default(),
            size,
            block,
        })
    }

    /// From now on it may die.
    async fn set_fuse(&self) {
        let life = self.life.lock().await;
        let plan = &mut *self.plan.lock().unwrap();
        if plan.deaths_left > 0 {
            plan.deaths_left -= 1;
            life.world.set_fuse(1 + plan.rng.below(60));
        }
    }

    /// The next life, from what is durable.
    async fn reborn(&self, life: &mut Life, seed: u64) -> Result<()> {
        let written = life.check(seed);
        let near = self.near.lock().unwrap().upgrade();
        let under_way = near.map(|near| changes(near.requests()).filter(|r| r.ended.is_none()).map(|r| r.range).collect());
        let (world, interval) = {
            let plan = &mut *self.plan.lock().unwrap();
            plan.deaths += 1;
            plan.written += written;
            (life.world.reborn(plan.rng.next_u64()), interval(&mut plan.rng, self.block))
        };
        *life = Life::begin(world, self.block, interval).await?;
        life.under_way = under_way.unwrap_or_default();
        life.told.clone_from(&self.told.lock().unwrap());
        self.plan.lock().unwrap().kept += life.proven.iter().map(|range| range.length()).sum::<u64>();
        Ok(())
    }
}

fn interval(rng: &mut Rng, block: u32) -> (u64, Duration) {
    (u64::from(block) << rng.below(5), Duration::from_micros(100 + rng.below(1000)))
}

/// A way to the far side, for the client of the round of this seed.
struct Way(Arc<FarSide>, u64);

impl Dial for Way {
    fn dial(&self) -> BoxFuture<'_, Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let dead = {
                let mut life = self.0.life.lock().await;
                let dead = life.world.is_dead();
                if dead {
                    self.0.reborn(&mut life, self.1).await?;
                }
                dead
            };
            if dead {
                // The handshake and the opening of the disk belong to the life too.
                self.0.set_fuse().await;
            }
            let life = self.0.life.lock().await;
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (server, mortal) = (life.server.clone(), Mortal { stream: far, world: life.world.clone() });
            tokio::spawn(async move { server.handle(split_any(mortal), "the copier").await });
            Ok(split_any(near))
        })
    }
}

/// The ledger at the far side, asked as a copy asks it.
struct Asked(Arc<Client>, Arc<FarSide>);

impl ResumeMap for Asked {
    fn proven(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<ByteRange>>> {
        Box::pin(async move {
            let proven = proven_of(self.0.ledger(range).await?);
            let mut told = self.1.told.lock().unwrap();
            told.resize(self.1.size.div_ceil(512) as usize, false);
            told[sectors(range)].fill(true);
            proven.iter().for_each(|proven| told[sectors(*proven)].fill(false));
            drop(told);
            Ok(proven)
        })
    }
}

/// A source with zeros here and there.
async fn source(rng: &mut Rng, size: u64) -> Arc<Rig> {
    let source = Arc::new(Rig::of(MemoryDisk::new("source", size), Faults::default(), rng.next_u64()));
    let mut at = 0;
    while at < size {
        let mut data = vec![0; (512 * (1 + rng.below(64))).min(size - at) as usize];
        if rng.chance(80) {
            rng.fill(&mut data);
        }
        let next = at + data.len() as u64;
        source.put(at, data).await;
        at = next;
    }
    source
}

/// One copy: how often its server died, how much was kept, and how much was written more than once.
async fn round(seed: u64) -> (u64, u64, u64) {
    let rng = &mut Rng::new(seed);
    let block = 4096_u32 << rng.below(3);
    let size = u64::from(block) * (8 + rng.below(40)) - 512 * rng.below(8);
    let source = source(rng, size).await;
    let far = FarSide::new(rng, size, block).await;
    let options = ConnectOptions {
        connections: 1 + rng.below(3) as usize,
        pass: Some(PASS.to_owned()),
        want_ledger: true,
        reconnect: Reconnect { first_pause: Duration::from_micros(1), longest_pause: Duration::from_micros(1), ..Reconnect::default() },
        ..ConnectOptions::new("nbd://far/disk".parse::<Uri>().unwrap())
    };
    let client = Arc::new(Client::with_dialer(Arc::new(Way(Arc::clone(&far), seed)), options).await.unwrap());
    let target = Arc::new(Recorder::new(Arc::clone(&client)));
    *far.near.lock().unwrap() = Arc::downgrade(&target);
    far.set_fuse().await;
    let options = CopyOptions {
        request_size: 4096 << rng.below(4),
        in_flight: Some(4096 << rng.below(6)),
        explicit_zeros: true,
        ledger: Some(Arc::new(Asked(client, Arc::clone(&far)))),
        ..CopyOptions::default()
    };
    let copied = Copy::new(Arc::clone(&source) as _, target, options).unwrap().run();
    copied.await.unwrap_or_else(|e: Error| panic!("seed {seed}: {e}"));

    let life = far.life.lock().await;
    let written = life.check(seed);
    // What was called done survives one more death.
    let image = life.world.reborn(seed).image();
    let should = source.contents().await;
    let at = image.iter().zip(&should).position(|(a, b)| a != b);
    assert!(image == should, "seed {seed}: differs at {at:?} of {size}");
    let plan = far.plan.lock().unwrap();
    (plan.deaths, plan.kept, (plan.written + written).saturating_sub(size))
}

#[test]
fn a_copy_whose_server_forgets_writes_again_what_was_forgotten_and_no_more() {
    let times: u64 = std::env::var("MIGRATEKIT_ROUNDS_TIMES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let first: u64 = std::env::var("MIGRATEKIT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let (mut deaths, mut kept, mut again) = (0, 0, 0);
    for seed in first..first + ROUNDS * times {
        // A runtime for each, so that nothing of a round lives on in the next.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), round(seed)).await });
        let (died, found, repeated) = ended.unwrap_or_else(|_| panic!("seed {seed}: it never ended"));
        deaths += died;
        kept += found;
        again += repeated;
    }
    println!("{deaths} deaths; {} KiB were found proven, {} KiB written again", kept >> 10, again >> 10);
    // Rounds in which nothing ever died, nothing was kept, or nothing was lost would prove nothing.
    assert!(deaths > ROUNDS * times && kept > 0 && again > 0, "{deaths} deaths, {kept} bytes kept, {again} written again");
}
