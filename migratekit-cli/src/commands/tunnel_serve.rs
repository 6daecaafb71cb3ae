//! `migratekit tunnel serve`: the OMA's side of the tunnel, with exports served inside the process. Who may come in is said by the catalog,
//! and then VMAs enroll at the same port; or by a file of keys, and then nobody enrolls.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use migratekit_core::copy::{Assignments, TunnelExports};
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::tunnels::{AuthorizedKeys, NBD_PORT, PrivateKey, Server, ServerOptions};
use migratekit_core::vmas::{ConnectionSettings, Connections, RefusalSettings, Refusals, Vmas};
use migratekit_core::{Error, ErrorKind, Result};
use migratekit_server::{Certificate, EnrollmentService};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;

use crate::args::{Global, TunnelServeArgs};
use crate::commands::exports::{self, Keep};
use crate::commands::tunnel_permits;
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: TunnelServeArgs, cancel: CancellationToken) -> Result<()> {
    // First: a second one must not touch the catalog's rows of the one that serves.
    let fail = |e| Error::from_io("listen", e).with("address", &args.listen);
    let listener = TcpListener::bind(&args.listen).await.map_err(fail)?;
    let mut serving = Serving::new(global, &args, &cancel).await?;
    serving.options.compression = args.compression.into();
    let exporting = nbd::Server::new(ServerConfig::default());
    let mut served = Vec::new();
    let mut owners = Assignments::new();
    if let Some(catalog) = &serving.catalog {
        owners = owners.observed(catalog.refusals.foreign());
    }
    for export in &args.exports {
        let (name, path) = exports::name_and_path(export)?;
        let (name, vma) = owner(name, &serving.known)?;
        if !serving.known.contains(vma) && !global.quiet {
            eprintln!("{name}: no key of {vma} may come in yet");
        }
        let keep = if args.read_only { Keep::ReadOnly } else { Keep::Ledger };
        served.extend(exports::add(global, &exporting, name, path, keep).await?);
        owners.assign(vma, name);
    }
    let streams = TunnelExports::new(exporting.clone(), Arc::new(owners));
    let server = Server::new(tunnel_permits::apply(serving.options.serve(NBD_PORT, Arc::new(streams)), &args)?);
    let address = listener.local_addr().map_err(fail)?;
    output::line(&format!("listening on {address} fingerprint {}", server.fingerprint()))?;
    let mut watching = Scope::child_of(&cancel);
    let stop = watching.token().clone();
    if args.end_with_stdin {
        watching.spawn(leash()?.watch(stop.clone()));
    }
    let end = match serving.catalog {
        None => server.serve(listener, stop).await,
        Some(Catalog { vmas, connections, refusals }) => {
            let written = CancellationToken::new();
            let serve = async {
                let end = server.serve(listener, stop.clone()).await;
                written.cancel();
                end
            };
            let writers = async { tokio::join!(connections.keep(&server, &written), refusals.keep(&written)) };
            let (end, (), ((), ())) = tokio::join!(serve, vmas.tend(&server, &written), writers);
            end
        }
    };
    exporting.shutdown().await;
    for disk in served {
        disk.close().await?;
    }
    end
}

/// Who the server is, and who comes in.
struct Serving {
    options: ServerOptions,
    /// The VMAs that may come in now, by their names.
    known: BTreeSet<String>,
    /// What the catalog has to do with it, when it says who comes in.
    catalog: Option<Catalog>,
}

/// What is written into the catalog, and done because of what others write there.
struct Catalog {
    vmas: Vmas,
    connections: Connections,
    refusals: Refusals,
}

impl Serving {
    async fn new(global: &Global, args: &TunnelServeArgs, cancel: &CancellationToken) -> Result<Self> {
        let keys = match &args.authorized_keys {
            Some(path) => Some(AuthorizedKeys::at(path).await?),
            None => None,
        };
        let (host_key, made) = PrivateKey::read_or_make(&args.host_key).await?;
        if made && !global.quiet {
            eprintln!("made a host key in {}; clients must know its fingerprint", args.host_key.display());
        }
        if let Some(keys) = keys {
            let known = keys.entries().await?.into_iter().map(|(_, vma)| vma.name).collect();
            return Ok(Serving { options: ServerOptions::new(host_key, Arc::new(keys)), known, catalog: None });
        }
        let tls = args.tls.clone().unwrap_or_else(|| {
            let mut path = args.host_key.clone().into_os_string();
            path.push(".tls");
            PathBuf::from(path)
        });
        let (certificate, _) = Certificate::read_or_make(&tls).await?;
        let vmas = place::open(global, &args.place, cancel).await?.vmas();
        let known = vmas.active().await?.into_iter().map(|vma| vma.enrollment.name).collect();
        let connections = vmas.connections(ConnectionSettings::default()).await?;
        let service = EnrollmentService::new(&certificate, vmas.reception(host_key.clone()))?;
        let mut options = ServerOptions::new(host_key, Arc::new(vmas.keys()));
        options.other = Some(Arc::new(service));
        let refusals = vmas.refusals(RefusalSettings::default());
        let (comings, refused) = (connections.observer(), refusals.observer());
        options.observer = Some(Arc::new(move |event| {
            comings(event);
            refused(event);
        }));
        Ok(Serving { options, known, catalog: Some(Catalog { vmas, connections, refusals }) })
    }
}

/// The name of an export and whose it is, from `NAME[@VMA]`.
fn owner<'a>(name: &'a str, known: &'a BTreeSet<String>) -> Result<(&'a str, &'a str)> {
    if let Some(named) = name.rsplit_once('@') {
        return Ok(named);
    }
    let refuse = |message: &'static str| Err(Error::new(ErrorKind::InvalidInput, "read an export", message).with("export", name));
    let mut known = known.iter();
    match (known.next(), known.next()) {
        (Some(only), None) => Ok((name, only)),
        (None, _) => refuse("no VMA may come in yet: say whose it is, NAME@VMA=PATH"),
        (Some(_), Some(_)) => refuse("several VMAs may come in: say whose it is, NAME@VMA=PATH"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_without_an_owner_is_that_of_the_only_vma() {
        let known = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(owner("disk", &known(&["site one"])).unwrap(), ("disk", "site one"));
        for several in [&[][..], &["a", "b"]] {
            assert_eq!(owner("disk", &known(several)).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(owner("disk@b", &known(&["a", "b"])).unwrap(), ("disk", "b"));
        assert_eq!(owner("a@b@site one", &known(&["x"])).unwrap(), ("a@b", "site one"));
    }
}
