//! A path to a server that a test can break: connections through it are cut, swallowed, or refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use migratekit_core::task::Scope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of the connections that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Carried,
    Swallowed,
    LetGo,
    Cut,
}

/// A path; its connections are carried until it is told otherwise.
pub(crate) struct Path {
    pub(crate) port: u16,
    fate: watch::Sender<(u64, Fate)>,
    closed: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    made: Arc<AtomicUsize>,
    _tasks: Scope,
}

impl Path {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fate = watch::channel((0, Fate::Carried)).0;
        let (closed, open, made) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
        let path = Path { port, fate, closed, open, made, _tasks: Scope::new() };
        let (fate, closed, open, made) = (path.fate.clone(), Arc::clone(&path.closed), Arc::clone(&path.open), Arc::clone(&path.made));
        let mut tasks = Scope::new();
        tasks.spawn(async move {
            let mut connections = Scope::new();
            while let Ok((client, _)) = listener.accept().await {
                if closed.load(Ordering::SeqCst) {
                    continue;
                }
                let (watched, open) = (fate.subscribe(), Arc::clone(&open));
                let Ok(server) = TcpStream::connect(server).await else { continue };
                open.fetch_add(1, Ordering::SeqCst);
                made.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    carry(client, server, watched).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Path { _tasks: tasks, ..path }
    }

    fn tell(&self, fate: Fate) {
        // Those that come later are of a later generation, and carried.
        self.fate.send_modify(|(generation, now)| (*generation, *now) = (*generation + 1, fate));
    }

    /// Ends the connections there are, as a router that goes away with a reset does.
    pub(crate) fn cut(&self) {
        self.tell(Fate::Cut);
    }

    /// From now on nothing of the connections there are comes out at either end; later ones work.
    pub(crate) fn swallow(&self) {
        self.tell(Fate::Swallowed);
    }

    /// Ends the connections that were swallowed; the others are carried on.
    pub(crate) fn let_go(&self) {
        self.tell(Fate::LetGo);
    }

    /// Whether later connections are closed at once.
    pub(crate) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How many there ever were.
    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, mut fate: watch::Receiver<(u64, Fate)>) {
    fate.borrow_and_update();
    {
        let mut carried = std::pin::pin!(tokio::io::copy_bidirectional(&mut client, &mut server));
        loop {
            tokio::select! {
                _ = &mut carried => return,
                changed = fate.changed() => if changed.is_err() || fate.borrow_and_update().1 != Fate::LetGo { break },
            }
        }
    }
    if fate.borrow().1 == Fate::Swallowed {
        // The sockets stay open, and each side's words are taken; until an end gives up.
        let (mut a, mut b) = (vec![0; 65536], vec![0; 65536]);
        let (mut open, mut other) = (true, true);
        while open || other {
            tokio::select! {
                n = client.read(&mut a), if open => open = n.is_ok_and(|n| n > 0),
                n = server.read(&mut b), if other => other = n.is_ok_and(|n| n > 0),
                changed = fate.changed() => if changed.is_err() || fate.borrow_and_update().1 != Fate::Swallowed { return },
            }
        }
    }
    let _ = (client.shutdown().await, server.shutdown().await);
}
