//! Movers and a server as processes of their own: jobs that copy a disk over NBD into the volume of their VM, by the right of their lease.
//!
//! ```text
//!  mover 0 ─┐ jobs, leases, epochs ─▶ MariaDB
//!  mover 1 ─┤
//!           └ VOLUME/EPOCH/JOB/MAC ─▶ server: 20 volumes, each fenced and with its ledger; writes.log, refused.log
//! ```
//!
//! A mover is deaf: its copy watches no token. What keeps it from writing when it lost its lease is the server alone.
//!
//! Each process writes down what it knows, in the folder that all share: `accepted.log` (jobs that were begun), `ends.log` (how each copy
//! ended), `conflicts-N`, `begun-N`. It is this that the test judges by.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migratekit_core::block::BoxFuture;
use migratekit_core::copy::{Copy, CopyOptions};
use migratekit_core::id::ContextId;
use migratekit_core::jobs::{
    Jobs, NewJob, Outcome, Progress, Runner, Saga, SagaDefinition, SagaFactory, Sagas, StepContext, StepEnd, StepSpec, StopSignals,
};
use migratekit_core::model::messages::Action;
use migratekit_core::model::{Job, JobKind, Percent};
use migratekit_core::nbd::{Client, ConnectOptions, EpochKey, Listener, Server, ServerConfig, Uri};
use migratekit_core::testing::Rng;
use migratekit_core::testing::jobs::{CrashHarness, Points};
use migratekit_core::testing::peer::{Peer, program};
use migratekit_core::testing::write_log::{LoggedExport, WriteLog};
use migratekit_core::{
    CancellationToken, ErrorKind, FileDisk, LedgerPlace, OpenOptions, Result, ServedDisk, Store, StoreOptions, Tx, clock, task,
};
use serde::{Deserialize, Serialize};

/// The size of each volume: some requests, and a tail that ends within one.
pub(crate) const SIZE: u64 = 6 * REQUEST as u64 + 512;

/// The bytes of one request.
pub(crate) const REQUEST: u32 = 64 * 1024;

/// How long a mover waits for a VM that is busy, before it asks for another one.
const BUSY: Duration = Duration::from_millis(20);

const PART: &str = "MIGRATEKIT_MOVER_CHILD";

/// A process and what it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub url: String,
    pub folder: PathBuf,
    pub contexts: Vec<ContextId>,
    pub play: Play,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Play {
    /// Serves the volumes until SIGTERM.
    Server,
    /// Begins so many jobs, and runs what there is until the file `end` is there.
    Mover { number: u64, starts: usize },
}

/// One line of `accepted.log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub job: String,
    pub volume: String,
    pub source: PathBuf,
}

/// One line of `ends.log`: a copy that ended, well if there is no kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub job: String,
    pub epoch: u64,
    pub kind: Option<String>,
}

/// Runs the test `name` again as a child.
pub(crate) fn spawn(name: &str, part: &Part) -> Peer {
    let mut command = Command::new(program("setpriv"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).stdout(Stdio::null());
    command.env(PART, serde_json::to_string(part).unwrap());
    Peer::spawn("a child of the test", command)
}

/// In a child: plays its part, and answers `true`.
pub(crate) fn part() -> bool {
    let Ok(part) = std::env::var(PART) else { return false };
    let part: Part = serde_json::from_str(&part).unwrap();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
        match part.play {
            Play::Server => serve(&part).await,
            Play::Mover { number, starts } => run(&part, number, starts).await,
        }
    });
    true
}

/// The lines of a log that all processes append to.
pub(crate) fn lines<T: serde::de::DeserializeOwned>(folder: &Path, log: &str) -> Vec<T> {
    let text = fs::read_to_string(folder.join(log)).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn append(folder: &Path, log: &str, line: &impl Serialize) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(folder.join(log)).unwrap();
    file.write_all(format!("{}\n", serde_json::to_string(line).unwrap()).as_bytes()).unwrap();
}

/// The file of a volume.
pub(crate) fn volume(folder: &Path, context: &ContextId) -> PathBuf {
    folder.join(format!("{context}.img"))
}

/// The key that catalog and server share.
fn key() -> EpochKey {
    EpochKey::new([42; 32])
}

async fn serve(part: &Part) {
    let folder = &part.folder;
    let refused = Mutex::new(fs::File::create(folder.join("refused.log")).unwrap());
    tracing_subscriber::fmt().with_ansi(false).with_writer(refused).init();
    let (server, log) = (Server::new(ServerConfig::default()), WriteLog::create(folder).unwrap());
    let mut served = Vec::new();
    for context in &part.contexts {
        let disk = ServedDisk::writable(&volume(folder, context), &LedgerPlace::Beside).await.unwrap();
        let export = LoggedExport::new(disk.export(), context.as_str(), server.clone(), Arc::clone(&log));
        server.add_fenced(context.as_str(), Arc::new(export), key()).unwrap();
        served.push(disk);
    }
    let mut signals = StopSignals::listen().unwrap();
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    fs::write(folder.join("port.new"), listener.port().unwrap().to_string()).unwrap();
    fs::rename(folder.join("port.new"), folder.join("port")).unwrap();
    let mut scope = task::Scope::new();
    let (running, token) = (server.clone(), scope.token().clone());
    scope.spawn(async move { running.serve(listener, token).await.unwrap() });
    signals.next().await;
    scope.close().await.unwrap();
    server.shutdown().await;
    for disk in served {
        disk.close().await.unwrap();
    }
}

async fn run(part: &Part, number: u64, starts: usize) {
    let store = Store::open(&part.url, StoreOptions::new()).await.unwrap();
    let runner = Runner::start(store, sagas(&part.folder), CrashHarness::config(&Points::watching())).await.unwrap();
    let conflicts = begin(&part.folder, runner.jobs(), &part.contexts, number, starts).await;
    fs::write(part.folder.join(format!("conflicts-{number}")), conflicts.to_string()).unwrap();
    fs::write(part.folder.join(format!("begun-{number}")), "").unwrap();
    while !part.folder.join("end").exists() {
        clock::sleep(BUSY).await;
    }
    runner.stop().await.unwrap();
}

/// Begins jobs of VMs chosen at random; gives how often one was refused because its VM was busy.
async fn begin(folder: &Path, jobs: &Jobs, contexts: &[ContextId], number: u64, starts: usize) -> usize {
    let (mut rng, mut events, mut conflicts) = (Rng::new(number + 1), jobs.follow(None), 0);
    for n in 0..starts {
        let source = folder.join(format!("source-{number}-{n}.img"));
        fs::write(&source, content(&mut rng)).unwrap();
        loop {
            let context = &contexts[usize::try_from(rng.below(contexts.len() as u64)).unwrap()];
            let input = serde_json::to_value(&source).unwrap();
            match jobs.start(NewJob::of(JobKind::Verify, context.clone(), input), |_, _| async { Ok(()) }).await {
                Ok(job) => {
                    append(folder, "accepted.log", &Accepted { job: job.to_string(), volume: context.to_string(), source });
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Busy => {
                    conflicts += 1;
                    let _ = clock::within(BUSY, events.next(&CancellationToken::new())).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    conflicts
}

/// A disk that no other job has: no block is like another, some are zero.
fn content(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    for block in bytes.chunks_mut(REQUEST as usize / 2) {
        if rng.chance(25) {
            continue;
        }
        let stamp = rng.below(u64::MAX).to_le_bytes();
        block.chunks_mut(8).for_each(|piece| piece.copy_from_slice(&stamp[..piece.len()]));
    }
    bytes
}

const STEPS: &[StepSpec] = &[StepSpec::new("copy", 9), StepSpec::new("commit", 1).pivot()];

const DEFINITION: SagaDefinition = SagaDefinition { kind: JobKind::Verify, steps: STEPS, next_action: Action::ShowJob };

/// The saga, as every process knows it.
pub(crate) fn sagas(folder: &Path) -> Sagas {
    Sagas::new([Arc::new(Movers(folder.to_path_buf())) as Arc<dyn SagaFactory>]).unwrap()
}

struct Movers(PathBuf);

impl SagaFactory for Movers {
    fn definition(&self) -> &'static SagaDefinition {
        &DEFINITION
    }

    fn load(&self, job: &Job) -> Result<Arc<dyn Saga>> {
        Ok(Arc::new(Mover { folder: self.0.clone(), source: serde_json::from_value(job.input.clone()).unwrap() }))
    }
}

struct Mover {
    folder: PathBuf,
    source: PathBuf,
}

impl Mover {
    async fn copy(&self, cx: &StepContext) -> Result<()> {
        let port = fs::read_to_string(self.folder.join("port")).unwrap().parse().unwrap();
        let name = cx.export_name(&key(), cx.context()?.as_str())?;
        let options = ConnectOptions { connections: 2, ..ConnectOptions::new(Uri::tcp("127.0.0.1", port, name)) };
        let source = FileDisk::open(&self.source, OpenOptions::read_only()).await?;
        let target = Client::connect(options).await?;
        // Deaf: it is not told that it shall end.
        let options =
            CopyOptions { request_size: REQUEST, in_flight: Some(4 * u64::from(REQUEST)), explicit_zeros: true, ..CopyOptions::default() };
        Copy::new(Arc::new(source), Arc::new(target), options)?.run().await.map(|_| ())
    }
}

impl Saga for Mover {
    fn run<'a>(&'a self, step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<StepEnd>> {
        Box::pin(async move {
            if step.pivot {
                let (fact, job) = (&format!("mover-{}", cx.context()?), &cx.job().to_string());
                cx.pivot(|tx| async move { tx.facts().set(fact, job).await }).await?;
            } else {
                let (job, epoch) = (cx.job().to_string(), cx.epoch().get());
                let copied = self.copy(cx).await;
                append(&self.folder, "ends.log", &Ended { job, epoch, kind: copied.as_ref().err().map(|e| e.kind().code().to_owned()) });
                copied?;
                cx.progress(Progress::part(Percent::of(1, 1)));
            }
            Ok(StepEnd::Done)
        })
    }

    fn undo<'a>(&'a self, _step: &'static StepSpec, _cx: &'a StepContext) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn settle<'a>(&'a self, _outcome: &'a Outcome<'a>, _job: &'a Job, _tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
