//! Copies over long, narrow and broken lines: each goes on by itself, reads little of its source again, and leaves target equal to source.

use std::time::Duration;

use migratekit_core::block::{BlockRead as _, BlockWrite as _, Persist};
use migratekit_core::copy::{DiskCompare, DiskCopy, Verify};
use migratekit_core::testing::line::{LineOptions, Way};
use migratekit_core::tunnels::server::Event;
use migratekit_core::units::MIB;

use crate::far_rig::{Far, IN_FLIGHT, INTERVAL, copied, fill};
use crate::rig::soon;

/// The disk of most tests: several ledger intervals.
const DISK: u64 = 48 * MIB;
/// What one fault may cost: an interval of the ledger, and what was in flight.
const ONE_FAULT: u64 = INTERVAL + IN_FLIGHT;

fn delay(milliseconds: u64) -> LineOptions {
    // So slow that a fault comes in time, on a busy machine too.
    LineOptions { delay: Duration::from_millis(milliseconds), rate: Some(48_000_000) }
}

/// Copies while `faults` happen, spread evenly over the disk; then checks what it cost.
async fn copy_through(far: Far, faults: u64, fault: impl Fn(&Far)) {
    let copy = tokio::spawn(copied(240, far.copy()));
    for n in 0..faults {
        far.carried(DISK * (n + 1) / (faults + 1)).await;
        assert!(!copy.is_finished(), "the fault comes while the copy runs");
        fault(&far);
    }
    let report = copy.await.unwrap();
    assert!(report.copy.durable, "{report:?}");
    far.assert_equal().await;
    let again = far.read() - DISK;
    assert!(again <= faults * ONE_FAULT, "{} MiB were read again after {faults} faults", again / MIB);
    assert!(far.line.counted().connections > 3, "it connected again");
    far.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_cut_costs_what_was_not_flushed() {
    copy_through(Far::new(DISK, delay(1)).await, 3, |far| assert!(far.line.cut() > 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_line_that_is_cut_costs_no_more() {
    // A round trip of 50 ms, and of 200 ms.
    for milliseconds in [25, 100] {
        copy_through(Far::new(DISK, delay(milliseconds)).await, 1, |far| assert!(far.line.cut() > 0)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_end_a_connection_and_never_reach_the_disk() {
    for way in [Way::Up, Way::Down] {
        let far = Far::new(DISK, delay(1)).await;
        // Answers are short; a copy back has data on this way too.
        if way == Way::Down {
            fill(&far.target, far.noise.clone()).await;
            let folder = tempfile::tempdir().unwrap();
            let back = folder.path().join("back");
            let copy = DiskCopy::new(far.far(), back.display().to_string().parse().unwrap());
            far.line.spoil(way);
            copied(60, copy).await;
            assert!(std::fs::read(&back).unwrap() == *far.noise, "what came back is right");
            assert_eq!(far.line.to_spoil(), 0, "a bit was flipped");
            far.close().await;
        } else {
            copy_through(far, 2, |far| far.line.spoil(way)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_noticed_and_left() {
    // What is there is swallowed; the path itself works.
    copy_through(Far::new(DISK, delay(1)).await, 1, |far| far.line.swallow(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_outlives_a_catalog_that_is_away_when_it_comes_again() {
    let far = Far::new(DISK, delay(1)).await;
    let copy = tokio::spawn(copied(240, far.copy()));
    far.carried(DISK / 3).await;
    far.rig.keys.break_down();
    assert!(far.line.cut() > 0);
    let unknown = |e: &Event| matches!(e, Event::Disconnected { peer: None, why: Some(why), .. } if why.contains("cannot be told now"));
    far.rig.saw("a login of which nothing can be told", unknown).await;
    assert!(!copy.is_finished(), "the copy waits");
    far.rig.keys.mend();
    let report = copy.await.unwrap();
    assert!(report.copy.durable, "{report:?}");
    far.assert_equal().await;
    far.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_line_carries_its_disk() {
    // 10 Mbit/s, both ways; keepalives pass behind what waits.
    let far = Far::new(3 * MIB, LineOptions { delay: Duration::from_millis(10), rate: Some(10_000_000 / 8) }).await;
    let report = copied(120, far.copy()).await;
    assert!(report.copy.durable && far.read() == 3 * MIB, "{report:?}");
    far.assert_equal().await;
    far.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proof_moves_digests_and_not_the_disk() {
    let far = Far::new(DISK, delay(1)).await;
    let moved = || far.line.counted().up + far.line.counted().down;
    let report = copied(60, far.copy()).await;
    assert!(report.copy.durable && moved() >= DISK);

    // All equal: a verify alone, and as a copy does it.
    let before = moved();
    let compared = soon("the comparison", DiskCompare::new(far.near(), far.far()).run()).await.unwrap();
    assert!(compared.demand_equal("the source", "the export").is_ok());
    assert!(moved() - before <= MIB, "{} bytes moved to prove equality", moved() - before);

    // Three blocks that differ are found, for the price of their digests.
    for at in [0, 17 * MIB + 5, DISK - 1] {
        far.target.write(at, vec![0x55].into(), Persist::Cached).await.unwrap();
    }
    let before = moved();
    let compared = soon("the comparison", DiskCompare::new(far.near(), far.far()).run()).await.unwrap();
    assert!(compared.demand_equal("the source", "the export").is_err());
    assert!(moved() - before <= 4 * MIB, "{} bytes moved to find three blocks", moved() - before);

    let before = moved();
    let mended = copied(60, DiskCopy { verify: Some(Verify::Full), ..far.copy() }).await;
    assert!(mended.verified.is_some() && far.source.info().size == DISK);
    // The copy itself, acknowledgements and all, and the proof.
    assert!(moved() - before <= DISK + DISK / 50 + MIB, "{} bytes moved", moved() - before);
    far.assert_equal().await;
    far.close().await;
}
