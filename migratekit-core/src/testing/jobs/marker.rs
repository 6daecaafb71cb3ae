//! A world of marker files, and a saga that makes, fills, publishes and tidies up in it.
//!
//! ```text
//!  draft ─▶ lock ─▶ fill ─▶ commit (pivot) ─▶ publish ─▶ tidy
//!  a file   a file  work     a fact            a file    draft and lock gone
//! ```
//!
//! The proof of a job is what its world holds: complete means published and tidy, anything else means nothing of it is there. `done.log`
//! beside the world counts what was made, so that a thing made twice is seen.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::catalog;
use super::Trial;
use crate::block::BoxFuture;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, JobId};
use crate::jobs::{Jobs, NewJob, Outcome, Progress, Saga, SagaDefinition, SagaFactory, Sagas, StepContext, StepEnd, StepSpec, Thing};
use crate::model::messages::Action;
use crate::model::{Job, JobKind, JobStatus, OtherSide};
use crate::store::{Store, Tx};

const STEPS: &[StepSpec] = &[
    StepSpec::new("draft", 1),
    StepSpec::new("lock", 1),
    StepSpec::new("fill", 6).quiet(Duration::from_millis(400)),
    StepSpec::new("commit", 1).pivot(),
    StepSpec::new("publish", 1).attempts(3),
    StepSpec::new("tidy", 1).attempts(3),
];

const DEFINITION: SagaDefinition = SagaDefinition { kind: JobKind::Verify, steps: STEPS, next_action: Action::ShowJob };

/// How a job of the marker saga shall go.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MarkerInput {
    /// This step fails, as often as `fails` says.
    pub fail: Option<String>,
    /// How often it fails.
    pub fails: u32,
    /// The undo of this step fails, always.
    pub undo_fails: Option<String>,
    /// This step panics.
    pub panic: Option<String>,
    /// `fill` waits until this file exists, giving signs of life.
    pub gate: Option<PathBuf>,
    /// `fill` waits for its token and gives no sign.
    pub quiet: bool,
    /// `fill` hears no token, until the gate's file exists.
    pub deaf: bool,
    /// How many pieces `fill` reports, one a millisecond.
    pub pieces: u64,
    /// `fill` runs another job of this kind as its child, which must complete.
    pub child: Option<Box<MarkerInput>>,
}

/// The world: a folder, and what its other side says of jobs whose runner is gone.
#[derive(Debug, Clone)]
pub struct MarkerWorld {
    folder: PathBuf,
    other: Arc<Mutex<OtherSide>>,
}

/// A VM for tests: only its row.
///
/// # Panics
/// When the catalog refuses.
#[allow(clippy::expect_used)]
pub async fn context(store: &Store) -> ContextId {
    let id = ContextId::generate();
    let sql = format!(
        "INSERT INTO vm_replication_contexts (context_id, vm_name, vmware_vm_id, vm_path, vcenter_host, datacenter, created_at, updated_at, \
         last_status_change) VALUES ('{id}', 'vm', '{id}', '/vm', 'test', '', 1, 1, 1)"
    );
    catalog::change(store, &sql).await.expect("write a context");
    id
}

fn io(e: std::io::Error) -> Error {
    Error::from_io("change the world", e)
}

impl MarkerWorld {
    /// The world in this folder; its sub-folder `things` is made.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn in_folder(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("things")).expect("make the world");
        MarkerWorld { folder: folder.to_path_buf(), other: Arc::new(Mutex::new(OtherSide::None)) }
    }

    /// From now on the other side says this of jobs whose runner is gone.
    pub fn other_side_says(&self, says: OtherSide) {
        *self.other.lock().unwrap_or_else(PoisonError::into_inner) = says;
    }

    /// The saga, as a program knows it.
    ///
    /// # Panics
    /// Never: its definition is right.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn sagas(&self) -> Sagas {
        Sagas::new([Arc::new(Factory { world: self.clone() }) as Arc<dyn SagaFactory>]).expect("the saga's definition")
    }

    /// Asks for a job of this VM.
    pub async fn start(&self, jobs: &Jobs, context: &ContextId, input: &MarkerInput) -> Result<JobId> {
        let input = serde_json::to_value(input).unwrap_or_default();
        jobs.start(NewJob::of(JobKind::Verify, context.clone(), input), |_, _| async { Ok(()) }).await
    }

    /// The names of all things that are there.
    #[must_use]
    pub fn things(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("things")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// How often a thing of this name was made; of `filled-JOB`, how often `fill` came through its gate.
    #[must_use]
    pub fn times_made(&self, name: &str) -> usize {
        fs::read_to_string(self.folder.join("done.log")).unwrap_or_default().lines().filter(|line| *line == name).count()
    }

    /// What is wrong with the world after this job came to rest; nothing, if all is right.
    #[must_use]
    pub fn complaints(&self, job: &Job) -> Vec<String> {
        let id = &job.id;
        let mine: Vec<String> = self.things().into_iter().filter(|name| name.contains(id.as_str())).collect();
        let published = format!("published-{id}");
        let mut wrong = Vec::new();
        match job.status {
            JobStatus::Completed if mine != [published.clone()] => wrong.push(format!("completed, but the world holds {mine:?}")),
            JobStatus::Completed | JobStatus::NeedsAttention => {}
            JobStatus::Failed | JobStatus::Cancelled if !mine.is_empty() => {
                wrong.push(format!("{}, but the world holds {mine:?}", job.status))
            }
            JobStatus::Failed | JobStatus::Cancelled => {}
            status => wrong.push(format!("it has not come to rest: {status}")),
        }
        if self.times_made(&published) > 1 {
            wrong.push("published twice".to_owned());
        }
        wrong
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join("things").join(name)
    }

    fn find(&self, name: &str) -> Result<Option<String>> {
        Ok(self.path(name).exists().then(|| name.to_owned()))
    }

    /// Admits only the highest epoch of each VM, as an export does.
    fn admit(&self, cx: &StepContext) -> Result<()> {
        let (place, mine) = (self.folder.join(format!("epoch-{}", cx.context()?)), cx.epoch().get());
        let highest = fs::read_to_string(&place).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if mine < highest {
            return Err(Error::new(ErrorKind::Fenced, "change the world", "a newer epoch has it").with("epoch", mine));
        }
        let new = self.folder.join(format!("epoch-{}-{mine}", cx.job()));
        fs::write(&new, mine.to_string()).and_then(|()| fs::rename(&new, &place)).map_err(io)
    }

    /// Makes a thing; one that is there already is an error, as a cloud would make a second one.
    fn make(&self, name: &str, cx: &StepContext) -> Result<String> {
        self.admit(cx)?;
        fs::OpenOptions::new().write(true).create_new(true).open(self.path(name)).map_err(io)?;
        self.note(name)?;
        Ok(name.to_owned())
    }

    /// One write for the whole line: several threads and processes append, and a line in two writes would be torn by theirs.
    fn note(&self, what: &str) -> Result<()> {
        let mut log = fs::OpenOptions::new().append(true).create(true).open(self.folder.join("done.log")).map_err(io)?;
        log.write_all(format!("{what}\n").as_bytes()).map_err(io)
    }

    fn remove(&self, name: &str, cx: &StepContext) -> Result<()> {
        self.admit(cx)?;
        match fs::remove_file(self.path(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(e)),
            _ => Ok(()),
        }
    }
}

/// Makes the saga's code.
struct Factory {
    world: MarkerWorld,
}

impl SagaFactory for Factory {
    fn definition(&self) -> &'static SagaDefinition {
        &DEFINITION
    }

    fn load(&self, job: &Job) -> Result<Arc<dyn Saga>> {
        let input: MarkerInput = serde_json::from_value(job.input.clone())
            .map_err(|e| Error::new(ErrorKind::InvalidInput, "read a marker job", "its input is not understood").with_source(e))?;
        Ok(Arc::new(Marker { world: self.world.clone(), input }))
    }

    fn other_side<'a>(&'a self, _job: &'a Job) -> BoxFuture<'a, (OtherSide, Vec<DiskKey>)> {
        Box::pin(async { (self.world.other.lock().unwrap_or_else(PoisonError::into_inner).clone(), vec![DiskKey::new(2000)]) })
    }
}

struct Marker {
    world: MarkerWorld,
    input: MarkerInput,
}

fn wanted(what: &'static str) -> Error {
    Error::new(ErrorKind::Io, what, "the test wants it so")
}

impl Marker {
    fn thing(&self, step: &str, cx: &StepContext) -> Thing {
        Thing::new("marker", format!("{step}-{}", cx.job()))
    }

    async fn make(&self, thing: Thing, cx: &StepContext) -> Result<()> {
        let (find, make) = (async { self.world.find(&thing.name) }, async { self.world.make(&thing.name, cx) });
        cx.effect(&thing, find, make).await.map(|_| ())
    }

    async fn drop_thing(&self, thing: Thing, cx: &StepContext) -> Result<()> {
        let find = async { self.world.find(&thing.name) };
        cx.remove(&thing, find, async |name| self.world.remove(&name, cx)).await.map(|_| ())
    }

    async fn fill(&self, cx: &StepContext) -> Result<()> {
        for piece in 1..=self.input.pieces {
            cx.check()?;
            cx.progress(Progress::bytes(piece, self.input.pieces));
            clock::sleep(Duration::from_millis(1)).await;
        }
        if let Some(child) = &self.input.child {
            let input = serde_json::to_value(child).unwrap_or_default();
            let job = cx.child("filler", NewJob::of(JobKind::Verify, cx.context()?.clone(), input)).await?;
            if job.status != JobStatus::Completed {
                return Err(wanted("have a child job fill the draft").with("status", job.status));
            }
        }
        if self.input.quiet {
            cx.token().cancelled().await;
        }
        if let Some(gate) = &self.input.gate {
            while !gate.exists() {
                if !self.input.deaf {
                    cx.check()?;
                    cx.alive();
                }
                clock::sleep(Duration::from_millis(5)).await;
            }
            self.world.note(&format!("filled-{}", cx.job()))?;
        }
        cx.check()
    }

    /// What the test asked of this step.
    fn as_asked(&self, step: &StepSpec, cx: &StepContext) -> Result<()> {
        assert!(self.input.panic.as_deref() != Some(step.name), "the test wants a panic");
        if self.input.fail.as_deref() == Some(step.name) && cx.attempt() <= self.input.fails {
            return Err(wanted("work in a marker step"));
        }
        Ok(())
    }
}

impl Saga for Marker {
    fn run<'a>(&'a self, step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<StepEnd>> {
        Box::pin(async move {
            let published = Thing::new("marker", format!("published-{}", cx.job()));
            match step.name {
                "draft" => {
                    let name: String = cx.once("draft-name", || format!("draft-{}", cx.job())).await?;
                    self.make(Thing::new("marker", name), cx).await?;
                }
                "lock" => self.make(self.thing("lock", cx), cx).await?,
                "fill" => self.fill(cx).await?,
                "commit" => {
                    let (fact, job) = (format!("marker-{}", cx.context()?), cx.job().to_string());
                    cx.pivot(|tx| {
                        let (fact, job) = (fact.clone(), job.clone());
                        async move { tx.facts().set(&fact, &job).await }
                    })
                    .await?;
                }
                "publish" => self.make(published, cx).await?,
                _ => {
                    let draft: Option<String> = cx.recall("draft-name").await?;
                    self.drop_thing(Thing::new("marker", draft.unwrap_or_default()), cx).await?;
                    self.drop_thing(self.thing("lock", cx), cx).await?;
                }
            }
            self.as_asked(step, cx)?;
            Ok(StepEnd::Done)
        })
    }

    fn undo<'a>(&'a self, step: &'static StepSpec, cx: &'a StepContext) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.input.undo_fails.as_deref() == Some(step.name) {
                return Err(wanted("undo a marker step"));
            }
            match step.name {
                "draft" => {
                    let draft: Option<String> = cx.recall("draft-name").await?;
                    match draft {
                        Some(draft) => self.drop_thing(Thing::new("marker", draft), cx).await,
                        None => Ok(()),
                    }
                }
                "lock" => self.drop_thing(self.thing("lock", cx), cx).await,
                _ => Ok(()),
            }
        })
    }

    fn settle<'a>(&'a self, outcome: &'a Outcome<'a>, job: &'a Job, tx: &'a Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let text = match outcome {
                Outcome::Completed => "completed".to_owned(),
                Outcome::Failed(failure) => format!("failed in {}", failure.step),
                Outcome::Cancelled => "cancelled".to_owned(),
                Outcome::RolledBack => "rolled back".to_owned(),
                Outcome::NeedsAttention(failure) => format!("stands in {}", failure.step),
            };
            tx.jobs().set_outcome(&job.id, &serde_json::json!({ "marker": text })).await
        })
    }
}

/// One job of the marker saga under the harness.
#[derive(Debug, Clone)]
pub struct MarkerTrial {
    /// The world.
    pub world: MarkerWorld,
    /// Its VM.
    pub context: ContextId,
    /// How the job shall go.
    pub input: MarkerInput,
}

impl Trial for MarkerTrial {
    fn begin<'a>(&'a self, jobs: &'a Jobs) -> BoxFuture<'a, Result<JobId>> {
        Box::pin(self.world.start(jobs, &self.context, &self.input))
    }

    fn complaints<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async { self.world.complaints(job) })
    }
}
