//! What is refused, each by its own text; and what a failed or cancelled pass leaves: nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use migratekit_core::model::{ContextStatus, JobStatus, ReplicationMode};
use migratekit_core::testing::jobs::Blow;
use migratekit_core::testing::platform::FaultySource;
use migratekit_core::{Error, ErrorKind};

use crate::rig::{Rig, SIZES};
use crate::struck;

#[tokio::test]
async fn each_impossible_pass_is_refused_by_its_own_text_and_leaves_nothing() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    let error = rig.ask(&vm, ReplicationMode::Incremental).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.message().contains("replicate in full first"), "{error}");
    assert!(rig.runner.jobs().active().await.unwrap().is_empty(), "there is no job of it");
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);

    let nightly = rig.world.folder("web").join("snapshots/nightly");
    std::fs::create_dir_all(&nightly).unwrap();
    let text = rig.fail("web", &vm, ReplicationMode::Auto).await;
    assert!(text.contains("nightly") && text.contains("not ours"), "{text}");
    assert!(nightly.exists(), "what is not ours is not removed");
    std::fs::remove_dir(nightly).unwrap();

    let toml = rig.world.folder("web").join("machine.toml");
    let good = std::fs::read_to_string(&toml).unwrap();
    std::fs::write(&toml, good.replace("uuid-of-web", "uuid-of-another")).unwrap();
    let text = rig.fail("web", &vm, ReplicationMode::Auto).await;
    assert!(text.contains("another machine lies where this one was"), "{text}");

    std::fs::write(&toml, good.split("[[disk]]").next().unwrap()).unwrap();
    let text = rig.fail("web", &vm, ReplicationMode::Auto).await;
    assert!(text.contains("no disks"), "{text}");
    std::fs::write(&toml, &good).unwrap();

    let image = rig.world.image("web", "disk-2000".parse().unwrap());
    let bytes = std::fs::read(&image).unwrap();
    std::fs::write(&image, &bytes[..bytes.len() - 512]).unwrap();
    let text = rig.fail("web", &vm, ReplicationMode::Auto).await;
    assert!(text.contains("became smaller"), "{text}");
    std::fs::write(&image, &bytes).unwrap();

    let (_, volume) = rig.world.volume_files(&vm).pop_first().unwrap();
    let held = std::fs::read(&volume).unwrap();
    std::fs::write(&volume, vec![0; held.len()]).unwrap();
    let job = rig.ask(&vm, ReplicationMode::Auto).await.unwrap();
    let text = rig.wait(&job).await.error_message.unwrap();
    assert!(text.contains("not the content that was committed"), "{text}");
    std::fs::write(&volume, held).unwrap();
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    let context = rig.context(&vm).await;
    assert_eq!((context.jobs.total, context.jobs.successful, context.jobs.failed), (7, 2, 5));
}

#[tokio::test]
async fn of_two_at_once_one_runs_and_one_is_told_which() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    let (a, b) = tokio::join!(rig.ask(&vm, ReplicationMode::Auto), rig.ask(&vm, ReplicationMode::Auto));
    let (ran, refused) = if a.is_ok() { (a, b) } else { (b, a) };
    let (ran, refused) = (ran.unwrap(), refused.unwrap_err());
    assert_eq!((refused.kind(), refused.context_value("job")), (ErrorKind::Busy, Some(ran.as_str())));
    assert_eq!(rig.wait(&ran).await.status, JobStatus::Completed);
    rig.demand_equal("web", &vm).await;
}

fn unreachable() -> Error {
    Error::new(ErrorKind::Unreachable, "ask the source", "the line is down")
        .with_retry(migratekit_core::Retry::After(std::time::Duration::ZERO))
}

#[tokio::test]
async fn faults_of_the_way_are_survived() {
    let calls = Arc::new(AtomicU32::new(0));
    let (seen, works) = (Arc::clone(&calls), Mutex::new(BTreeMap::new()));
    // Of each kind of call every other one fails.
    let fail = move |call: &'static str| {
        seen.fetch_add(1, Ordering::SeqCst);
        let mut works = works.lock().unwrap();
        let work = works.entry(call).or_insert(true);
        *work = !*work;
        (!*work).then(unreachable)
    };
    let rig = Rig::with(|source| Arc::new(FaultySource::new(source, fail))).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    assert!(calls.load(Ordering::SeqCst) > 30);
}

#[tokio::test]
async fn a_source_that_breaks_at_any_call_fails_the_pass_and_leaves_the_old_point() {
    let (calls, broken_from) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(u32::MAX)));
    let (seen, from) = (Arc::clone(&calls), Arc::clone(&broken_from));
    // Removing works: a source that is wholly gone cannot be tidied up.
    let fail = move |call: &str| {
        let number = seen.fetch_add(1, Ordering::SeqCst);
        let broken = number >= from.load(Ordering::SeqCst) && !matches!(call, "remove_snapshot" | "snapshots");
        broken.then(|| Error::new(ErrorKind::Denied, "ask the source", "the session has ended"))
    };
    let rig = Rig::with(|source| Arc::new(FaultySource::new(source, fail))).await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
    rig.world.change("web", 2);
    for after in 0.. {
        broken_from.store(calls.load(Ordering::SeqCst) + after, Ordering::SeqCst);
        let job = rig.ask(&vm, ReplicationMode::Auto).await.unwrap();
        let job = rig.wait(&job).await;
        if job.status == JobStatus::Completed {
            assert!(after > 10, "the source was asked {after} times only");
            break;
        }
        assert_eq!(job.status, JobStatus::Failed);
        assert!(job.error_message.unwrap().contains("the session has ended"));
        rig.demand_tidy("web", &vm);
        assert_eq!(rig.context(&vm).await.status, ContextStatus::ReadyForFailover);
    }
    rig.demand_equal("web", &vm).await;
}

#[tokio::test]
async fn a_cancelled_pass_leaves_nothing_wherever_it_was() {
    let rig = Rig::new().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    // The first pass: its volumes go with it.
    let (mut cancelled, mut completed) = (0, 0);
    for round in 0..30 {
        let job = rig.ask(&vm, ReplicationMode::Auto).await.unwrap();
        for _ in 0..round * 40 {
            tokio::task::yield_now().await;
        }
        let told = rig.runner.jobs().cancel(&job, None).await;
        let end = rig.wait(&job).await;
        rig.demand_tidy("web", &vm);
        let has_point = completed > 0 || end.status == JobStatus::Completed;
        assert_eq!(rig.world.volume_files(&vm).len(), if has_point { 3 } else { 0 });
        match end.status {
            JobStatus::Cancelled => cancelled += 1,
            // It had passed its pivot, or ended before it was told.
            JobStatus::Completed => completed += 1,
            status => panic!("{status}: {:?} {told:?}", end.error_message),
        }
        rig.world.change("web", round + 10);
    }
    assert!(cancelled > 5, "{cancelled} cancelled, {completed} completed");
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

#[tokio::test]
async fn a_pass_that_fails_about_its_pivot_leaves_the_old_point_and_is_not_remembered() {
    let seen = struck::everywhere(Blow::Fail, &["replicating", "committing", "applying"], false).await;
    println!("{seen:?}");
    assert_eq!(seen.struck, seen.places, "not every place was reached");
    assert!(seen.failed > 5 && seen.completed > 2, "{seen:?}");
}
