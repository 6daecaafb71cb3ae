//! The crash model: random writers over the volatile disk, killed at random, again and again.
//!
//! Each sector holds the number of the write that made it. The test keeps, for each sector, the last write that completed and its
//! pass. After each kill, a block that the reloaded ledger calls proven must hold exactly these on the durable image; and, where nothing
//! unusual happened, a block that was written and flushed must be proven (or a ledger that knows nothing would pass).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::block::{BlockWrite, Persist, ZeroMode};
use migratekit_core::copy::ledger::{Ledger, LedgerOptions, Opened};
use migratekit_core::copy::{ExportOptions, LedgeredExport};
use migratekit_core::nbd::wire::ledger_state;
use migratekit_core::testing::Rng;
use migratekit_core::testing::volatile::World;
use migratekit_core::units::ByteRange;

const SECTOR: usize = 512;

/// What the rounds saw, so that a test can demand that they saw enough.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub kills: u64,
    pub proven: u64,
    pub before: u64,
    pub demanded: u64,
}

/// The last completed write of a sector.
#[derive(Debug, Clone, Copy, Default)]
struct Sector {
    /// Pass and content; `None`: not known.
    last: Option<(u64, u64)>,
    /// A write began and did not complete well.
    doubt: bool,
    /// When it completed, in this life; `u64::MAX`: not in this life.
    at: u64,
}

struct Model {
    sectors: Vec<Sector>,
    time: u64,
    /// When the last good flush began.
    flushed: u64,
}

/// The shape of one round.
struct Shape {
    size: usize,
    block: usize,
    piece: usize,
    workers: usize,
    /// Drops, discards, anonymous writes, failing flushes and files.
    nasty: bool,
    seed: u64,
}

impl Shape {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let block = 4096 << rng.below(5);
        let blocks = 8 + rng.below(24) as usize;
        let size = block * blocks - SECTOR * rng.below(8) as usize;
        let piece = [block / 4, block / 2, block, block * 2, block * 3 / 4 / SECTOR * SECTOR][rng.below(5) as usize];
        Shape { size, block, piece, workers: 1 + rng.below(4) as usize, nasty: rng.chance(50), seed }
    }

    fn options(&self) -> LedgerOptions {
        LedgerOptions { block_size: self.block as u32, ..LedgerOptions::new("the volume", self.size as u64) }
    }
}

/// Runs so many rounds from a seed.
///
/// # Panics
/// When a claim is false; the message names the seed.
pub(crate) fn rounds(first: u64, count: u64) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seen = Seen::default();
    for seed in first..first + count {
        runtime.block_on(round(&Shape::new(seed), &mut seen));
    }
    seen
}

async fn round(shape: &Shape, seen: &mut Seen) {
    let mut rng = Rng::new(shape.seed ^ 0xabcd);
    let mut world = World::new(shape.size, rng.next_u64());
    let sectors = vec![Sector { last: None, doubt: false, at: u64::MAX }; shape.size / SECTOR];
    let model = Rc::new(RefCell::new(Model { sectors, time: 0, flushed: 0 }));
    let mut pass = 1;
    for _ in 0..4 {
        if rng.chance(40) {
            pass += 1;
        }
        live(shape, &world, &model, pass, &mut rng).await;
        world = world.reborn(rng.next_u64());
        seen.kills += 1;
        check(shape, &world, &model, pass, seen).await;
    }
}

/// One life: workers write until they are done or the world dies.
async fn live(shape: &Shape, world: &World, model: &Rc<RefCell<Model>>, pass: u64, rng: &mut Rng) {
    let blocks = rng.chance(20);
    let file = Arc::new(world.file("ledger", blocks));
    let digests = Arc::new(world.file("digests", blocks));
    let (ledger, opened) = Ledger::open(file, Some(digests), shape.options()).await.unwrap();
    assert!(shape.nasty || !matches!(opened, Opened::Void(_)), "seed {}: {opened:?}", shape.seed);
    let again = world.clone();
    let options = ExportOptions {
        interval_bytes: (shape.block as u64) << rng.below(5),
        interval_time: Duration::from_micros(rng.below(2000)),
        reopen: Some(Box::new(move || {
            let disk = again.disk();
            Box::pin(async move { Ok(Arc::new(disk) as Arc<dyn BlockWrite>) })
        })),
        ..ExportOptions::default()
    };
    let export = LedgeredExport::new(Arc::new(world.disk()), ledger, options).unwrap();
    if rng.chance(85) {
        world.set_fuse(1 + rng.below(400));
    }
    let mut workers = Vec::new();
    for number in 0..shape.workers {
        workers.push(Box::pin(worker(shape, world.clone(), export.clone(), Rc::clone(model), pass, number, Rng::new(rng.next_u64()))));
    }
    // All workers on one task, polled in turn.
    let mut left: Vec<_> = workers.into_iter().map(Some).collect();
    std::future::poll_fn(|context| {
        for worker in &mut left {
            if worker.as_mut().is_some_and(|w| w.as_mut().poll(context).is_ready()) {
                *worker = None;
            }
        }
        if left.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    if rng.chance(30) {
        let _ = export.close().await;
    }
    if rng.chance(50) {
        world.kill();
    }
}

/// Writes its pieces of the disk, one at a time; no two workers share a sector, but they share blocks.
async fn worker(shape: &Shape, world: World, export: LedgeredExport, model: Rc<RefCell<Model>>, pass: u64, number: usize, mut rng: Rng) {
    let name = format!("pass-{pass}");
    let Ok(view) = export.view(Some(&name)).await else { return };
    let Ok(nobody) = export.view(None).await else { return };
    let pieces = shape.size.div_ceil(shape.piece);
    let mut own: Vec<usize> = (0..pieces).filter(|p| p % shape.workers == number).collect();
    // An increment touches little, so that much of earlier passes stays.
    let mut steps = if rng.chance(55) { 1 + rng.below(4) as usize } else { own.len() + 4 };
    while steps > 0 && !world.is_dead() {
        steps -= 1;
        let chosen = if rng.chance(70) && !own.is_empty() { own.remove(rng.below(own.len().min(4) as u64) as usize) } else { number };
        let from = chosen * shape.piece;
        if from >= shape.size {
            continue;
        }
        let to = (from + shape.piece).min(shape.size);
        let unusual = if shape.nasty { rng.below(20) } else { 99 };
        match unusual {
            0 => write(&*nobody, &model, 0, from, to, &mut rng).await,
            1 => discard(&*view, &model, from, to).await,
            2 => {
                let writing = write(&*view, &model, pass, from, to, &mut rng);
                give_up(writing, 3).await;
            }
            3 => world.fail_next_flush(),
            4 => world.fail_files(1 + u64::from(shape.seed.is_multiple_of(2))),
            _ => write(&*view, &model, pass, from, to, &mut rng).await,
        }
        if rng.chance(8) {
            let began = model.borrow().time;
            if view.flush().await.is_ok() {
                let flushed = &mut model.borrow_mut().flushed;
                *flushed = began.max(*flushed);
            }
        }
    }
}

/// Polls a future a few times, then drops it.
async fn give_up(work: impl Future<Output = ()>, polls: u32) {
    let mut work = std::pin::pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if work.as_mut().poll(context).is_ready() || left == 0 {
            return std::task::Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

async fn write(view: &dyn BlockWrite, model: &RefCell<Model>, pass: u64, from: usize, to: usize, rng: &mut Rng) {
    let zero = rng.chance(20);
    let value = if zero { 0 } else { rng.next_u64() };
    begin(model, from, to);
    let range = ByteRange::between(from as u64, to as u64);
    let persist = if rng.chance(20) { Persist::Durable } else { Persist::Cached };
    let done = if zero {
        view.zero(range, ZeroMode::default(), persist).await
    } else {
        view.write(from as u64, Bytes::from(value.to_le_bytes().repeat((to - from) / 8)), persist).await
    };
    if done.is_ok() {
        let mut model = model.borrow_mut();
        model.time += 1;
        let at = model.time;
        model.sectors[from / SECTOR..to / SECTOR].fill(Sector { last: Some((pass, value)), doubt: false, at });
    }
}

async fn discard(view: &dyn BlockWrite, model: &RefCell<Model>, from: usize, to: usize) {
    begin(model, from, to);
    let _ = view.discard(ByteRange::between(from as u64, to as u64), Persist::Cached).await;
}

fn begin(model: &RefCell<Model>, from: usize, to: usize) {
    for sector in &mut model.borrow_mut().sectors[from / SECTOR..to / SECTOR] {
        sector.doubt = true;
    }
}

/// The reloaded ledger against the durable image.
async fn check(shape: &Shape, world: &World, model: &Rc<RefCell<Model>>, pass: u64, seen: &mut Seen) {
    let (ledger, opened) = Ledger::open(Arc::new(world.file("ledger", false)), None, shape.options()).await.unwrap();
    let seed = shape.seed;
    if let Opened::Void(why) = &opened {
        assert!(shape.nasty && why.contains("voided"), "seed {seed}: {why}");
    }
    let image = world.image();
    let mut model = model.borrow_mut();
    let flushed = model.flushed;
    for start in (0..shape.size).step_by(shape.block) {
        let end = (start + shape.block).min(shape.size);
        let range = ByteRange::between(start as u64, end as u64);
        let states = ledger.states(Some(&format!("pass-{pass}")), range);
        let [(whole, flags)] = states.as_slice() else { panic!("seed {seed}: {states:?}") };
        assert_eq!(*whole, range);
        let sectors = &mut model.sectors[start / SECTOR..end / SECTOR];
        let proven = flags & ledger_state::PROVEN != 0;
        let before = flags & ledger_state::PROVEN_BEFORE != 0;
        if proven || before {
            seen.proven += u64::from(proven);
            seen.before += u64::from(before);
            for (sector, bytes) in sectors.iter().zip(image[start..end].chunks(SECTOR)) {
                let (wrote, value) = sector.last.unwrap_or_else(|| panic!("seed {seed}: block at {start} is proven and was never written"));
                assert!(
                    wrote != 0 && (wrote == pass) == proven,
                    "seed {seed}: block at {start} is proven of pass {pass}, written by {wrote}"
                );
                assert_eq!(bytes, value.to_le_bytes().repeat(SECTOR / 8), "seed {seed}: block at {start} is proven and differs");
            }
        } else {
            let demand = !shape.nasty && sectors.iter().all(|s| !s.doubt && s.at <= flushed && s.last.is_some_and(|(p, _)| p == pass));
            assert!(!demand, "seed {seed}: block at {start} was written and flushed and is not proven");
        }
        if proven && sectors.iter().all(|s| s.at <= flushed) {
            seen.demanded += 1;
        }
        // The next life begins with what is known to be on the storage.
        for sector in sectors {
            sector.doubt = false;
            sector.last = sector.last.filter(|_| proven || before);
            sector.at = if proven { 0 } else { u64::MAX };
        }
    }
    model.flushed = 0;
    model.time = 0;
}
