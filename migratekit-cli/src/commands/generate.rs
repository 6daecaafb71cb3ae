//! `migratekit completions` and `migratekit man`: what is generated from the grammar.

use std::path::Path;

use clap::CommandFactory;
use migratekit_core::{Error, Result};

use crate::args::{self, Cli};

/// Shell completions on stdout.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "migratekit", &mut text);
    crate::output::line(String::from_utf8_lossy(&text).trim_end())
}

/// One manual page for each verb, in `dir`.
pub(crate) fn man(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::from_io("make the folder for manual pages", e).with("path", dir.display()))?;
    clap_mangen::generate_to(args::grammar(), dir).map_err(|e| Error::from_io("write manual pages", e).with("path", dir.display()))
}
