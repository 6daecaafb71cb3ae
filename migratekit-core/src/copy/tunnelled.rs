//! NBD through the tunnel, where both are known: exports served to the streams of a [`tunnels::Server`], and an export behind one as
//! an end of a copy. No socket lies between the channel and NBD.

use std::fmt;
use std::sync::Arc;

use super::assignments::{ExportOwners, VmaView};
use crate::block::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::client::{Dial, Dialer};
use crate::nbd::server::Visitor;
use crate::nbd::stream::ByteStream;
use crate::nbd::{Client, ConnectOptions, Uri};
use crate::task::CancellationToken;
use crate::tunnels::{self, NBD_PORT, Peer, StreamHandler, TunnelStream};
use crate::{nbd, nbd::stream};

/// The exports of an NBD server, for the streams of a tunnel: to each VMA those that are its own. Another's is to it as one that does
/// not exist, in LIST too, and asking for it is told to [`ExportOwners::foreign`].
#[derive(Clone)]
pub struct TunnelExports {
    server: nbd::Server,
    owners: Arc<dyn ExportOwners>,
}

impl TunnelExports {
    /// The exports of `server`, to the VMAs that `owners` says.
    #[must_use]
    pub fn new(server: nbd::Server, owners: Arc<dyn ExportOwners>) -> Self {
        TunnelExports { server, owners }
    }

    /// Closes who uses an export that is not its own any more, and returns when its last requests have ended. To be called when an
    /// assignment has ended.
    pub async fn review(&self) {
        self.server.review().await;
    }
}

impl StreamHandler for TunnelExports {
    fn serve(&self, stream: TunnelStream, peer: Peer, end: CancellationToken) -> BoxFuture<'static, ()> {
        let server = self.server.clone();
        let view = VmaView { owners: Arc::clone(&self.owners), peer: peer.clone() };
        let visitor = Visitor::from(peer.to_string()).seeing(Arc::new(view)).until(end);
        Box::pin(async move {
            // When the connection ends nothing more is taken from what had arrived, and what was begun is waited for.
            if let Err(error) = server.handle(halves(stream), visitor).await {
                tracing::info!(%error, %peer, "a stream of the tunnel ended");
            }
        })
    }
}

fn halves(stream: TunnelStream) -> Box<dyn ByteStream> {
    let (read, write) = stream.split();
    let halves: (stream::ReadHalf, stream::WriteHalf) = (Box::new(read), Box::new(write));
    Box::new(halves)
}

/// One connection of the tunnel for each connection of NBD.
struct Bulk(tunnels::Client);

impl Dial for Bulk {
    fn dial(&self) -> BoxFuture<'_, Result<Box<dyn ByteStream>>> {
        Box::pin(async move { Ok(halves(self.0.bulk(NBD_PORT).await?)) })
    }
}

/// An export behind a tunnel.
#[derive(Debug, Clone)]
pub struct TunnelledExport {
    tunnel: tunnels::Client,
    /// Names the export; its host and port are those behind the tunnel.
    uri: Uri,
}

impl TunnelledExport {
    /// The export of this name behind `tunnel`.
    #[must_use]
    pub fn new(tunnel: tunnels::Client, export: &str) -> Self {
        TunnelledExport { tunnel, uri: Uri::tcp("127.0.0.1", NBD_PORT, export) }
    }

    /// Reads `ssh://[USER@]HOST[:PORT]/EXPORT`; `access` is how one comes in there.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] with the cause.
    pub fn parse(address: &str, access: &TunnelAccess) -> Result<Self> {
        let refuse = |message: &'static str| Error::new(ErrorKind::InvalidInput, "read an address", message);
        if address.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':')) {
            return Err(refuse("a password has no place in it; one comes in by a key"));
        }
        let wrong = |message| refuse(message).with("address", address);
        let rest = address.strip_prefix("ssh://").ok_or_else(|| wrong("it does not begin with ssh://"))?;
        let (place, _) = rest.split_once('/').ok_or_else(|| wrong("the name of the export is missing"))?;
        let (user, place) = place.rsplit_once('@').map_or((tunnels::USER, place), |(user, place)| (user, place));
        // Host, port and the encoding of the name are read as those of NBD are; only the port that is meant by none differs.
        let with_port = if has_port(place) { place.to_owned() } else { format!("{place}:{SSH_PORT}") };
        let name = rest.split_once('/').map_or("", |(_, name)| name);
        let uri: Uri = format!("nbd://{with_port}/{name}")
            .parse()
            .map_err(|e: Error| wrong("its host, port or export cannot be read").with_source(e))?;
        let nbd::uri::Endpoint::Tcp { host, port } = &uri.endpoint else { return Err(wrong("a Unix socket is not reached by ssh")) };
        let mut options = tunnels::ClientOptions::new(host, *port, access.key.clone(), access.host_key.clone());
        user.clone_into(&mut options.user);
        options.compression = access.compression;
        Ok(TunnelledExport::new(tunnels::Client::new(options), &uri.export))
    }

    /// Opens it, with up to so many connections; each is one of the tunnel too.
    ///
    /// # Errors
    /// Those of [`tunnels::Client::connect`] and of [`Client::connect`].
    pub async fn connect(&self, connections: usize) -> Result<Client> {
        Remote { uri: &self.uri, tunnel: Some(self) }.connect(ConnectOptions { connections, ..ConnectOptions::new(self.uri.clone()) }).await
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(crate) fn dialer(&self) -> Dialer {
        Arc::new(Bulk(self.tunnel.clone()))
    }
}

/// The port that is meant when an address names none.
const SSH_PORT: u16 = 443;

fn has_port(place: &str) -> bool {
    place.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

/// How one comes in at a tunnel's server.
#[derive(Debug, Clone)]
pub struct TunnelAccess {
    /// By this key; one that lies in a file is read again whenever a connection is made.
    pub key: tunnels::LoginKey,
    /// The server's.
    pub host_key: tunnels::Fingerprint,
    /// Whether the disk is compressed on its way.
    pub compression: tunnels::Compression,
}

impl PartialEq for TunnelledExport {
    fn eq(&self, other: &Self) -> bool {
        let place = |e: &Self| {
            let options = e.tunnel.options();
            (options.host.clone(), options.port, options.host_key.clone())
        };
        self.uri == other.uri && place(self) == place(other)
    }
}

impl Eq for TunnelledExport {}

impl fmt::Display for TunnelledExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.tunnel.options();
        // As NBD prints it, with a host in brackets where it must be.
        let uri = Uri::tcp(&options.host, options.port, &self.uri.export).to_string();
        let rest = uri.strip_prefix("nbd://").unwrap_or(&uri);
        write!(f, "ssh://{}@{rest}", options.user)
    }
}

/// An export, and the way to it.
pub(crate) struct Remote<'a> {
    pub(crate) uri: &'a Uri,
    pub(crate) tunnel: Option<&'a TunnelledExport>,
}

impl Remote<'_> {
    /// Opens it by `options`, which are those of `uri`.
    pub(crate) async fn connect(&self, options: ConnectOptions) -> Result<Client> {
        match self.tunnel {
            None => Client::connect(options).await,
            Some(tunnel) => Client::with_dialer(tunnel.dialer(), options).await.map_err(|e| e.with("through", tunnel)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> TunnelAccess {
        let key = tunnels::PrivateKey::generate().unwrap();
        let host_key = key.public().fingerprint();
        TunnelAccess { key: key.into(), host_key, compression: tunnels::Compression::Auto }
    }

    #[test]
    fn addresses_are_read_and_printed() {
        for (text, host, port, user, export) in [
            ("ssh://oma/disk", "oma", 443, "vma_tunnel", "disk"),
            ("ssh://me@oma:2222/a%20b", "oma", 2222, "me", "a b"),
            ("ssh://me@[::1]/disk", "::1", 443, "me", "disk"),
            ("ssh://[::1]:22/v", "::1", 22, "vma_tunnel", "v"),
        ] {
            let read = TunnelledExport::parse(text, &access()).unwrap();
            let options = read.tunnel.options();
            assert_eq!((options.host.as_str(), options.port, options.user.as_str()), (host, port, user), "{text}");
            assert_eq!(read.uri.export, export, "{text}");
            let again = TunnelledExport::parse(&read.to_string(), &TunnelAccess { host_key: options.host_key.clone(), ..access() });
            assert_eq!(again.unwrap(), read, "{read}");
        }
    }

    #[test]
    fn each_bad_address_is_refused_and_a_password_is_not_repeated() {
        for bad in ["ssh://", "ssh://oma", "ssh:///disk", "ssh://oma:0/x", "ssh://oma:99999/x", "ssh://oma/x?y=z", "nbd://oma/x"] {
            let e = TunnelledExport::parse(bad, &access()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{bad}: {e}");
        }
        let e = TunnelledExport::parse("ssh://me:hunter2@oma/x", &access()).unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidInput && !e.to_string().contains("hunter2"), "{e}");
    }
}
