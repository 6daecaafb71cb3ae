//! Replicas brought up to date: begun, continued, looked at.

use serde::Serialize;

use super::Engine;
use super::jobs::JobEvents;
use super::page::{self, Page};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, JobId, PointId};
use crate::model::messages::Message;
use crate::model::{CbtEntry, Job, JobStatus, Percent, Point, ReplicationMode, ReplicationStatus, SyncType};
use crate::replication;
use crate::store::ReplicationRow;

/// The replications of an engine's catalog.
#[derive(Debug, Clone)]
pub struct Replications {
    engine: Engine,
}

/// A replication in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicationLine {
    /// Its job.
    pub job: JobId,
    /// Its VM.
    pub context: ContextId,
    /// Its VM's name when it began.
    pub vm_name: String,
    /// What was asked for.
    pub mode: ReplicationMode,
    /// Where it is.
    pub status: ReplicationStatus,
    /// How far it is.
    pub percent: Percent,
    /// Bytes written to the replica, zeros among them; bytes that were only compared are not.
    pub bytes_transferred: u64,
    /// The point it made.
    pub point: Option<PointId>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

/// What a replication did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplicationReport {
    /// Its job.
    pub job: JobId,
    /// Its VM.
    pub context: ContextId,
    /// Its VM's name when it began.
    pub vm_name: String,
    /// What was asked for.
    pub mode: ReplicationMode,
    /// Where it is.
    pub status: ReplicationStatus,
    /// How far it is.
    pub percent: Percent,
    /// Bytes written to the replica, zeros among them; bytes that were only compared are not.
    pub bytes_transferred: u64,
    /// The sizes of the disks together, in bytes.
    pub capacity_bytes: u64,
    /// The point it made, as long as that is the VM's newest.
    pub point: Option<Point>,
    /// What it did to each disk.
    pub disks: Vec<DiskReport>,
    /// What people read when it did not come to a good end: what stopped, why, and what to do.
    pub message: Option<Message>,
    /// The same in technical words.
    pub technical: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// How long it ran, in seconds.
    pub seconds: Option<f64>,
}

/// What a replication did to one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskReport {
    /// Which.
    pub key: DiskKey,
    /// How it was brought up to date.
    pub sync: SyncType,
    /// Bytes written to the replica, zeros among them; bytes that were only compared are not.
    pub bytes_transferred: u64,
    /// The source's mark of the state that the replica now holds.
    pub change_id: Option<String>,
}

impl From<CbtEntry> for DiskReport {
    fn from(entry: CbtEntry) -> Self {
        DiskReport { key: entry.disk, sync: entry.sync_type, bytes_transferred: entry.bytes_transferred, change_id: entry.change_id }
    }
}

impl From<ReplicationRow> for ReplicationLine {
    fn from(row: ReplicationRow) -> Self {
        ReplicationLine {
            job: row.id,
            context: row.context,
            vm_name: row.vm_name,
            mode: row.mode,
            status: row.status,
            percent: row.percent,
            bytes_transferred: row.bytes_transferred,
            point: row.point,
            created_at: row.created_at,
            completed_at: row.completed_at,
        }
    }
}

/// A replication that was asked for, here or by any process on the catalog: its rows are followed, not the process.
#[derive(Debug, Clone)]
pub struct ReplicationJob {
    engine: Engine,
    id: JobId,
}

impl ReplicationJob {
    /// Its job.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Its events, from the first to the one that ends it.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn events(&self) -> Result<JobEvents> {
        self.engine.jobs().follow(&self.id).await
    }

    /// Waits for its end: what it did when it completed, with the point it made.
    ///
    /// # Errors
    /// What stopped it in clean words, with the kind of its failure ([`ErrorKind::Cancelled`] for one that was cancelled, or is laid down for
    /// [`Replications::resume`]); the technical text is in [`Replications::report`].
    pub async fn wait(&self) -> Result<ReplicationReport> {
        const WAIT: &str = "bring a replica up to date";
        let job = self.engine.jobs().wait(&self.id).await?;
        if job.status == JobStatus::Completed {
            return self.engine.replications().report(&self.id).await;
        }
        let kind = Message::kind_of(&job).unwrap_or(ErrorKind::Cancelled);
        let text = Message::of(&job).map_or_else(|| format!("the job is {}", job.status), |said| said.text);
        Err(Error::new(kind, WAIT, text).with("job", &self.id))
    }
}

impl Replications {
    pub(super) fn of(engine: &Engine) -> Self {
        Replications { engine: engine.clone() }
    }

    /// Asks for a replication of the VM of this id or name; a running engine on this catalog takes it.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], naming the job, while one of the VM is active; [`ErrorKind::InvalidInput`] for an increment to nothing; those of
    /// finding the VM.
    pub async fn start(&self, vm: &str, mode: ReplicationMode) -> Result<ReplicationJob> {
        let context = self.engine.contexts().find(vm).await?;
        let id = replication::start(&self.engine.desk(), &context.id, mode, None).await?;
        self.engine.want(&id);
        Ok(ReplicationJob { engine: self.engine.clone(), id })
    }

    /// Lets the interrupted replication of a VM go on from where it was; a running engine on this catalog takes it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none was interrupted; [`ErrorKind::Busy`] when it runs, or goes back.
    pub async fn resume(&self, vm: &str) -> Result<ReplicationJob> {
        const RESUME: &str = "continue a replication";
        let context = self.engine.contexts().find(vm).await?;
        let none = || {
            let text = "there is nothing to continue: no replication of the VM was interrupted";
            Error::new(ErrorKind::NotFound, RESUME, text).with("VM", vm)
        };
        let id = self.active(&context.id).await?.ok_or_else(none)?;
        let job = self.engine.desk().get(&id).await?;
        match (job.status, &job.lease) {
            (JobStatus::Paused, _) => self.engine.desk().resume(&id).await?,
            (JobStatus::Pending | JobStatus::Running, None) => {}
            (status, _) => {
                let text = "it does not wait for that: somebody runs it, or it goes back";
                return Err(Error::new(ErrorKind::Busy, RESUME, text).with("job", &id).with("status", status));
            }
        }
        self.engine.want(&id);
        Ok(ReplicationJob { engine: self.engine.clone(), id })
    }

    /// Asks the active replication of a VM to end; the last point stays as it was.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none is active; [`ErrorKind::InvalidInput`] when it is behind its point of return.
    pub async fn cancel(&self, vm: &str) -> Result<Job> {
        let context = self.engine.contexts().find(vm).await?;
        let none = || Error::new(ErrorKind::NotFound, "cancel a replication", "none of the VM is active").with("VM", vm);
        let id = self.active(&context.id).await?.ok_or_else(none)?;
        self.engine.jobs().cancel(&id).await
    }

    async fn active(&self, context: &ContextId) -> Result<Option<JobId>> {
        self.engine.store().read("look for an active job", |tx| async move { tx.jobs().active_of(context).await }).await
    }

    /// Replications of one VM or of all, newest first: at most `limit` (1 to 500) behind the cursor `after`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a limit or a cursor that is none; those of finding the VM.
    pub async fn list(&self, vm: Option<&str>, limit: u32, after: Option<&str>) -> Result<Page<ReplicationLine>> {
        let limit = page::size(limit)?;
        let after = &after.map(page::read_cursor).transpose()?;
        let context = match vm {
            Some(vm) => Some(self.engine.contexts().find(vm).await?.id),
            None => None,
        };
        let context = context.as_ref();
        let read = self.engine.store().read("list replications", |tx| async move {
            tx.job_lists().replications(context, after.as_ref().map(|(time, id)| (*time, id)), limit + 1).await
        });
        let lines = read.await?.into_iter().map(ReplicationLine::from).collect();
        Ok(page::cut(lines, limit, |line: &ReplicationLine| page::cursor_of(line.created_at, &line.job)))
    }

    /// The last replication of the VM of this id or name, or the replication with this job's id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; those of finding the VM.
    pub async fn show(&self, vm_or_job: &str) -> Result<ReplicationReport> {
        if vm_or_job.starts_with("job-")
            && let Ok(job) = vm_or_job.parse()
        {
            return self.report(&job).await;
        }
        let last = self.list(Some(vm_or_job), 1, None).await?.items.pop();
        let none = || Error::new(ErrorKind::NotFound, "show a replication", "the VM was never replicated").with("VM", vm_or_job);
        self.report(&last.ok_or_else(none)?.job).await
    }

    /// What a replication did, or did so far.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub async fn report(&self, job: &JobId) -> Result<ReplicationReport> {
        let read = self.engine.store().read("read a replication", |tx| async move {
            let row = tx.job_lists().replication(job).await?;
            let disks = tx.replicas().disks(&row.context).await?;
            let point = tx.replicas().point(&row.context).await?.map(|(point, _)| point).filter(|point| point.job == *job);
            Ok((tx.job_lists().disks_of(job).await?, disks, point, row, tx.jobs().get(job).await?))
        });
        let (done, disks, point, row, job) = read.await?;
        Ok(ReplicationReport {
            capacity_bytes: disks.iter().filter(|disk| disk.removed_at.is_none()).map(|disk| disk.spec.capacity_bytes).sum(),
            seconds: row.started_at.zip(row.completed_at).map(|(from, to)| to.since(from).as_secs_f64()),
            disks: done.into_iter().map(DiskReport::from).collect(),
            point,
            job: row.id,
            context: row.context,
            vm_name: row.vm_name,
            mode: row.mode,
            status: row.status,
            percent: row.percent,
            bytes_transferred: row.bytes_transferred,
            message: Message::of(&job),
            technical: row.error_message,
            created_at: row.created_at,
            completed_at: row.completed_at,
        })
    }
}
