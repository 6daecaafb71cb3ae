//! `migratekit doctor`: the check of this host, of the catalog and its key.

use migratekit_cli::doctor::{self, Check, Report, Status};
use migratekit_core::credentials::KeyPlace;
use migratekit_core::engine::{Diagnosis, Health, diagnose};
use migratekit_core::{Result, task};

use crate::args::{DoctorArgs, Global};
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: DoctorArgs) -> Result<()> {
    let host = task::blocking(doctor::examine).await?;
    let key = KeyPlace::find(args.place.key_file.as_deref());
    let catalog = match (place::url(&args.place), key) {
        (Ok(url), Ok(key)) => diagnose(&url, place::options(&args.place), key).await.into_iter().map(check).collect(),
        (Err(error), _) => vec![unknown("catalog", &error)],
        (_, Err(error)) => vec![unknown("key", &error)],
    };
    let report = Report::of(host.checks.into_iter().chain(catalog).collect());
    output::result(global, &report, Report::table)?;
    report.verdict()
}

/// What a diagnosis means for a host: a catalog that is not there yet is as it should be.
fn check(found: Diagnosis) -> Check {
    let (status, mend) = match (found.health, found.what) {
        (Health::Good | Health::Absent, _) => (Status::Ok, None),
        (Health::Bad, "key") => (Status::Warning, Some("verbs on the catalog need the right key: give its file by --key-file")),
        (Health::Bad, _) => (Status::Warning, Some("verbs on the catalog need it: name another by --store, or mend what is said")),
    };
    Check { name: found.what.to_owned(), status, found: found.found, mend: mend.map(str::to_owned) }
}

fn unknown(what: &str, error: &migratekit_core::Error) -> Check {
    let mend = "name it by --store or --key-file, or set XDG_DATA_HOME";
    Check { name: what.to_owned(), status: Status::Warning, found: error.to_string(), mend: Some(mend.to_owned()) }
}
