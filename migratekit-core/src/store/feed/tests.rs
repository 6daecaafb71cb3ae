//! Pages on both databases, and the plans behind them.

use std::collections::BTreeSet;

use super::*;
use crate::model::messages::is_clean;
use crate::on_both_catalogs;
use crate::store::Store;
use crate::testing::scale::{BUSY, Scale, context, fill, settle};

const SCALE: Scale = Scale { contexts: 500, jobs: 20_000, log_events: 1_000, job_log: 1_000 };

on_both_catalogs! {
    pages_follow_each_other_without_gap_or_repetition,
    no_page_reads_a_table_whole,
    a_page_costs_the_same_however_deep_it_lies,
    a_summary_is_kept_until_the_next,
}

async fn pages_follow_each_other_without_gap_or_repetition(store: Store) {
    fill(&store, Scale { contexts: 40, jobs: 1_000, log_events: 10, job_log: 10 }).await.unwrap();
    store
        .read("page", |tx| async move {
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let page = tx.feed().jobs(&FeedSearch::default(), after.as_ref(), 150).await?;
                seen.extend(page.items.iter().map(|item| (item.created_at, item.job_id.clone())));
                match page.next {
                    Some(next) => after = Some(next.to_string().parse()?),
                    None => break,
                }
            }
            assert_eq!(seen.len(), 1_000);
            assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, each once");

            let of_one = tx.feed().jobs(&FeedSearch { context: Some(&context(7)), ..FeedSearch::default() }, None, 200).await?;
            assert_eq!((of_one.items.len(), of_one.next), (25, None));
            assert!(of_one.items.iter().all(|item| item.context_id == Some(context(7))));
            let failed = of_one.items.iter().find(|item| item.error_message.is_some()).unwrap();
            assert!(is_clean(failed.error_message.as_deref().unwrap()) && !failed.actionable_steps.is_empty());

            let active = tx.feed().jobs(&FeedSearch { active: true, ..FeedSearch::default() }, None, 200).await?;
            assert!(!active.items.is_empty() && active.items.iter().all(|item| item.status.is_busy()));
            assert_eq!(active.items[0].current_step.as_deref(), Some("Copying data"));

            let status = Some(JobStatus::Failed);
            let of_status = tx.feed().jobs(&FeedSearch { status, ..FeedSearch::default() }, None, 500).await?;
            assert!(of_status.items.len() > 100 && of_status.items.iter().all(|item| item.status == JobStatus::Failed));
            let both = FeedSearch { context: Some(&context(7)), status, active: false };
            let both = tx.feed().jobs(&both, None, 500).await?.items;
            let expected: Vec<_> = of_one.items.iter().filter(|item| item.status == JobStatus::Failed).cloned().collect();
            assert!(!both.is_empty() && both == expected);
            let busy = FeedSearch { context: active.items[0].context_id.as_ref(), status: None, active: true };
            assert_eq!(tx.feed().jobs(&busy, None, 500).await?.items, active.items[..1]);
            assert_eq!(tx.feed().job(&both[0].job_id).await?, both[0]);

            let (mut after, mut names) = (None, Vec::new());
            loop {
                let page = tx.feed().contexts(after.as_ref(), 7).await?;
                names.extend(page.items.iter().map(|item| item.vm_name.clone()));
                assert!(page.items.iter().all(|item| item.last_job.as_ref().unwrap().context_id.as_ref() == Some(&item.context)));
                match page.next {
                    Some(next) => after = Some(next.to_string().parse()?),
                    None => break,
                }
            }
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 40);
            assert!(names.is_sorted());
            Ok(())
        })
        .await
        .unwrap();
}

async fn no_page_reads_a_table_whole(store: Store) {
    fill(&store, SCALE).await.unwrap();
    settle(&store).await.unwrap();
    let lines = store.read("plans", |tx| async move { plans(&tx, &context(3)).await }).await.unwrap();
    let names: BTreeSet<_> = lines.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), 6);
    for (name, line) in &lines {
        assert!(!whole(name, line), "{name} reads a table whole: {line}\n{lines:#?}");
    }
    // The check itself: it knows a whole read when it sees one.
    let bad = store.read("plans", |tx| async move {
        explain(&tx, tx.sql("explain", explained(&tx, "SELECT * FROM job_tracking j WHERE j.outcome = 'x'"))).await
    });
    assert!(bad.await.unwrap().iter().any(|line| whole("bad", line)));
    let active = store
        .read("page", |tx| async move { tx.feed().jobs(&FeedSearch { active: true, ..FeedSearch::default() }, None, 200).await })
        .await
        .unwrap();
    assert_eq!(active.items.len() as u64, SCALE.contexts / BUSY);
}

async fn a_page_costs_the_same_however_deep_it_lies(store: Store) {
    fill(&store, SCALE).await.unwrap();
    settle(&store).await.unwrap();
    let none = FeedSearch::default();
    let busy = FeedSearch { active: true, ..none };
    let of = |status| FeedSearch { status: Some(status), ..none };
    let vm = context(3);
    let of_vm = FeedSearch { context: Some(&vm), ..none };
    for search in
        [none, busy, of(JobStatus::Failed), of(JobStatus::Completed), of_vm, FeedSearch { context: Some(&vm), ..of(JobStatus::Completed) }]
    {
        for job in [19_999, 15_000, 10_000, 2_500, 600] {
            let after: FeedCursor = format!("{}~job-scale-{job:09}", 1_700_000_000_000_000_u64 + job * 1_000_000).parse().unwrap();
            let (items, lines, read) = store
                .read("page", |tx| {
                    let after = after.clone();
                    async move {
                        let lines = explain(&tx, cursor(search.bound(tx.sql("explain", explained(&tx, &search.text()))), &after)).await?;
                        let before = rows_read(&tx).await?;
                        let items = tx.feed().jobs(&search, Some(&after), 50).await?.items.len();
                        Ok((items, lines, rows_read(&tx).await? - before))
                    }
                })
                .await
                .unwrap();
            match store.backend() {
                // SQLite counts no rows, but says how far it goes into the index.
                crate::store::Backend::Sqlite if search.active => {}
                crate::store::Backend::Sqlite => {
                    assert!(lines.iter().any(|line| line.contains("created_at<?")), "{search:?}: {lines:#?}");
                }
                // The index, the row, the step that runs, the table of the page itself; a few of the counting.
                crate::store::Backend::MariaDb => assert!(read <= 500, "{search:?} behind {job}: {read} rows for {items}: {lines:#?}"),
            }
            assert!(items > 0 || search.active || search.context.is_some(), "{search:?} behind {job}");
        }
    }
}

fn cursor<'t>(statement: Statement<'t>, after: &FeedCursor) -> Statement<'t> {
    statement.bind(after.created_at).bind(after.created_at).bind(after.id.as_str()).bind(51)
}

/// How many rows of tables and indexes this session of MariaDB has read.
async fn rows_read(tx: &Tx) -> Result<i64> {
    if tx.backend() == crate::store::Backend::Sqlite {
        return Ok(0);
    }
    let text = "SELECT CAST(SUM(variable_value) AS SIGNED) AS value FROM information_schema.session_status \
                WHERE variable_name IN ('HANDLER_READ_KEY', 'HANDLER_READ_NEXT', 'HANDLER_READ_PREV', 'HANDLER_READ_FIRST', 'HANDLER_READ_LAST')";
    tx.sql("count the rows that were read", text).one("no counter", |row| row.number("value")).await
}

/// Whether a line of a plan says that a stored table is read whole. What was derived in the same query (p, a, c, and b of the active ones) is
/// small by its bound.
fn whole(query: &str, line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["SCAN", "b", ..] => query != "active",
        ["SCAN", table, ..] => !["p", "a", "c", "(subquery"].contains(table),
        // In the order of an index it is read only as far as the page goes.
        [table, "index", _, rows, ..] => !table.starts_with('<') && rows.parse::<u64>().unwrap_or(u64::MAX) > 60,
        [table, "ALL", ..] => !table.starts_with('<'),
        _ => false,
    }
}

async fn a_summary_is_kept_until_the_next(store: Store) {
    fill(&store, Scale { contexts: 2, jobs: 2, log_events: 1, job_log: 1 }).await.unwrap();
    let json = serde_json::json!({
        "version": 1, "job_id": "job-1", "external_job_id": null, "operation_type": "replication", "status": "failed", "progress": 12,
        "failed_step": "Copying data", "error_message": "Copying data stopped: access was refused.", "error_category": "configuration",
        "error_severity": "error", "actionable_steps": [{"code": "test_credential"}], "timestamp": "2026-01-01T00:00:00Z",
        "duration_seconds": 3, "steps_completed": 4, "steps_total": 9,
    });
    let first = OperationSummary::from_json(&json).unwrap();
    let second = OperationSummary { duration_seconds: 4, ..first.clone() };
    for summary in [&first, &second] {
        store.write("keep", |tx| async move { tx.feed().keep_summary(&context(0), summary).await }).await.unwrap();
        let kept = store.read("read", |tx| async move { tx.feed().summary(&context(0)).await }).await.unwrap();
        assert_eq!(kept.as_ref(), Some(summary));
    }
    let none = store.read("read", |tx| async move { tx.feed().summary(&context(1)).await }).await.unwrap();
    assert_eq!(none, None);
    let nobody = store.write("keep", |tx| async move { tx.feed().keep_summary(&context(9), &json_summary(&tx).await?).await });
    assert_eq!(nobody.await.unwrap_err().kind(), crate::ErrorKind::NotFound);
}

async fn json_summary(tx: &Tx) -> Result<OperationSummary> {
    Ok(tx.feed().summary(&context(0)).await?.expect("it was kept"))
}
