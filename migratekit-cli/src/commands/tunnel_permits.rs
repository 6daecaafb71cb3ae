//! What `tunnel serve` permits besides its exports: services of other processes on this host, and ports at which VMAs may listen.

use std::net::SocketAddr;
use std::sync::Arc;

use migratekit_core::block::BoxFuture;
use migratekit_core::tunnels::{KeySource, LocalService, NBD_PORT, PublicKey, ServerOptions, Vma};
use migratekit_core::{Error, ErrorKind, Result};

use crate::args::TunnelServeArgs;

const READ: &str = "read what is permitted";

/// Reads `--permit-open`: a port of the loopback at which another process serves.
fn open(text: &str) -> Result<(u16, LocalService)> {
    let address = loopback(text, "--permit-open")?;
    Ok((address.port(), LocalService(address)))
}

/// The ports at which VMAs may listen.
#[derive(Debug)]
struct Listeners(Vec<(Option<String>, u16)>);

impl Listeners {
    /// Reads `--permit-listen`: `ADDRESS:PORT` is for every VMA that has none of its own, `VMA=ADDRESS:PORT` for that one.
    fn read(texts: &[String]) -> Result<Self> {
        let mut ports: Vec<(Option<String>, u16)> = Vec::new();
        for text in texts {
            let (vma, address) = text.rsplit_once('=').map_or((None, text.as_str()), |(vma, address)| (Some(vma.to_owned()), address));
            let port = loopback(address, "--permit-listen")?.port();
            if ports.iter().any(|(other, taken)| *other == vma || *taken == port) {
                let message = "a VMA has one port, and a port is that of one VMA";
                return Err(Error::new(ErrorKind::InvalidInput, READ, message).with("--permit-listen", text));
            }
            ports.push((vma, port));
        }
        Ok(Listeners(ports))
    }

    /// The port of a VMA that has `own` already, or none.
    fn of(&self, vma: &str, own: Option<u16>) -> Option<u16> {
        let port = |wanted: Option<&str>| self.0.iter().find(|(name, _)| name.as_deref() == wanted).map(|(_, port)| *port);
        port(Some(vma)).or(own).or_else(|| port(None))
    }
}

/// Keys whose VMAs have the ports of [`Listeners`].
struct WithPorts {
    keys: Arc<dyn KeySource>,
    listeners: Listeners,
}

impl KeySource for WithPorts {
    fn holder<'a>(&'a self, key: &'a PublicKey) -> BoxFuture<'a, Result<Option<Vma>>> {
        Box::pin(async move {
            let vma = self.keys.holder(key).await?;
            Ok(vma.map(|vma| Vma { reverse_port: self.listeners.of(&vma.name, vma.reverse_port), ..vma }))
        })
    }
}

/// Permits what the options say.
pub(crate) fn apply(mut options: ServerOptions, args: &TunnelServeArgs) -> Result<ServerOptions> {
    for text in &args.permit_open {
        let (port, service) = open(text)?;
        if port == NBD_PORT && !args.exports.is_empty() {
            let message = "this port is that of the exports, which are served inside this process";
            return Err(Error::new(ErrorKind::InvalidInput, READ, message).with("--permit-open", text));
        }
        options = options.serve(port, Arc::new(service));
    }
    if !args.permit_listen.is_empty() {
        options.sockets = true;
        options.keys = Arc::new(WithPorts { keys: options.keys, listeners: Listeners::read(&args.permit_listen)? });
    }
    Ok(options)
}

fn loopback(text: &str, option: &'static str) -> Result<SocketAddr> {
    let address = text.replace("localhost", "127.0.0.1").parse::<SocketAddr>().ok();
    address.filter(|address| address.ip().is_loopback() && address.port() > 0).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, READ, "write it as 127.0.0.1:PORT: only this host's loopback can be permitted")
            .with(option, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_permitted_and_each_port_once() {
        assert_eq!(open("127.0.0.1:8082").unwrap(), (8082, LocalService("127.0.0.1:8082".parse().unwrap())));
        let read = |texts: &[&str]| Listeners::read(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let ports = read(&["127.0.0.1:9081", "site two=127.0.0.1:9082"]).unwrap();
        assert_eq!((ports.of("site one", None), ports.of("site two", Some(1))), (Some(9081), Some(9082)));
        assert_eq!(ports.of("site three", Some(9099)), Some(9099), "who has one of his own keeps it");
        assert_eq!(read(&["a=127.0.0.1:9082"]).unwrap().of("b", None), None);
        for bad in ["", "9081", "0.0.0.0:9081", "192.0.2.1:22", "127.0.0.1:0", "a=b"] {
            assert_eq!(read(&[bad]).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
            assert_eq!(open(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        for twice in [["a=127.0.0.1:1", "b=127.0.0.1:1"], ["a=127.0.0.1:1", "a=127.0.0.1:2"], ["127.0.0.1:1", "127.0.0.1:2"]] {
            assert_eq!(read(&twice).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
