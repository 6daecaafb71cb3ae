//! A relay before MariaDB that loses the answers to commits.
//!
//! It understands just enough of the protocol: a packet to the server is three bytes of length, one of sequence, one of command; command 3
//! with the text `COMMIT` is a commit. That packet is sent on, the server's answer is awaited, and then the connection is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::error::Result;
use crate::task::Scope;

/// The commit as it is sent.
const COMMIT: &[u8] = b"\x03COMMIT";

/// A running relay.
#[derive(Debug)]
pub struct CommitCutter {
    port: u16,
    wanted: Arc<AtomicU32>,
    cuts: Arc<AtomicU32>,
    scope: Scope,
}

impl CommitCutter {
    /// Listens on a free port of the loopback and relays to `server`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[allow(clippy::expect_used)]
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("a port").port();
        let (wanted, cuts, mut scope) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Scope::new());
        let (token, wanted_by, cuts_by) = (scope.token().clone(), Arc::clone(&wanted), Arc::clone(&cuts));
        scope.spawn(async move {
            let mut connections = Scope::child_of(&token);
            loop {
                tokio::select! {
                    () = token.cancelled() => break,
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { break };
                        let (token, wanted, cuts) = (token.clone(), Arc::clone(&wanted_by), Arc::clone(&cuts_by));
                        connections.spawn(async move {
                            tokio::select! {
                                () = token.cancelled() => {}
                                _ = one(client, server, &wanted, &cuts) => {}
                            }
                        });
                    }
                }
            }
            let _ = connections.close().await;
        });
        CommitCutter { port, wanted, cuts, scope }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The answers to the next `n` commits are lost.
    pub fn cut_next_commits(&self, n: u32) {
        self.wanted.store(n, Ordering::Relaxed);
    }

    /// How many were.
    #[must_use]
    pub fn cuts(&self) -> u32 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub async fn close(self) {
        let _: Result<()> = self.scope.close().await;
    }
}

async fn one(mut client: TcpStream, server: u16, wanted: &AtomicU32, cuts: &AtomicU32) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let sent = up.get(..read?).unwrap_or_default();
                if sent.is_empty() {
                    return Ok(());
                }
                server.write_all(sent).await?;
                let commit = sent.get(4..) == Some(COMMIT);
                let cut = |n: u32| n.checked_sub(1);
                if commit && wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, cut).is_ok() {
                    // The answer shows that it is committed; the client never learns it.
                    let _ = server.read(&mut down).await?;
                    cuts.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
            }
            read = server.read(&mut down) => {
                let answer = down.get(..read?).unwrap_or_default();
                if answer.is_empty() {
                    return Ok(());
                }
                client.write_all(answer).await?;
            }
        }
    }
}
