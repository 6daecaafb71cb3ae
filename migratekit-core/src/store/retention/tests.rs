//! What is removed, and what is not, on both databases.

use super::*;
use crate::on_both_catalogs;
use crate::testing::catalog::{ask, change};
use crate::testing::scale::{Scale, fill};

on_both_catalogs! { old_rows_go_in_batches, the_logs_stay_below_their_bound, what_is_still_needed_stays, the_history_of_a_vm_that_is_gone_goes }

/// Everything the scale makes is from 2023, and old.
const SCALE: Scale = Scale { contexts: 10, jobs: 700, log_events: 1_300, job_log: 600 };

async fn count(store: &Store, table: &str) -> u64 {
    let text = format!("SELECT CAST(COUNT(*) AS CHAR) AS value FROM {table}");
    ask(store, &text).await.unwrap()[0].clone().unwrap().parse().unwrap()
}

async fn old_rows_go_in_batches(store: Store) {
    fill(&store, SCALE).await.unwrap();
    let swept = store.sweep(&Retention::default(), u32::MAX, &CancellationToken::new()).await.unwrap();
    let running = count(&store, "job_tracking").await;
    assert_eq!((swept.log_events, swept.job_log, swept.jobs), (1_300, 600, 700 - running), "{swept:?}");
    assert!(running > 0, "jobs that run stay, however old");
    assert_eq!(ask(&store, "SELECT DISTINCT status AS value FROM job_tracking").await.unwrap(), [Some("running".to_owned())]);
    assert_eq!(count(&store, "log_events").await + count(&store, "job_execution_log").await, 0);
    let again = store.sweep(&Retention::default(), u32::MAX, &CancellationToken::new()).await.unwrap();
    assert_eq!(again, Swept::default());
}

async fn the_logs_stay_below_their_bound(store: Store) {
    fill(&store, SCALE).await.unwrap();
    let ages = Duration::from_secs(100 * 365 * 86_400);
    let keep = Retention { log_events: ages, job_log: ages, events: ages, jobs: ages, rows: 100, ..Retention::default() };
    let swept = store.sweep(&keep, u32::MAX, &CancellationToken::new()).await.unwrap();
    assert_eq!((swept.log_events, swept.job_log, swept.jobs), (1_200, 500, 0));
    let oldest = ask(&store, "SELECT CAST(MAX(id) - MIN(id) AS CHAR) AS value FROM log_events").await.unwrap();
    assert_eq!(oldest, [Some("99".to_owned())], "the newest stay");
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(store.sweep(&keep, u32::MAX, &stopped).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

async fn intend(store: &Store, job: &str, status: &str) {
    let text = format!(
        "INSERT INTO job_intents (job_id, step_name, kind, name, status, epoch, created_at, updated_at) \
         VALUES ('{job}', 'snapshotting', 'snapshot', 's', '{status}', 1, 1, 1)"
    );
    change(store, &text).await.unwrap();
}

async fn what_is_still_needed_stays(store: Store) {
    fill(&store, Scale { contexts: 1, jobs: 60, log_events: 1, job_log: 1 }).await.unwrap();
    // A person is needed; something may be left outside; a child is not at rest.
    change(&store, "UPDATE job_tracking SET status = 'needs_attention' WHERE id = 'job-scale-000000001'").await.unwrap();
    intend(&store, "job-scale-000000002", "left_over").await;
    intend(&store, "job-scale-000000003", "undone").await;
    change(&store, "UPDATE job_tracking SET parent_job_id = 'job-scale-000000004' WHERE id = 'job-scale-000000001'").await.unwrap();
    store.sweep(&Retention::default(), u32::MAX, &CancellationToken::new()).await.unwrap();
    let left = ask(&store, "SELECT id AS value FROM job_tracking WHERE status <> 'running' ORDER BY id").await.unwrap();
    let left: Vec<String> = left.into_iter().flatten().collect();
    assert_eq!(left, ["job-scale-000000001", "job-scale-000000002", "job-scale-000000004"]);
    assert_eq!(count(&store, "job_intents").await, 1);
}

async fn the_history_of_a_vm_that_is_gone_goes(store: Store) {
    fill(&store, Scale { contexts: 1, jobs: 60, log_events: 1, job_log: 1 }).await.unwrap();
    let [stuck, ended, managed, of_none] = ["1", "2", "3", "4"].map(|n| format!("job-scale-00000000{n}"));
    for (job, status) in [(&stuck, "left_over"), (&ended, "intended"), (&managed, "left_over")] {
        intend(&store, job, status).await;
    }
    for job in [&stuck, &managed, &of_none] {
        let text = format!("UPDATE job_tracking SET status = 'needs_attention', completed_at = NULL WHERE id = '{job}'");
        change(&store, &text).await.unwrap();
    }
    // As `vm remove` leaves them; and one that never was of a VM.
    change(&store, &format!("UPDATE job_tracking SET context_id = NULL WHERE id IN ('{stuck}', '{ended}')")).await.unwrap();
    change(&store, &format!("UPDATE job_tracking SET context_id = NULL, context_name = NULL WHERE id = '{of_none}'")).await.unwrap();
    let young = Retention { jobs: Duration::from_secs(100 * 365 * 86_400), ..Retention::default() };
    assert_eq!(store.sweep(&young, u32::MAX, &CancellationToken::new()).await.unwrap().jobs, 0, "as long as others");
    store.sweep(&Retention::default(), u32::MAX, &CancellationToken::new()).await.unwrap();
    let left = ask(&store, "SELECT id AS value FROM job_tracking WHERE status <> 'running' ORDER BY id").await.unwrap();
    assert_eq!(left.into_iter().flatten().collect::<Vec<_>>(), [managed, of_none]);
    assert_eq!(count(&store, "job_intents").await, 1);
}
