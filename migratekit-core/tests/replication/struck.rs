//! A pass struck at every place of its journal, in this process: its runner crashes there, or what it does there fails.
//!
//! After each blow, before anybody mends anything, a reader of the replica sees the old point or the new one, on all disks. Then the job is
//! finished, says what is so, and the next run ends equal.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use migratekit_core::id::{ContextId, DiskKey};
use migratekit_core::jobs::{LeaseTimes, Pace, Runner, RunnerConfig};
use migratekit_core::model::{JobStatus, ReplicationMode};
use migratekit_core::replication::start;
use migratekit_core::testing::jobs::{Blow, Points};
use migratekit_core::testing::replication::{Disks, ReplicationWorld};
use migratekit_core::{CancellationToken, ErrorKind, Store, StoreOptions, clock};

/// The disks. The first and the last may grow.
const SIZES: [u64; 3] = [150_000, 70_000 + 33, 40_000];

/// By how much: past the end of a block, and by less than a sector.
const GROWTH: [(u32, u64); 2] = [(2000, 1_100_000), (2002, 100)];

/// How long a volume may be held by a runner that crashed a moment ago.
const LET_GO: Duration = Duration::from_secs(20);

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub places: usize,
    /// Blows that fell.
    pub struck: usize,
    /// A reader saw the old point, as it was committed.
    pub old: usize,
    /// The old point, its disks as large as they are now.
    pub grown: usize,
    /// The new point.
    pub new: usize,
    pub completed: usize,
    pub failed: usize,
}

/// What a reader may see.
#[derive(Debug, PartialEq, Eq)]
enum Sight {
    Old,
    Grown,
    New,
}

fn config(points: &Arc<Points>) -> RunnerConfig {
    let ms = Duration::from_millis;
    RunnerConfig {
        leases: LeaseTimes { look: ms(20), ..LeaseTimes::default() },
        pace: Pace { progress: ms(100), pause: ms(1), longest_pause: ms(5), ..Pace::default() },
        failpoints: points.failpoints(),
        ..RunnerConfig::default()
    }
}

struct Trial {
    world: ReplicationWorld,
    name: String,
    vm: ContextId,
    old: Disks,
    grow: bool,
    context: String,
}

impl Trial {
    async fn new(world: &ReplicationWorld, name: &str, seed: u64, grow: bool) -> Self {
        let vm = world.add(name, &SIZES, seed).await;
        let context = format!("{name}: ");
        let mut trial = Trial { world: world.clone(), name: name.to_owned(), vm, old: Disks::new(), grow, context };
        assert_eq!(trial.run(&Points::watching()).await, JobStatus::Completed);
        trial.old = world.source_disks(name);
        trial.change(seed + 1000);
        trial
    }

    /// The guest writes, and its disks grow.
    fn change(&self, seed: u64) {
        if self.grow {
            for (key, more) in GROWTH {
                let image = std::fs::OpenOptions::new().write(true).open(self.world.image(&self.name, DiskKey::new(key))).unwrap();
                image.set_len(image.metadata().unwrap().len() + more).unwrap();
            }
        }
        self.world.change(&self.name, seed);
    }

    /// A job of the VM from its begin to its end.
    async fn run(&self, points: &Arc<Points>) -> JobStatus {
        let runner = Runner::start(self.world.store.clone(), self.world.sagas(), config(points)).await.unwrap();
        let job = start(runner.jobs(), &self.vm, ReplicationMode::Auto, None).await.unwrap();
        let job = runner.jobs().wait(&job, &CancellationToken::new()).await.unwrap();
        runner.stop().await.unwrap();
        job.status
    }

    /// A job whose runner crashes at the place where `points` strike; another runner finishes it.
    async fn crash(&self, points: &Arc<Points>, seen: &mut Seen) -> JobStatus {
        let runner = Runner::start(self.world.store.clone(), self.world.sagas(), config(points)).await.unwrap();
        let id = start(runner.jobs(), &self.vm, ReplicationMode::Auto, None).await.unwrap();
        let token = CancellationToken::new();
        tokio::select! {
            () = points.struck().cancelled() => {}
            _ = runner.jobs().wait(&id, &token) => {}
        }
        runner.crash().await;
        match self.look("after the crash").await {
            Sight::Old => seen.old += 1,
            Sight::Grown => seen.grown += 1,
            Sight::New => seen.new += 1,
        }
        let runner = Runner::start(self.world.store.clone(), self.world.sagas(), config(&Points::watching())).await.unwrap();
        let job = runner.jobs().wait(&id, &CancellationToken::new()).await.unwrap();
        runner.stop().await.unwrap();
        job.status
    }

    /// What a reader sees now; anything but a whole point is a failure.
    async fn look(&self, when: &str) -> Sight {
        let read = async {
            loop {
                match self.world.replica_disks(&self.vm).await {
                    Err(error) if error.kind() == ErrorKind::Busy => clock::sleep(Duration::from_millis(2)).await,
                    seen => return seen,
                }
            }
        };
        let seen = clock::within(LET_GO, read).await.unwrap_or_else(|| panic!("{} {when}: the volumes are held", self.context));
        let seen = seen.unwrap_or_else(|e| panic!("{} {when}: no point can be read: {e}", self.context));
        let new = self.world.source_disks(&self.name);
        let mut grown = self.old.clone();
        grown.iter_mut().for_each(|(key, bytes)| bytes.resize(new[key].len(), 0));
        match seen {
            seen if seen == new => Sight::New,
            seen if seen == self.old => Sight::Old,
            seen if seen == grown => Sight::Grown,
            seen => {
                let sizes: Vec<_> = seen.values().map(Vec::len).collect();
                panic!("{} {when}: a reader sees neither the old nor the new point: disks of {sizes:?} bytes", self.context)
            }
        }
    }

    /// One blow, and all that is demanded after it.
    async fn strike(&mut self, place: &str, blow: Blow, seen: &mut Seen) {
        self.context = format!("{} struck by {blow:?} at {place}:", self.name);
        let points = Points::striking(place, blow);
        let status = match blow {
            Blow::Fail => self.run(&points).await,
            Blow::Stand | Blow::Kill => self.crash(&points, seen).await,
        };
        seen.struck += usize::from(points.struck().is_cancelled());
        let sight = self.look("after the job").await;
        match status {
            JobStatus::Completed => {
                seen.completed += 1;
                assert_eq!(sight, Sight::New, "{} it says that it completed", self.context);
            }
            JobStatus::Failed => {
                seen.failed += 1;
                assert_ne!(sight, Sight::New, "{} it says that it failed", self.context);
            }
            status => panic!("{} the job ended as {status}", self.context),
        }
        assert_eq!(self.world.left_over(&self.name, &self.vm), [""; 0], "{} something is left", self.context);
        assert_eq!(self.run(&Points::watching()).await, JobStatus::Completed, "{} the next run", self.context);
        assert_eq!(self.look("after the next run").await, Sight::New, "{} the next run completed", self.context);
    }
}

/// Strikes an increment at every place within these steps, each time another VM; with `grow`, disks of it have grown.
pub(crate) async fn everywhere(blow: Blow, steps: &[&str], grow: bool) -> Seen {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    std::fs::create_dir(folder.path().join("site")).unwrap();
    let store = Store::open(&format!("sqlite://{}/catalog.db", folder.path().display()), StoreOptions::new()).await.unwrap();
    let world = ReplicationWorld::new(&folder.path().join("site"), store).await;
    let points = Points::watching();
    assert_eq!(Trial::new(&world, "vm", 1, grow).await.run(&points).await, JobStatus::Completed);
    // Progress comes by the clock, so its places are not the same in each run. A failure is one of a step's own acts; what keeps the journal
    // cannot fail but by the catalog, and is then left to a person.
    let acts: &[&str] = match blow {
        Blow::Fail => &["commit", "pivot", "once", "intend", "make", "effected", "remove", "removed"],
        Blow::Stand | Blow::Kill => &[],
    };
    let within = |place: &String| {
        let mut parts = place.split('/');
        let (step, act) = (parts.next().unwrap(), parts.next().unwrap());
        steps.contains(&step) && act != "progress" && (acts.is_empty() || acts.contains(&act))
    };
    let mut seen = Seen::default();
    for (number, place) in (0..).zip(points.seen().into_iter().filter(within)) {
        seen.places += 1;
        Trial::new(&world, &format!("vm-{number}"), number + 2, grow).await.strike(&place, blow, &mut seen).await;
    }
    world.store.close().await;
    seen
}
