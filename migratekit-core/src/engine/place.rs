//! Where things lie unless somebody says otherwise: the catalog of this user, in `$XDG_DATA_HOME/migratekit`.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::credentials::default_key_file;
use crate::error::{Error, Result};
use crate::task;

/// The name of the embedded catalog's file.
const CATALOG: &str = "catalog.db";

/// The address of this user's embedded catalog: `sqlite://$XDG_DATA_HOME/migratekit/catalog.db`, without that variable below
/// `$HOME/.local/share`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when neither variable holds an absolute path.
pub fn default_store_url() -> Result<String> {
    Ok(format!("sqlite://{}", default_key_file()?.with_file_name(CATALOG).display()))
}

/// As [`default_store_url`], and makes the folder, for its owner alone, when it is missing.
pub async fn make_default_place() -> Result<String> {
    let folder = default_key_file()?.parent().map(PathBuf::from).unwrap_or_default();
    task::blocking(move || {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|e| Error::from_io("make the folder of the catalog", e).with("path", folder.display()))
    })
    .await??;
    default_store_url()
}
