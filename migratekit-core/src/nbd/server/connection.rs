//! The life of one connection: handshake within its time, transmission, a clean end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use super::Inner;
use super::negotiate::Negotiation;
use super::pump;
use super::registry::Registered;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::stream::ByteStream;
use crate::task::CancellationToken;

/// How long the end of a connection may take to tell the peer (TLS close, FIN).
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// A connection that was started. Dropping it closes the connection.
pub(super) struct Running {
    end: oneshot::Receiver<Result<()>>,
    kill: CancellationToken,
    pub(super) done: CancellationToken,
    detached: bool,
}

impl Running {
    /// Waits for the end, and tells how it came.
    pub(super) async fn wait(mut self) -> Result<()> {
        let panicked = || Error::new(ErrorKind::Internal, "serve a connection", "its task ended without a word");
        (&mut self.end).await.unwrap_or_else(|_| Err(panicked()))
    }

    /// Lets it run; the token tells its end.
    pub(super) fn detach(mut self) -> CancellationToken {
        self.detached = true;
        self.done.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.detached {
            self.kill.cancel();
        }
    }
}

/// The task of a connection, and the handle of who started it.
pub(super) fn prepare(
    server: Arc<Inner>,
    stream: Box<dyn ByteStream>,
    registered: Registered,
) -> (Running, impl Future<Output = ()> + Send + 'static) {
    let (tell, end) = oneshot::channel();
    let record = &registered.record;
    let running = Running { end, kill: record.kill.clone(), done: record.done.clone(), detached: false };
    let task = async move {
        let result = serve(&server, stream, &registered).await;
        if let Err(e) = &result {
            tracing::info!(error = %e, "a connection ended");
        }
        drop(registered);
        let _ = tell.send(result);
    };
    (running, task)
}

async fn serve(server: &Inner, stream: Box<dyn ByteStream>, registered: &Registered) -> Result<()> {
    let record = &registered.record;
    let limits = &server.config.limits;
    let negotiation = Negotiation::new(server, record, stream.split());
    let negotiated = tokio::select! {
        biased;
        () = record.kill.cancelled() => return Ok(()),
        negotiated = tokio::time::timeout(limits.handshake_time, negotiation.run()) => negotiated,
        () = drained(server, registered) => return Ok(()),
    };
    let late = |_| Error::new(ErrorKind::Timeout, "negotiate with a client", "the handshake took too long").with("client", &record.peer);
    let Some((session, halves)) = negotiated.map_err(late)?? else { return Ok(()) };
    let (end, mut writer) = pump::run(&session, limits, &server.budget, record, halves).await;
    if end.is_ok() && !record.kill.is_cancelled() {
        let _ = tokio::time::timeout(CLOSE_TIME, writer.shutdown()).await;
    }
    end
}

/// Ends when a shutdown was asked for and the client had its time to hear of it.
async fn drained(server: &Inner, registered: &Registered) {
    registered.record.drain.cancelled().await;
    crate::clock::sleep(CLOSE_TIME.min(server.config.limits.handshake_time)).await;
}
