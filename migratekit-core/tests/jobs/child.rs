//! Another process: a test runs itself again, told by the environment to be a child.
//!
//! `part()` is asked first by each test that has children; in a child it plays the part to its end and answers `true`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use migratekit_core::id::{ContextId, JobId};
use migratekit_core::jobs::{Orphans, Runner, StopSignals};
use migratekit_core::testing::Rng;
use migratekit_core::testing::jobs::{CrashHarness, MarkerInput, MarkerWorld, Points, VARIABLE};
use migratekit_core::testing::peer::{Peer, program};
use migratekit_core::{CancellationToken, ErrorKind, Store, StoreOptions};
use serde::{Deserialize, Serialize};

const PART: &str = "MIGRATEKIT_JOBS_CHILD";

/// What a child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub url: String,
    pub world: PathBuf,
    pub play: Play,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Play {
    /// Drives this job until it rests.
    Drive(JobId),
    /// Drives this job until a signal comes; then stops in good order.
    UntilSignal(JobId),
    /// Begins so many jobs of these VMs, runs what there is until nothing is left.
    Serve { contexts: Vec<ContextId>, starts: usize, seed: u64 },
}

/// Runs the test `name` again as a child; with `kill_at` it kills itself there.
pub(crate) fn spawn(name: &str, part: &Part, kill_at: Option<&str>) -> Peer {
    let mut command = Command::new(program("setpriv"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).stdout(Stdio::null());
    command.env(PART, serde_json::to_string(part).unwrap());
    if let Some(place) = kill_at {
        command.env(VARIABLE, place);
    }
    Peer::spawn("a child of the test", command)
}

/// In a child: plays its part, and answers `true`.
pub(crate) fn part() -> bool {
    let Ok(part) = std::env::var(PART) else { return false };
    let part: Part = serde_json::from_str(&part).unwrap();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(play(part));
    true
}

async fn play(part: Part) {
    let store = Store::open(&part.url, StoreOptions::new()).await.unwrap();
    let world = MarkerWorld::in_folder(&part.world);
    let mut config = CrashHarness::config(&Points::of_environment());
    if matches!(part.play, Play::UntilSignal(_)) {
        config.orphans = Orphans::LayDown;
    }
    let mut signals = StopSignals::listen().unwrap();
    let runner = Runner::start(store, world.sagas(), config).await.unwrap();
    let token = CancellationToken::new();
    match part.play {
        Play::Drive(job) => {
            runner.jobs().wait(&job, &token).await.unwrap();
        }
        Play::UntilSignal(_) => {
            signals.next().await;
        }
        Play::Serve { contexts, starts, seed } => serve(&runner, &world, &contexts, starts, seed).await,
    }
    runner.stop().await.unwrap();
}

async fn serve(runner: &Runner, world: &MarkerWorld, contexts: &[ContextId], starts: usize, seed: u64) {
    let (jobs, mut rng, mut begun) = (runner.jobs(), Rng::new(seed), 0);
    let mut events = jobs.follow(None);
    let token = CancellationToken::new();
    while begun < starts {
        let context = &contexts[usize::try_from(rng.below(contexts.len() as u64)).unwrap()];
        let input = MarkerInput { pieces: rng.below(120), ..MarkerInput::default() };
        match world.start(jobs, context, &input).await {
            Ok(_) => begun += 1,
            // Somebody else was faster: something will happen before it is free.
            Err(error) if error.kind() == ErrorKind::Busy => drop(events.next(&token).await.unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
    while !jobs.active().await.unwrap().is_empty() {
        events.next(&token).await.unwrap();
    }
}
