//! Jobs and processes: killed, stopped, asked to end, frozen while another takes over.

use std::collections::BTreeMap;
use std::time::Duration;

use migratekit_core::id::JobId;
use migratekit_core::model::{Job, JobStatus};
use migratekit_core::testing::catalog::on_sqlite;
use migratekit_core::testing::jobs::{CrashHarness, MarkerInput, MarkerTrial, MarkerWorld, Report, Trial, context};
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::{CancellationToken, Store, StoreOptions, clock};
use rustix::process::Signal;

use super::child::{self, Part, Play};
use super::{fence, mover};

fn rounds(quick: usize) -> usize {
    std::env::var("MIGRATEKIT_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(quick)
}

/// `kill -9` of a real process at places all over the job; another process finds what is left and goes on.
#[test]
fn a_process_killed_at_a_failpoint_leaves_nothing_undone() {
    if child::part() {
        return;
    }
    on_sqlite(|store| async move {
        let folder = tempfile::tempdir().unwrap();
        let world = MarkerWorld::in_folder(folder.path());
        let harness = CrashHarness::new(store.clone(), world.sagas());
        let mut report = Report::default();
        for fail in [None, Some("fill".to_owned())] {
            let input = MarkerInput { fail, fails: 9, ..MarkerInput::default() };
            let trial = MarkerTrial { world: world.clone(), context: context(&store).await, input };
            let places = harness.places(&trial).await.unwrap();
            let stride = (places.len() / rounds(8)).max(1);
            for place in places.iter().skip(stride / 2).step_by(stride) {
                let trial = MarkerTrial { context: context(&store).await, ..trial.clone() };
                let jobs = migratekit_core::jobs::Jobs::new(store.clone(), world.sagas());
                let id = trial.begin(&jobs).await.unwrap();
                let part = Part { url: store.url().to_string(), world: folder.path().into(), play: Play::Drive(id.clone()) };
                let child = child::spawn("processes::a_process_killed_at_a_failpoint_leaves_nothing_undone", &part, Some(place));
                let code = migratekit_core::task::blocking(move || child.wait()).await.unwrap();
                report.places += 1;
                report.crashes += usize::from(code.is_none());
                harness.finish(&trial, &id, place, &mut report).await.unwrap();
            }
        }
        assert_eq!(report.complaints, Vec::<String>::new());
        assert!(report.crashes >= 8 && report.crashes == report.places, "the children were not killed: {report:?}");
        assert!(report.completed > 0 && report.undone > 0);
    });
}

/// SIGTERM and SIGHUP lay jobs down in good order; the next process goes on with them.
#[test]
fn a_process_that_is_asked_to_end_lays_its_jobs_down() {
    if child::part() {
        return;
    }
    on_sqlite(|store| async move {
        let folder = tempfile::tempdir().unwrap();
        let world = MarkerWorld::in_folder(folder.path());
        let jobs = migratekit_core::jobs::Jobs::new(store.clone(), world.sagas());
        let token = CancellationToken::new();
        for signal in [Signal::TERM, Signal::HUP] {
            let gate = folder.path().join(format!("gate-{}", signal.as_raw()));
            let input = MarkerInput { gate: Some(gate.clone()), ..MarkerInput::default() };
            let id = world.start(&jobs, &context(&store).await, &input).await.unwrap();
            let part = Part { url: store.url().to_string(), world: folder.path().into(), play: Play::UntilSignal(id.clone()) };
            let child = child::spawn("processes::a_process_that_is_asked_to_end_lays_its_jobs_down", &part, None);
            jobs.wait_until(&id, &token, |job| job.percent.get() > 15).await.unwrap();
            child.signal(signal);
            assert_eq!(migratekit_core::task::blocking(move || child.wait()).await.unwrap(), Some(0));
            let job = jobs.get(&id).await.unwrap();
            assert_eq!((job.status, job.lease), (JobStatus::Paused, None));
            std::fs::write(gate, "").unwrap();
            jobs.resume(&id).await.unwrap();
            let part = Part { play: Play::Drive(id.clone()), ..part };
            let child = child::spawn("processes::a_process_that_is_asked_to_end_lays_its_jobs_down", &part, None);
            assert_eq!(migratekit_core::task::blocking(move || child.wait()).await.unwrap(), Some(0));
            let job = jobs.get(&id).await.unwrap();
            assert_eq!(job.status, JobStatus::Completed);
            assert_eq!(world.complaints(&job), Vec::<String>::new());
        }
    });
}

/// Two processes, 200 jobs of 20 VMs, one of the processes frozen for longer than its leases and then continued.
#[test]
fn two_processes_share_the_work_and_a_frozen_one_is_fenced() {
    if child::part() {
        return;
    }
    const STARTS: usize = 100;
    let server = MariaDb::start();
    server.create_database("jobs");
    let url = server.url("jobs");
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
        let store = Store::open(&url, StoreOptions::new()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let world = MarkerWorld::in_folder(folder.path());
        let jobs = migratekit_core::jobs::Jobs::new(store.clone(), world.sagas());
        let mut contexts = Vec::new();
        for _ in 0..20 {
            contexts.push(context(&store).await);
        }
        let name = "processes::two_processes_share_the_work_and_a_frozen_one_is_fenced";
        let children = [1, 2].map(|seed| {
            let play = Play::Serve { contexts: contexts.clone(), starts: STARTS, seed };
            child::spawn(name, &Part { url: url.clone(), world: folder.path().into(), play }, None)
        });
        // Frozen while it holds jobs, until the other has taken every one of them.
        let frozen_pid = i64::from(children[0].pid().as_raw_pid());
        let taken = freeze(&store, &jobs, &children[0], frozen_pid).await;
        assert!(taken > 0, "the frozen process held nothing that was taken over");
        for child in children {
            assert_eq!(migratekit_core::task::blocking(move || child.wait()).await.unwrap(), Some(0));
        }
        let all = all_jobs(&store).await;
        assert_eq!(all.len(), 2 * STARTS);
        for job in &all {
            assert_eq!(job.status, JobStatus::Completed, "{job:?}");
            assert_eq!(world.complaints(job), Vec::<String>::new());
            assert_eq!(world.times_made(&format!("published-{}", job.id)), 1, "it ran once");
        }
        let takeovers = epochs_never_fall(&jobs).await;
        assert!(takeovers >= taken, "{takeovers} takeovers are told, {taken} were seen");
        store.close().await;
    });
}

/// Two movers on one MariaDB, both writing through one server in a third process; one of them is frozen with writes under way, for longer
/// than its lease, and then continued. By the server's write log each accepted job ran once, and no write of an old epoch landed.
#[test]
fn two_movers_write_through_a_third_process_and_a_frozen_one_is_fenced() {
    if mover::part() {
        return;
    }
    let name = "processes::two_movers_write_through_a_third_process_and_a_frozen_one_is_fenced";
    let seen = fence::play(name, &fence::Size { volumes: 20, starts: [100, 100], before: 60, victims: 3 });
    println!("{seen:?}");
    assert_eq!(seen.complaints, Vec::<String>::new());
    assert_eq!(seen.accepted, 200);
    assert!(seen.requests >= 4 * seen.accepted, "the server wrote down {} requests", seen.requests);
    assert!(seen.conflicts > 0, "no two asked for one VM at once");
    assert!(
        seen.victims >= 3 && seen.taken_over >= seen.victims && seen.waited_for >= seen.victims,
        "the freeze proves too little: {seen:?}"
    );
    assert!(seen.refused >= seen.victims, "the server refused the frozen one {} times", seen.refused);
}

/// Stops the process while it holds jobs; continues it when all of them have a new owner or ended. Tells how many were taken over.
async fn freeze(store: &Store, jobs: &migratekit_core::jobs::Jobs, child: &migratekit_core::testing::peer::Peer, pid: i64) -> usize {
    let mine = |job: &Job, owner: &Option<migratekit_core::id::RunnerId>| {
        job.lease.as_ref().is_some_and(|lease| Some(&lease.owner) == owner.as_ref())
    };
    let mut owner = None;
    loop {
        let runners = store.read("list runners", |tx| async move { tx.runners().running().await }).await.unwrap();
        owner = owner.or(runners.into_iter().find(|runner| i64::from(runner.pid) == pid).map(|runner| runner.id));
        let held = jobs.active().await.unwrap();
        if owner.is_some() && held.iter().filter(|job| mine(job, &owner)).count() >= 2 {
            break;
        }
        clock::sleep(Duration::from_millis(5)).await;
    }
    child.signal(Signal::STOP);
    let held: Vec<JobId> = jobs.active().await.unwrap().into_iter().filter(|job| mine(job, &owner)).map(|job| job.id).collect();
    let taken_over = async {
        loop {
            let mut left = 0;
            for id in &held {
                left += usize::from(mine(&jobs.get(id).await.unwrap(), &owner));
            }
            if left == 0 {
                return;
            }
            clock::sleep(Duration::from_millis(20)).await;
        }
    };
    let moved = clock::within(Duration::from_secs(30), taken_over).await;
    child.signal(Signal::CONT);
    assert!(moved.is_some(), "nobody took the frozen process's jobs over");
    held.len()
}

async fn all_jobs(store: &Store) -> Vec<Job> {
    let ids = migratekit_core::testing::catalog::ask(store, "SELECT id AS value FROM job_tracking ORDER BY id").await.unwrap();
    let mut jobs = Vec::new();
    for id in ids.into_iter().flatten() {
        let id: &JobId = &id.parse().unwrap();
        jobs.push(store.read("look at a job", |tx| async move { tx.jobs().get(id).await }).await.unwrap());
    }
    jobs
}

/// Reads all events: of each job the epochs never fall, so nothing of an old owner was committed after a new one had it. Gives the number
/// of takeovers.
async fn epochs_never_fall(jobs: &migratekit_core::jobs::Jobs) -> usize {
    let last = jobs.last_event().await.unwrap();
    let (mut events, mut epochs, mut takeovers) = (jobs.follow(None), BTreeMap::<JobId, u64>::new(), 0);
    while events.last() != last {
        let event = events.next(&CancellationToken::new()).await.unwrap();
        if let (Some(job), Some(epoch)) = (event.job, event.data["epoch"].as_u64()) {
            let before = epochs.insert(job.clone(), epoch).unwrap_or(epoch);
            assert!(before <= epoch, "{job}: epoch {epoch} after {before}");
            takeovers += usize::from(before < epoch);
        }
    }
    takeovers
}
