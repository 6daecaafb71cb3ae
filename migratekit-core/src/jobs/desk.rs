//! The desk: what all parts of the engine room share, and how they write.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::failpoint::Failpoints;
use super::lease::{Grip, Stop, fenced};
use super::{SagaDefinition, SagaFactory};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::model::JobKind;
use crate::store::{Store, Tx};

/// The first pause before a write that the catalog refused for now is tried again; doubled up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_millis(100);

/// The longest such pause: short against a lease, so that a database that came back is used while the lease lives.
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// How often a process that ends tries to say so to a catalog that cannot be reached: once, for as long as the catalog itself is patient.
const LAST_WORDS: u32 = 1;

/// The sagas that this program knows, one for each kind of job.
#[derive(Clone, Default)]
pub struct Sagas(Arc<BTreeMap<JobKind, Arc<dyn SagaFactory>>>);

impl fmt::Debug for Sagas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Sagas {
    /// These sagas. [`ErrorKind::Internal`] when two are of one kind, or a definition contradicts itself.
    pub fn new(factories: impl IntoIterator<Item = Arc<dyn SagaFactory>>) -> Result<Self> {
        let mut sagas = BTreeMap::new();
        for factory in factories {
            let definition = factory.definition();
            check(definition)?;
            if sagas.insert(definition.kind, factory).is_some() {
                return Err(wrong(definition, "two sagas are of this kind"));
            }
        }
        Ok(Sagas(Arc::new(sagas)))
    }

    /// What each of them is, as data.
    pub fn definitions(&self) -> impl Iterator<Item = &'static SagaDefinition> {
        self.0.values().map(|factory| factory.definition())
    }

    /// The saga of this kind.
    pub(super) fn get(&self, kind: JobKind) -> Result<&Arc<dyn SagaFactory>> {
        self.0.get(&kind).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "run a job", "this program knows no saga for this kind of job").with("kind", kind)
        })
    }
}

fn check(definition: &'static SagaDefinition) -> Result<()> {
    let names: std::collections::BTreeSet<_> = definition.steps.iter().map(|step| step.name).collect();
    if definition.steps.is_empty() {
        Err(wrong(definition, "it has no steps"))
    } else if names.len() != definition.steps.len() {
        Err(wrong(definition, "two steps have one name"))
    } else if definition.steps.iter().filter(|step| step.pivot).count() > 1 {
        Err(wrong(definition, "it has more than one pivot"))
    } else if definition.steps.iter().any(|step| step.weight == 0 || step.attempts == 0 || step.quiet.is_zero()) {
        Err(wrong(definition, "a step has no weight, no attempt or no time"))
    } else {
        Ok(())
    }
}

fn wrong(definition: &SagaDefinition, why: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "define a saga", why).with("kind", definition.kind)
}

/// The times of a drive. Tests make them short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often progress is stored: 1 s, what a person can follow, and one small transaction a second for each job.
    pub progress: Duration,
    /// The first pause before a step behind the pivot, or an undo, is begun again: 1 s; it doubles.
    pub pause: Duration,
    /// The longest such pause: 1 min.
    pub longest_pause: Duration,
    /// How long a step that was told to end may take: 60 s, as long as a flush of a slow disk should.
    pub grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            progress: Duration::from_secs(1),
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            grace: Duration::from_secs(60),
        }
    }
}

/// What all parts share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) pace: Pace,
    pub(super) store: Store,
    pub(super) sagas: Sagas,
    pub(super) points: Failpoints,
    /// Beats after each change that this process made: those who wait in this process look at once, the others within their period.
    pub(super) pulse: Pulse,
}

/// A beat that many may wait for.
#[derive(Debug)]
pub(super) struct Pulse(watch::Sender<u64>);

impl Pulse {
    pub(super) fn new() -> Self {
        Pulse(watch::Sender::new(0))
    }

    pub(super) fn beat(&self) {
        self.0.send_modify(|beats| *beats = beats.wrapping_add(1));
    }

    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

impl Desk {
    /// One snapshot of the catalog. While it cannot be reached this fails: readers have nothing to lose.
    pub(super) async fn read<T, F, Fut>(&self, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.store.read("read jobs", work).await
    }

    /// One transaction of a running job: that `grip` still holds it is checked in the transaction itself.
    /// While the catalog cannot be reached it is repeated, for as long as the lease can be valid.
    pub(super) async fn fenced<T, F, Fut>(&self, grip: &Grip, work: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let (mut pause, mut words) = (AGAIN, 0);
        loop {
            if !grip.holds(clock::now()) {
                grip.stop(Stop::Lost);
                return Err(fenced(grip));
            }
            let work = &work;
            let done = self.store.write("write as the owner of a job", |tx| async move {
                if tx.jobs().hold(&grip.job, &grip.owner, grip.epoch()).await? { work(tx).await } else { Err(fenced(grip)) }
            });
            match done.await {
                Ok(done) => {
                    self.pulse.beat();
                    return Ok(done);
                }
                Err(error) if unreachable(&error) => {
                    words += 1;
                    if grip.stopped() == Some(Stop::Shutdown) && words >= LAST_WORDS {
                        return Err(error);
                    }
                    tracing::warn!(job = %grip.job, %error, "the catalog cannot be reached; the job's write is tried again");
                    clock::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MAX);
                }
                Err(error) => {
                    if error.kind() == ErrorKind::Fenced {
                        grip.stop(Stop::Lost);
                    }
                    return Err(error);
                }
            }
        }
    }
}

/// Whether this failure is the catalog's absence, which passes, and not an answer.
pub(super) fn unreachable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout)
}
