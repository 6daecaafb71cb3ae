//! Two protocols at one port: who begins with TLS is not for SSH.
//!
//! The first byte tells: a record of TLS begins with 0x16, a client of SSH with `SSH-`. It is looked at where it lies in the socket
//! (`MSG_PEEK`) and not taken out, so the session of SSH reads its socket as ever, and no byte is copied for this later.
//!
//! Who speaks first: in TLS the client, always. In SSH both sides may, and some clients wait for the server (`ssh-keyscan`). So a connection
//! that says nothing for [`SNIFF_TIME`] is taken for SSH and greeted. Clients that speak at once (OpenSSH, ours) do not notice; those that
//! wait do so a second longer. A client of TLS whose first packet is lost for that long meets a greeting of SSH, fails, and comes again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;

use super::census::{Census, Place};
use super::live::lock;
use super::{Inner, run};
use crate::block::BoxFuture;
use crate::clock;
use crate::task::CancellationToken;
use crate::tunnels::limits::{SNIFF_TIME, TLS_TIME};

/// The first byte of a TLS connection: a record with a handshake in it.
const HANDSHAKE: u8 = 0x16;

/// Serves connections that begin with TLS.
pub trait TlsHandler: Send + Sync {
    /// Serves one to its end. Nothing was read from `socket` yet. It is given up when it takes longer than
    /// [`TLS_TIME`](crate::tunnels::limits::TLS_TIME), and when the server ends.
    fn serve(&self, socket: TcpStream, address: SocketAddr) -> BoxFuture<'static, ()>;
}

/// What a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    Ssh,
    Tls,
}

/// What the peer speaks. Whoever says nothing in time, something else, or goodbye is SSH's to deal with.
async fn speech(socket: &TcpStream, cancel: &CancellationToken, out: &CancellationToken) -> Speech {
    let mut first = [0];
    let peeked = tokio::select! {
        () = cancel.cancelled() => None,
        () = out.cancelled() => None,
        peeked = clock::within(SNIFF_TIME, socket.peek(&mut first)) => peeked,
    };
    match peeked {
        Some(Ok(1)) if first == [HANDSHAKE] => Speech::Tls,
        _ => Speech::Ssh,
    }
}

/// One connection, from the accepted socket to its end.
pub(super) async fn begin(server: Arc<Inner>, socket: TcpStream, address: SocketAddr, place: Place, cancel: CancellationToken) {
    let Some(other) = server.other.clone() else { return run(server, socket, address, place, cancel).await };
    let out = place.out();
    match speech(&socket, &cancel, &out).await {
        Speech::Ssh => run(server, socket, address, place, cancel).await,
        Speech::Tls => {
            // It shows no key, so it keeps the place of those that have not shown one.
            let _held = Held { place, census: Arc::clone(&server.census) };
            serve(&*other, socket, address, (&cancel, &out)).await;
        }
    }
}

/// Gives a place back.
struct Held {
    place: Place,
    census: Arc<Mutex<Census>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.census).leave(&self.place);
    }
}

/// Serves a connection of TLS, within its time, and as long as it need not make room for others.
async fn serve(handler: &dyn TlsHandler, socket: TcpStream, address: SocketAddr, (cancel, out): (&CancellationToken, &CancellationToken)) {
    // A peer that is gone already is found out by the handshake.
    let _ = socket.set_nodelay(true);
    let served = tokio::select! {
        () = cancel.cancelled() => return,
        () = out.cancelled() => return,
        served = clock::within(TLS_TIME, handler.serve(socket, address)) => served,
    };
    if served.is_none() {
        tracing::info!(%address, "a connection of TLS took too long");
    }
}
