//! `migratekit tunnel serve`: the OMA's side of the tunnel, with exports served inside the process.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use migratekit_core::copy::TunnelExports;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::tunnels::{AuthorizedKeys, NBD_PORT, PrivateKey, Server, ServerOptions};
use migratekit_core::{Error, ErrorKind, Result};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;

use crate::args::{Global, TunnelServeArgs};
use crate::commands::exports::{self, Keep};
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
    let server = Server::new(options);
    let fail = |e| Error::from_io("listen", e).with("address", &args.listen);
    let listener = TcpListener::bind(&args.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    output::line(&format!("listening on {address} fingerprint {}", server.fingerprint()))?;
    let mut watching = Scope::child_of(&cancel);
    let end = watching.token().clone();
    if args.end_with_stdin {
        watching.spawn(leash()?.watch(end.clone()));
    }
    let end = server.serve(listener, end).await;
    exporting.shutdown().await;
    for disk in served {
        disk.close().await?;
    }
    end
}

/// Standard input, which somebody holds open as long as this process is to live.
struct Leash(pipe::Receiver);

/// Takes standard input as a leash.
fn leash() -> Result<Leash> {
    let fail = |e| Error::from_io("watch standard input", e);
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
    let pipe = pipe::Receiver::from_owned_fd(input);
    pipe.map(Leash)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, "watch standard input", "--end-with-stdin needs a pipe there").with_source(e))
}

impl Leash {
    async fn watch(mut self, end: CancellationToken) {
        let mut space = [0; 256];
        while self.0.read(&mut space).await.is_ok_and(|n| n > 0) {}
        end.cancel();
    }
}
