//! The ports of VMAs as listening sockets on this side's loopback, for processes that are not this one. Off by default: within one
//! process [`Server::open`](super::Server::open) leads to a VMA without a socket, and whoever may use this host may use such a socket.
//!
//! A socket is made when a VMA first listens at its port and lives as long as any connection of that VMA does: one that comes again takes
//! over from its dead predecessor, by another key too when its key was replaced. Each accepted connection gets a stream of the newest connection that listens.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::live::{Live, lock};
use super::{Inner, Peer, Server};
use crate::clock;
use crate::task::{CancellationToken, Scope};
use crate::tunnels::limits::REVERSE_STREAMS;
use crate::tunnels::policy::Refusal;
use crate::tunnels::relay::{self, relay};

/// A port that is in use is tried so many times.
const BIND_TRIES: u32 = 20;
/// The pause between two of them; all together are short enough for a session to wait.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// The sockets, by port.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<HashMap<u16, Socket>>);

#[derive(Debug)]
struct Socket {
    /// Whose it is, whichever of its keys it comes by: one that changes its key keeps its port.
    vma: String,
    tasks: Scope,
}

impl Sockets {
    /// Listens at `port` for `peer`, unless its socket is there already.
    pub(super) async fn hold(&self, server: &Arc<Inner>, peer: &Peer, port: u16) -> Result<(), Refusal> {
        // A socket that was let go just now is closed by its task, in a moment.
        for _ in 0..BIND_TRIES {
            match self.try_hold(server, peer, port) {
                Ok(Some(())) => return Ok(()),
                Ok(None) => return Err(Refusal::PortTaken),
                Err(error) => tracing::debug!(%error, port, %peer, "cannot listen for a VMA"),
            }
            clock::sleep(BIND_PAUSE).await;
        }
        Err(Refusal::PortTaken)
    }

    /// `None`: another VMA's socket is there.
    fn try_hold(&self, server: &Arc<Inner>, peer: &Peer, port: u16) -> std::io::Result<Option<()>> {
        let mut open = lock(&self.0);
        if let Some(socket) = open.get(&port) {
            return Ok((socket.vma == peer.vma.name).then_some(()));
        }
        let listener = bind(port)?;
        let mut tasks = Scope::new();
        let (server, vma, token) = (Arc::downgrade(server), peer.vma.name.clone(), tasks.token().clone());
        tasks.spawn(accept(server, listener, vma.clone(), token));
        open.insert(port, Socket { vma, tasks });
        Ok(Some(()))
    }

    /// Closes all, and waits for what they still do.
    pub(super) async fn close(&self) {
        let all: Vec<Socket> = lock(&self.0).drain().map(|(_, socket)| socket).collect();
        for socket in all {
            if let Err(error) = socket.tasks.close().await {
                tracing::error!(%error, "a forward to a VMA failed");
            }
        }
    }
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(server: Weak<Inner>, listener: TcpListener, vma: String, end: CancellationToken) {
    relay::accept(listener, REVERSE_STREAMS, end, |socket| {
        let (server, vma) = (server.clone(), vma.clone());
        async move { forward(&server, socket, &vma).await }
    })
    .await;
}

async fn forward(server: &Weak<Inner>, socket: TcpStream, vma: &str) {
    let Some(inner) = server.upgrade() else { return };
    match (Server { inner }).open_to(|peer| peer.vma.name == vma).await {
        Ok(stream) => relay(socket, stream).await,
        Err(error) => tracing::warn!(%error, "a connection to a VMA's port was closed"),
    }
}

impl Inner {
    /// A connection has ended: nobody reaches its VMA through it any more.
    pub(super) fn listens_no_more(&self, live: &Live) {
        lock(&live.listening).clear();
        self.let_go();
    }

    /// Closes the sockets of VMAs that do not listen any more.
    pub(super) fn let_go(&self) {
        let Some(sockets) = &self.sockets else { return };
        // Who listens is looked up under the lock, after which a newcomer finds its socket, or none.
        let mut open = lock(&sockets.0);
        let listening: Vec<(String, Vec<u16>)> = self
            .live(|_| true)
            .iter()
            .filter_map(|live| Some((live.peer.get()?.vma.name.clone(), lock(&live.listening).iter().map(|(_, port)| *port).collect())))
            .collect();
        open.retain(|port, socket| listening.iter().any(|(vma, ports)| *vma == socket.vma && ports.contains(port)));
    }
}
