//! `migratekit doctor`: the check of this host.

use migratekit_cli::doctor;
use migratekit_core::{Result, task};

use crate::args::Global;
use crate::output;

pub(crate) async fn run(global: &Global) -> Result<()> {
    let report = task::blocking(doctor::examine).await?;
    output::result(global, &report, doctor::Report::table)?;
    report.verdict()
}
