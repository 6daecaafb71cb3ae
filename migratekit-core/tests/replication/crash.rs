//! `kill -9` of a process that replicates a VM with three disks: at every place where its journal stands, and at random moments.
//!
//! After each kill, before anybody mends anything, a reader of the replica sees exactly the old point or exactly the new one, on all disks.
//! Then another runner finishes: the job ends truthfully, the VM is free, nothing is left, and the next run ends equal. What the disks
//! must hold is known from the source's files, what is left from folders; nothing is believed that we report.
//!
//! `MIGRATEKIT_REPLICATION_KILLS` sets the number of random moments (default 200; `make test-long` takes ten times that).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use migratekit_core::id::{ContextId, DiskKey, JobId};
use migratekit_core::jobs::{Runner, RunnerConfig};
use migratekit_core::model::{IntentStatus, Job, JobStatus, ReplicationMode};
use migratekit_core::platform::Source;
use migratekit_core::replication::start;
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::Rng;
use migratekit_core::testing::jobs::{Points, VARIABLE};
use migratekit_core::testing::replication::{Disks, ReplicationWorld, keys};
use migratekit_core::{Store, StoreOptions};

use crate::rig::config;

/// Small disks: what is killed is the order of things, not the moving of bytes. The second ends within a block.
const SIZES: [u64; 3] = [700_000, 300_000 + 77, 200_000];

/// The folder of the child's world; a child without it has nothing to do.
const FOLDER: &str = "MIGRATEKIT_TEST_WORLD";

/// The VM the child replicates.
const VM: &str = "MIGRATEKIT_TEST_VM";

/// What the child says when it begins.
const GO: &str = "go";

async fn open(folder: &Path) -> ReplicationWorld {
    let store = Store::open(&format!("sqlite://{}/catalog.db", folder.display()), StoreOptions::new()).await.unwrap();
    ReplicationWorld::new(&folder.join("site"), store).await
}

/// The child: begins a replication, and runs it to its end, if it lives.
#[tokio::test]
async fn the_child_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let vm: ContextId = std::env::var(VM).unwrap().parse().unwrap();
    let world = open(Path::new(&folder)).await;
    let config = RunnerConfig { failpoints: Points::of_environment().failpoints(), ..config() };
    let runner = Runner::start(world.store.clone(), world.sagas(), config).await.unwrap();
    println!("\n{GO}");
    let job = start(runner.jobs(), &vm, ReplicationMode::Auto, None).await.unwrap();
    runner.jobs().wait(&job, &CancellationToken::new()).await.unwrap();
    runner.stop().await.unwrap();
}

/// A world in memory if there is such a place: a kill loses nothing that was written, so nothing is gained by a slower one.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    std::fs::create_dir(folder.path().join("site")).unwrap();
    folder
}

/// A VM that is replicated by children which are killed.
struct Trial {
    world: ReplicationWorld,
    folder: PathBuf,
    name: String,
    vm: ContextId,
    /// What the replica held when the present job began; empty: nothing.
    old: Disks,
    /// How long an undisturbed child takes, from its first word on.
    whole: Duration,
    context: String,
}

/// What was seen over all rounds.
#[derive(Debug, Default)]
struct Seen {
    kills: usize,
    old: usize,
    new: usize,
    completed: usize,
    undone: usize,
}

impl Trial {
    async fn new(world: &ReplicationWorld, folder: &Path, name: &str, seed: u64) -> Self {
        let vm = world.add(name, &SIZES, seed).await;
        let whole = Duration::from_millis(400);
        Trial {
            world: world.clone(),
            folder: folder.to_path_buf(),
            name: name.to_owned(),
            vm,
            old: Disks::new(),
            whole,
            context: String::new(),
        }
    }

    /// The disks the machine has now: what a pass that begins now will hold.
    async fn source(&self) -> Disks {
        let machine = self.world.site.describe(&self.name.parse().unwrap()).await.unwrap();
        let keys: Vec<DiskKey> = machine.disks.iter().map(|disk| disk.key).collect();
        self.world.source_disks(&self.name).into_iter().filter(|(key, _)| keys.contains(key)).collect()
    }

    fn child(&self, place: Option<&str>) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::the_child_that_is_killed", "--nocapture"]).env(FOLDER, &self.folder).env(VM, self.vm.as_str());
        command.env_remove(VARIABLE).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(place) = place {
            command.env(VARIABLE, place);
        }
        command.spawn().unwrap()
    }

    /// Runs a child; kills it after `delay` from its first word on, if it does not kill itself before. Tells whether it was killed.
    fn run(&self, place: Option<&str>, delay: Option<Duration>) -> bool {
        let mut child = self.child(place);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == GO), "{}: the child did not begin", self.context);
        if let Some(delay) = delay {
            std::thread::sleep(delay);
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        assert!(status.code().is_none_or(|code| code == 0), "{}: the child failed by itself: {status}", self.context);
        status.code().is_none()
    }

    /// Runs a child to its end, for the time it takes.
    async fn undisturbed(&mut self) {
        let begin = Instant::now();
        assert!(!self.run(None, None));
        self.whole = begin.elapsed();
        let (seen, source) = (self.world.replica_disks(&self.vm).await.unwrap(), self.source().await);
        assert!(seen == source, "an undisturbed replication does not end equal");
        self.old = source;
    }

    /// What a reader sees now: `true` for the new point. Neither is a failure.
    async fn read(&self, when: &str) -> bool {
        let seen =
            self.world.replica_disks(&self.vm).await.unwrap_or_else(|e| panic!("{}: {when}: no point can be read: {e}", self.context));
        let new = self.source().await;
        let old = seen == self.old || seen == grown(&self.old, &new);
        assert!(old || seen == new, "{}: {when}: a reader sees neither the old nor the new point", self.context);
        seen == new
    }

    /// Lets a runner in this process finish what the child left, and demands that all is as it should be.
    async fn mend(&mut self, seen: &mut Seen) {
        let runner = Runner::start(self.world.store.clone(), self.world.sagas(), config()).await.unwrap();
        for job in self.jobs().await {
            let job = runner.jobs().wait(&job, &CancellationToken::new()).await.unwrap();
            self.judge(&job, seen).await;
        }
        runner.stop().await.unwrap();
    }

    /// The jobs of the VM that no round has judged yet.
    async fn jobs(&self) -> Vec<JobId> {
        let vm = &self.vm;
        self.world.store.read("look", |tx| async move { tx.jobs().active_of(vm).await }).await.unwrap().into_iter().collect()
    }

    async fn judge(&self, job: &Job, seen: &mut Seen) {
        let (context, id) = (&self.context, &job.id);
        match job.status {
            JobStatus::Completed => seen.completed += 1,
            JobStatus::Failed | JobStatus::Cancelled => seen.undone += 1,
            status => panic!("{context}: the job ended as {status}: {:?}", job.error_message),
        }
        assert_eq!(
            self.read("after the job").await,
            job.status == JobStatus::Completed || self.old == self.source().await,
            "{context}: the job lies"
        );
        let intents = self.world.store.read("look", |tx| async move { tx.intents().of_job(id).await }).await.unwrap();
        let open: Vec<_> = intents.iter().filter(|i| matches!(i.status, IntentStatus::Intended | IntentStatus::LeftOver)).collect();
        assert!(open.is_empty(), "{context}: intents are open: {open:?}");
    }

    /// One round: a change, a child that dies, a look, and the mending.
    async fn round(&mut self, place: Option<&str>, delay: Option<Duration>, seen: &mut Seen) {
        let killed = self.run(place, delay);
        seen.kills += usize::from(killed);
        if self.read("after the kill").await {
            seen.new += 1;
        } else {
            seen.old += 1;
        }
        self.mend(seen).await;
        assert_eq!(self.world.left_over(&self.name, &self.vm), [""; 0], "{}: something is left", self.context);
        self.old = self.world.replica_disks(&self.vm).await.unwrap();
        let volumes = self.world.volume_files(&self.vm).len();
        assert!(volumes == self.old.len(), "{}: {volumes} volumes, but {} disks in the point", self.context, self.old.len());
    }
}

/// The old point, when its disks became as large as the new ones, by zeros.
fn grown(old: &Disks, new: &Disks) -> Disks {
    let longer = |key: &DiskKey, bytes: &Vec<u8>| new.get(key).map_or(0, Vec::len).max(bytes.len());
    old.iter().map(|(key, bytes)| (*key, [&bytes[..], &vec![0; longer(key, bytes) - bytes.len()]].concat())).collect()
}

/// What an increment finds at the source: a change, a third disk, and the first one larger.
fn prepare(world: &ReplicationWorld, name: &str, seed: u64) {
    world.describe(name, &keys(3).collect::<Vec<_>>());
    let first = std::fs::OpenOptions::new().write(true).open(world.image(name, DiskKey::new(2000))).unwrap();
    first.set_len(SIZES[0] + 66_000).unwrap();
    world.change(name, seed);
}

/// The places that a job passes: an increment of two disks, one of which grew, and a third that is new.
async fn places(folder: &Path) -> Vec<String> {
    let world = open(folder).await;
    let vm = world.add("places", &SIZES, 1).await;
    let points = Points::watching();
    let config = RunnerConfig { failpoints: points.failpoints(), ..config() };
    world.describe("places", &keys(2).collect::<Vec<_>>());
    let runner = Runner::start(world.store.clone(), world.sagas(), config).await.unwrap();
    let mut before = 0;
    for pass in 0..2 {
        before = points.seen().len();
        let job = start(runner.jobs(), &vm, ReplicationMode::Auto, None).await.unwrap();
        assert_eq!(runner.jobs().wait(&job, &CancellationToken::new()).await.unwrap().status, JobStatus::Completed);
        prepare(&world, "places", pass);
    }
    runner.stop().await.unwrap();
    // Numbered anew, as the child that does only the second pass numbers them. Progress comes by the clock.
    let mut times = std::collections::BTreeMap::new();
    let mut found = Vec::new();
    for place in points.seen()[before..].iter().filter(|place| !place.contains("/progress/")) {
        let plain = place.split('#').next().unwrap();
        let number = times.entry(plain.to_owned()).and_modify(|n| *n += 1).or_insert(1);
        found.push(format!("{plain}#{number}"));
    }
    found
}

#[tokio::test]
async fn killed_at_every_place_of_its_journal() {
    let dir = folder();
    let places = places(dir.path()).await;
    assert!(places.len() > 80, "{} places", places.len());
    let world = open(dir.path()).await;
    let mut seen = Seen::default();
    for (number, place) in (0..).zip(&places) {
        let mut trial = Trial::new(&world, dir.path(), &format!("vm-{number}"), number).await;
        world.describe(&trial.name, &keys(2).collect::<Vec<_>>());
        // A first point, made here: a child would only cost time.
        let runner = Runner::start(world.store.clone(), world.sagas(), config()).await.unwrap();
        let job = start(runner.jobs(), &trial.vm, ReplicationMode::Auto, None).await.unwrap();
        assert_eq!(runner.jobs().wait(&job, &CancellationToken::new()).await.unwrap().status, JobStatus::Completed);
        runner.stop().await.unwrap();
        trial.old = world.replica_disks(&trial.vm).await.unwrap();
        prepare(&world, &trial.name, number + 1000);
        trial.context = format!("killed at {place}");
        trial.round(Some(place), None, &mut seen).await;
    }
    println!("{} places: {seen:?}", places.len());
    assert_eq!(seen.kills, places.len(), "not every place was reached");
    assert!(seen.old > 30 && seen.new > 5, "{seen:?}");
}

#[tokio::test]
async fn killed_at_random_moments() {
    let rounds: u64 = std::env::var("MIGRATEKIT_REPLICATION_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let seed = std::env::var("MIGRATEKIT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    let dir = folder();
    let world = open(dir.path()).await;
    let (mut rng, mut seen) = (Rng::new(seed), Seen::default());
    let mut trial = Trial::new(&world, dir.path(), "vm", seed).await;
    trial.undisturbed().await;
    let whole = trial.whole;
    for round in 0..rounds {
        // Every tenth VM is new: the first pass is killed too.
        if round % 10 == 9 {
            trial = Trial::new(&world, dir.path(), &format!("vm-{round}"), seed + round).await;
        }
        world.change(&trial.name, seed ^ (round + 7));
        trial.context = format!("seed {seed}, round {round}");
        let micros = rng.below(whole.as_micros() as u64);
        trial.round(None, Some(Duration::from_micros(micros)), &mut seen).await;
    }
    trial.undisturbed().await;
    println!("{rounds} rounds, seed {seed}: {seen:?}");
    assert!(seen.kills as u64 > rounds / 2 && seen.old > 0 && seen.new > 0 && seen.completed > 0, "the rounds prove too little: {seen:?}");
}
