//! The sockets on the VMA's loopback whose connections go to a port of the OMA.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::Inner;
use crate::error::{Error, Result};
use crate::task::CancellationToken;
use crate::tunnels::limits::{OWN_CONNECTIONS, SHARED_STREAMS};
use crate::tunnels::relay::{self, relay};
use crate::tunnels::stream::TunnelStream;

/// How the connections of a forward travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Each with a connection of its own to the server: for data.
    OwnConnection,
    /// As streams of the control connection: for small questions and answers.
    Control,
}

/// A forward from here to the server (`-L`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalForward {
    /// Where to listen here.
    pub listen: SocketAddr,
    /// To which port of the server's loopback.
    pub port: u16,
    /// How.
    pub way: Way,
}

/// Listens for a forward.
pub(super) async fn bind(forward: &LocalForward) -> Result<(TcpListener, SocketAddr)> {
    let fail = |e: io::Error| Error::from_io("listen for a forward", e).with("address", forward.listen);
    let listener = TcpListener::bind(forward.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    Ok((listener, address))
}

/// Serves a forward until the end.
pub(super) async fn serve(inner: Arc<Inner>, listener: TcpListener, forward: LocalForward, end: CancellationToken) {
    let most = match forward.way {
        Way::OwnConnection => OWN_CONNECTIONS,
        Way::Control => SHARED_STREAMS,
    };
    relay::accept(listener, most, end, |socket| {
        let inner = Arc::clone(&inner);
        async move { carry(&inner, socket, forward).await }
    })
    .await;
}

async fn carry(inner: &Inner, socket: TcpStream, forward: LocalForward) {
    match open(inner, forward).await {
        Ok(stream) => relay(socket, stream).await,
        // Who connected sees that it is closed; why stands here.
        Err(error) => tracing::warn!(%error, listen = %forward.listen, port = forward.port, "a connection was not forwarded"),
    }
}

async fn open(inner: &Inner, forward: LocalForward) -> Result<TunnelStream> {
    match forward.way {
        Way::OwnConnection => inner.client.bulk(forward.port).await,
        Way::Control => inner.link()?.open(forward.port).await,
    }
}
