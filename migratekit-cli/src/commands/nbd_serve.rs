//! `migratekit nbd serve`: files and devices as exports.

use migratekit_core::nbd::{Listener, Server, ServerConfig, tls};
use migratekit_core::task::CancellationToken;
use migratekit_core::{Error, ErrorKind, Result};

use crate::args::{Global, ServeArgs};
use crate::commands::exports::{self, Keep};
use crate::output;

pub(crate) async fn run(global: &Global, args: ServeArgs, cancel: CancellationToken) -> Result<()> {
    let config = ServerConfig {
        tls: args.tls_certs.as_deref().map(tls::server_config).transpose()?,
        require_tls: args.tls_certs.is_some(),
        ..ServerConfig::default()
    };
    let server = Server::new(config);
    let mut served = Vec::new();
    for export in &args.exports {
        let keep = if args.read_only {
            Keep::ReadOnly
        } else if args.no_ledger {
            Keep::NoLedger
        } else {
            Keep::Ledger
        };
        let (name, path) = exports::name_and_path(export)?;
        served.extend(exports::add(global, &server, name, path, keep).await?);
    }
    let listener = match (&args.unix, &args.listen) {
        (Some(path), None) => Listener::unix(path)?,
        (None, listen) => Listener::tcp(listen.as_deref().unwrap_or("127.0.0.1:10809")).await?,
        (Some(_), Some(_)) => return Err(Error::new(ErrorKind::InvalidInput, "listen", "give --listen or --unix, not both")),
    };
    output::line(&format!("listening on {}", listener.address()))?;
    let end = server.serve(listener, cancel).await;
    if let Some(path) = &args.unix {
        let _ = std::fs::remove_file(path);
    }
    for disk in served {
        disk.close().await?;
    }
    end
}
