//! Rows that tests begin with.

use migratekit_core::clock::Timestamp;
use migratekit_core::id::{ContextId, JobId};
use migratekit_core::model::{Context, JobStatus, OsFamily, PowerState};
use migratekit_core::testing::catalog::change;
use migratekit_core::{Result, Store};

pub(crate) fn vm(name: &str, source: &str) -> Context {
    let now = Timestamp::from_micros(1_700_000_000_000_001).unwrap();
    Context {
        instance_uuid: Some("5012-ab".into()),
        vm_path: format!("/dc/vm/{name}"),
        datacenter: "dc".into(),
        cpu_count: 4,
        memory_bytes: 8 << 30,
        os: OsFamily::Linux,
        power: PowerState::On,
        ..Context::discovered(name, "vcenter.example", source, now)
    }
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

/// Runs one call in a transaction of its own, so that its failure undoes nothing else.
macro_rules! call {
    ($store:expr, |$tx:ident| $call:expr) => {
        $store
            .write("test", |tx: migratekit_core::Tx| async move {
                let $tx = &tx;
                $call.await
            })
            .await
    };
}
pub(crate) use call;

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
