//! `migratekit replicate`: a VM's replica brought up to date, followed, continued after a crash.
//!
//! On the embedded store the job belongs to this process. Ctrl-C cancels it, and what it made is undone; SIGTERM and SIGHUP lay it down,
//! so that `replicate resume` goes on from there.

use std::time::Duration;

use migratekit_core::Result;
use migratekit_core::engine::{Engine, Page, ReplicationLine, ReplicationReport};
use migratekit_core::id::JobId;
use migratekit_core::model::ReplicationMode;
use migratekit_core::units::ByteSize;

use crate::args::{Global, ReplicateArgs, ReplicateCommand, ReplicateStart};
use crate::commands::vm::with_cursor;
use crate::ending::Ending;
use crate::follow::{self, Follow};
use crate::table::{Table, dash, duration, facts, when, when_or_dash};
use crate::told::{self, Names};
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: ReplicateArgs, ending: Ending) -> Result<()> {
    let engine = place::open(global, &args.place, ending.token()).await?;
    match args.command {
        None => start(global, &engine, args.start, ending).await,
        Some(ReplicateCommand::Resume { vm, watch }) => {
            let running = engine.start().await?;
            let job = engine.replications().resume(&vm).await;
            let end = match job {
                Ok(job) => follow(global, &engine, job.id(), watch, &ending).await,
                Err(error) => Err(error),
            };
            running.stop().await?;
            end
        }
        Some(ReplicateCommand::List { vm, limit, after }) => {
            let page = engine.replications().list(vm.as_deref(), limit, after.as_deref()).await?;
            output::result(global, &page, listed)
        }
        Some(ReplicateCommand::Show { vm }) => {
            output::result(global, &engine.replications().show(&vm).await?, |report| shown(report, global.verbose > 0))
        }
        Some(ReplicateCommand::Cancel { vm }) => {
            let job = engine.replications().cancel(&vm).await?;
            // Nobody may be there who undoes it: then that is done here.
            place::tell(global, &engine, engine.finish(&job.id, ending.token()).await?.as_ref()).await?;
            output::result(global, &engine.jobs().get(&job.id).await?, |job| format!("{} is asked to end: {}", job.id, job.status))
        }
    }
}

async fn start(global: &Global, engine: &Engine, args: ReplicateStart, ending: Ending) -> Result<()> {
    let mode = match (args.full, args.incremental) {
        (true, _) => ReplicationMode::Full,
        (_, true) => ReplicationMode::Incremental,
        _ => ReplicationMode::Auto,
    };
    let running = engine.start().await?;
    let end = match engine.replications().start(&args.vm.unwrap_or_default(), mode).await {
        Ok(job) => follow(global, engine, job.id(), args.watch, &ending).await,
        Err(error) => Err(error),
    };
    running.stop().await?;
    end
}

async fn follow(global: &Global, engine: &Engine, job: &JobId, watch: bool, ending: &Ending) -> Result<()> {
    let how = if watch { Follow::Lines } else { Follow::Bar };
    let end = follow::to_the_end(global, engine, job, how, ending).await?;
    let report = engine.replications().report(job).await?;
    if watch && global.output == crate::args::Output::Json {
        output::json_line(&serde_json::json!({ "kind": "report", "report": report }))?;
    } else if !(global.quiet && global.output == crate::args::Output::Table) {
        // What stopped it is said once, at the end.
        output::result(global, &report, |report| shown(&ReplicationReport { message: None, ..report.clone() }, false))?;
    }
    told::verdict(&end)
}

fn listed(page: &Page<ReplicationLine>) -> String {
    let mut table = Table::new(["VM", "MODE", "STATUS", "WRITTEN", "BEGUN (UTC)", "ENDED (UTC)", "POINT", "JOB"]);
    for line in &page.items {
        table.row([
            line.vm_name.clone(),
            line.mode.to_string(),
            line.status.to_string(),
            ByteSize(line.bytes_transferred).to_string(),
            when(line.created_at),
            when_or_dash(line.completed_at),
            line.point.as_ref().map_or_else(dash, ToString::to_string),
            line.job.to_string(),
        ]);
    }
    with_cursor(table.text("no replications yet: `migratekit replicate VM` begins one"), page.next.as_deref())
}

fn shown(report: &ReplicationReport, verbose: bool) -> String {
    let written = format!("{} of {}, zeros included", ByteSize(report.bytes_transferred), ByteSize(report.capacity_bytes));
    let mut head = vec![
        ("vm", Some(report.vm_name.clone())),
        ("mode", Some(report.mode.to_string())),
        ("status", Some(format!("{} {}", report.status, report.percent))),
        ("written", Some(written)),
        ("took", report.seconds.map(|seconds| duration(Duration::from_secs_f64(seconds)))),
        ("point", report.point.as_ref().map(|point| format!("{} of {}, {}", point.id, when(point.taken_at), point.status))),
        ("job", Some(report.job.to_string())),
    ];
    head.extend(Names::of(&report.job, Some(&report.vm_name), Some(&report.context)).facts(report.message.as_ref()));
    if verbose {
        head.push(("technical", report.technical.clone()));
    }
    let head = facts(head);
    if report.disks.is_empty() {
        return head;
    }
    let mut table = Table::new(["DISK", "HOW", "WRITTEN", "CHANGE ID"]);
    for disk in &report.disks {
        let change_id = disk.change_id.clone().unwrap_or_else(dash);
        table.row([disk.key.to_string(), disk.sync.to_string(), ByteSize(disk.bytes_transferred).to_string(), change_id]);
    }
    format!("{head}\n\n{}", table.text(""))
}
