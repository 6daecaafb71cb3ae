//! How a replication is asked for.

use super::records;
use super::saga::ReplicationInput;
use crate::error::Result;
use crate::id::{ContextId, JobId};
use crate::jobs::{Jobs, NewJob};
use crate::model::{JobKind, ReplicationMode};

/// Asks for a replication of a VM under management; a runner takes it. Of two that ask at once exactly one is answered with a job.
///
/// # Errors
/// `Busy`, naming the job: another one of this VM is active. `InvalidInput`: the VM is failed over, or must be cleaned up first; or an
/// increment is asked for, and there is no point to add it to. `NotFound`: it is not under management.
pub async fn start(jobs: &Jobs, context: &ContextId, mode: ReplicationMode, by: Option<&str>) -> Result<JobId> {
    let mut job = NewJob::of(JobKind::Replication, context.clone(), ReplicationInput::new(mode).to_json());
    job.by = by.map(str::to_owned);
    jobs.start(job, |tx, id| async move { records::begin(&tx, &id, context, mode).await }).await
}
