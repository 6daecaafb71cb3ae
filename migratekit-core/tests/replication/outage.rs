//! Databases that die while twenty VMs are replicated: nothing that was acknowledged is lost, no job lies, and work goes on.
//!
//! The database is killed when the source was asked so many times in a round, so the jobs stand in all kinds of steps. What the replicas
//! must hold is known from the source's files; what was acknowledged, from a list that is kept beside the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migratekit_core::id::{ContextId, JobId};
use migratekit_core::jobs::{LeaseTimes, Runner, RunnerConfig};
use migratekit_core::model::{Job, JobStatus, ReplicationMode};
use migratekit_core::replication::start;
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::Rng;
use migratekit_core::testing::catalog::ask;
use migratekit_core::testing::galera::Cluster;
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::testing::platform::FaultySource;
use migratekit_core::testing::replication::{Disks, ReplicationWorld};
use migratekit_core::{Store, StoreOptions, clock};

use crate::rig;

/// The VMs, each with disks of these sizes.
const VMS: usize = 20;
const SIZES: [u64; 2] = [150_000, 70_000 + 33];

/// How long a job may take before it is called stuck.
const STUCK: Duration = Duration::from_secs(90);

/// The lease: longer than what a busy machine delays a renewal, short enough to be outlived by an outage.
const LEASE: Duration = Duration::from_secs(3);

fn config() -> RunnerConfig {
    let leases = LeaseTimes { lease: LEASE, renew: LEASE / 6, still: LEASE / 3, look: Duration::from_millis(20) };
    RunnerConfig { jobs_at_once: VMS, leases, ..rig::config() }
}

/// The world, its VMs, and what is known of them from outside.
struct World {
    _folder: tempfile::TempDir,
    world: ReplicationWorld,
    runner: Runner,
    vms: Vec<(String, ContextId)>,
    /// How often the source was asked.
    calls: Arc<AtomicUsize>,
    /// What the replicas held when the round began.
    old: BTreeMap<ContextId, Disks>,
    /// How many jobs were under way when the database was last killed.
    busy: usize,
    /// Jobs that were begun, and how they ended.
    jobs: BTreeMap<JobId, JobStatus>,
    /// Rows whose commit was acknowledged.
    acknowledged: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site");
        std::fs::create_dir(&site).unwrap();
        let store = Store::open(url, StoreOptions::new()).await.unwrap();
        let world = ReplicationWorld::new(&site, store.clone()).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let count = move |_: &'static str| {
            counted.fetch_add(1, Ordering::SeqCst);
            None
        };
        let source = Arc::new(FaultySource::new(Arc::new(world.site.clone()), count));
        let world = world.through(source);
        let mut vms = Vec::new();
        for n in 0..VMS {
            let name = format!("vm-{n}");
            let vm = world.add(&name, &SIZES, n as u64).await;
            vms.push((name, vm));
        }
        let runner = Runner::start(store, world.sagas(), config()).await.unwrap();
        let (old, jobs, acknowledged) = (BTreeMap::new(), BTreeMap::new(), Arc::default());
        World { _folder: folder, world, runner, vms, calls, old, busy: 0, jobs, acknowledged }
    }

    /// Changes all VMs and replicates them, while `disturb` does its worst: it begins when the source was asked `after` more times. Gives
    /// how many of the jobs completed.
    async fn round(&mut self, seed: u64, after: usize, disturb: impl AsyncFnOnce()) -> usize {
        for (name, vm) in &self.vms {
            self.old.insert(vm.clone(), self.world.replica_disks(vm).await.unwrap());
            self.world.change(name, seed ^ self.calls.load(Ordering::SeqCst) as u64);
        }
        let before = self.calls.load(Ordering::SeqCst);
        let mut jobs = Vec::new();
        for (name, vm) in &self.vms {
            jobs.push((name, vm, start(self.runner.jobs(), vm, ReplicationMode::Auto, Some("a test")).await.unwrap()));
        }
        let token = CancellationToken::new();
        let (writes, trouble) = (self.acknowledge(&token), async {
            let reached = async {
                while self.calls.load(Ordering::SeqCst) < before + after {
                    clock::sleep(Duration::from_millis(1)).await;
                }
            };
            clock::within(STUCK, reached).await.unwrap_or_else(|| panic!("seed {seed}: the source was not asked {after} times"));
            let busy = self.runner.jobs().active().await.unwrap().len();
            disturb().await;
            let mut ended = Vec::new();
            for (name, vm, job) in jobs {
                let job = clock::within(STUCK, self.runner.jobs().wait(&job, &CancellationToken::new())).await;
                ended.push((name, vm, job.unwrap_or_else(|| panic!("seed {seed}: the job of {name} is stuck")).unwrap()));
            }
            token.cancel();
            (busy, ended)
        });
        let ((), (busy, ended)) = tokio::join!(writes, trouble);
        assert!(busy > 0, "seed {seed}: nothing was under way");
        let mut judged = Vec::new();
        for (name, vm, job) in ended {
            self.judge(seed, name, vm, &job).await;
            judged.push((job.id, job.status));
        }
        let completed = judged.iter().filter(|(_, status)| *status == JobStatus::Completed).count();
        self.jobs.extend(judged);
        self.busy = busy;
        assert!(self.runner.jobs().active().await.unwrap().is_empty(), "seed {seed}: a VM is still busy");
        self.nothing_acknowledged_is_lost(seed).await;
        completed
    }

    /// Commits rows until the token ends, and keeps the names of those whose commit was acknowledged.
    async fn acknowledge(&self, token: &CancellationToken) {
        while !token.is_cancelled() {
            let name = &format!("row {}", clock::Timestamp::now().as_micros());
            let written = self.world.store.write("write a row", |tx| async move { tx.facts().set_once(name, "1").await });
            if let Some(Ok(first)) = token.run_until_cancelled(written).await {
                assert!(first, "written twice");
                self.acknowledged.lock().unwrap().push(name.clone());
            }
            clock::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The job says what is so, and its VM is tidy.
    async fn judge(&self, seed: u64, name: &str, vm: &ContextId, job: &Job) {
        let context = format!("seed {seed}, {name}: {:?}", job.error_message);
        let seen = self.world.replica_disks(vm).await.unwrap_or_else(|e| panic!("{context}: no point can be read: {e}"));
        match job.status {
            JobStatus::Completed => {
                assert!(seen == self.world.source_disks(name), "{context}: completed, but the replica is not the source")
            }
            JobStatus::Failed => {
                assert!(seen == self.old[vm], "{context}: failed, but the replica changed");
                assert!(
                    job.error_message.as_deref().is_some_and(|text| text.contains("catalog") || text.contains("database")),
                    "{context}"
                );
            }
            status => panic!("{context}: the job ended as {status}"),
        }
        assert_eq!(self.world.left_over(name, vm), [""; 0], "{context}: something is left");
        assert_eq!(job.lease, None, "{context}");
    }

    /// Every row, job and point that was acknowledged is in the catalog; nothing else is.
    async fn nothing_acknowledged_is_lost(&self, seed: u64) {
        let one = async |sql: &str| ask(&self.world.store, sql).await.unwrap().into_iter().flatten().collect::<Vec<_>>();
        let rows: BTreeSet<_> = one("SELECT name AS value FROM store_facts WHERE name LIKE 'row %'").await.into_iter().collect();
        let lost: Vec<_> = self.acknowledged.lock().unwrap().iter().filter(|name| !rows.contains(*name)).cloned().collect();
        assert_eq!(lost, [""; 0], "seed {seed}: acknowledged rows are lost");
        let told = one("SELECT CONCAT(id, ' ', status) AS value FROM job_tracking ORDER BY id").await;
        let want: Vec<_> = self.jobs.iter().map(|(id, status)| format!("{id} {status}")).collect();
        assert_eq!(told, want, "seed {seed}: the jobs are not those that were begun, or ended otherwise than they said");
        let passes = one("SELECT CONCAT(job_id, ' ', COUNT(*)) AS value FROM cbt_history GROUP BY job_id ORDER BY job_id").await;
        let completed = self.jobs.iter().filter(|(_, status)| **status == JobStatus::Completed);
        let want: Vec<_> = completed.map(|(id, _)| format!("{id} {}", SIZES.len())).collect();
        assert_eq!(passes, want, "seed {seed}: the history is not that of the completed jobs");
    }

    /// Jobs that lost their lease and were taken again.
    async fn taken_again(&self) -> usize {
        let sql = "SELECT CAST(COUNT(*) AS CHAR) AS value FROM job_tracking WHERE attempt > 1";
        ask(&self.world.store, sql).await.unwrap()[0].as_deref().unwrap().parse().unwrap()
    }

    async fn close(self) -> usize {
        self.runner.stop().await.unwrap();
        self.world.store.close().await;
        self.acknowledged.lock().unwrap().len()
    }
}

fn seed() -> u64 {
    std::env::var("MIGRATEKIT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()))
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

#[test]
fn mariadb_killed_under_twenty_replications_loses_nothing_and_no_job_lies() {
    let mut server = MariaDb::start();
    server.create_database("catalog");
    block_on(async {
        let (seed, url) = (seed(), server.url("catalog"));
        let (mut rng, mut world) = (Rng::new(seed), World::new(&url).await);
        // How often the source is asked in a round that nothing disturbs.
        assert_eq!(world.round(seed, 0, async || ()).await, VMS);
        let first = world.calls.load(Ordering::SeqCst);
        assert_eq!(world.round(seed + 1, 0, async || ()).await, VMS);
        let whole = world.calls.load(Ordering::SeqCst) - first;
        let mut completed = Vec::new();
        // Back at once, within the lease, and after it: then every job is taken over.
        for (round, outage) in (2..).zip([Duration::ZERO, LEASE / 3, LEASE + LEASE / 2]) {
            let after = usize::try_from(rng.below(whole as u64 * 3 / 4)).unwrap() + 1;
            let done = world.round(seed + round, after, async || {
                server.kill();
                clock::sleep(outage).await;
                tokio::task::block_in_place(|| server.restart());
            });
            let done = done.await;
            completed.push((world.busy, done));
        }
        let taken_again = world.taken_again().await;
        assert!(taken_again > 0, "no lease was outlived");
        assert_eq!(world.round(seed + 9, 0, async || ()).await, VMS, "work goes on");
        println!("seed {seed}: {whole} calls in a round; under way and completed: {completed:?}; {taken_again} taken again");
        println!("{} acknowledged rows", world.close().await);
    });
}

#[test]
fn a_galera_node_killed_under_twenty_replications_loses_nothing_and_no_job_lies() {
    let mut cluster = Cluster::start();
    cluster.node(0).create_database("catalog");
    block_on(async {
        let (seed, url) = (seed(), cluster.url("catalog"));
        let mut world = World::new(&url).await;
        let mut rng = Rng::new(seed);
        assert_eq!(world.round(seed, 0, async || ()).await, VMS);
        let whole = world.calls.load(Ordering::SeqCst);
        let of_us = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE db = 'catalog'";
        assert_ne!(cluster.node(0).sql(of_us).trim(), "0", "the engine is not connected to the node that will be killed");
        let after = usize::try_from(rng.below(whole as u64 / 2)).unwrap() + 1;
        let completed = world.round(seed + 1, after, async || cluster.kill(0)).await;
        let busy = world.busy;
        assert_eq!(world.round(seed + 2, 0, async || ()).await, VMS, "work goes on");
        let jobs = world.jobs.len();
        let rows = world.close().await;
        // Both others have all of it.
        let counts = "SET SESSION wsrep_sync_wait = 1; SELECT (SELECT COUNT(*) FROM catalog.job_tracking), \
                      (SELECT COUNT(*) FROM catalog.cbt_history), (SELECT COUNT(*) FROM catalog.store_facts WHERE name LIKE 'row %')";
        let counted = [1, 2].map(|node| cluster.node(node).sql(counts));
        assert_eq!(counted[0], counted[1]);
        assert!(counted[0].starts_with(&format!("{jobs}\t")), "{counted:?}");
        println!("seed {seed}: {whole} calls in a round; {busy} under way, {completed} completed; {rows} acknowledged rows; {counted:?}");
    });
}
