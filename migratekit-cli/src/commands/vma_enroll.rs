//! `migratekit vma enroll`: the VMA's side. What is learned of the OMA is kept beside the key as soon as the OMA has proven who it is.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use migratekit_core::task::{self, CancellationToken};
use migratekit_core::tunnels::PrivateKey;
use migratekit_core::vmas::{Code, Oma};
use migratekit_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::args::{EnrollArgs, Global};
use crate::table::facts;
use crate::{output, secret_input};

/// The port of the tunnel, unless another is named.
const PORT: u16 = 443;

/// What a VMA has to know of its OMA, as it is kept and printed.
#[derive(Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) host: String,
    pub(super) port: u16,
    /// The VMA's name there.
    pub(super) name: String,
    /// The key to pin, as OpenSSH writes it.
    pub(super) host_key: String,
    pub(super) host_key_fingerprint: String,
    pub(super) enrollment: String,
    /// The fingerprint of the VMA's own key.
    pub(super) fingerprint: String,
    pub(super) status: String,
    pub(super) reverse_port: Option<u16>,
}

pub(crate) async fn run(global: &Global, args: EnrollArgs, cancel: &CancellationToken) -> Result<()> {
    let (host, port) = address(&args.to)?;
    let file = args.code_file.clone();
    let code = task::blocking(move || secret_input::read(file.as_deref(), ["pairing code"])).await??;
    let [code] = code;
    let code: Code = code.expose().parse()?;
    let (key, _) = PrivateKey::read_or_make(&args.key).await?;
    let fingerprint = key.public().fingerprint();
    let oma = Oma::at(host.clone(), port);
    let enrolling = oma.enroll(&key, &code, &args.name, env!("CARGO_PKG_VERSION"));
    let pinned = tokio::select! {
        pinned = enrolling => pinned?,
        () = cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "enroll at an OMA", "it was asked to end")),
    };
    let mut known = Known {
        host,
        port,
        name: args.name.clone(),
        host_key: pinned.host_key.to_string(),
        host_key_fingerprint: pinned.host_key.fingerprint().to_string(),
        enrollment: pinned.enrollment.to_string(),
        fingerprint: fingerprint.to_string(),
        status: "awaiting_approval".to_owned(),
        reverse_port: None,
    };
    keep(&args.key, &known).await?;
    forget_rotations(&args.key).await?;
    if !args.no_wait {
        if !global.quiet {
            eprintln!("the OMA proved to know the code; an administrator has to approve this key:\n{fingerprint}");
        }
        known.reverse_port = pinned.approved(cancel).await?;
        "approved".clone_into(&mut known.status);
        keep(&args.key, &known).await?;
    }
    output::result(global, &known, |known| {
        facts([
            ("status", Some(known.status.clone())),
            ("enrollment", Some(known.enrollment.clone())),
            ("key", Some(known.fingerprint.clone())),
            ("host key", Some(known.host_key_fingerprint.clone())),
            ("reverse port", known.reverse_port.map(|port| port.to_string())),
        ])
    })
}

/// What a rotation of an earlier enrollment left beside the key is of no use any more, and would be taken for a rotation of this one.
async fn forget_rotations(key: &Path) -> Result<()> {
    let left = [beside(key, ".new"), beside(key, ".replaced")];
    let removed = task::blocking(move || {
        left.iter().try_for_each(|path| match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::from_io("enroll at an OMA", e).with("path", path.display())),
            _ => Ok(()),
        })
    });
    removed.await?
}

/// What `vma enroll` kept.
pub(super) async fn read_known(path: &Path) -> Result<Known> {
    const READ: &str = "read what is known of the OMA";
    let file = path.to_owned();
    let text =
        task::blocking(move || std::fs::read_to_string(file)).await?.map_err(|e| Error::from_io(READ, e).with("path", path.display()))?;
    let wrong =
        |e| Error::new(ErrorKind::InvalidInput, READ, "it is not what `vma enroll` wrote").with("path", path.display()).with_source(e);
    serde_json::from_str(&text).map_err(wrong)
}

/// The file of this name and more.
pub(super) fn beside(path: &Path, more: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(more);
    PathBuf::from(path)
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`.
fn address(to: &str) -> Result<(String, u16)> {
    let wrong = || Error::new(ErrorKind::InvalidInput, "read the OMA's address", "it is HOST or HOST:PORT").with("address", to);
    let (host, port) = match to.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
        None => to.split_once(':').map_or((to, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| wrong()))?;
    if host.is_empty() { Err(wrong()) } else { Ok((host.to_owned(), port)) }
}

/// Writes what is known beside the key, as a whole or not at all.
pub(super) async fn keep(key: &Path, known: &Known) -> Result<()> {
    let (text, path) = (output::json(known)?, beside(key, ".oma"));
    task::blocking(move || write(&path, &text).map_err(|e| Error::from_io("keep what is known of the OMA", e).with("path", path.display())))
        .await?
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = beside(path, &format!(".{}.new", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_a_port() {
        for (text, host, port) in [("oma", "oma", 443), ("oma:8443", "oma", 8443), ("[::1]", "::1", 443), ("[::1]:8443", "::1", 8443)] {
            assert_eq!(address(text).unwrap(), (host.to_owned(), port), "{text}");
        }
        for bad in ["", ":443", "oma:", "oma:x", "oma:70000", "[::1]x", "[]"] {
            assert_eq!(address(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
