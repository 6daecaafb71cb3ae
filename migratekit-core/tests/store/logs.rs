//! The program's log and what jobs tell of themselves.

use migratekit_core::clock::Timestamp;
use migratekit_core::model::{JobStatus, LogLevel};
use migratekit_core::store::NewLogLine;
use migratekit_core::{Store, on_both_catalogs};
use serde_json::json;

use crate::rows::{add_job, add_vm, vm};

on_both_catalogs! {
    lines_with_and_without_a_job_are_stored_together,
}

/// Lines of every kind in one batch, in a catalog that has jobs: one without a job must not keep the others from being stored.
async fn lines_with_and_without_a_job_are_stored_together(store: Store) {
    let vm = vm("web-01", "vm-1");
    add_vm(&store, &vm).await.unwrap();
    let job = &add_job(&store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    let line = |message: &str, level, job: Option<_>, phase: Option<&str>| NewLogLine {
        at: Timestamp::from_micros(7).unwrap(),
        level,
        message: message.to_owned(),
        attrs: phase.map(|phase| json!({ "phase": phase })),
        job,
        step: None,
        phase: phase.map(str::to_owned),
    };
    let lines = &[
        line("nobody's", LogLevel::Info, None, None),
        line("plain", LogLevel::Warn, Some(job.clone()), None),
        line("with a phase", LogLevel::Info, Some(job.clone()), Some("copying")),
        line("quiet", LogLevel::Debug, Some(job.clone()), None),
    ];
    store.write("test", |tx| async move { tx.logs().append(lines).await }).await.unwrap();
    let all = store.read("test", |tx| async move { tx.logs().after(None).await }).await.unwrap();
    let all: Vec<_> = all.iter().map(|line| (line.message.as_str(), line.job.as_ref(), line.attrs.clone())).collect();
    let of = Some(job);
    let phase = Some(json!({ "phase": "copying" }));
    assert_eq!(all, [("nobody's", None, None), ("plain", of, None), ("with a phase", of, phase), ("quiet", of, None)]);
    let own = store.read("test", |tx| async move { tx.logs().of_job(job, None).await }).await.unwrap();
    let own: Vec<_> = own.iter().map(|line| (line.message.as_str(), line.phase.as_deref())).collect();
    assert_eq!(own, [("plain", None), ("with a phase", Some("copying"))]);
}
