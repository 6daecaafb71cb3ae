//! `migratekit tunnel serve`: the OMA's side of the tunnel, with exports served inside the process.

use std::sync::Arc;

use migratekit_core::copy::TunnelExports;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::task::CancellationToken;
use migratekit_core::tunnels::{AuthorizedKeys, NBD_PORT, PrivateKey, Server, ServerOptions};
use migratekit_core::{Error, Result};
use tokio::net::TcpListener;

use crate::args::{Global, TunnelServeArgs};
use crate::commands::exports::{self, Keep};
use crate::commands::tunnel_permits;
use crate::output;

pub(crate) async fn run(global: &Global, args: TunnelServeArgs, cancel: CancellationToken) -> Result<()> {
    let keys = AuthorizedKeys::at(&args.authorized_keys).await?;
    let (host_key, made) = PrivateKey::read_or_make(&args.host_key).await?;
    if made && !global.quiet {
        eprintln!("made a host key in {}; clients must know its fingerprint", args.host_key.display());
    }
    let exporting = nbd::Server::new(ServerConfig::default());
    let mut served = Vec::new();
    for export in &args.exports {
        let keep = if args.read_only { Keep::ReadOnly } else { Keep::Ledger };
        served.extend(exports::add(global, &exporting, export, keep).await?);
    }
    let options = ServerOptions::new(host_key, Arc::new(keys)).serve(NBD_PORT, Arc::new(TunnelExports::new(exporting.clone())));
    let server = Server::new(tunnel_permits::apply(options, &args)?);
    let fail = |e| Error::from_io("listen", e).with("address", &args.listen);
    let listener = TcpListener::bind(&args.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    output::line(&format!("listening on {address} fingerprint {}", server.fingerprint()))?;
    let end = server.serve(listener, cancel).await;
    exporting.shutdown().await;
    for disk in served {
        disk.close().await?;
    }
    end
}
