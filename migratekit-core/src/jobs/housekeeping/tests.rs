//! Thousands of jobs pass, and the tables stay as small as they are told; on both databases.

use super::*;
use crate::id::JobId;
use crate::jobs::{Runner, RunnerConfig, Sagas};
use crate::model::{EventKind, JobKind, JobStatus, LogLevel};
use crate::on_both_catalogs;
use crate::store::{JobNote, NewEvent, NewJob, NewLogLine, Retention};
use crate::testing::catalog::{ask, change};
use crate::testing::scale::{Scale, fill};

on_both_catalogs! {
    the_tables_stay_bounded_over_thousands_of_jobs, it_is_done_once_an_hour_and_a_rest_at_once, a_runner_does_all_of_it_by_itself,
    a_clock_that_went_back_puts_nothing_off, what_is_kept_is_a_setting_of_the_catalog,
}

/// The fewest that may be set, so that thousands of jobs are more.
const ROWS: u64 = 1000;

async fn count(store: &Store, table: &str) -> u64 {
    let text = format!("SELECT CAST(COUNT(*) AS CHAR) AS value FROM {table}");
    ask(store, &text).await.unwrap()[0].clone().unwrap().parse().unwrap()
}

/// What a verb does before its own work.
async fn verb(store: &Store) -> Option<Swept> {
    housekeep(store, &CancellationToken::new()).await
}

async fn make_due(store: &Store) {
    store.write("make it due", |tx| async move { tx.facts().remove(DUE).await }).await.unwrap();
}

/// A job that ran and ended, with all that it leaves: steps, two log lines, two events.
async fn run_one(tx: &Tx) -> Result<()> {
    let (id, input) = (&JobId::generate(), &serde_json::json!({}));
    tx.jobs().insert(&NewJob { id, kind: JobKind::Verify, context: None, parent: None, input, by: None }).await?;
    tx.steps().insert(id, &["compare", "status-update"]).await?;
    tx.jobs().change(id, JobStatus::Pending, JobStatus::Running, &JobNote::default()).await?;
    tx.jobs().change(id, JobStatus::Running, JobStatus::Completed, &JobNote::default()).await?;
    let line = NewLogLine {
        at: tx.now().await?,
        level: LogLevel::Info,
        message: "it ran".to_owned(),
        attrs: None,
        job: Some(id.clone()),
        step: None,
        phase: None,
    };
    tx.logs().append(&[line.clone(), line]).await?;
    for _ in 0..2 {
        let event = NewEvent { kind: EventKind::JobStatus, job: Some(id.clone()), context: None, data: serde_json::json!({}) };
        tx.events().append(&event).await?;
    }
    Ok(())
}

async fn the_tables_stay_bounded_over_thousands_of_jobs(store: Store) {
    store.set_retention(Retention { rows: ROWS, most_jobs: ROWS, ..Retention::default() }).await.unwrap();
    let rounds = if store.backend() == crate::store::Backend::Sqlite { 8 } else { 4 };
    for round in 0..rounds {
        for _ in 0..5 {
            let jobs = store.write("run jobs", |tx| async move {
                for _ in 0..100 {
                    run_one(&tx).await?;
                }
                Ok(())
            });
            jobs.await.unwrap();
        }
        make_due(&store).await;
        let swept = verb(&store).await.unwrap();
        assert!(!swept.more, "{swept:?}");
        for (table, most) in
            [("job_tracking", ROWS), ("job_steps", 2 * ROWS), ("job_execution_log", ROWS), ("log_events", ROWS), ("events", ROWS)]
        {
            let rows = count(&store, table).await;
            // Jobs of one moment stay or go together.
            assert!(rows <= most + most / 10, "round {round}: {rows} rows of {table}");
            // MariaDB leaves gaps between the numbers of rows that come from a query.
            assert!(round < 3 || rows >= most / 2, "round {round}: no more than needed goes: {rows} rows of {table}");
        }
    }
}

const OLD: Scale = Scale { contexts: 2, jobs: 2_600, log_events: 10_600, job_log: 10 };

async fn it_is_done_once_an_hour_and_a_rest_at_once(store: Store) {
    fill(&store, OLD).await.unwrap();
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(housekeep(&store, &stopped).await, None, "who is asked to end does nothing more");
    assert_eq!(verb(&store).await, None, "for ten minutes somebody is believed to be at it");
    make_due(&store).await;
    let first = verb(&store).await.unwrap();
    // A verb does 20 transactions of each kind: 500 lines of log or 100 jobs each.
    assert_eq!((first.log_events, first.jobs, first.job_log, first.more), (10_000, 2_000, 10, true));
    let second = verb(&store).await.unwrap();
    let busy = count(&store, "job_tracking").await;
    assert_eq!((second.log_events, second.jobs, second.more), (600, 600 - busy, false));
    fill_log(&store).await;
    assert_eq!(verb(&store).await, None, "it is not due again");
    make_due(&store).await;
    assert_eq!(verb(&store).await.unwrap().log_events, 1);
}

/// One line from long ago.
async fn fill_log(store: &Store) {
    change(store, "INSERT INTO log_events (level, message, ts) VALUES ('INFO', 'old', 1)").await.unwrap();
}

async fn a_runner_does_all_of_it_by_itself(store: Store) {
    fill(&store, OLD).await.unwrap();
    let text = "INSERT INTO runners (id, host, pid, version, started_at, seen_at) VALUES ('run-old', 'host', 1, '0', 1, 1)";
    change(&store, text).await.unwrap();
    let runner = Runner::start(store.clone(), Sagas::default(), RunnerConfig::default()).await.unwrap();
    while count(&store, "log_events").await + count(&store, "job_execution_log").await + count(&store, "runners").await > 1 {
        tokio::task::yield_now().await;
    }
    let own = ask(&store, "SELECT id AS value FROM runners").await.unwrap();
    assert_eq!(own, [Some(runner.id().to_string())], "the one that runs is not forgotten");
    runner.stop().await.unwrap();
    assert!(count(&store, "job_tracking").await < 10, "only what runs is left");
}

async fn a_clock_that_went_back_puts_nothing_off(store: Store) {
    fill_log(&store).await;
    let ahead = &text(Timestamp::now().plus(HOUSEKEEPING * 24));
    store.write("set it ahead", |tx| async move { tx.facts().set(DUE, ahead).await }).await.unwrap();
    assert_eq!(verb(&store).await.unwrap().log_events, 1);
}

async fn what_is_kept_is_a_setting_of_the_catalog(store: Store) {
    assert_eq!(store.retention().await.unwrap(), Retention::default());
    let keep = Retention { jobs: Duration::from_secs(7200), ..Retention::default() };
    store.set_retention(keep).await.unwrap();
    assert_eq!(store.retention().await.unwrap(), keep);
    let hasty = Retention { events: Duration::from_secs(60), ..keep };
    let none = Retention { rows: 0, ..keep };
    for (refused, named) in [(hasty, "events"), (none, "rows")] {
        let error = store.set_retention(refused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(named), "{error}");
    }
    assert_eq!(store.retention().await.unwrap(), keep, "a refused setting changes nothing");
    store.write("damage it", |tx| async move { tx.facts().set("retention", "{}").await }).await.unwrap();
    assert_eq!(store.retention().await.unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(verb(&store).await, None, "nothing is removed by a setting that cannot be read");
}
