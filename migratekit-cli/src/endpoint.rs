//! The ends of a copy as they are typed.

use migratekit_core::copy::{Endpoint, TunnelAccess};
use migratekit_core::tunnels::LoginKey;
use migratekit_core::{Error, Result};

use crate::args::TunnelArgs;

/// Reads two addresses; the way into tunnels is read only when it was named.
pub(crate) async fn both(first: &str, second: &str, tunnel: &TunnelArgs) -> Result<(Endpoint, Endpoint)> {
    let access = match (&tunnel.ssh_key, &tunnel.ssh_host_key) {
        (Some(key), Some(print)) => {
            let host_key = print.parse().map_err(|e: Error| e.with("option", "--ssh-host-key"))?;
            Some(TunnelAccess { key: LoginKey::read(key).await?, host_key, compression: tunnel.compression.into() })
        }
        _ => None,
    };
    let read = |text| Endpoint::parse(text, access.as_ref()).map_err(|e| hint(e, text, access.is_none()));
    Ok((read(first)?, read(second)?))
}

/// Names the options that an address of a tunnel needs.
fn hint(error: Error, text: &str, no_access: bool) -> Error {
    if no_access && text.starts_with("ssh://") { error.with("needs", "--ssh-key and --ssh-host-key") } else { error }
}
