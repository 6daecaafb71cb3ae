//! Accepting connections.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::Server;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::stream::ByteStream;
use crate::task::CancellationToken;

/// The pause after a failed accept (too many open files): connections in the queue wait, and the processor rests.
const PAUSE: Duration = Duration::from_millis(100);

/// Where clients come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket; its file is the caller's to remove.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a TCP address, `HOST:PORT`; port 0 is a free one.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn tcp(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|e| Error::from_io("listen", e).with("address", address))?;
        Ok(Listener::Tcp(listener))
    }

    /// Listens on a Unix socket, which is made. One that a server left behind when it was killed is replaced.
    ///
    /// # Errors
    /// `Busy`: a server listens there. `AlreadyExists`: something else lies there. Else as it cannot be made.
    pub fn unix(path: &std::path::Path) -> Result<Self> {
        let fail = |e: Error| e.with("path", path.display());
        let bound = match UnixListener::bind(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                remove_left_behind(path).map_err(fail)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        Ok(Listener::Unix(bound.map_err(|e| fail(Error::from_io("listen", e)))?))
    }

    /// The port, if it is TCP.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok().map(|a| a.port()),
            Listener::Unix(_) => None,
        }
    }

    /// Where it listens, as text: `ADDRESS:PORT` or the path of the socket.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map_or_else(|_| "an unknown address".to_owned(), |a| a.to_string()),
            Listener::Unix(listener) => listener
                .local_addr()
                .ok()
                .and_then(|a| a.as_pathname().map(|p| p.display().to_string()))
                .unwrap_or_else(|| "a socket without a name".to_owned()),
        }
    }

    async fn accept(&self) -> io::Result<(Box<dyn ByteStream>, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A peer that is gone already is found out by the handshake.
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), peer.to_string()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|c| c.pid());
                Ok((Box::new(stream), pid.map_or_else(|| "a local client".to_owned(), |pid| format!("process {pid}"))))
            }
        }
    }
}

impl Server {
    /// Serves whoever connects, until `cancel`; then no more are accepted, what is under way is answered, and the connections of
    /// this listener are closed. Returns when the last of them has ended. Dropped, it stops accepting; connections go on.
    ///
    /// # Errors
    /// None at present: a failed accept is tried again.
    pub async fn serve(&self, listener: Listener, cancel: CancellationToken) -> Result<()> {
        let drain = self.inner.shutdown.child_token();
        let mut ends: Vec<CancellationToken> = Vec::new();
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                () = drain.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            ends.retain(|end| !end.is_cancelled());
            match accepted {
                Ok((stream, client)) => match self.begin(stream, client.into(), drain.clone()) {
                    Ok(running) => ends.push(running.detach()),
                    Err(e) => tracing::warn!(error = %e, "a connection is refused"),
                },
                // The peer left before it was accepted.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    clock::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        drain.cancel();
        for end in ends {
            end.cancelled().await;
        }
        Ok(())
    }
}

/// Removes a socket on which nobody listens any more.
fn remove_left_behind(path: &std::path::Path) -> Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let system = |e: rustix::io::Errno| Error::from_io("listen", e.into());
    let found = std::fs::symlink_metadata(path).map_err(|e| Error::from_io("listen", e))?;
    if !found.file_type().is_socket() {
        return Err(Error::new(ErrorKind::AlreadyExists, "listen", "what lies at this path is not a socket"));
    }
    // Without waiting: a server that is alive may have no room for one more.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(system)?;
    match connect(&probe, &SocketAddrUnix::new(path).map_err(system)?) {
        Err(rustix::io::Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(|e| Error::from_io("listen", e)),
        Err(e @ rustix::io::Errno::ACCESS) => Err(system(e)),
        _ => Err(Error::new(ErrorKind::Busy, "listen", "another server listens on this socket")),
    }
}
