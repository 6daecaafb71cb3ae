//! The leases of a runner, renewed together; and its eye on the wall clock.

use std::time::Duration;

use serde_json::json;

use super::clockstep::ClockWatch;
use super::lease::Stop;
use super::runner::Shared;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;
use crate::model::EventKind;
use crate::store::NewAuditEntry;

/// Renews all leases every [`LeaseTimes::renew`](super::LeaseTimes::renew), until the runner ends and its last job is laid down. A lease
/// that may be over is given up here, before anybody can take it.
pub(super) async fn renew(shared: &Shared) {
    let mut watch = ClockWatch::new(clock::now(), shared.config.wall.now());
    loop {
        let times = shared.config.leases;
        if shared.token.run_until_cancelled(clock::sleep(times.renew)).await.is_none() {
            if shared.grips().is_empty() {
                return;
            }
            clock::sleep(times.look.min(times.renew)).await;
        }
        if let Some(seconds) = watch.look(clock::now(), shared.config.wall.now()) {
            tell_clock_step(shared, seconds).await;
        }
        if let Err(error) = once(shared, times.lease).await {
            tracing::warn!(%error, "leases were not renewed");
        }
        let now = clock::now();
        shared.grips().iter().filter(|grip| !grip.holds(now)).for_each(|grip| grip.stop(Stop::Lost));
    }
}

/// One transaction for all.
async fn once(shared: &Shared, lease: Duration) -> Result<()> {
    let asked = clock::now();
    let grips = shared.grips();
    let jobs: &Vec<JobId> = &grips.iter().map(|grip| grip.job.clone()).collect();
    let renewed = shared.jobs.desk.store.write("renew leases", |tx| async move {
        tx.runners().beat(&shared.id).await?;
        tx.jobs().renew(&shared.id, jobs, lease).await
    });
    let late = || Error::new(ErrorKind::Timeout, "renew leases", "the catalog did not answer within the time of a lease");
    let renewed = clock::within(lease, renewed).await.ok_or_else(late)??;
    for grip in grips {
        if renewed.contains(&grip.job) {
            grip.renewed(asked, lease);
        }
    }
    Ok(())
}

async fn tell_clock_step(shared: &Shared, seconds: i64) {
    tracing::warn!(seconds, "the wall clock stepped; leases are not touched by it");
    let data = json!({ "code": "clock_step", "seconds": seconds });
    let written = shared.write_event(EventKind::Warning, data, |tx| async move {
        let details = &json!({ "seconds": seconds });
        let (action, subject_kind, subject_id) = ("clock.step", "runner", shared.id.as_str());
        let entry =
            NewAuditEntry { actor: "system", action, subject_kind, subject_id, details: Some(details), source_ip: None, success: true };
        tx.audit().add(&entry, tx.now().await?).await
    });
    if let Err(error) = written.await {
        tracing::warn!(%error, "the step of the clock was not audited");
    }
}
