//! Two movers, one of them frozen in the middle of its writes, and what the server's write log says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use migratekit_core::id::{ContextId, JobId, RunnerId};
use migratekit_core::jobs::Jobs;
use migratekit_core::model::JobStatus;
use migratekit_core::testing::jobs::context;
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::testing::peer::Peer;
use migratekit_core::testing::write_log::{Hold, Line, What, WriteLog};
use migratekit_core::units::ByteRange;
use migratekit_core::{CancellationToken, ErrorKind, ExtentMap, Store, StoreOptions, clock, task};
use rustix::process::Signal;

use super::mover::{self, Accepted, Ended, Part, Play, SIZE};

/// How long something that must happen may take.
const STUCK: Duration = Duration::from_secs(60);

/// How much is played.
pub(crate) struct Size {
    pub volumes: usize,
    /// Jobs that the two movers begin.
    pub starts: [usize; 2],
    /// So many are accepted before one is frozen.
    pub before: usize,
    /// So many jobs of the frozen one must be in the middle of their writes.
    pub victims: usize,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub accepted: usize,
    pub conflicts: usize,
    pub victims: usize,
    /// Jobs whose writes bear more than one epoch.
    pub taken_over: usize,
    pub requests: usize,
    /// Requests of an old epoch that ended between the arrival of a new one and its admission.
    pub waited_for: usize,
    /// Connections that the server refused because their epoch is over, by its own log.
    pub refused: usize,
    pub complaints: Vec<String>,
}

/// Waits until `ready` gives something.
async fn until<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = ready().await {
                return found;
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
    };
    clock::within(STUCK, wait).await.unwrap_or_else(|| panic!("it did not happen: {what}"))
}

/// Plays all of it; `name` is the test that the children run again.
pub(crate) fn play(name: &str, size: &Size) -> Seen {
    let server = MariaDb::start();
    server.create_database("jobs");
    let url = server.url("jobs");
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
        let store = Store::open(&url, StoreOptions::new()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut contexts = Vec::new();
        for _ in 0..size.volumes {
            let context = context(&store).await;
            fs::File::create(mover::volume(folder.path(), &context)).unwrap().set_len(SIZE).unwrap();
            contexts.push(context);
        }
        let part = |play| Part { url: url.clone(), folder: folder.path().into(), contexts: contexts.clone(), play };
        let exports = mover::spawn(name, &part(Play::Server)).wait_path(&folder.path().join("port"));
        if size.before == 0 {
            WriteLog::hold(folder.path(), &Hold::All);
        }
        let movers: Vec<Peer> =
            (0..).zip(size.starts).map(|(number, starts)| mover::spawn(name, &part(Play::Mover { number, starts }))).collect();
        let jobs = Jobs::new(store.clone(), mover::sagas(folder.path()));
        let victims = freeze(folder.path(), &store, &jobs, &movers, size).await;
        finish(folder.path(), &jobs, size).await;
        for peer in movers {
            assert_eq!(task::blocking(move || peer.wait()).await.unwrap(), Some(0), "a mover failed");
        }
        exports.signal(Signal::TERM);
        assert_eq!(task::blocking(move || exports.wait()).await.unwrap(), Some(0), "the server failed");
        let mut seen = judge(folder.path(), &store, &contexts).await;
        judge_victims(folder.path(), &victims, &mut seen);
        store.close().await;
        seen
    })
}

/// A job that was stopped in the middle of its writes.
struct Victim {
    job: JobId,
    volume: String,
    epoch: u64,
}

/// Freezes a mover with writes under way at the server, lets the other take all its jobs over and complete them, and continues it.
async fn freeze(folder: &Path, store: &Store, jobs: &Jobs, movers: &[Peer], size: &Size) -> Vec<Victim> {
    until("enough jobs are accepted", async || (mover::lines::<Accepted>(folder, "accepted.log").len() >= size.before).then_some(())).await;
    WriteLog::hold(folder, &Hold::All);
    let (frozen, runner) = until("a mover has enough writes under way", async || {
        for mover in movers {
            if let Some(runner) = runner_of(store, mover).await
                && under_way(folder, jobs, &runner).await.len() >= size.victims
            {
                return Some((mover, runner));
            }
        }
        None
    })
    .await;
    frozen.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", frozen.pid().as_raw_pid());
    until("the mover stands", async || fs::read_to_string(&stat).unwrap().contains(") T ").then_some(())).await;
    // What it has under way stays so until the one who takes over knocks.
    let victims = under_way(folder, jobs, &runner).await;
    assert!(victims.len() >= size.victims);
    WriteLog::hold(folder, &Hold::Only(victims.iter().map(|victim| victim.volume.clone()).collect()));
    until("every victim is taken over, with its old writes still under way", async || {
        let log = WriteLog::read(folder);
        let raised = |v: &Victim| log.iter().any(|l| l.what == What::Raised && l.export == v.volume && l.epoch > v.epoch);
        victims.iter().all(raised).then_some(())
    })
    .await;
    WriteLog::hold(folder, &Hold::Nothing);
    for victim in &victims {
        let job = clock::within(STUCK, jobs.wait(&victim.job, &CancellationToken::new())).await.unwrap().unwrap();
        assert_eq!(job.status, JobStatus::Completed, "a victim was not completed by the other: {job:?}");
    }
    frozen.signal(Signal::CONT);
    until("the one that was frozen learns the fate of its copies", async || {
        let ends: Vec<Ended> = mover::lines(folder, "ends.log");
        victims.iter().all(|v| ends.iter().any(|end| end.job == v.job.as_str() && end.epoch == v.epoch)).then_some(())
    })
    .await;
    victims
}

async fn runner_of(store: &Store, mover: &Peer) -> Option<RunnerId> {
    let runners = store.read("list runners", |tx| async move { tx.runners().running().await }).await.unwrap();
    runners.into_iter().find(|runner| i64::from(runner.pid) == i64::from(mover.pid().as_raw_pid())).map(|runner| runner.id)
}

/// The jobs of this runner that have requests on their way to a disk.
async fn under_way(folder: &Path, jobs: &Jobs, runner: &RunnerId) -> Vec<Victim> {
    let mut open: BTreeMap<(String, String, u64), i64> = BTreeMap::new();
    for line in WriteLog::read(folder) {
        let step = match line.what {
            What::Begun => 1,
            What::Landed | What::Failed => -1,
            What::Raised | What::Admitted => 0,
        };
        *open.entry((line.job, line.export, line.epoch)).or_default() += step;
    }
    let held: BTreeSet<String> = jobs
        .active()
        .await
        .unwrap()
        .into_iter()
        .filter(|job| job.lease.as_ref().is_some_and(|lease| lease.owner == *runner))
        .map(|job| job.id.to_string())
        .collect();
    let mine = open.into_iter().filter(|((job, ..), requests)| *requests > 0 && held.contains(job));
    mine.map(|((job, volume, epoch), _)| Victim { job: job.parse().unwrap(), volume, epoch }).collect()
}

/// Waits until all jobs were begun and came to rest; then the movers may end.
async fn finish(folder: &Path, jobs: &Jobs, size: &Size) {
    until("all jobs are begun", async || (0..size.starts.len()).all(|n| folder.join(format!("begun-{n}")).exists()).then_some(())).await;
    until("all jobs rest", async || jobs.active().await.unwrap().is_empty().then_some(())).await;
    fs::write(folder.join("end"), "").unwrap();
}

/// Compares what was accepted, what the catalog says, what the server wrote down, and what the volumes hold.
async fn judge(folder: &Path, store: &Store, contexts: &[ContextId]) -> Seen {
    let (log, accepted) = (WriteLog::read(folder), mover::lines::<Accepted>(folder, "accepted.log"));
    let refused = fs::read_to_string(folder.join("refused.log")).unwrap();
    let conflicts = (0..2).map(|n| fs::read_to_string(folder.join(format!("conflicts-{n}"))).unwrap().parse::<usize>().unwrap());
    let mut seen = Seen {
        accepted: accepted.len(),
        conflicts: conflicts.sum(),
        requests: log.iter().filter(|line| line.what == What::Begun).count(),
        refused: refused.lines().filter(|line| line.contains("an export is refused") && line.contains("fenced:")).count(),
        ..Seen::default()
    };
    let rows = migratekit_core::testing::catalog::ask(store, "SELECT CONCAT(id, ' ', status) AS value FROM job_tracking").await.unwrap();
    let rows: BTreeSet<String> = rows.into_iter().flatten().collect();
    if rows != accepted.iter().map(|a| format!("{} completed", a.job)).collect() {
        seen.complaints.push(format!("not every accepted job is completed, or others are there: {rows:?}"));
    }
    for context in contexts {
        let lines: Vec<&Line> = log.iter().filter(|line| line.export == context.as_str()).collect();
        let mine: Vec<&Accepted> = accepted.iter().filter(|a| a.volume == context.as_str()).collect();
        let wrong = judge_volume(&lines, &mine, &mut seen);
        seen.complaints.extend(wrong.into_iter().map(|text| format!("{context}: {text}")));
        let Some(last) = lines.iter().rev().find(|line| line.what == What::Landed) else { continue };
        let fact = &format!("mover-{context}");
        let told = store.read("look", |tx| async move { tx.facts().get(fact).await }).await.unwrap();
        let source = mine.iter().find(|a| a.job == last.job).map(|a| fs::read(&a.source).unwrap());
        if told.as_deref() != Some(&last.job) || source != fs::read(mover::volume(folder, context)).ok() {
            seen.complaints.push(format!("{context}: the volume is not what {} copied; the catalog says {told:?}", last.job));
        }
    }
    seen
}

/// The log of one volume: one job after the other, no write of an epoch that is over, each job whole.
fn judge_volume(lines: &[&Line], accepted: &[&Accepted], seen: &mut Seen) -> Vec<String> {
    let (mut wrong, mut arrived, mut admitted) = (Vec::new(), 0, 0);
    let (mut order, mut landed) = (Vec::<&str>::new(), BTreeMap::<(&str, u64), ExtentMap<()>>::new());
    for line in lines {
        match line.what {
            What::Raised => arrived = line.epoch.max(arrived),
            What::Admitted => admitted = line.epoch.max(admitted),
            What::Begun | What::Landed | What::Failed => {}
        }
        if line.epoch < admitted {
            wrong.push(format!("epoch {admitted} was admitted, and then: {line:?}"));
        }
        match line.what {
            What::Begun if order.last() != Some(&line.job.as_str()) => order.push(&line.job),
            What::Failed => wrong.push(format!("a request failed: {line:?}")),
            What::Landed => {
                seen.waited_for += usize::from(line.epoch < arrived);
                let range = ByteRange::new(line.offset, line.length).unwrap();
                let of_job = landed.entry((&line.job, line.epoch)).or_default();
                let before = of_job.total();
                of_job.insert(range, ());
                if of_job.total() != before + line.length {
                    wrong.push(format!("written twice in one epoch: {line:?}"));
                }
            }
            _ => {}
        }
    }
    let jobs: BTreeSet<&str> = order.iter().copied().collect();
    if jobs.len() != order.len() {
        wrong.push(format!("the jobs' writes are mixed: {order:?}"));
    }
    if jobs != accepted.iter().map(|a| a.job.as_str()).collect() {
        wrong.push(format!("{order:?} wrote, {accepted:?} were accepted"));
    }
    for job in &jobs {
        let epochs: Vec<u64> = landed.keys().filter(|(name, _)| name == job).map(|(_, epoch)| *epoch).collect();
        seen.taken_over += usize::from(epochs.len() > 1);
        let last = epochs.last().and_then(|epoch| landed.get(&(job, *epoch))).map_or(0, ExtentMap::total);
        if last != SIZE {
            wrong.push(format!("{job} wrote {last} of {SIZE} bytes in its last epoch"));
        }
    }
    wrong
}

/// The victims: their old owner tried to go on, and was refused; what it had under way ended before the new one was let in.
fn judge_victims(folder: &Path, victims: &[Victim], seen: &mut Seen) {
    let ends: Vec<Ended> = mover::lines(folder, "ends.log");
    let log = WriteLog::read(folder);
    seen.victims = victims.len();
    for victim in victims {
        let old = ends.iter().find(|end| end.job == victim.job.as_str() && end.epoch == victim.epoch);
        if old.and_then(|end| end.kind.as_deref()) != Some(ErrorKind::Fenced.code()) {
            seen.complaints.push(format!("{}: its old owner was not told that it is fenced: {old:?}", victim.job));
        }
        let of_old = |line: &&Line| line.export == victim.volume && line.epoch == victim.epoch && line.what == What::Landed;
        let newer = |line: &&Line| line.export == victim.volume && line.epoch > victim.epoch;
        let arrived = log.iter().find(|line| newer(line) && line.what == What::Raised).map(|line| line.order);
        let admitted = log.iter().find(|line| newer(line) && line.what == What::Admitted).map(|line| line.order);
        let last = log.iter().rfind(of_old).map(|line| line.order);
        if !(arrived < last && last < admitted) {
            seen.complaints.push(format!("{}: arrived {arrived:?}, last old write {last:?}, admitted {admitted:?}", victim.job));
        }
    }
}
