//! A job followed to its end: a line for each event, or a bar; the same for a job of this process and of another.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use migratekit_core::engine::{Engine, JobDetail};
use migratekit_core::id::JobId;
use migratekit_core::model::Event;
use migratekit_core::model::messages::step_words;
use migratekit_core::{Error, ErrorKind, Result};

use crate::args::{Global, Output};
use crate::ending::Ending;
use crate::output;
use crate::table::when;

/// How a job is shown while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// A line on stdout for each event.
    Lines,
    /// A bar on a terminal's stderr.
    Bar,
}

/// Follows a job until it rests. When the program is asked to end meanwhile: Ctrl-C cancels the job and its undo is waited for, or its end
/// where it can only be finished; another signal ends the following (who runs the job then stops its runner, which lays the job down).
pub(crate) async fn to_the_end(global: &Global, engine: &Engine, job: &JobId, how: Follow, ending: &Ending) -> Result<JobDetail> {
    let jobs = engine.jobs();
    let mut events = jobs.follow(job).await?;
    let shown = Shown::begin(global, how);
    let mut cancelled = false;
    loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(event) => shown.event(&event)?,
                None => break,
            },
            () = ending.token().cancelled(), if !cancelled => {
                if !ending.interrupted() {
                    break;
                }
                cancelled = true;
                cancel(global, engine, job).await?;
            }
        }
    }
    drop(shown);
    jobs.detail(job).await
}

/// Asks a job to end. One that is behind its point of return goes on, and that is said.
async fn cancel(global: &Global, engine: &Engine, job: &JobId) -> Result<()> {
    match engine.jobs().cancel(job).await {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            if !global.quiet {
                eprintln!("{}; interrupt once more to leave, `migratekit replicate resume VM` then goes on with it", error.message());
            }
            Ok(())
        }
        asked => asked.map(|_| ()),
    }
}

/// Follows a job, whoever runs it; when the program is asked to end the following ends, and the job does not.
pub(crate) async fn watch(global: &Global, engine: &Engine, job: &JobId, ending: &Ending) -> Result<JobDetail> {
    let mut events = engine.jobs().follow(job).await?;
    let shown = Shown::begin(global, Follow::Lines);
    loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(event) => shown.event(&event)?,
                None => return engine.jobs().detail(job).await,
            },
            () = ending.token().cancelled() => {
                let text = "the following was ended, the job was not";
                return Err(Error::new(ErrorKind::Cancelled, "follow a job", text).with("job", job));
            }
        }
    }
}

/// What is shown while a job runs.
struct Shown<'a> {
    global: &'a Global,
    how: Follow,
    bar: Option<ProgressBar>,
}

impl<'a> Shown<'a> {
    fn begin(global: &'a Global, how: Follow) -> Self {
        let wanted = how == Follow::Bar && !global.quiet && std::io::stderr().is_terminal();
        let bar = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent}%") {
                bar.set_style(style);
            }
            bar
        });
        Shown { global, how, bar }
    }

    fn event(&self, event: &Event) -> Result<()> {
        match (self.how, self.global.output) {
            (Follow::Lines, Output::Json) => output::json_line(event),
            (Follow::Lines, Output::Table) => match event.words() {
                Some(text) => output::line(&format!("{}  {text}", when(event.at))),
                None => Ok(()),
            },
            (Follow::Bar, _) => {
                self.advance(event);
                Ok(())
            }
        }
    }

    fn advance(&self, event: &Event) {
        let Some(bar) = &self.bar else { return };
        if let Some(percent) = event.data.get("percent").and_then(serde_json::Value::as_u64) {
            bar.set_position(percent);
        }
        if let Some(step) = event.data.get("step").and_then(serde_json::Value::as_str) {
            bar.set_message(step_words(step).friendly);
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
