//! Where one end of a copy is, as people write it: a path, or the address of an NBD export, which may be behind a tunnel.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::tunnelled::{Remote, TunnelAccess, TunnelledExport};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::Uri;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A raw file, a block device, or (as a source) a disk image.
    Path(PathBuf),
    /// An NBD export.
    Nbd(Uri),
    /// An NBD export behind a tunnel.
    Tunnel(TunnelledExport),
}

impl Endpoint {
    /// Reads an address as [`FromStr`] does, and one of a tunnel (`ssh://`), into which one comes by `access`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] with the cause.
    pub fn parse(text: &str, access: Option<&TunnelAccess>) -> Result<Self> {
        match access {
            Some(access) if text.starts_with("ssh://") => Ok(Endpoint::Tunnel(TunnelledExport::parse(text, access)?)),
            _ => text.parse(),
        }
    }

    /// What it is, whatever way leads there.
    pub(crate) fn place(&self) -> Place<'_> {
        match self {
            Endpoint::Path(path) => Place::Path(path),
            Endpoint::Nbd(uri) => Place::Export(Remote { uri, tunnel: None }),
            Endpoint::Tunnel(export) => Place::Export(Remote { uri: export.uri(), tunnel: Some(export) }),
        }
    }
}

/// What an endpoint is.
pub(crate) enum Place<'a> {
    /// A file or device of this host.
    Path(&'a Path),
    /// An export.
    Export(Remote<'a>),
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |kind, message: &'static str| Err(Error::new(kind, "read an address", message).with("address", text));
        match text.split_once("://") {
            _ if text.is_empty() => refuse(ErrorKind::InvalidInput, "it is empty"),
            _ if Uri::looks_like(text) => Ok(Endpoint::Nbd(text.parse()?)),
            Some(("ssh", place)) => {
                // Without what stands before the host: somebody may have written a password there.
                let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
                let text = "a tunnel is entered by a key, and its server's key must be known";
                Err(Error::new(ErrorKind::InvalidInput, "read an address", text).with("address", format!("ssh://{place}")))
            }
            Some((scheme, _)) if !scheme.contains('/') => refuse(
                ErrorKind::InvalidInput,
                "unknown kind of address; nbd://, nbd+unix://, nbds://, nbds+unix://, ssh:// and paths are known",
            ),
            _ => Ok(Endpoint::Path(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Path(path) => path.display().fmt(f),
            Endpoint::Nbd(uri) => uri.fmt(f),
            Endpoint::Tunnel(export) => export.fmt(f),
        }
    }
}
