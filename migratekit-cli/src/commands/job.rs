//! `migratekit job`: whatever runs, looked at, followed, ended.

use migratekit_core::Result;
use migratekit_core::engine::{JobDetail, JobFilter};
use migratekit_core::model::messages::Message;
use migratekit_core::model::{FeedPage, JobLogLine};

use crate::args::{Global, JobArgs, JobCommand, Output};
use crate::commands::vm::with_cursor;
use crate::ending::Ending;
use crate::follow;
use crate::table::{Table, dash, duration, facts, plain, when, when_or_dash};
use crate::told::{self, Names};
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: JobArgs, ending: Ending) -> Result<()> {
    let engine = place::open(global, &args.place, ending.token()).await?;
    let jobs = engine.jobs();
    match args.command {
        JobCommand::List { vm, active, status, limit, after } => {
            let filter = JobFilter { vm, active, status };
            output::result(global, &jobs.feed(&filter, limit, after.as_deref()).await?, listed)
        }
        JobCommand::Show { job } => output::result(global, &jobs.detail(&job).await?, |detail| shown(detail, global.verbose > 0)),
        JobCommand::Watch { job } => {
            let end = follow::watch(global, &engine, &job, &ending).await?;
            told::verdict(&end)
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

fn listed(page: &FeedPage) -> String {
    let mut table = Table::new(["JOB", "WHAT", "STATUS", "DONE", "BEGUN (UTC)", "ENDED (UTC)", "NOW, OR WHY IT STOPPED"]);
    for item in &page.items {
        table.row([
            item.job_id.to_string(),
            item.display_name.clone(),
            item.status.to_string(),
            item.progress.to_string(),
            when(item.created_at),
            when_or_dash(item.completed_at),
            item.current_step.clone().or_else(|| item.error_message.clone()).unwrap_or_default(),
        ]);
    }
    with_cursor(table.text("no such jobs"), page.next.as_ref().map(ToString::to_string).as_deref())
}

/// A job for people; the technical text for who asked for it.
fn shown(detail: &JobDetail, verbose: bool) -> String {
    let (item, job) = (&detail.job, &detail.technical.job);
    let mut head = vec![
        ("job", Some(item.job_id.to_string())),
        ("what", Some(item.display_name.clone())),
        ("status", Some(format!("{} {}", item.status, item.progress))),
        ("now", item.current_step.clone()),
        ("begun", Some(when(item.created_at))),
        ("ended", item.completed_at.map(when)),
        ("took", item.started_at.zip(item.completed_at).map(|(from, to)| duration(to.since(from)))),
    ];
    let names = Names::of(&item.job_id, item.vm_name.as_deref(), item.context_id.as_ref());
    head.extend(names.facts(Message::of(job).as_ref()));
    if verbose {
        head.push(("failed in", job.failed_step.clone()));
        head.push(("technical", job.error_message.clone()));
    }
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
    format!("{}\n\n{}", facts(head), table.text(""))
}

fn logged(lines: &[JobLogLine]) -> String {
    let line = |line: &JobLogLine| {
        let phase = line.phase.as_ref().map(|phase| format!("[{phase}] ")).unwrap_or_default();
        format!("{}  {:<5} {phase}{}", when(line.created_at), line.level, plain(&line.message))
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
