//! `migratekit key`: the key that secrets are sealed with. It is never printed.

use std::path::PathBuf;

use migratekit_core::credentials::{KEY_VARIABLE, KeyFile, default_key_file};
use migratekit_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::args::{Global, KeyPlaceArgs};
use crate::output;

/// A key file, as it is printed.
#[derive(Serialize)]
struct Report {
    path: PathBuf,
    fingerprint: String,
}

/// Makes the key file.
pub(crate) async fn generate(global: &Global, args: KeyPlaceArgs) -> Result<()> {
    if std::env::var_os(KEY_VARIABLE).is_some() {
        let text = "the environment holds a key already, which wins over any file; unset the variable first";
        return Err(Error::new(ErrorKind::AlreadyExists, "make the key file", text).with("variable", KEY_VARIABLE));
    }
    let file = KeyFile::at(args.key_file.map_or_else(default_key_file, Ok)?);
    let keys = file.make().await?;
    let report = Report { path: file.path().to_owned(), fingerprint: keys.current().fingerprint().to_string() };
    output::result(global, &report, |r| format!("{}\nfingerprint {}", r.path.display(), r.fingerprint))?;
    if !global.quiet {
        eprintln!("keep a copy of this file in a safe place: without it no sealed secret can be opened");
    }
    Ok(())
}
