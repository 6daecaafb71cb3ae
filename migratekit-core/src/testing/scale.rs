//! A catalog of any size, filled by the database itself: for plans, pages and the scale bench.

use crate::error::Result;
use crate::id::ContextId;
use crate::model::{JobStatus, StepStatus};
use crate::store::Store;

/// How much a catalog holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// VMs under management, each with two disks and a point.
    pub contexts: u64,
    /// Jobs, spread over all VMs in turn; of the newest of each VM, one in [`BUSY`] runs.
    pub jobs: u64,
    /// Lines of the program's log.
    pub log_events: u64,
    /// Lines that jobs wrote about themselves.
    pub job_log: u64,
}

/// Of so many VMs one is busy.
pub const BUSY: u64 = 50;

/// Rows of one statement.
const CHUNK: u64 = 100_000;

/// When the first job was asked for: 2023-11-14T22:13:20Z. One follows each second.
const BEGIN: u64 = 1_700_000_000_000_000;

/// The context of this number, from 0.
///
/// # Panics
/// Never: the text is an id.
#[must_use]
#[allow(clippy::expect_used)]
pub fn context(number: u64) -> ContextId {
    format!("ctx-scale-{number:09}").parse().expect("an id")
}

/// Fills an empty catalog.
pub async fn fill(store: &Store, scale: Scale) -> Result<()> {
    let (contexts, jobs) = (scale.contexts.max(1), scale.jobs.max(1));
    rows(
        store,
        scale.contexts,
        "vm_replication_contexts (context_id, vm_name, vmware_vm_id, vm_path, vcenter_host, datacenter, current_status, created_at, updated_at, \
         last_status_change)",
        &format!(
            "{id}, CONCAT('vm-', SUBSTR(CONCAT('00000000', n), -9)), CONCAT('vm-', n), CONCAT('/dc/vm/', n), 'vc.example', 'dc', \
             'ready_for_failover', {BEGIN}, {BEGIN}, {BEGIN}",
            id = name("ctx-scale", "n")
        ),
    )
    .await?;
    rows(
        store,
        2 * scale.contexts,
        "vm_disks (vm_context_id, disk_id, vm_dk_path, datastore, label, capacity_bytes, created_at, updated_at)",
        &format!(
            "{context}, CASE WHEN n < {contexts} THEN 'disk-2000' ELSE 'disk-2001' END, '/dc/disk', 'ds', 'Hard disk', 1073741824, {BEGIN}, {BEGIN}",
            context = name("ctx-scale", &format!("(n % {contexts})")),
        ),
    )
    .await?;
    rows(
        store,
        scale.contexts,
        "replica_points (id, vm_context_id, job_id, seq, status, taken_at, disk_count, committed_at)",
        &format!(
            "{id}, {context}, {job}, 1, 'applied', {BEGIN}, 2, {BEGIN}",
            id = name("pt-scale", "n"),
            context = name("ctx-scale", "n"),
            job = name("job-scale", "n"),
        ),
    )
    .await?;
    let newest = scale.jobs.saturating_sub(contexts);
    let runs = format!("n >= {newest} AND (n - {newest}) % {BUSY} = 0");
    let at = format!("{BEGIN} + n * 1000000");
    rows(
        store,
        scale.jobs,
        "job_tracking (id, operation, status, metadata, error_message, error_kind, failed_step, percent_complete, created_at, updated_at, \
         started_at, completed_at, context_id, context_name, job_category)",
        &format!(
            "{id}, CASE WHEN n % 10 = 3 THEN 'verify' ELSE 'replication' END, \
             CASE WHEN {runs} THEN '{running}' WHEN n % 7 = 5 THEN '{failed}' ELSE '{completed}' END, '{{}}', \
             CASE WHEN n % 7 = 5 THEN 'write: no space left on device' END, CASE WHEN n % 7 = 5 THEN 'no_space' END, \
             CASE WHEN n % 7 = 5 THEN 'replicating' END, CASE WHEN {runs} THEN 40 ELSE 100 END, {at}, {at}, {at}, \
             CASE WHEN {runs} THEN NULL ELSE {at} END, {context}, CONCAT('vm-', n % {contexts}), 'replication'",
            id = name("job-scale", "n"),
            context = name("ctx-scale", &format!("(n % {contexts})")),
            running = JobStatus::Running,
            failed = JobStatus::Failed,
            completed = JobStatus::Completed,
        ),
    )
    .await?;
    let steps = format!(
        "INSERT INTO job_steps (job_id, name, seq, status, attempt, started_at) \
         SELECT id, 'replicating', 5, '{}', 1, created_at FROM job_tracking WHERE status = '{}'",
        StepStatus::Running,
        JobStatus::Running
    );
    store
        .write("fill a catalog", |tx| {
            let steps = steps.clone();
            async move { tx.sql("fill a catalog", steps).run().await }
        })
        .await?;
    log(store, scale.log_events, jobs, "log_events (job_id, level, message, attrs, ts)").await?;
    log(store, scale.job_log, jobs, "job_execution_log (job_id, log_level, message, details, created_at)").await
}

/// Lines of a log in the order of the jobs, as they come.
async fn log(store: &Store, lines: u64, jobs: u64, into: &str) -> Result<()> {
    let each = lines.div_ceil(jobs).max(1);
    let job = format!("CAST((n - n % {each}) / {each} AS SIGNED)");
    let values = format!(
        "{}, 'INFO', CONCAT('pass ', n, ': 1048576 bytes written, 0 retries'), '{{\"disk\": \"disk-2000\"}}', {BEGIN} + n * 100000",
        name("job-scale", &job)
    );
    rows(store, lines, into, &values).await
}

/// The id of the row with the number that `number` gives.
fn name(prefix: &str, number: &str) -> String {
    format!("CONCAT('{prefix}-', SUBSTR(CONCAT('00000000', {number}), -9))")
}

/// `count` rows into `into`: what `values` makes of each `n` from 0 on. The text is the same for both databases.
async fn rows(store: &Store, count: u64, into: &str, values: &str) -> Result<()> {
    let mut from = 0;
    while from < count {
        let until = count.min(from + CHUNK);
        let text = format!(
            "INSERT INTO {into} \
             WITH d (v) AS (SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
                            UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9), \
                  numbers (n) AS (SELECT {from} + a.v * 10000 + b.v * 1000 + c.v * 100 + e.v * 10 + f.v \
                                  FROM d a CROSS JOIN d b CROSS JOIN d c CROSS JOIN d e CROSS JOIN d f) \
             SELECT {values} FROM numbers WHERE n < {until} ORDER BY n"
        );
        store
            .write("fill a catalog", |tx| {
                let text = text.clone();
                async move { tx.sql("fill a catalog", text).run().await }
            })
            .await?;
        from = until;
    }
    Ok(())
}

/// Lets the database count its rows anew, as it does by itself in time.
pub async fn settle(store: &Store) -> Result<()> {
    for table in ["vm_replication_contexts", "vm_disks", "replica_points", "job_tracking", "job_steps", "log_events", "job_execution_log"] {
        let text = match store.backend() {
            crate::store::Backend::Sqlite => format!("ANALYZE {table}"),
            crate::store::Backend::MariaDb => format!("ANALYZE TABLE {table}"),
        };
        super::catalog::change(store, &text).await?;
    }
    Ok(())
}
