//! How the catalog does when it is large: fills one on SQLite and one on a MariaDB of its own, then asks for pages of 50 and tells how long
//! they take. Small by itself; `--full` is 10,000 VMs, 1,000,000 jobs and 10,000,000 lines of log.
//!
//! `catalog_scale [--full] [--only sqlite|mariadb] [--pages N] [--dir FOLDER]`: prints a table; ends with 1 when a 95th percentile is above
//! [`LIMIT`].

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "an example may fail loudly")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use migratekit_core::Result;
use migratekit_core::model::{ContextCursor, FeedCursor, JobStatus};
use migratekit_core::store::{FeedSearch, Store, StoreOptions};
use migratekit_core::testing::Rng;
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::testing::scale::{Scale, context, fill, settle};

/// The longest that a page may take, for 95 of 100.
const LIMIT: Duration = Duration::from_millis(50);
/// Items of a page.
const PAGE: u32 = 50;

const SMALL: Scale = Scale { contexts: 200, jobs: 10_000, log_events: 20_000, job_log: 5_000 };
const FULL: Scale = Scale { contexts: 10_000, jobs: 1_000_000, log_events: 8_000_000, job_log: 2_000_000 };

/// MariaDB's memory for a catalog of this size; by itself it takes 128 MiB.
const MARIADB: &[&str] = &["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G", "--innodb-flush-log-at-trx-commit=2"];

#[tokio::main]
async fn main() -> Result<()> {
    let mut scale = SMALL;
    let (mut only, mut pages, mut dir) = (None, 100, std::env::temp_dir());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--full" => scale = FULL,
            "--only" => only = words.next(),
            "--pages" => pages = words.next().expect("a number").parse().expect("a number"),
            "--dir" => dir = PathBuf::from(words.next().expect("a folder")),
            other => panic!("{other}: not understood; see the head of this example"),
        }
    }
    println!(
        "{} VMs, {} jobs, {} lines of log; {pages} pages of {PAGE} each",
        scale.contexts,
        scale.jobs,
        scale.log_events + scale.job_log
    );
    println!("| catalog | query | median | p95 | longest |\n|---|---|---|---|---|");
    let mut good = true;
    if only.as_deref() != Some("mariadb") {
        let folder = tempfile::tempdir_in(&dir).expect("a folder");
        let store = Store::open(&format!("sqlite://{}", folder.path().join("catalog.db").display()), StoreOptions::new()).await?;
        good &= measure("SQLite", &store, scale, pages).await?;
        store.close().await;
    }
    if only.as_deref() != Some("sqlite") {
        let server = MariaDb::start_with(MARIADB);
        server.create_database("catalog");
        let store = Store::open(&server.url("catalog"), StoreOptions::new()).await?;
        good &= measure("MariaDB", &store, scale, pages).await?;
        store.close().await;
    }
    if !good {
        eprintln!("a 95th percentile is above {} ms", LIMIT.as_millis());
        std::process::exit(1);
    }
    Ok(())
}

/// Fills a catalog and asks it; whether every query keeps the limit.
async fn measure(name: &str, store: &Store, scale: Scale, pages: u64) -> Result<bool> {
    let began = Instant::now();
    fill(store, scale).await?;
    settle(store).await?;
    eprintln!("{name}: filled in {:.0} s", began.elapsed().as_secs_f64());
    let mut rng = Rng::new(1);
    let mut good = true;
    for query in ["VMs with last job", "feed of all", "feed of one VM", "failed jobs", "completed jobs", "active jobs"] {
        let mut times = Vec::new();
        for _ in 0..pages {
            let (vm, job) = (rng.below(scale.contexts), rng.below(scale.jobs));
            let began = Instant::now();
            let items = page(store, query, vm, job).await?;
            times.push(began.elapsed());
            assert!(items > 0, "{query}: an empty page");
        }
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        let shown = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
        println!("| {name} | {query} | {} | {} | {} |", shown(at(50)), shown(at(95)), shown(at(100)));
        good &= at(95) <= LIMIT;
    }
    Ok(good)
}

/// One page from a place anywhere in the list; how many items it has.
async fn page(store: &Store, query: &str, vm: u64, job: u64) -> Result<usize> {
    let at: FeedCursor = format!("{}~job-scale-{job:09}", 1_700_000_000_000_000 + (job + 1) * 1_000_000).parse()?;
    let of = |status| FeedSearch { status: Some(status), ..FeedSearch::default() };
    let behind = ContextCursor { vm_name: format!("vm-{:09}", vm.saturating_sub(1)), id: context(vm.saturating_sub(1)) };
    store
        .read("ask for a page", |tx| {
            let (at, behind, all) = (at.clone(), behind.clone(), FeedSearch::default());
            async move {
                Ok(match query {
                    "VMs with last job" => tx.feed().contexts(Some(&behind), PAGE).await?.items.len(),
                    "feed of all" => tx.feed().jobs(&all, Some(&at), PAGE).await?.items.len(),
                    "feed of one VM" => tx.feed().jobs(&FeedSearch { context: Some(&context(vm)), ..all }, None, PAGE).await?.items.len(),
                    "failed jobs" => tx.feed().jobs(&of(JobStatus::Failed), Some(&at), PAGE).await?.items.len(),
                    "completed jobs" => tx.feed().jobs(&of(JobStatus::Completed), Some(&at), PAGE).await?.items.len(),
                    _ => tx.feed().jobs(&FeedSearch { active: true, ..all }, None, PAGE).await?.items.len(),
                })
            }
        })
        .await
}
