//! What the feed and the summary show, whatever the catalog holds.

use proptest::prelude::*;

use super::*;
use crate::model::messages::is_clean;
use crate::model::{Job, OperationSummary};

fn row(id: &str, status: JobStatus) -> FeedRow {
    let at = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    FeedRow {
        id: id.parse().unwrap(),
        kind: JobKind::Replication,
        context: Some("ctx-1".parse().unwrap()),
        vm_name: Some("web-01".into()),
        status,
        percent: Percent::capped(40),
        external_id: None,
        running_step: Some("replicating".into()),
        failed_step: Some("replicating".into()),
        error_kind: Some("no_space".into()),
        error_message: Some("write /dev/vdb: No space left on device (virt-v2v)".into()),
        next_action: None,
        created_at: at,
        started_at: Some(at),
        updated_at: at.plus(std::time::Duration::from_secs(90)),
        completed_at: None,
    }
}

fn job(row: &FeedRow) -> Job {
    Job {
        id: row.id.clone(),
        parent: None,
        kind: row.kind,
        category: row.kind.category(),
        context: row.context.clone(),
        status: row.status,
        percent: row.percent,
        input: serde_json::json!({}),
        outcome: None,
        error_message: row.error_message.clone(),
        error_kind: row.error_kind.clone(),
        failed_step: row.failed_step.clone(),
        next_action: row.next_action.clone(),
        cancel_requested: false,
        pause_requested: false,
        undo_requested: false,
        pivot_crossed: false,
        lease: None,
        external_id: row.external_id.clone(),
        created_by: None,
        unreachable_since: None,
        created_at: row.created_at,
        started_at: row.started_at,
        updated_at: row.updated_at,
        completed_at: row.completed_at,
    }
}

#[test]
fn an_item_says_what_happened_and_what_to_do() {
    let failed = FeedItem::of(&row("job-1", JobStatus::Failed));
    assert_eq!(failed.display_name, "Replication of web-01");
    assert_eq!(failed.error_message.as_deref(), Some("Copying data stopped: there is not enough space."));
    assert_eq!((failed.error_category, failed.current_step), (Some(Category::Storage), None));
    assert_eq!(failed.actionable_steps, [Action::MakeRoom, Action::ReplicateAgain]);
    assert_eq!(failed.duration_seconds, 90);
    let running = FeedItem::of(&row("job-1", JobStatus::Running));
    assert_eq!((running.error_message, running.current_step.as_deref()), (None, Some("Copying data")));
    let waits = FeedRow { next_action: Some("resume_replication".into()), ..row("job-1", JobStatus::NeedsAttention) };
    assert_eq!(FeedItem::of(&waits).actionable_steps[0], Action::ResumeReplication);
}

#[test]
fn a_page_ends_where_the_next_begins() {
    let rows: Vec<FeedRow> = (0..5).map(|i| row(&format!("job-{i}"), JobStatus::Completed)).collect();
    let page = FeedPage::of(&rows, 4);
    assert_eq!((page.items.len(), page.next.unwrap().id.as_str()), (4, "job-3"));
    assert_eq!(FeedPage::of(&rows, 5).next, None);
    assert_eq!(FeedPage::of(&[], 5).next, None);
    let cursor = FeedCursor { created_at: rows[0].created_at, id: rows[0].id.clone() };
    assert_eq!(cursor.to_string().parse::<FeedCursor>().unwrap(), cursor);
    for text in ["", "1", "1~", "x~job-1", "1~ctx-1", "99999999999999999999~job-1", "1~job-1'"] {
        assert!(text.parse::<FeedCursor>().is_err(), "{text}");
    }
}

#[test]
fn a_summary_keeps_what_was_said_and_refuses_what_was_not() {
    let summary = OperationSummary::of(&job(&row("job-1", JobStatus::Failed)), &[]);
    assert_eq!(summary.failed_step.as_deref(), Some("Copying data"));
    let json = summary.to_json().unwrap();
    assert_eq!(OperationSummary::from_json(&json).unwrap(), summary);
    for (key, value) in [
        ("version", serde_json::json!(2)),
        ("status", serde_json::json!("fine")),
        ("error_message", serde_json::json!("virt-v2v failed")),
        ("job_id", serde_json::json!("x")),
    ] {
        let mut changed = json.clone();
        changed[key] = value;
        assert_eq!(OperationSummary::from_json(&changed).unwrap_err().kind(), ErrorKind::Mismatch, "{key}");
    }
    let good = OperationSummary::of(&job(&row("job-1", JobStatus::Completed)), &[]);
    assert_eq!((good.error_message, good.failed_step), (None, None));
    assert!(good.actionable_steps.is_empty());
}

/// Text as tools print it.
fn hostile() -> impl Strategy<Value = Option<String>> {
    let piece = prop::sample::select(vec![
        "virt-v2v: error",
        "VirtIO",
        "virtio-win.iso",
        "/dev/vdb",
        "/dev/disk/by-id/virtio-6f1b",
        "inject.sh",
        "C:\\a.ps1",
        "\u{202e}",
        "\n",
        "no space left",
        " ",
        ":",
        "x",
    ]);
    prop::option::of(prop::collection::vec(prop_oneof![piece.prop_map(str::to_owned), ".{0,12}"], 0..6).prop_map(|pieces| pieces.concat()))
}

proptest! {
    #[test]
    fn neither_feed_nor_summary_shows_technical_words(
        texts in prop::array::uniform6(hostile()), kind in prop::sample::select(JobKind::ALL), status in prop::sample::select(JobStatus::ALL),
    ) {
        let [external_id, running_step, failed_step, error_kind, error_message, next_action] = texts;
        let row = FeedRow { kind, external_id, running_step, failed_step, error_kind, error_message, next_action, ..row("job-1", status) };
        let (item, summary) = (FeedItem::of(&row), OperationSummary::of(&job(&row), &[]));
        let shown = [
            Some(item.display_name.clone()), item.external_job_id.clone(), item.current_step.clone(), item.error_message.clone(),
            summary.external_job_id.clone(), summary.failed_step.clone(), summary.error_message.clone(),
        ];
        for text in shown.into_iter().flatten() {
            prop_assert!(is_clean(&text), "{}", text);
        }
        let json = [serde_json::to_string(&item).unwrap(), summary.to_json().unwrap().to_string()].concat().to_lowercase();
        for word in ["virt-v2v", "virtio", ".iso", "/dev/", ".sh", ".ps1"] {
            prop_assert!(!json.contains(word), "{} in {}", word, json);
        }
        let unhappy = matches!(status, JobStatus::Failed | JobStatus::NeedsAttention | JobStatus::Cancelled | JobStatus::RolledBack);
        prop_assert!(!unhappy || !item.actionable_steps.is_empty());
        prop_assert!(OperationSummary::from_json(&summary.to_json().unwrap()).is_ok());
    }
}
