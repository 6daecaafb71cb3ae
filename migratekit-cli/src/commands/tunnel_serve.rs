//! `migratekit tunnel serve`: the OMA's side of the tunnel, with exports served inside the process. Who may come in is said by the catalog,
//! and then VMAs enroll at the same port; or by a file of keys, and then nobody enrolls.

use std::path::PathBuf;
use std::sync::Arc;

use migratekit_core::copy::TunnelExports;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::task::CancellationToken;
use migratekit_core::tunnels::{AuthorizedKeys, NBD_PORT, PrivateKey, Server, ServerOptions};
use migratekit_core::vmas::Vmas;
use migratekit_core::{Error, Result};
use migratekit_server::{Certificate, EnrollmentService};
use tokio::net::TcpListener;

use crate::args::{Global, TunnelServeArgs};
use crate::commands::exports::{self, Keep};
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: TunnelServeArgs, cancel: CancellationToken) -> Result<()> {
    let (options, vmas) = options(global, &args, &cancel).await?;
    let exporting = nbd::Server::new(ServerConfig::default());
    let mut served = Vec::new();
    for export in &args.exports {
        let keep = if args.read_only { Keep::ReadOnly } else { Keep::Ledger };
        served.extend(exports::add(global, &exporting, export, keep).await?);
    }
    let server = Server::new(options.serve(NBD_PORT, Arc::new(TunnelExports::new(exporting.clone()))));
    let fail = |e| Error::from_io("listen", e).with("address", &args.listen);
    let listener = TcpListener::bind(&args.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    output::line(&format!("listening on {address} fingerprint {}", server.fingerprint()))?;
    let tending = async {
        if let Some(vmas) = vmas {
            vmas.tend(&server, &cancel).await;
        }
    };
    let (end, ()) = tokio::join!(server.serve(listener, cancel.clone()), tending);
    exporting.shutdown().await;
    for disk in served {
        disk.close().await?;
    }
    end
}

/// Who the server is and who comes in; the VMAs of the catalog, when it says that.
async fn options(global: &Global, args: &TunnelServeArgs, cancel: &CancellationToken) -> Result<(ServerOptions, Option<Vmas>)> {
    let keys = match &args.authorized_keys {
        Some(path) => Some(AuthorizedKeys::at(path).await?),
        None => None,
    };
    let (host_key, made) = PrivateKey::read_or_make(&args.host_key).await?;
    if made && !global.quiet {
        eprintln!("made a host key in {}; clients must know its fingerprint", args.host_key.display());
    }
    if let Some(keys) = keys {
        return Ok((ServerOptions::new(host_key, Arc::new(keys)), None));
    }
    let tls = args.tls.clone().unwrap_or_else(|| {
        let mut path = args.host_key.clone().into_os_string();
        path.push(".tls");
        PathBuf::from(path)
    });
    let (certificate, _) = Certificate::read_or_make(&tls).await?;
    let engine = place::open(global, &args.place, cancel).await?;
    let vmas = engine.vmas();
    let service = EnrollmentService::new(&certificate, vmas.reception(host_key.clone()))?;
    let mut options = ServerOptions::new(host_key, Arc::new(vmas.keys()));
    options.other = Some(Arc::new(service));
    Ok((options, Some(vmas)))
}
