//! A server that dies while a flush of its disk lasts: what it had taken and not proven is no more than one ledger interval, so the copy
//! reads no more than that and what was in flight from its source again. Counted at the source.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::block::BlockWrite;
use migratekit_core::copy::ledger::LedgerOptions;
use migratekit_core::copy::{DEFAULT_REQUEST, TunnelledExport};
use migratekit_core::nbd::Force;
use migratekit_core::nbd::wire::ledger_state::PROVEN;
use migratekit_core::testing::line::LineOptions;
use migratekit_core::testing::volatile::World;
use migratekit_core::testing::{Gated, Operation, Recorder};
use migratekit_core::units::{ByteRange, MIB};

use crate::far_rig::{Far, IN_FLIGHT, INTERVAL, content, copied, ledgered_in};
use crate::rig::soon;

/// Several times what a fault may cost.
const DISK: u64 = 40 * MIB;
/// The flushes that are quick, before the one that lasts.
const QUICK: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_while_its_disk_flushes_costs_one_interval_and_what_was_in_flight() {
    let far = Far::new(DISK, LineOptions::default()).await;
    let world = World::new(DISK as usize, 9);
    let disk = Arc::new(Gated::new(Recorder::new(world.disk()), &[Operation::Flush]));
    // Each request is a block, so that none is begun and not whole.
    let about = LedgerOptions { block_size: DEFAULT_REQUEST, ..LedgerOptions::new("volume", DISK) };
    let export = ledgered_in(&world, about.clone(), Arc::clone(&disk) as Arc<dyn BlockWrite>).await;
    far.exports.remove("disk", Force::Yes).await.unwrap();
    far.exports.add("disk", Arc::new(export.clone())).unwrap();

    disk.allow(QUICK);
    let copy = tokio::spawn(copied(240, far.copy()));
    soon("the flush that lasts", async {
        while disk.begun() <= QUICK {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // Readers are served. Until this one has all of the disk, the copy could bring all of its own.
    let reader = soon("a reader", TunnelledExport::new(far.client(), "disk").connect(1)).await.unwrap();
    soon("the reader", content(&reader)).await;
    assert!(!copy.is_finished());
    let whole = ByteRange::between(0, DISK);
    let proven: u64 = export.ledger().states(None, whole).iter().filter(|(_, f)| f & PROVEN != 0).map(|(range, _)| range.length()).sum();
    let (written, read) = (disk.disk().bytes(Operation::Write), far.read());
    println!("while a flush lasts: {} KiB proven, {} written, {} read", proven >> 10, written >> 10, read >> 10);
    assert!(written <= proven + INTERVAL, "of {written} bytes written only {proven} are proven");

    // Power fails at the far side: first nothing comes from there any more, then it is there again with what was durable.
    far.line.swallow(true);
    world.kill();
    disk.open();
    far.exports.remove("disk", Force::Yes).await.unwrap();
    drop((reader, export));
    let world = world.reborn(10);
    let disk = world.disk();
    far.exports.add("disk", Arc::new(ledgered_in(&world, about, Arc::new(disk.clone())).await)).unwrap();
    assert!(far.line.cut() > 0);
    far.line.clear();

    assert!(copy.await.unwrap().copy.durable);
    let again = far.read() - DISK;
    println!("{} KiB were read again", again >> 10);
    assert!(again > 0, "something was lost");
    assert!(again <= INTERVAL + IN_FLIGHT, "{} KiB were read again", again >> 10);
    assert!(content(&disk).await == *far.noise, "target equals source");
    assert!(world.image() == *far.noise, "and is durable");
    far.close().await;
}
