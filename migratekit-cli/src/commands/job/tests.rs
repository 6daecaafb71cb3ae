//! What is printed of jobs, whatever the catalog holds; and the form of it in JSON.
//!
//! `docs/reference/json.md` is a snapshot: `MIGRATEKIT_BLESS=1 cargo test -p migratekit-cli --bin migratekit job::tests` writes it anew.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use migratekit_core::clock::Timestamp;
use migratekit_core::engine::{StepLine, TechnicalDetail};
use migratekit_core::model::messages::step_words;
use migratekit_core::model::{FEED_VERSION, FeedItem, FeedRow, Job, JobKind, JobStatus, OperationSummary, Percent, Step, StepStatus};
use migratekit_core::testing::Rng;

use super::*;
use crate::exit::Area;

const HEAD: &str = "# The forms of JSON\n\n\
    What `--output json` prints of jobs. `version` rises when a field changes its meaning or goes; fields may be added. What people read is in\n\
    clean words; the technical text is under `technical` alone. This file is generated; a test compares it with the program. To write it anew:\n\
    `MIGRATEKIT_BLESS=1 cargo test -p migratekit-cli --bin migratekit job::tests`.\n";

/// What never shows where people read of jobs.
const FORBIDDEN: [&str; 7] = ["virt-v2v", "virtio", ".iso", "/dev/", ".sh", ".ps1", ".py"];

const PIECES: [&str; 14] = [
    "virt-v2v: error",
    "VirtIO",
    "virtio-win.iso",
    "/dev/vdb",
    "/dev/disk/by-id/virtio-6f1b",
    "inject.sh",
    "sweep.py",
    "C:\\a.ps1",
    "\u{202e}",
    "\n",
    "no space left",
    " ",
    ":",
    "virtio-driver-injection",
];

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[usize::try_from(rng.below(all.len() as u64)).unwrap()]
}

fn hostile(rng: &mut Rng) -> Option<String> {
    let count = rng.below(6);
    (count > 0).then(|| (0..count).map(|_| one_of(rng, &PIECES)).collect())
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000).unwrap().plus(Duration::from_secs(seconds))
}

fn detail(row: &FeedRow, step_error: Option<String>) -> JobDetail {
    let job = Job {
        id: row.id.clone(),
        parent: None,
        kind: row.kind,
        category: row.kind.category(),
        context: row.context.clone(),
        status: row.status,
        percent: row.percent,
        input: serde_json::json!({ "version": 1, "mode": "auto" }),
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
    };
    let name = row.failed_step.clone().unwrap_or_default();
    let step = Step {
        id: 1.try_into().unwrap(),
        job: row.id.clone(),
        sequence: 0,
        name: name.clone(),
        status: StepStatus::Undone,
        attempt: 1,
        started_at: row.started_at,
        completed_at: row.completed_at,
        error_message: step_error,
        output: None,
    };
    let words = step_words(&name);
    let line = StepLine {
        title: words.friendly,
        class: words.class,
        status: step.status,
        attempt: step.attempt,
        started_at: step.started_at,
        completed_at: step.completed_at,
    };
    JobDetail { version: FEED_VERSION, job: FeedItem::of(row), steps: vec![line], technical: TechnicalDetail { job, steps: vec![step] } }
}

fn row(status: JobStatus) -> FeedRow {
    FeedRow {
        id: "job-1".parse().unwrap(),
        kind: JobKind::Replication,
        context: Some("ctx-1".parse().unwrap()),
        vm_name: Some("web-01".to_owned()),
        status,
        percent: Percent::capped(40),
        external_id: None,
        running_step: Some("replicating".to_owned()),
        failed_step: Some("replicating".to_owned()),
        error_kind: Some("no_space".to_owned()),
        error_message: Some("cannot write (path /dev/vdb): no space left on the device".to_owned()),
        next_action: None,
        created_at: at(0),
        started_at: Some(at(1)),
        updated_at: at(91),
        completed_at: (!status.is_busy()).then(|| at(91)),
    }
}

fn unsaid(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    FORBIDDEN.into_iter().find(|word| text.contains(word))
}

#[test]
fn no_technical_word_is_printed_unless_it_is_asked_for() {
    for seed in 0..600 {
        let rng = &mut Rng::new(seed);
        let status = one_of(rng, JobStatus::ALL);
        let row = FeedRow {
            kind: one_of(rng, JobKind::ALL),
            external_id: hostile(rng),
            running_step: hostile(rng),
            failed_step: hostile(rng),
            error_kind: hostile(rng),
            error_message: hostile(rng),
            next_action: hostile(rng),
            ..row(status)
        };
        let detail = detail(&row, hostile(rng));
        let error = told::verdict(&detail).err().map(|error| crate::exit::explain(&error, Area::Catalog, false));
        let mut json = serde_json::to_value(&detail).unwrap();
        json.as_object_mut().unwrap().remove("technical").unwrap();
        let page = FeedPage::of(&[row], 1);
        let printed = [listed(&page), shown(&detail, false), error.unwrap_or_default(), json.to_string(), output::json(&page).unwrap()];
        for text in printed {
            assert_eq!(unsaid(&text), None, "seed {seed}: {text}");
        }
    }
}

#[test]
fn a_failure_is_told_with_what_to_do_and_technical_only_to_who_asks() {
    let detail = detail(&row(JobStatus::Failed), None);
    let error = told::verdict(&detail).unwrap_err();
    assert_eq!(error.kind(), migratekit_core::ErrorKind::NoSpace);
    let text = crate::exit::explain(&error, Area::Catalog, false);
    for needed in [
        "error: Copying data stopped: there is not enough space.",
        "about: storage, error",
        "`migratekit vm disks web-01`",
        "`migratekit replicate web-01`",
    ] {
        assert!(
            text.contains(needed) && (needed.starts_with("error") || shown(&detail, false).contains(needed.trim_start_matches("about: ")))
        );
    }
    assert!(unsaid(&text).is_none() && unsaid(&shown(&detail, false)).is_none());
    assert!(crate::exit::explain(&error, Area::Catalog, true).contains("/dev/vdb") && shown(&detail, true).contains("/dev/vdb"));
    let stuck = FeedRow { next_action: Some("replicate_again".to_owned()), ..row(JobStatus::NeedsAttention) };
    let text = crate::exit::explain(&told::verdict(&self::detail(&stuck, None)).unwrap_err(), Area::Catalog, false);
    assert!(text.lines().nth(2).unwrap().contains("Start the replication again"), "what it names comes first: {text}");
    let paused = told::verdict(&self::detail(&row(JobStatus::Paused), None)).unwrap_err();
    assert!(crate::exit::explain(&paused, Area::Catalog, false).contains("replicate resume"), "{paused}");
    assert!(told::verdict(&self::detail(&row(JobStatus::Completed), None)).is_ok());
}

#[test]
fn the_reference_shows_the_forms_of_json() {
    let failed = detail(&row(JobStatus::Failed), None);
    let more = [row(JobStatus::Running), FeedRow { id: "job-0".parse().unwrap(), ..row(JobStatus::Failed) }];
    let page = FeedPage::of(&more, 1);
    let summary = OperationSummary::of(&failed.technical.job, &failed.technical.steps);
    let mut text = HEAD.to_owned();
    for (title, json) in [
        ("`job list`: a page of the feed", output::json(&page).unwrap()),
        ("`job show`: a job", output::json(&failed).unwrap()),
        ("`last_operation` of `vm show`: the summary of an operation", output::json(&summary).unwrap()),
    ] {
        write!(text, "\n## {title}\n\n```json\n{json}\n```\n").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/json.md");
    if std::env::var_os("MIGRATEKIT_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "docs/reference/json.md is not what the program prints; see this file's head");
}
