//! The mutation check: each planted bug must make the tests of its area fail.
//!
//! A scenario is a test of this binary that runs what the suite runs. The check starts this binary again for each bug, with the bug
//! switched on and only the scenario chosen, and demands that it fails; and once without a bug, and demands that it passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use migratekit_core::ErrorKind;
use migratekit_core::block::{BlockRead, BlockWrite, MemoryDisk, Persist};
use migratekit_core::copy::{Copy, CopyOptions};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::stream::split_any;
use migratekit_core::nbd::{Client, ConnectOptions, EpochKey, Server, ServerConfig, Uri};
use migratekit_core::testing::jobs::Blow;
use migratekit_core::testing::mutation;
use migratekit_core::units::ByteRange;

#[path = "replica/alone.rs"]
mod alone;
#[path = "ledger/crash.rs"]
mod crash;
#[path = "jobs/fence.rs"]
mod fence;
#[path = "ledger/interval.rs"]
mod interval;
#[path = "jobs/mover.rs"]
mod mover;
#[path = "replica/crash.rs"]
mod points;
#[path = "replica/site.rs"]
mod site;
#[path = "replication/struck.rs"]
mod struck;

/// Each bug and the scenario that must see it.
const CAUGHT_BY: &[(&str, &str)] = &[
    ("ledger-before-flush", "scenario_ledger"),
    ("no-flush", "scenario_ledger"),
    ("no-interval", "interval::never_more_than_one_interval_is_written_and_not_proven"),
    ("off-by-one-block", "scenario_ledger"),
    ("resume-ignores-partial", "scenario_ledger"),
    ("zero-by-sampling", "scenario_copy"),
    ("lost-tail", "scenario_copy"),
    ("no-epoch-check", "scenario_epochs"),
    ("no-epoch-check", "scenario_fence"),
    ("apply-before-commit", "scenario_points"),
    ("spool-record-before-flush", "scenario_spool"),
    ("spool-rewrite-in-place", "scenario_spool"),
    ("commit-before-complete", "scenario_pivot"),
    ("change-ids-before-commit", "scenario_change_ids"),
];

/// Lives and deaths on the volatile-cache target.
#[test]
fn scenario_ledger() {
    let seen = crash::rounds(5000, 100);
    assert!(seen.kills > 100 && seen.proven > 500 && seen.before > 50 && seen.demanded > 100, "the rounds prove too little: {seen:?}");
}

/// Three disks and their points on the volatile-cache target.
#[test]
fn scenario_points() {
    let mut seen = points::rounds(9000, 40);
    assert!(points::dies_at(5, &mut seen), "an increment has more than five steps");
    let spools = seen.resumed.min(seen.abandoned).min(seen.proven).min(seen.half);
    assert!(seen.deaths > 100 && seen.old > 20 && seen.new > 20 && spools > 0, "the rounds prove too little: {seen:?}");
}

/// A spool by itself on it.
#[test]
fn scenario_spool() {
    assert!(alone::rounds(7000, 200) > 200, "the rounds prove too little");
}

/// Two copies: data between the places where a sampler would look, and a disk that ends in the middle of a request.
#[tokio::test]
async fn scenario_copy() {
    let size = (1 << 20) + 777;
    let source = Arc::new(MemoryDisk::new("source", size));
    for at in (100..size - 1).step_by(70_000).chain([size - 1]) {
        source.write(at, Bytes::from_static(b"x"), Persist::Cached).await.unwrap();
    }
    let target = Arc::new(MemoryDisk::new("target", size));
    Copy::new(Arc::clone(&source) as _, Arc::clone(&target) as _, CopyOptions::default()).unwrap().run().await.unwrap();
    let whole = ByteRange::whole(size).unwrap();
    assert_eq!(source.read(whole).await.unwrap(), target.read(whole).await.unwrap());
}

/// A writer of an epoch that is over comes back.
#[tokio::test]
async fn scenario_epochs() {
    let server = Server::new(ServerConfig::default());
    let key = || EpochKey::new([7; 32]);
    let disk = Arc::new(MemoryDisk::new("disk", 1 << 20));
    server.add_fenced("volume", Arc::new(PlainExport::new(disk, "")), key()).unwrap();
    let connect = |epoch| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = server.clone();
        let serving = tokio::spawn(async move { server.handle(split_any(theirs), "a client").await });
        let uri = Uri::tcp("localhost", 10809, key().name("volume", epoch, "job").unwrap());
        async move {
            let client = Client::over(split_any(ours), ConnectOptions::new(uri)).await;
            (client, serving)
        }
    };
    let (new, _serving) = connect(2).await;
    let new = new.unwrap();
    let (old, _refused) = connect(1).await;
    assert_eq!(old.err().map(|e| e.kind()), Some(ErrorKind::Fenced), "an epoch that is over was admitted");
    new.write(0, Bytes::from_static(b"new"), Persist::Cached).await.unwrap();
}

/// A replication whose runner crashes about its pivot.
#[tokio::test]
async fn scenario_pivot() {
    let seen = struck::everywhere(Blow::Stand, &["committing", "applying"], false).await;
    assert!(seen.struck == seen.places && seen.old > 2 && seen.new > 2, "the blows prove too little: {seen:?}");
}

/// A replication that fails before its pivot, and the next one.
#[tokio::test]
async fn scenario_change_ids() {
    let seen = struck::everywhere(Blow::Fail, &["replicating", "committing"], false).await;
    assert!(seen.struck == seen.places && seen.failed > 5, "the blows prove too little: {seen:?}");
}

/// A mover frozen in the middle of its writes goes on when another has done its job.
#[test]
fn scenario_fence() {
    if mover::part() {
        return;
    }
    let seen = fence::play("scenario_fence", &fence::Size { volumes: 1, starts: [1, 0], before: 0, victims: 1 });
    assert_eq!(seen.complaints, Vec::<String>::new());
    assert!(seen.accepted == 1 && seen.conflicts == 0 && seen.requests > 4, "one job is played: {seen:?}");
    assert!(seen.victims == 1 && seen.taken_over == 1 && seen.refused > 0, "the freeze proves too little: {seen:?}");
}

fn run(scenario: &str, bug: Option<&str>) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", scenario]).env_remove(mutation::VARIABLE).env("RUST_BACKTRACE", "0");
    if let Some(bug) = bug {
        command.env(mutation::VARIABLE, bug);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("running 1 test"), "{scenario} is not a test of this binary: {text}");
    (output.status.success(), text)
}

#[test]
fn every_planted_bug_makes_its_scenario_fail() {
    for bug in mutation::ALL {
        assert!(CAUGHT_BY.iter().any(|(caught, _)| caught == bug), "no scenario looks for {bug}");
    }
    for (bug, scenario) in CAUGHT_BY {
        assert!(mutation::ALL.contains(bug), "{bug} is not in the list");
        let (passed, text) = run(scenario, Some(bug));
        assert!(!passed, "{scenario} does not see the planted bug {bug}");
        assert!(text.contains("panicked"), "{scenario} failed with {bug}, but not by an assertion: {text}");
    }
}

#[test]
fn without_a_bug_the_scenarios_pass() {
    let scenarios: std::collections::BTreeSet<_> = CAUGHT_BY.iter().map(|(_, scenario)| *scenario).collect();
    for scenario in scenarios {
        let (passed, text) = run(scenario, None);
        assert!(passed, "{scenario} fails without a planted bug: {text}");
    }
}
