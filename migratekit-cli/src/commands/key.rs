//! `migratekit key`: the key that secrets are sealed with. It is never printed.

use std::path::PathBuf;

use migratekit_core::credentials::{KEY_VARIABLE, KeyFile, default_key_file};
use migratekit_core::engine::Rotated;
use migratekit_core::task::CancellationToken;
use migratekit_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::args::{Global, KeyArgs, KeyCommand, PlaceArgs};
use crate::table::plain;
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: KeyArgs, cancel: &CancellationToken) -> Result<()> {
    match args.command {
        KeyCommand::Generate => generate(global, args.place).await,
        KeyCommand::Rotate { old_key_lost: false } => {
            let engine = place::open(global, &args.place, cancel).await?;
            let done = engine.rotate_key(cancel).await?;
            output::result(global, &done, rotated)?;
            if done.unopened_count > 0 {
                let text = "some secrets could not be opened, so the older key is kept; enter them again, then rotate once more";
                return Err(Error::new(ErrorKind::Sealed, "rotate the key", text).with("secrets", done.unopened_count));
            }
            Ok(())
        }
        KeyCommand::Rotate { old_key_lost: true } => {
            let engine = place::open_with_lost_key(&args.place).await?;
            let report = Replaced { key: engine.vault().fingerprint().to_string(), lost: engine.unreadable_secrets().await? };
            output::result(global, &report, replaced)
        }
    }
}

/// A key file, as it is printed.
#[derive(Serialize)]
struct Made {
    path: PathBuf,
    fingerprint: String,
}

/// Makes the key file.
async fn generate(global: &Global, place: PlaceArgs) -> Result<()> {
    if std::env::var_os(KEY_VARIABLE).is_some() {
        let text = "the environment holds a key already, which wins over any file; unset the variable first";
        return Err(Error::new(ErrorKind::AlreadyExists, "make the key file", text).with("variable", KEY_VARIABLE));
    }
    let file = KeyFile::at(place.key_file.map_or_else(default_key_file, Ok)?);
    let keys = file.make().await?;
    let report = Made { path: file.path().to_owned(), fingerprint: keys.current().fingerprint().to_string() };
    output::result(global, &report, |r| format!("{}\nfingerprint {}", r.path.display(), r.fingerprint))?;
    if !global.quiet {
        eprintln!("keep a copy of this file in a safe place: without it no sealed secret can be opened");
    }
    Ok(())
}

fn rotated(done: &Rotated) -> String {
    let mut lines = vec![format!("key      {}", done.key), format!("moved    {} secrets", done.moved)];
    lines.extend(done.dropped.iter().map(|key| format!("dropped  {key}")));
    lines.extend(done.unopened.iter().map(|secret| format!("left     {}: {}", plain(&secret.place), plain(&secret.why))));
    lines.join("\n")
}

/// A lost key's replacement, as it is printed.
#[derive(Serialize)]
struct Replaced {
    key: String,
    lost: Vec<String>,
}

fn replaced(report: &Replaced) -> String {
    let mut lines = vec![format!("key      {} from now on", report.key)];
    lines.extend(report.lost.iter().map(|place| format!("lost     {}: enter it again with `migratekit credential update`", plain(place))));
    lines.join("\n")
}
