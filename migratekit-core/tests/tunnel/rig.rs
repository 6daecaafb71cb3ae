//! What the tests stand on: a server on a free port with keys in memory, handlers that do what a test needs, and a list of what happened.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migratekit_core::block::BoxFuture;
use migratekit_core::clock::within;
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{
    Client, ClientOptions, KeySource, NBD_PORT, Peer, PrivateKey, PublicKey, Server, ServerOptions, StreamHandler, TunnelStream, Vma,
};
use migratekit_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What must happen.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    within(PATIENCE, work).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} for: {what}"))
}

/// Keys that a test gives and takes away.
#[derive(Default)]
pub(crate) struct Keys {
    known: Mutex<Vec<(PublicKey, Vma, Option<Instant>)>>,
    broken: Mutex<bool>,
}

impl Keys {
    pub(crate) fn allow(&self, key: &PrivateKey, name: &str, reverse_port: Option<u16>) {
        self.known.lock().unwrap().push((key.public(), Vma { name: name.to_owned(), reverse_port }, None));
    }

    /// An entry that runs out.
    pub(crate) fn allow_until(&self, key: &PrivateKey, name: &str, end: Instant) {
        self.known.lock().unwrap().push((key.public(), Vma { name: name.to_owned(), reverse_port: None }, Some(end)));
    }

    pub(crate) fn forget(&self, key: &PrivateKey) {
        self.known.lock().unwrap().retain(|(k, ..)| *k != key.public());
    }

    /// Nothing can be told from now on.
    pub(crate) fn break_down(&self) {
        *self.broken.lock().unwrap() = true;
    }

    /// It can be told again.
    pub(crate) fn mend(&self) {
        *self.broken.lock().unwrap() = false;
    }
}

impl KeySource for Keys {
    fn holder<'a>(&'a self, key: &'a PublicKey) -> BoxFuture<'a, Result<Option<Vma>>> {
        let known = self.known.lock().unwrap();
        let found = known.iter().find(|(k, _, end)| k == key && end.is_none_or(|end| Instant::now() < end));
        let found = found.map(|(_, vma, _)| vma.clone());
        let broken = *self.broken.lock().unwrap();
        Box::pin(async move {
            if broken { Err(Error::new(ErrorKind::Unreachable, "ask the catalog", "it is down, says the test")) } else { Ok(found) }
        })
    }
}

/// Sends back what it reads; ends at the end of the stream.
pub(crate) struct Echo;

impl StreamHandler for Echo {
    fn serve(&self, stream: TunnelStream, _peer: Peer, _end: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    }
}

/// Reads nothing until it is told to, then counts what comes; tells when a stream ended.
pub(crate) struct Stopped {
    go: watch::Sender<bool>,
    pub(crate) ended: tokio::sync::Mutex<mpsc::UnboundedReceiver<u64>>,
    tell: mpsc::UnboundedSender<u64>,
}

impl Stopped {
    pub(crate) fn new() -> Arc<Self> {
        let (tell, ended) = mpsc::unbounded_channel();
        Arc::new(Stopped { go: watch::channel(false).0, ended: tokio::sync::Mutex::new(ended), tell })
    }

    pub(crate) fn go(&self) {
        self.go.send_replace(true);
    }
}

/// The handler of a shared [`Stopped`].
pub(crate) struct StoppedHandler(pub(crate) Arc<Stopped>);

impl StreamHandler for StoppedHandler {
    fn serve(&self, stream: TunnelStream, _peer: Peer, end: CancellationToken) -> BoxFuture<'static, ()> {
        let (mut go, tell) = (self.0.go.subscribe(), self.0.tell.clone());
        Box::pin(async move {
            let (mut read, _write) = stream.split();
            tokio::select! {
                _ = go.wait_for(|go| *go) => {}
                () = end.cancelled() => {}
            }
            let (mut total, mut buffer) = (0, vec![0; 256 * 1024]);
            while let Ok(n) = read.read(&mut buffer).await
                && n > 0
            {
                total += n as u64;
            }
            let _ = tell.send(total);
        })
    }
}

/// A server that runs.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) keys: Arc<Keys>,
    pub(crate) key: PrivateKey,
    pub(crate) host_key: PrivateKey,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
    tasks: Scope,
}

impl Rig {
    /// With one VMA, `vma-1`, that may listen at 9081.
    pub(crate) async fn new(handlers: Vec<(u16, Arc<dyn StreamHandler>)>) -> Self {
        Rig::with(handlers, |_| {}).await
    }

    pub(crate) async fn with(handlers: Vec<(u16, Arc<dyn StreamHandler>)>, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Rig::on(listener, handlers, change).await
    }

    pub(crate) async fn on(
        listener: TcpListener,
        handlers: Vec<(u16, Arc<dyn StreamHandler>)>,
        change: impl FnOnce(&mut ServerOptions),
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (keys, key) = (Arc::new(Keys::default()), PrivateKey::generate().unwrap());
        keys.allow(&key, "vma-1", Some(9081));
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut options = ServerOptions::new(PrivateKey::generate().unwrap(), Arc::clone(&keys) as Arc<dyn KeySource>);
        for (port, handler) in handlers {
            options = options.serve(port, handler);
        }
        let seen = Arc::clone(&events);
        options.observer = Some(Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone())));
        change(&mut options);
        let host_key = options.host_key.clone();
        let server = Server::new(options);
        let mut tasks = Scope::new();
        let (serving, token) = (server.clone(), tasks.token().clone());
        tasks.spawn(async move { serving.serve(listener, token).await.unwrap() });
        Rig { server, address, keys, key, host_key, events, tasks }
    }

    /// A server that echoes at the NBD port.
    pub(crate) async fn echo() -> Self {
        Rig::new(vec![(NBD_PORT, Arc::new(Echo))]).await
    }

    pub(crate) fn options(&self, key: &PrivateKey) -> ClientOptions {
        ClientOptions::new("127.0.0.1", self.address.port(), key.clone(), self.server.fingerprint().clone())
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.options(&self.key))
    }

    /// Waits until an event was seen.
    pub(crate) async fn saw(&self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let found = async {
            loop {
                if let Some(event) = self.events.lock().unwrap().iter().find(|e| is(e)) {
                    return event.clone();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let Some(event) = within(PATIENCE, found).await else { panic!("not seen: {what}; seen: {:#?}", self.events.lock().unwrap()) };
        event
    }

    pub(crate) async fn close(self) {
        soon("the end of the server", self.tasks.close()).await.unwrap();
    }
}

/// Sends and receives `bytes` at the same time over an echoing stream; they must come back as they were.
pub(crate) async fn there_and_back(stream: TunnelStream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|i| (i % 249) as u8).collect();
    let expected = sent.clone();
    let (mut read, mut write) = stream.split();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut got = Vec::with_capacity(expected.len());
        read.read_to_end(&mut got).await.unwrap();
        assert!(got == expected, "{} of {} bytes came back, or others", got.len(), expected.len());
    };
    soon("bytes there and back", async { tokio::join!(sending, receiving) }).await;
}
