//! Rows that tests begin with.

use migratekit_core::clock::Timestamp;
use migratekit_core::id::{ContextId, Epoch, JobId};
use migratekit_core::model::{Context, ContextStatus, JobCounts, JobStatus, OsFamily, PowerState};
use migratekit_core::testing::catalog::change;
use migratekit_core::{Result, Store};

pub(crate) fn vm(name: &str, source: &str) -> Context {
    let now = Timestamp::from_micros(1_700_000_000_000_001).unwrap();
    Context {
        id: ContextId::generate(),
        vm_name: name.into(),
        source_vm_id: source.into(),
        instance_uuid: Some("5012-ab".into()),
        vm_path: format!("/dc/vm/{name}"),
        source_host: "vcenter.example".into(),
        datacenter: "dc".into(),
        status: ContextStatus::Discovered,
        last_successful_job: None,
        jobs: JobCounts::default(),
        cpu_count: 4,
        memory_bytes: 8 << 30,
        os: OsFamily::Linux,
        power: PowerState::On,
        tools_version: None,
        created_at: now,
        updated_at: now,
        first_job_at: None,
        last_job_at: None,
        last_status_change: now,
        auto_added: false,
        last_scheduled_job: None,
        next_scheduled_at: None,
        scheduler_enabled: true,
        credential: None,
        cloud_config: None,
        enrollment: None,
        site: None,
        epoch: Epoch::NONE,
    }
}

pub(crate) async fn add_vm(store: &Store, vm: &Context) -> Result<()> {
    store.write("test", |tx| async move { tx.contexts().add(vm).await }).await
}

/// A job's row, written by hand: what the repository of jobs refuses must be refused by the database too.
pub(crate) async fn add_job(
    store: &Store,
    context: Option<&ContextId>,
    parent: Option<&JobId>,
    status: JobStatus,
    at: i64,
) -> Result<JobId> {
    let id = JobId::generate();
    let text = |id: Option<&str>| id.map_or("NULL".to_owned(), |id| format!("'{id}'"));
    let sql = format!(
        "INSERT INTO job_tracking (id, parent_job_id, operation, status, metadata, job_category, context_id, created_at, updated_at) \
         VALUES ('{id}', {}, 'replication', '{status}', '{{}}', 'replication', {}, {at}, {at})",
        text(parent.map(JobId::as_str)),
        text(context.map(ContextId::as_str))
    );
    change(store, &sql).await?;
    Ok(id)
}
