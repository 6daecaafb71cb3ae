//! A pass that is paused in the middle of its copy, and continued by another process from where it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use migratekit_core::id::{ContextId, JobId};
use migratekit_core::model::{EventKind, Job, JobStatus, ReplicationMode, StepStatus};
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::platform::FaultySource;
use migratekit_core::{Error, ErrorKind};

use crate::rig::{Rig, SIZES};

/// A source that gives one disk of a pass, and keeps the others waiting while `held`; it counts the snapshots that are taken.
#[derive(Clone, Default)]
struct Gate {
    held: Arc<AtomicBool>,
    opened: Arc<AtomicU32>,
    taken: Arc<AtomicU32>,
}

impl Gate {
    async fn rig(&self) -> Rig {
        let gate = self.clone();
        Rig::with(|source| {
            Arc::new(FaultySource::new(source, move |call| match call {
                "open_disk" if gate.held.load(Ordering::SeqCst) && gate.opened.fetch_add(1, Ordering::SeqCst) > 0 => {
                    Some(Error::new(ErrorKind::Unreachable, "open a disk", "not now"))
                }
                "create_snapshot" => {
                    gate.taken.fetch_add(1, Ordering::SeqCst);
                    None
                }
                _ => None,
            }))
        })
        .await
    }

    fn hold(&self) {
        self.opened.store(0, Ordering::SeqCst);
        self.taken.store(0, Ordering::SeqCst);
        self.held.store(true, Ordering::SeqCst);
    }

    fn let_go(&self) {
        self.held.store(false, Ordering::SeqCst);
    }
}

/// Begins a pass, and pauses it while its disks are copied.
async fn paused(rig: &Rig, vm: &ContextId) -> JobId {
    let jobs = rig.runner.jobs();
    let job = rig.ask(vm, ReplicationMode::Auto).await.unwrap();
    let mut events = jobs.follow_job(&job, None);
    loop {
        let event = events.next(&CancellationToken::new()).await.unwrap();
        if event.kind == EventKind::StepStatus && event.data["step"] == "replicating" && event.data["to"] == "running" {
            break;
        }
    }
    jobs.pause(&job).await.unwrap();
    let at_rest = |job: &Job| job.status == JobStatus::Paused || !job.status.is_busy();
    let job_now = jobs.wait_until(&job, &CancellationToken::new(), at_rest).await.unwrap();
    assert_eq!(job_now.status, JobStatus::Paused);
    job
}

async fn goes_on_elsewhere(crash: bool) {
    let gate = Gate::default();
    let mut rig = gate.rig().await;
    let vm = rig.world.add("web", &SIZES, 1).await;
    for pass in 0..2 {
        let before = rig.world.replica_disks(&vm).await.unwrap();
        gate.hold();
        let job = paused(&rig, &vm).await;
        let step = rig.runner.jobs().steps(&job).await.unwrap().into_iter().find(|step| step.name == "replicating").unwrap();
        assert!(!matches!(step.status, StepStatus::Completed | StepStatus::Undone), "{step:?}");
        assert!(rig.world.replica_disks(&vm).await.unwrap() == before, "a paused pass changed what a reader sees");
        // It holds its VM, and nobody takes it by himself.
        assert_eq!(rig.ask(&vm, ReplicationMode::Auto).await.unwrap_err().kind(), ErrorKind::Busy);
        rig = rig.in_another_process(crash).await;
        assert_eq!(rig.runner.recovered().paused, 1, "{:?}", rig.runner.recovered());
        // The guest goes on meanwhile; the pass is of the moment at which it began.
        let frozen = rig.world.source_disks("web");
        rig.world.change("web", 10 + pass);
        gate.let_go();
        let percent = rig.runner.jobs().get(&job).await.unwrap().percent;
        rig.runner.jobs().resume(&job).await.unwrap();
        let done = rig.wait(&job).await;
        assert_eq!((done.status, done.error_message.as_deref()), (JobStatus::Completed, None), "pass {pass}");
        assert!(done.percent >= percent);
        assert!(rig.world.replica_disks(&vm).await.unwrap() == frozen, "pass {pass}: it is not the point that it began with");
        assert_eq!(gate.taken.load(Ordering::SeqCst), 1, "it went on with its own snapshot");
        rig.demand_tidy("web", &vm);
    }
    rig.replicate("web", &vm, ReplicationMode::Auto).await;
}

#[tokio::test]
async fn a_paused_pass_goes_on_in_another_process() {
    goes_on_elsewhere(false).await;
}

#[tokio::test]
async fn a_paused_pass_outlives_the_crash_of_its_process() {
    goes_on_elsewhere(true).await;
}
