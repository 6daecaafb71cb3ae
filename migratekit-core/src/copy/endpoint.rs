//! Where one end of a copy is, as people write it: a path, or the address of an NBD export.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::nbd::Uri;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A raw file, a block device, or (as a source) a disk image.
    Path(PathBuf),
    /// An NBD export.
    Nbd(Uri),
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |kind, message: &'static str| Err(Error::new(kind, "read an address", message).with("address", text));
        match text.split_once("://") {
            _ if text.is_empty() => refuse(ErrorKind::InvalidInput, "it is empty"),
            _ if Uri::looks_like(text) => Ok(Endpoint::Nbd(text.parse()?)),
            Some(("ssh", _)) => {
                refuse(ErrorKind::Unsupported, "tunnels are not part of this version; forward the port with ssh and use nbd://")
            }
            Some((scheme, _)) if !scheme.contains('/') => {
                refuse(ErrorKind::InvalidInput, "unknown kind of address; nbd://, nbd+unix://, nbds://, nbds+unix:// and paths are known")
            }
            _ => Ok(Endpoint::Path(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Path(path) => path.display().fmt(f),
            Endpoint::Nbd(uri) => uri.fmt(f),
        }
    }
}
