//! Between sockets of this host and streams of the tunnel.
//!
//! Both ways at once, with one buffer of [`RELAY_BUFFER`] for each: who does not take what comes stops the other end of his own stream and
//! nothing else. The end of one direction is carried as an end of that direction only, so a program may finish its request and still
//! read the answer; an error of either side ends both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::client::ReverseHandler;
use super::limits::{CONNECT_TIME, RELAY_BUFFER};
use super::server::{Peer, StreamHandler};
use super::stream::TunnelStream;
use crate::block::BoxFuture;
use crate::clock;
use crate::task::{CancellationToken, Scope};

/// Carries bytes both ways until both have ended, or one broke.
pub(super) async fn relay(mut socket: TcpStream, mut stream: TunnelStream) {
    let _ = socket.set_nodelay(true);
    if let Err(error) = copy_bidirectional_with_sizes(&mut socket, &mut stream, RELAY_BUFFER, RELAY_BUFFER).await {
        tracing::debug!(%error, "a forwarded connection broke");
    }
}

/// The pause after a failed accept (too many open files): connections in the queue wait, and the processor rests.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the end, and has each carried to its own; so many at a time, the others wait in the listener's queue.
pub(super) async fn accept<F, Fut>(listener: TcpListener, most: usize, end: CancellationToken, carry: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (mut tasks, places) = (Scope::child_of(&end), Arc::new(Semaphore::new(most)));
    loop {
        let accepted = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! {
            () = end.cancelled() => break,
            accepted = accepted => accepted,
        };
        let Ok((socket, _)) = accepted else {
            clock::sleep(PAUSE).await;
            continue;
        };
        let (carrying, end) = (carry(socket), end.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = carrying => {}
            }
            drop(place);
        });
    }
    if let Err(error) = tasks.close().await {
        tracing::error!(%error, "a forwarded connection failed");
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
