//! `migratekit nbd serve`: files and devices as exports.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use migratekit_core::block::{FileDisk, OpenOptions};
use migratekit_core::copy::{LedgerPlace, ServedDisk};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::{Listener, Server, ServerConfig, tls};
use migratekit_core::task::CancellationToken;
use migratekit_core::{Error, ErrorKind, Result};

use crate::args::{Global, ServeArgs};
use crate::output;

pub(crate) async fn run(global: &Global, args: ServeArgs, cancel: CancellationToken) -> Result<()> {
    let config = ServerConfig {
        tls: args.tls_certs.as_deref().map(tls::server_config).transpose()?,
        require_tls: args.tls_certs.is_some(),
        ..ServerConfig::default()
    };
    let server = Server::new(config);
    let mut served = Vec::new();
    for export in &args.exports {
        let (name, path) = export
            .split_once('=')
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "read an export", "write it as NAME=PATH").with("export", export))?;
        served.extend(add(global, &args, &server, name, Path::new(path)).await?);
    }
    let listener = match (&args.unix, &args.listen) {
        (Some(path), None) => Listener::unix(path)?,
        (None, listen) => Listener::tcp(listen.as_deref().unwrap_or("127.0.0.1:10809")).await?,
        (Some(_), Some(_)) => return Err(Error::new(ErrorKind::InvalidInput, "listen", "give --listen or --unix, not both")),
    };
    output::line(&format!("listening on {}", listener.address()))?;
    let end = server.serve(listener, cancel).await;
    if let Some(path) = &args.unix {
        let _ = std::fs::remove_file(path);
    }
    for disk in served {
        disk.close().await?;
    }
    end
}

async fn add(global: &Global, args: &ServeArgs, server: &Server, name: &str, path: &Path) -> Result<Option<ServedDisk>> {
    if args.no_ledger && !args.read_only {
        let disk = FileDisk::open(path, OpenOptions::default()).await?;
        server.add(name, Arc::new(PlainExport::new(Arc::new(disk), path.display().to_string())))?;
        return Ok(None);
    }
    let served = if args.read_only { ServedDisk::read_only(path).await? } else { ServedDisk::writable(path, &ledger_place(path)?).await? };
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
