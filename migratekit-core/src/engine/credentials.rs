//! Saved credentials: sealed before they are stored, shown without their secrets, opened for the one who uses them.
//!
//! Names are unique over all kinds, so that one name means one thing on a command line. A secret is sealed for its very row, in the
//! transaction that writes the row and checks that the catalog's key is the one it is sealed with; a rotation in another process is
//! met by reading the keys again and sealing again, once.

use std::path::{Path, PathBuf};

use super::Engine;
use super::credential::{
    Credential, CredentialChange, NewCredential, Tested, check_host, check_name, check_secret, check_text, check_url,
};
use super::key::{self, Sealer};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CloudConfigId, CredentialId, SiteId};
use crate::model::{CloudConfig, LocalSite, VmwareCredential};
use crate::platform::local;
use crate::store::Tx;

/// The credentials of an engine's catalog.
#[derive(Debug, Clone)]
pub struct Credentials {
    engine: Engine,
}

/// A saved row of whichever kind.
enum Row {
    Vmware(VmwareCredential),
    Cloudstack(CloudConfig),
    Local(LocalSite),
}

impl Row {
    fn kind(&self) -> &'static str {
        match self {
            Row::Vmware(_) => "vmware",
            Row::Cloudstack(_) => "cloudstack",
            Row::Local(_) => "local",
        }
    }
}

impl From<Row> for Credential {
    fn from(row: Row) -> Self {
        match row {
            Row::Vmware(row) => row.into(),
            Row::Cloudstack(row) => row.into(),
            Row::Local(row) => row.into(),
        }
    }
}
