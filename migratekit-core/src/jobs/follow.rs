//! Following the events: what changed, from a number on, for as long as one likes; across processes and restarts.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;

use super::Jobs;
use super::desk::unreachable;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{EventId, JobId};
use crate::model::Event;
use crate::task::CancellationToken;

/// How often the table is looked at for what other processes wrote. What this process wrote is seen at once.
const LOOK: Duration = Duration::from_millis(500);

/// A reader of the events. It reads pages of at most 500 and holds no more; it may be dropped at any time, and begun again from
/// [`Follow::last`].
#[derive(Debug)]
pub struct Follow {
    jobs: Jobs,
    job: Option<JobId>,
    last: Option<EventId>,
    waiting: VecDeque<Event>,
    pulse: watch::Receiver<u64>,
}

impl Jobs {
    /// Follows all events above `after` (none: from the first that is kept), in the order of the changes, each once.
    #[must_use]
    pub fn follow(&self, after: Option<EventId>) -> Follow {
        Follow { jobs: self.clone(), job: None, last: after, waiting: VecDeque::new(), pulse: self.desk.pulse.listen() }
    }

    /// Follows the events of one job above `after`.
    #[must_use]
    pub fn follow_job(&self, job: &JobId, after: Option<EventId>) -> Follow {
        Follow { job: Some(job.clone()), ..self.follow(after) }
    }

    /// The number of the last event: where a reader begins that wants only what is new.
    pub async fn last_event(&self) -> Result<Option<EventId>> {
        self.desk.read(|tx| async move { tx.events().last().await }).await
    }
}

impl Follow {
    /// The next event; waits for it. [`ErrorKind::Cancelled`] when `token` ends first. A catalog that cannot be reached is waited for.
    pub async fn next(&mut self, token: &CancellationToken) -> Result<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.last = Some(event.id);
                return Ok(event);
            }
            self.pulse.mark_unchanged();
            match self.read().await {
                Ok(page) if !page.is_empty() => {
                    self.waiting.extend(page);
                    continue;
                }
                Err(error) if !unreachable(&error) => return Err(error),
                _ => {}
            }
            tokio::select! {
                () = token.cancelled() => {
                    return Err(Error::new(ErrorKind::Cancelled, "follow the events", "the wait was ended"));
                }
                _ = self.pulse.changed() => {}
                () = clock::sleep(LOOK) => {}
            }
        }
    }

    /// The number of the last event that [`Follow::next`] gave: from here another reader goes on.
    #[must_use]
    pub fn last(&self) -> Option<EventId> {
        self.last
    }

    async fn read(&self) -> Result<Vec<Event>> {
        let (job, last) = (self.job.as_ref(), self.last);
        let read = |tx: crate::store::Tx| async move {
            match job {
                Some(job) => tx.events().of_job_after(job, last).await,
                None => tx.events().after(last).await,
            }
        };
        self.jobs.desk.read(read).await
    }
}
