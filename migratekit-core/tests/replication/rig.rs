//! A world, a runner, and what is demanded after every job.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use migratekit_core::id::{ContextId, DiskKey, JobId};
use migratekit_core::jobs::{LeaseTimes, Pace, Runner, RunnerConfig, Sagas};
use migratekit_core::model::{Context, ContextStatus, Job, JobStatus, ReplicationMode};
use migratekit_core::platform::Source;
use migratekit_core::replication::start;
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::peer::program;
use migratekit_core::testing::replication::ReplicationWorld;
use migratekit_core::units::MIB;
use migratekit_core::{Result, Store, StoreOptions};

/// The sizes of the disks of a machine, unless a test wants others; the second ends within a block.
pub(crate) const SIZES: [u64; 3] = [3 * MIB, MIB + 777, 2 * MIB];

/// A world with a runner in this process.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) world: ReplicationWorld,
    pub(crate) runner: Runner,
}

pub(crate) fn config() -> RunnerConfig {
    let ms = Duration::from_millis;
    RunnerConfig {
        leases: LeaseTimes { look: ms(20), ..LeaseTimes::default() },
        pace: Pace { progress: ms(100), pause: ms(5), longest_pause: ms(20), ..Pace::default() },
        ..RunnerConfig::default()
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Rig::with(|source| source).await
    }

    /// With the source seen through what `wrap` makes of it.
    pub(crate) async fn with(wrap: impl FnOnce(Arc<dyn Source>) -> Arc<dyn Source>) -> Self {
        let through = |world: ReplicationWorld| {
            let source = wrap(Arc::new(world.site.clone()));
            world.through(source)
        };
        Rig::of(through, config()).await
    }

    /// In the world that `change` makes of a plain one, with a runner of this configuration.
    pub(crate) async fn of(change: impl FnOnce(ReplicationWorld) -> ReplicationWorld, config: RunnerConfig) -> Self {
        Rig::with_sagas(change, config, ReplicationWorld::sagas).await
    }

    /// As [`Rig::of`], with other sagas than the world's.
    pub(crate) async fn with_sagas(
        change: impl FnOnce(ReplicationWorld) -> ReplicationWorld,
        config: RunnerConfig,
        sagas: impl FnOnce(&ReplicationWorld) -> Sagas,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("site")).unwrap();
        let store = Store::open(&format!("sqlite://{}/catalog.db", folder.path().display()), StoreOptions::new()).await.unwrap();
        let world = change(ReplicationWorld::new(&folder.path().join("site"), store.clone()).await);
        let runner = Runner::start(store, sagas(&world), config).await.unwrap();
        Rig { folder, world, runner }
    }

    /// The process ends, in good order or by a crash, and another one begins.
    pub(crate) async fn in_another_process(self, crash: bool) -> Self {
        if crash {
            self.runner.crash().await;
        } else {
            self.runner.stop().await.unwrap();
        }
        let runner = Runner::start(self.world.store.clone(), self.world.sagas(), config()).await.unwrap();
        Rig { runner, ..self }
    }

    pub(crate) async fn ask(&self, context: &ContextId, mode: ReplicationMode) -> Result<JobId> {
        start(self.runner.jobs(), context, mode, Some("a test")).await
    }

    pub(crate) async fn wait(&self, job: &JobId) -> Job {
        self.runner.jobs().wait(job, &CancellationToken::new()).await.unwrap()
    }

    /// Replicates, and demands that the replica is the source, that nothing is left, and that the VM is ready.
    pub(crate) async fn replicate(&self, name: &str, context: &ContextId, mode: ReplicationMode) -> Job {
        let job = self.ask(context, mode).await.unwrap();
        let job = self.wait(&job).await;
        assert_eq!((job.status, job.error_message.as_deref()), (JobStatus::Completed, None));
        self.demand_equal(name, context).await;
        assert_eq!(self.context(context).await.status, ContextStatus::ReadyForFailover);
        job
    }

    /// Replicates, and demands that it fails, that nothing is left, and that the VM is free; gives the failure's text.
    pub(crate) async fn fail(&self, name: &str, context: &ContextId, mode: ReplicationMode) -> String {
        let before = self.world.replica_disks(context).await.unwrap();
        let job = self.ask(context, mode).await.unwrap();
        let job = self.wait(&job).await;
        assert_eq!(job.status, JobStatus::Failed, "{:?}", job.error_message);
        assert_eq!(self.world.replica_disks(context).await.unwrap(), before, "a failed pass changed the replica");
        self.demand_tidy(name, context);
        let expected = if before.is_empty() { ContextStatus::Failed } else { ContextStatus::ReadyForFailover };
        assert_eq!(self.context(context).await.status, expected);
        job.error_message.unwrap()
    }

    pub(crate) async fn context(&self, id: &ContextId) -> Context {
        self.world.store.read("look", |tx| async move { tx.contexts().get(id).await }).await.unwrap()
    }

    pub(crate) fn demand_tidy(&self, name: &str, context: &ContextId) {
        let left: Vec<_> =
            self.world.left_over(name, context).into_iter().filter(|path| path.contains("migratekit-") || path.contains("spool")).collect();
        assert_eq!(left, [""; 0]);
    }

    /// Compared by a program that is not ours, file against file, for the disks the machine has now.
    pub(crate) async fn demand_equal(&self, name: &str, context: &ContextId) {
        self.demand_tidy(name, context);
        let volumes = self.world.volume_files(context);
        let keys: Vec<DiskKey> = self.world.site.describe(&name.parse().unwrap()).await.unwrap().disks.iter().map(|d| d.key).collect();
        for key in &keys {
            let image = self.world.image(name, *key);
            let end = Command::new(program("cmp")).arg(&image).arg(&volumes[key]).output().unwrap();
            assert!(end.status.success(), "{key}: {}", String::from_utf8_lossy(&end.stdout));
        }
        let seen = self.world.replica_disks(context).await.unwrap();
        for key in &keys {
            assert!(seen[key] == std::fs::read(self.world.image(name, *key)).unwrap(), "a reader sees another {key}");
        }
    }
}
