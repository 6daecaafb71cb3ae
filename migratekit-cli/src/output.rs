//! Printing: data on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use migratekit_core::copy::Progress;
use migratekit_core::units::ByteSize;
use migratekit_core::{Error, Result};
use serde::Serialize;

use crate::args::{Global, Output};

/// How often a plain progress line is printed where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Prints a result: a JSON document, or what `table` makes of it.
pub(crate) fn result<T: Serialize>(global: &Global, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
    let text = match global.output {
        Output::Json => json(value)?,
        Output::Table => table(value),
    };
    line(&text)
}

/// A value as JSON text.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(migratekit_core::ErrorKind::Internal, "print JSON", "a value cannot be written").with_source(e))
}

/// A value as one line of JSON, for streams.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|e| Error::new(migratekit_core::ErrorKind::Internal, "print JSON", "a value cannot be written").with_source(e))?;
    line(&text)
}

/// A line on stdout. A reader that has seen enough and closed the pipe (`head`) is no failure of ours.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::from_io("print", e)),
        _ => Ok(()),
    }
}

/// Shows progress on stderr until the returned guard is dropped: a bar on a terminal, a line now and then elsewhere.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Bar {
    pub(crate) fn start(global: &Global, progress: Arc<Progress>, what: &str) -> Self {
        if global.quiet {
            return Bar { bar: None, task: None };
        }
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(progress.snapshot().bytes_total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}") {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar
        });
        let (shown, what) = (bar.clone(), what.to_owned());
        let task = tokio::spawn(async move {
            let interval = if shown.is_some() { Duration::from_millis(100) } else { PLAIN_INTERVAL };
            loop {
                tokio::time::sleep(interval).await;
                let now = progress.snapshot();
                match &shown {
                    Some(bar) => {
                        bar.set_length(now.bytes_total);
                        bar.set_position(now.bytes_done);
                    }
                    None => eprintln!("{what}: {} of {}", ByteSize(now.bytes_done), ByteSize(now.bytes_total)),
                }
            }
        });
        Bar { bar, task: Some(task) }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
