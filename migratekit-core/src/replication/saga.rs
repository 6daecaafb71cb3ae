//! The saga: its steps as data, and which code stands behind each.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::records;
use super::world::Reach;
use crate::block::BoxFuture;
use crate::copy::Replica;
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::jobs::{Outcome, Progress, Saga, SagaDefinition, SagaFactory, StepContext, StepEnd, StepSpec};
use crate::model::messages::Action;
use crate::model::{Job, JobKind, ReplicationMode};
use crate::store::Tx;

/// The steps. Weights: a first pass moves bytes nearly all its time.
pub const STEPS: &[StepSpec] = &[
    StepSpec::new("initializing", 1),
    StepSpec::new("analyzing", 1),
    StepSpec::new("provisioning", 2),
    StepSpec::new("configuring", 1),
    StepSpec::new("snapshotting", 4),
    StepSpec::new("replicating", 80),
    StepSpec::new("committing", 1).pivot(),
    StepSpec::new("applying", 8),
    StepSpec::new("releasing", 2),
];

/// The saga as data. What a pass could not finish or remove, the next one does first: so that is what a person begins.
pub const DEFINITION: SagaDefinition = SagaDefinition { kind: JobKind::Replication, steps: STEPS, next_action: Action::ReplicateAgain };

/// The version of [`ReplicationInput`].
const INPUT_VERSION: u32 = 1;

/// What a replication is told when it is begun: the input of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationInput {
    version: u32,
    /// What was asked for.
    pub mode: ReplicationMode,
}

impl ReplicationInput {
    /// A replication in this mode.
    #[must_use]
    pub fn new(mode: ReplicationMode) -> Self {
        ReplicationInput { version: INPUT_VERSION, mode }
    }

    /// As the job keeps it.
    #[must_use]
    pub fn to_json(self) -> serde_json::Value {
        serde_json::json!({ "version": self.version, "mode": self.mode })
    }

    fn read(job: &Job) -> Result<Self> {
        const READ: &str = "read the input of a replication";
        let input: ReplicationInput = serde_json::from_value(job.input.clone())
            .map_err(|e| Error::new(ErrorKind::Mismatch, READ, "it is not what this program writes").with("job", &job.id).with_source(e))?;
        if input.version != INPUT_VERSION {
            return Err(Error::new(ErrorKind::Unsupported, READ, "it was written by a newer version").with("job", &job.id));
        }
        Ok(input)
    }
}

/// Makes the code of each replication.
pub struct Replications {
    reach: Arc<dyn Reach>,
}

impl Replications {
    /// Replications on the platforms that `reach` knows.
    #[must_use]
    pub fn new(reach: Arc<dyn Reach>) -> Self {
        Replications { reach }
    }
}

impl SagaFactory for Replications {
    fn definition(&self) -> &'static SagaDefinition {
        &DEFINITION
    }

    fn load(&self, job: &Job) -> Result<Arc<dyn Saga>> {
        let input = ReplicationInput::read(job)?;
        Ok(Arc::new(Replication { reach: Arc::clone(&self.reach), input, open: tokio::sync::Mutex::default() }))
    }

    fn abandon<'a>(&'a self, outcome: &'a Outcome<'a>, job: &'a Job, tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(records::settle(outcome, job, tx))
    }
}

/// One replication in this process. What it must remember lies in the catalog; here are only the volumes it holds open.
pub(super) struct Replication {
    pub(super) reach: Arc<dyn Reach>,
    pub(super) input: ReplicationInput,
    pub(super) open: tokio::sync::Mutex<BTreeMap<DiskKey, Replica>>,
}

impl Saga for Replication {
    fn run<'a>(&'a self, step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<StepEnd>> {
        Box::pin(async move {
            cx.commit(|tx| async move { records::enter(&tx, cx.job(), step.name).await }).await?;
            match step.name {
                "initializing" => self.initialize(cx).await,
                "analyzing" => self.analyze(cx).await,
                "provisioning" => self.provision(cx).await,
                "configuring" => self.configure(cx).await,
                "snapshotting" => self.snapshot(cx).await,
                "replicating" => self.replicate(cx).await,
                "committing" => self.commit(cx).await,
                "applying" => self.apply(cx).await,
                "releasing" => self.release(cx).await,
                other => Err(unknown(other)),
            }?;
            Ok(StepEnd::Done)
        })
    }

    fn undo<'a>(&'a self, step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match step.name {
                "replicating" => self.undo_spools(cx).await,
                "snapshotting" => self.undo_snapshot(cx).await,
                "provisioning" => self.undo_volumes(cx).await,
                // These made nothing outside; what is open is let go.
                _ => {
                    self.let_go().await;
                    Ok(())
                }
            }
        })
    }

    fn settle<'a>(&'a self, outcome: &'a Outcome<'a>, job: &'a Job, tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(records::settle(outcome, job, tx))
    }

    fn record<'a>(&'a self, progress: Progress, job: &'a Job, tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(records::progress(progress, job, tx))
    }
}

fn unknown(step: &str) -> Error {
    Error::new(ErrorKind::Internal, "run a step of a replication", "the saga has no such step").with("step", step)
}
