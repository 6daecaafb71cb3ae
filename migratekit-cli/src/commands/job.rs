//! `migratekit job`: whatever runs, looked at, followed, ended.

use migratekit_core::Result;
use migratekit_core::engine::{JobDetail, JobFilter, JobLine, Page};
use migratekit_core::model::JobLogLine;

use crate::args::{Global, JobArgs, JobCommand, Output};
use crate::commands::vm::with_cursor;
use crate::ending::Ending;
use crate::follow;
use crate::table::{Table, dash, duration, facts, plain, when, when_or_dash};
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: JobArgs, ending: Ending) -> Result<()> {
    let engine = place::open(global, &args.place, ending.token()).await?;
    let jobs = engine.jobs();
    match args.command {
        JobCommand::List { vm, active, status, limit, after } => {
            let filter = JobFilter { vm, active, status };
            output::result(global, &jobs.list(&filter, limit, after.as_deref()).await?, listed)
        }
        JobCommand::Show { job } => output::result(global, &jobs.detail(&job).await?, shown),
        JobCommand::Watch { job } => {
            let end = follow::watch(global, &engine, &job, &ending).await?;
            follow::verdict(&end)
        }
        JobCommand::Cancel { job } => {
            jobs.cancel(&job).await?;
            // Nobody may be there who undoes it: then that is done here.
            place::tell(global, &engine, engine.finish(&job, ending.token()).await?.as_ref()).await?;
            output::result(global, &jobs.get(&job).await?, |job| format!("{} is asked to end: {}", job.id, job.status))
        }
        JobCommand::Log { job, lines } => {
            let log = jobs.log(&job, lines).await?;
            match global.output {
                Output::Json => output::result(global, &log, |_| String::new()),
                Output::Table if log.is_empty() => Ok(()),
                Output::Table => output::line(&logged(&log)),
            }
        }
    }
}

fn listed(page: &Page<JobLine>) -> String {
    let mut table = Table::new(["JOB", "KIND", "VM", "STATUS", "DONE", "BEGUN (UTC)", "ENDED (UTC)", "FAILED STEP"]);
    for line in &page.items {
        table.row([
            line.id.to_string(),
            line.kind.to_string(),
            line.vm_name.clone().unwrap_or_else(dash),
            line.status.to_string(),
            line.percent.to_string(),
            when(line.created_at),
            when_or_dash(line.completed_at),
            line.failed_step.clone().unwrap_or_default(),
        ]);
    }
    with_cursor(table.text("no such jobs"), page.next.as_deref())
}

fn shown(detail: &JobDetail) -> String {
    let job = &detail.job;
    let head = facts([
        ("job", Some(job.id.to_string())),
        ("kind", Some(job.kind.to_string())),
        ("status", Some(format!("{} {}", job.status, job.percent))),
        ("begun", Some(when(job.created_at))),
        ("ended", job.completed_at.map(when)),
        ("took", job.started_at.zip(job.completed_at).map(|(from, to)| duration(to.since(from)))),
        ("error", job.error_message.clone()),
        ("next", job.next_action.clone()),
    ]);
    let mut table = Table::new(["STEP", "STATUS", "TRIES", "BEGUN (UTC)", "TOOK"]);
    for step in &detail.steps {
        table.row([
            step.title.to_owned(),
            step.status.to_string(),
            step.attempt.to_string(),
            when_or_dash(step.started_at),
            step.started_at.zip(step.completed_at).map_or_else(dash, |(from, to)| duration(to.since(from))),
        ]);
    }
    format!("{head}\n\n{}", table.text(""))
}

fn logged(lines: &[JobLogLine]) -> String {
    let line = |line: &JobLogLine| {
        let phase = line.phase.as_ref().map(|phase| format!("[{phase}] ")).unwrap_or_default();
        format!("{}  {:<5} {phase}{}", when(line.created_at), line.level, plain(&line.message))
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}
