//! Between a socket of this host and a stream of the tunnel.
//!
//! Both ways at once, with one buffer of [`RELAY_BUFFER`] for each: who does not take what comes stops the other end of his own stream and
//! nothing else. The end of one direction is carried as an end of that direction only, so a program may finish its request and still
//! read the answer; an error of either side ends both.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::client::ReverseHandler;
use super::limits::{CONNECT_TIME, RELAY_BUFFER};
use super::server::{Peer, StreamHandler};
use super::stream::TunnelStream;
use crate::block::BoxFuture;
use crate::clock;
use crate::task::CancellationToken;

/// Carries bytes both ways until both have ended, or one broke.
pub(super) async fn relay(mut socket: TcpStream, mut stream: TunnelStream) {
    let _ = socket.set_nodelay(true);
    if let Err(error) = copy_bidirectional_with_sizes(&mut socket, &mut stream, RELAY_BUFFER, RELAY_BUFFER).await {
        tracing::debug!(%error, "a forwarded connection broke");
    }
}

/// A service of another process on this host: streams of the tunnel are connected to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalService(pub SocketAddr);

impl LocalService {
    async fn serve_stream(self, stream: TunnelStream) {
        match clock::within(CONNECT_TIME, TcpStream::connect(self.0)).await {
            Some(Ok(socket)) => relay(socket, stream).await,
            Some(Err(error)) => {
                tracing::warn!(%error, service = %self.0, "a stream of the tunnel was closed: its service cannot be reached")
            }
            None => tracing::warn!(service = %self.0, "a stream of the tunnel was closed: its service did not answer"),
        }
    }

    /// For streams that the server opens to us.
    #[must_use]
    pub fn reverse(self) -> ReverseHandler {
        Arc::new(move |stream| Box::pin(self.serve_stream(stream)))
    }
}

impl StreamHandler for LocalService {
    fn serve(&self, stream: TunnelStream, _peer: Peer, end: CancellationToken) -> BoxFuture<'static, ()> {
        let service = *self;
        Box::pin(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = service.serve_stream(stream) => {}
            }
        })
    }
}
