//! The ledger interval on a disk whose flushes last: never more than one interval is written and not proven, and who waits for it is let
//! go by whatever ends the wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::block::{BlockRead as _, BlockWrite, MemoryDisk, Persist, ZeroMode};
use migratekit_core::copy::ledger::{Ledger, LedgerOptions};
use migratekit_core::copy::{ExportOptions, LedgeredExport};
use migratekit_core::error::{ErrorKind, Result};
use migratekit_core::nbd::wire::ledger_state::PROVEN;
use migratekit_core::testing::volatile::{VolatileDisk, World};
use migratekit_core::testing::{Gated, Operation, Recorder};
use migratekit_core::units::{ByteRange, MIB};
use tokio::task::JoinSet;

const BLOCK: u64 = 4096;
/// Blocks of an interval.
const INTERVAL: u64 = 8;
/// Blocks that are written in all.
const BLOCKS: u64 = 64;

fn block(n: u64) -> ByteRange {
    ByteRange::between(n * BLOCK, (n + 1) * BLOCK)
}

/// Lets everything that can go on go on. Nothing here waits for a thread.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

async fn export<D: BlockWrite + 'static>(world: &World, disk: &Arc<D>) -> LedgeredExport {
    let about = LedgerOptions { block_size: BLOCK as u32, ..LedgerOptions::new("v", disk.info().size) };
    let (ledger, _) = Ledger::open(Arc::new(world.file("ledger", false)), None, about).await.unwrap();
    let again = Arc::clone(disk);
    let options = ExportOptions {
        interval_bytes: INTERVAL * BLOCK,
        interval_time: Duration::from_secs(3600),
        reopen: Some(Box::new(move || {
            let again = Arc::clone(&again);
            Box::pin(async move { Ok(again as Arc<dyn BlockWrite>) })
        })),
        ..ExportOptions::default()
    };
    LedgeredExport::new(Arc::clone(disk) as _, ledger, options).unwrap()
}

/// Blocks that the pass has proven.
fn proven(export: &LedgeredExport, pass: &str) -> u64 {
    let states = export.ledger().states(Some(pass), ByteRange::between(0, BLOCKS * BLOCK));
    states.iter().filter(|(_, flags)| flags & PROVEN != 0).map(|(range, _)| range.length() / BLOCK).sum()
}

async fn write(view: &dyn BlockWrite, n: u64) -> Result<()> {
    view.write(n * BLOCK, Bytes::from(vec![n as u8 + 1; BLOCK as usize]), Persist::Cached).await
}

/// A volatile disk whose flushes wait, its export, and writers of pass `p` that have filled the interval.
struct Full {
    world: World,
    disk: Arc<Gated<Recorder<VolatileDisk>>>,
    export: LedgeredExport,
    view: Arc<dyn BlockWrite>,
    writers: JoinSet<()>,
    done: Arc<AtomicU64>,
}

impl Full {
    /// Four writers on two connections, each with its part of the blocks, until nothing moves any more.
    async fn new(seed: u64) -> Self {
        let world = World::new((BLOCKS * BLOCK) as usize, seed);
        let disk = Arc::new(Gated::new(Recorder::new(world.disk()), &[Operation::Flush]));
        let export = export(&world, &disk).await;
        let (view, second) = (export.view(Some("p")).await.unwrap(), export.view(Some("p")).await.unwrap());
        let (mut writers, done) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for writer in 0..4 {
            let (view, done) = (Arc::clone(if writer % 2 == 0 { &view } else { &second }), Arc::clone(&done));
            writers.spawn(async move {
                for n in (writer..BLOCKS).step_by(4) {
                    write(&*view, n).await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let full = Full { world, disk, export, view, writers, done };
        settle().await;
        assert_eq!((full.done(), full.written(), proven(&full.export, "p"), full.disk.begun()), (INTERVAL, INTERVAL, 0, 1));
        full
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Blocks that reached the disk.
    fn written(&self) -> u64 {
        self.disk.disk().bytes(Operation::Write) / BLOCK
    }

    /// A write of this view that has to wait.
    fn another(&self, view: &Arc<dyn BlockWrite>) -> tokio::task::JoinHandle<Result<()>> {
        let view = Arc::clone(view);
        tokio::spawn(async move { write(&*view, 0).await })
    }

    async fn end(self) {
        self.disk.open();
        self.writers.join_all().await;
        // Told of a flush that failed, it succeeds at the latest with the second.
        let _ = self.view.flush().await;
        self.view.flush().await.unwrap();
        self.export.close().await.unwrap();
    }
}

#[tokio::test]
async fn never_more_than_one_interval_is_written_and_not_proven() {
    let full = Full::new(1).await;
    let mut flushes = 0;
    while full.done() < BLOCKS {
        assert!(full.written() - proven(&full.export, "p") <= INTERVAL, "{} of {} are proven", proven(&full.export, "p"), full.written());
        assert!(full.disk.begun() <= flushes + 1, "one flush at a time");
        flushes += 1;
        full.disk.allow(1);
        settle().await;
    }
    // Each flush covers half an interval: while it lasts, the other half fills.
    assert!((BLOCKS / INTERVAL - 1..=2 * BLOCKS / INTERVAL).contains(&flushes), "{flushes} flushes");
    let (export, world) = (full.export.clone(), full.world.clone());
    full.end().await;
    assert_eq!(proven(&export, "p"), BLOCKS);
    assert!((0..BLOCKS).all(|n| world.image()[block(n).offset() as usize] == n as u8 + 1));
}

#[tokio::test]
async fn reads_discards_and_writers_of_no_pass_do_not_wait() {
    let full = Full::new(2).await;
    let nobody = full.export.view(None).await.unwrap();
    full.view.read(block(0)).await.unwrap();
    full.view.discard(block(60), Persist::Cached).await.unwrap();
    nobody.write(61 * BLOCK, Bytes::from(vec![1; BLOCK as usize]), Persist::Cached).await.unwrap();
    assert_eq!((full.done(), full.disk.begun()), (INTERVAL, 1));
    full.end().await;
}

#[tokio::test]
async fn zeros_that_nobody_read_take_no_room_and_others_do() {
    let world = World::new(512, 3);
    let disk = Arc::new(Gated::new(MemoryDisk::new("large", 128 * MIB), &[Operation::Flush]));
    let export = export(&world, &disk).await;
    let view = export.view(Some("p")).await.unwrap();
    for n in 0..INTERVAL {
        view.zero(block(n), ZeroMode::default(), Persist::Cached).await.unwrap();
    }
    view.zero(ByteRange::between(64 * MIB, 128 * MIB), ZeroMode::default(), Persist::Cached).await.unwrap();
    let (last, one) = (Arc::clone(&view), Arc::new(AtomicU64::new(0)));
    let ended = Arc::clone(&one);
    let waits = tokio::spawn(async move {
        last.zero(block(8), ZeroMode::default(), Persist::Cached).await.unwrap();
        ended.fetch_add(1, Ordering::SeqCst);
    });
    settle().await;
    assert_eq!(one.load(Ordering::SeqCst), 0, "zeros as long as a read wait like a write");
    disk.open();
    waits.await.unwrap();
    // One that is longer than the interval takes all of it.
    view.write(0, Bytes::from(vec![1; (2 * INTERVAL * BLOCK) as usize]), Persist::Cached).await.unwrap();
    view.flush().await.unwrap();
    export.close().await.unwrap();
}

#[tokio::test]
async fn who_leaves_while_it_waits_leaves_nothing_behind() {
    let full = Full::new(4).await;
    let waiting: Vec<_> = (0..5).map(|_| full.another(&full.view)).collect();
    settle().await;
    for writer in waiting {
        writer.abort();
        assert!(writer.await.unwrap_err().is_cancelled());
    }
    assert_eq!(full.written(), INTERVAL);
    full.end().await;
}

#[tokio::test]
async fn a_new_pass_does_not_wait_for_who_waits_and_stops_it() {
    let mut full = Full::new(5).await;
    let waits = full.another(&full.view);
    settle().await;
    full.writers.shutdown().await;
    let export = full.export.clone();
    let next = tokio::spawn(async move { export.view(Some("q")).await });
    settle().await;
    assert!(!next.is_finished(), "what the pass before wrote is proven first");
    // The flush under way, and the one that the new pass asks for.
    full.disk.open();
    let next = next.await.unwrap().unwrap();
    let late = waits.await.unwrap();
    assert!(late.is_ok() || late.unwrap_err().kind() == ErrorKind::Fenced);
    assert_eq!(full.view.write(0, Bytes::from(vec![9; 512]), Persist::Cached).await.unwrap_err().kind(), ErrorKind::Fenced);
    write(&*next, 0).await.unwrap();
    next.flush().await.unwrap();
    assert_eq!(proven(&full.export, "q"), 1);
    full.export.close().await.unwrap();
}

#[tokio::test]
async fn a_failed_flush_lets_go_and_what_it_lost_is_told() {
    let full = Full::new(6).await;
    full.world.fail_next_flush();
    full.disk.allow(1);
    settle().await;
    assert!(full.done() > INTERVAL, "what is lost takes no room");
    assert_eq!(proven(&full.export, "p"), 0);
    let view = Arc::clone(&full.view);
    full.disk.open();
    assert_eq!(view.flush().await.unwrap_err().kind(), ErrorKind::Io);
    full.end().await;
}

#[tokio::test]
async fn the_end_of_the_export_lets_go_too() {
    let mut full = Full::new(7).await;
    let waits = full.another(&full.view);
    settle().await;
    let export = full.export.clone();
    let retired = tokio::spawn(async move { export.retire().await });
    settle().await;
    assert!(!retired.is_finished(), "it waits for the flush");
    full.writers.shutdown().await;
    full.disk.open();
    retired.await.unwrap().unwrap();
    assert_eq!(waits.await.unwrap().unwrap_err().kind(), ErrorKind::ReadOnly);

    let mut full = Full::new(8).await;
    full.writers.shutdown().await;
    full.disk.open();
    full.export.close().await.unwrap();
    let refused = full.another(&full.view).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Cancelled, "{refused}");
}
