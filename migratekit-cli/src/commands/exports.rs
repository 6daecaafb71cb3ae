//! Files and devices named on the command line, as exports of a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use migratekit_core::block::{FileDisk, OpenOptions};
use migratekit_core::copy::{LedgerPlace, ServedDisk};
use migratekit_core::nbd::Server;
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::{Error, ErrorKind, Result};

use crate::args::Global;

/// What is kept of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Its ledger.
    Ledger,
    /// Nothing; it is written without.
    NoLedger,
    /// Nothing; it is not written.
    ReadOnly,
}

/// Reads `NAME=PATH`.
pub(crate) fn name_and_path(export: &str) -> Result<(&str, &Path)> {
    let (name, path) = export
        .split_once('=')
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "read an export", "write it as NAME=PATH").with("export", export))?;
    Ok((name, Path::new(path)))
}

/// Adds what lies at `path` to `server`. What it gives is to be closed at the end.
pub(crate) async fn add(global: &Global, server: &Server, name: &str, path: &Path, keep: Keep) -> Result<Option<ServedDisk>> {
    let served = match keep {
        Keep::NoLedger => {
            let disk = FileDisk::open(path, OpenOptions::default()).await?;
            server.add(name, Arc::new(PlainExport::new(Arc::new(disk), path.display().to_string())))?;
            return Ok(None);
        }
        Keep::ReadOnly => ServedDisk::read_only(path).await?,
        Keep::Ledger => ServedDisk::writable(path, &ledger_place(path)?).await?,
    };
    if let Some(why) = served.void_ledger()
        && !global.quiet
    {
        eprintln!("{name}: the ledger found beside {} is not believed ({why}); nothing of the volume is known", path.display());
    }
    server.add(name, served.export())?;
    Ok(Some(served))
}

/// Beside a file; for a device in the state folder (`$XDG_STATE_HOME/migratekit/ledgers`).
fn ledger_place(path: &Path) -> Result<LedgerPlace> {
    use std::os::unix::fs::FileTypeExt;
    let is_device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    if !is_device {
        return Ok(LedgerPlace::Beside);
    }
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"));
    let folder = state.join("migratekit/ledgers");
    std::fs::create_dir_all(&folder).map_err(|e| Error::from_io("make the folder for ledgers", e).with("path", folder.display()))?;
    // A device has many names (its volume group's, its mapper's), and must have one ledger.
    let real = path.canonicalize().map_err(|e| Error::from_io("find the device", e).with("path", path.display()))?;
    let name: String = real.display().to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(LedgerPlace::File(folder.join(name)))
}
