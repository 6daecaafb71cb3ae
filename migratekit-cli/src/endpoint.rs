//! The ends of a copy as they are typed.

use migratekit_core::copy::{Endpoint, TunnelAccess};
use migratekit_core::tunnels::PrivateKey;
use migratekit_core::{Error, Result};

use crate::args::TunnelArgs;

/// Reads two addresses; the way into tunnels is read only when it was named.
pub(crate) async fn both(first: &str, second: &str, tunnel: &TunnelArgs) -> Result<(Endpoint, Endpoint)> {
    let access = match (&tunnel.ssh_key, &tunnel.ssh_host_key) {
        (Some(key), Some(print)) => {
            let host_key = print.parse().map_err(|e: Error| e.with("option", "--ssh-host-key"))?;
            Some(TunnelAccess { key: PrivateKey::read(key).await?, host_key })
        }
        _ => None,
    };
    Ok((Endpoint::parse(first, access.as_ref())?, Endpoint::parse(second, access.as_ref())?))
}
