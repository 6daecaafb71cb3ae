//! Tasks: the only place that spawns.
//!
//! A [`Scope`] owns the tasks started in it. [`Scope::close`] cancels them, waits for their end, and reports the first panic;
//! dropping a scope aborts what still runs. Tasks watch [`Scope::token`] and end by themselves; blocking work goes through
//! [`blocking`], so that no async thread ever waits for a disk.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinSet;
pub use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};

/// Where long work says that bytes passed, so that who waits for it can tell work from silence. Cheap to clone; by default nobody listens.
#[derive(Clone, Default)]
pub struct Passed(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl Passed {
    /// Tells `listen` how many bytes passed, each time some did. It must not wait.
    #[must_use]
    pub fn to(listen: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Passed(Some(Arc::new(listen)))
    }

    /// So many more bytes were dealt with.
    pub fn bytes(&self, bytes: u64) {
        if let Some(listen) = &self.0 {
            listen(bytes);
        }
    }
}

impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passed").field("heard", &self.0.is_some()).finish()
    }
}

/// A group of tasks with one end.
#[derive(Debug)]
pub struct Scope {
    token: CancellationToken,
    tasks: JoinSet<()>,
}

impl Default for Scope {
    fn default() -> Self {
        Scope::new()
    }
}

impl Scope {
    /// An empty scope with a token of its own.
    #[must_use]
    pub fn new() -> Self {
        Scope { token: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// An empty scope that ends with `parent` too.
    #[must_use]
    pub fn child_of(parent: &CancellationToken) -> Self {
        Scope { token: parent.child_token(), tasks: JoinSet::new() }
    }

    /// The token the tasks watch.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts a task. Tasks that ended are reaped on the way, so a scope that lives long does not grow.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }

    /// The number of tasks not yet reaped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no task is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for the end of one task; `None` when there is none left. An error tells of a panic.
    pub async fn join_one(&mut self) -> Result<Option<()>> {
        match self.tasks.join_next().await {
            Some(Err(e)) if e.is_panic() => Err(Error::new(ErrorKind::Internal, "run a task", "it panicked").with_source(e)),
            end => Ok(end.map(|_| ())),
        }
    }

    /// Waits until every task ended by itself.
    pub async fn join(&mut self) -> Result<()> {
        let mut first = Ok(());
        loop {
            match self.join_one().await {
                Ok(None) => return first,
                Ok(Some(())) => {}
                Err(panicked) => first = first.and(Err(panicked)),
            }
        }
    }

    /// Aborts every task where it stands and waits for that: a crash, for tests.
    #[cfg(feature = "testing")]
    pub async fn abort(mut self) {
        self.tasks.shutdown().await;
    }

    /// Cancels, waits, reports.
    pub async fn close(mut self) -> Result<()> {
        self.token.cancel();
        self.join().await
    }
}

/// Runs blocking work on the runtime's pool for such work.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "run blocking work", "it panicked or the runtime is shutting down").with_source(e))
}

/// Runs `work` to its end even if the caller stops waiting: for steps that would leave other bytes wrong if they stopped half-way.
/// `work` must be short, and end by itself.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "run a step to its end", "it panicked or the runtime is shutting down").with_source(e))
}
