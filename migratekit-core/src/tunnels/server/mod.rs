//! The server: the OMA's side.
//!
//! ```text
//!  listener ─▶ census (how many, from where) ─▶ first byte: TLS ─▶ TlsHandler, within TLS_TIME
//!                                                │
//!                                                ▼ SSH: run: transport + russh session, within the login's time
//!                                                └─ handler: keys ─▶ KeySource; wishes ─▶ policy; streams ─▶ StreamHandler
//! ```
//!
//! Each connection has one task of ours, which waits for its end, then for the end of its streams' handlers. [`Server::revoke`] cuts the
//! connections of a key and returns when all that is over: what is recorded afterwards is true.

mod census;
mod event;
mod handler;
mod live;
mod other;
mod sockets;
#[cfg(test)]
mod strangers;
mod talk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

pub use self::census::Bounds;
use self::census::{Census, Place};
pub use self::event::{Account, Event, Observer, Peer};
use self::handler::Connection;
use self::live::{Live, is_foul, is_leave, lock};
pub use self::other::TlsHandler;
use self::sockets::Sockets;
use super::algorithms::{PREFERRED, rekey};
use super::channels::{Broken, Channels, hello};
use super::compression::Compression;
use super::hello::{Dialect, HELLO_PORT};
use super::keys::{PrivateKey, PublicKey};
use super::limits;
use super::probe::Probing;
use super::relay::PAUSE;
use super::stream::TunnelStream;
use super::transport::{Control, Transport};
use super::{Fingerprint, Vma};
use crate::block::BoxFuture;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::task::{CancellationToken, Scope};

/// Who may come in: asked at each login, and again while a connection lives.
pub trait KeySource: Send + Sync {
    /// Who holds `key` now; `None`: nobody who may come in.
    ///
    /// # Errors
    /// When it cannot be told. A login is ended without an answer then, so that the peer comes again; a live connection goes on.
    fn holder<'a>(&'a self, key: &'a PublicKey) -> BoxFuture<'a, Result<Option<Vma>>>;
}

/// What serves the streams to one port.
pub trait StreamHandler: Send + Sync {
    /// Serves a stream of `peer` to its end. `end` is cancelled when the connection has ended: then the stream is broken, and what must
    /// still be finished should be finished soon.
    fn serve(&self, stream: TunnelStream, peer: Peer, end: CancellationToken) -> BoxFuture<'static, ()>;
}

/// What a server is told.
#[derive(Clone)]
pub struct ServerOptions {
    /// Who it is.
    pub host_key: PrivateKey,
    /// Who may come in.
    pub keys: Arc<dyn KeySource>,
    /// What is served, by port.
    pub handlers: BTreeMap<u16, Arc<dyn StreamHandler>>,
    /// Serves connections that begin with TLS; none: all are taken for SSH at once.
    pub other: Option<Arc<dyn TlsHandler>>,
    /// Hears what happens, besides the log.
    pub observer: Option<Observer>,
    /// The bounds.
    pub bounds: Bounds,
    /// [`limits::KEEPALIVE`].
    pub keepalive: Duration,
    /// [`limits::LOGIN_TIME`].
    pub login_time: Duration,
    /// [`limits::KEY_LOOK`].
    pub key_look: Duration,
    /// [`limits::REKEY_BYTES`]; more is not taken.
    pub rekey_bytes: usize,
    /// What it says in its hello.
    pub speaks: Dialect,
    /// When VMAs of ours are asked whether they live.
    pub probing: Probing,
    /// [`limits::SILENCE`].
    pub silence: Duration,
    /// Whether a VMA's own port is a listening socket on the loopback too, for other processes. Off, only [`Server::open`] leads there.
    pub sockets: bool,
    /// Whether what goes out on streams of data is compressed, for clients that ask for that; off: they do not.
    pub compression: Compression,
}

impl ServerOptions {
    /// With the bounds of [`limits`], and nothing served.
    #[must_use]
    pub fn new(host_key: PrivateKey, keys: Arc<dyn KeySource>) -> Self {
        ServerOptions {
            host_key,
            keys,
            handlers: BTreeMap::new(),
            other: None,
            observer: None,
            bounds: Bounds::default(),
            keepalive: limits::KEEPALIVE,
            login_time: limits::LOGIN_TIME,
            key_look: limits::KEY_LOOK,
            rekey_bytes: limits::REKEY_BYTES,
            speaks: Dialect::default(),
            probing: Probing::default(),
            silence: limits::SILENCE,
            sockets: false,
            compression: Compression::default(),
        }
    }

    /// Serves the streams to `port` by `handler`.
    #[must_use]
    pub fn serve(mut self, port: u16, handler: Arc<dyn StreamHandler>) -> Self {
        self.handlers.insert(port, handler);
        self
    }
}

/// A tunnel's server. Clones are the same server. See the [module documentation](self).
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("host_key", &self.inner.fingerprint).field("ports", &self.inner.ports).finish_non_exhaustive()
    }
}

struct Inner {
    config: Arc<russh::server::Config>,
    fingerprint: Fingerprint,
    keys: Arc<dyn KeySource>,
    handlers: BTreeMap<u16, Arc<dyn StreamHandler>>,
    ports: Vec<u16>,
    other: Option<Arc<dyn TlsHandler>>,
    observer: Option<Observer>,
    bounds: Bounds,
    login_time: Duration,
    key_look: Duration,
    speaks: Dialect,
    probing: Probing,
    silence: Duration,
    /// For how long a connection has been silent that may have to make room for another of its VMA: a living one answers the keepalives.
    stale: Duration,
    sockets: Option<Sockets>,
    compression: Compression,
    census: Arc<Mutex<Census>>,
    connections: Mutex<Vec<Arc<Live>>>,
}

impl Inner {
    fn saw(&self, event: &Event) {
        tracing::info!(?event, "tunnel");
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    /// Who holds `key`, as far as that can be told in time.
    async fn holder(&self, key: &PublicKey) -> Result<Option<Vma>> {
        let late = || Error::new(ErrorKind::Timeout, "ask who holds a key", "the source of keys did not answer in time");
        clock::within(limits::KEY_ANSWER, self.keys.holder(key)).await.unwrap_or_else(|| Err(late()))
    }

    fn live(&self, which: impl Fn(&Peer) -> bool) -> Vec<Arc<Live>> {
        lock(&self.connections).iter().filter(|live| live.peer.get().is_some_and(&which)).cloned().collect()
    }
}

impl Server {
    /// A server that listens nowhere yet.
    #[must_use]
    pub fn new(options: ServerOptions) -> Self {
        let config = russh::server::Config {
            server_id: hello(options.compression),
            methods: russh::MethodSet::from(&[russh::MethodKind::PublicKey][..]),
            auth_rejection_time: limits::REFUSAL_TIME,
            auth_rejection_time_initial: Some(Duration::ZERO),
            keys: vec![(*options.host_key.inner()).clone()],
            limits: rekey(options.rekey_bytes),
            window_size: limits::WINDOW,
            maximum_packet_size: limits::PACKET,
            preferred: PREFERRED,
            max_auth_attempts: limits::MAX_AUTH_ATTEMPTS,
            inactivity_timeout: Some(options.keepalive.saturating_mul(limits::SILENT_KEEPALIVES)),
            keepalive_interval: Some(options.keepalive),
            keepalive_max: limits::KEEPALIVE_MISSES,
            nodelay: true,
            ..russh::server::Config::default()
        };
        let inner = Inner {
            config: Arc::new(config),
            fingerprint: options.host_key.public().fingerprint(),
            keys: options.keys,
            ports: options.handlers.keys().copied().chain([HELLO_PORT]).collect(),
            handlers: options.handlers,
            other: options.other,
            observer: options.observer,
            bounds: options.bounds,
            login_time: options.login_time,
            key_look: options.key_look,
            speaks: options.speaks,
            probing: options.probing,
            silence: options.silence,
            stale: options.keepalive.saturating_add(options.keepalive / 2),
            sockets: options.sockets.then(Sockets::default),
            compression: options.compression,
            census: Arc::default(),
            connections: Mutex::default(),
        };
        Server { inner: Arc::new(inner) }
    }

    /// The fingerprint of its host key, which clients pin.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.inner.fingerprint
    }

    /// Serves whoever connects, until `cancel`; then no more are accepted, the connections are cut, and it returns when their streams have
    /// ended.
    ///
    /// # Errors
    /// None at present: a failed accept is tried again.
    pub async fn serve(&self, listener: TcpListener, cancel: CancellationToken) -> Result<()> {
        let mut tasks = Scope::child_of(&cancel);
        let (server, token) = (self.clone(), tasks.token().clone());
        tasks.spawn(async move { server.look_at_keys(token).await });
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, address)) => {
                    let entered = lock(&self.inner.census).enter(address.ip(), &self.inner.bounds);
                    match entered {
                        Some(place) => {
                            let (inner, token) = (Arc::clone(&self.inner), tasks.token().clone());
                            tasks.spawn(async move { other::begin(inner, socket, address, place, token).await });
                        }
                        None => self.inner.saw(&Event::Crowded { address }),
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    clock::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        let end = tasks.close().await;
        if let Some(sockets) = &self.inner.sockets {
            sockets.close().await;
        }
        end
    }

    /// The VMAs that are connected, one entry for each connection.
    #[must_use]
    pub fn connected(&self) -> Vec<Peer> {
        self.inner.live(|_| true).iter().filter_map(|live| live.peer.get().cloned()).collect()
    }

    /// The VMAs that are connected, one entry for each connection, each with the time since something came from it.
    #[must_use]
    pub fn heard(&self) -> Vec<(Peer, Duration)> {
        self.inner.live(|_| true).iter().filter_map(|live| Some((live.peer.get()?.clone(), live.control.silence()))).collect()
    }

    /// Cuts the connections of `key`, and returns when they and the handlers of their streams have ended. That the key does not come in
    /// again is the [`KeySource`]'s part, and has to be done before.
    pub async fn revoke(&self, key: &Fingerprint) {
        for live in self.cut(|peer| peer.key.fingerprint() == *key) {
            live.done.cancelled().await;
        }
    }

    /// As [`Server::revoke`], for a VMA by its name, whichever keys its connections showed: after a rotation those of the old one may
    /// still write. Only connections by the keys of these fingerprints, `trusted`, stay: another VMA may bear the name by now. The others are
    /// cut at once; what is returned ends when they and the handlers of their streams have ended.
    pub fn revoke_vma(&self, vma: &str, trusted: &BTreeSet<String>) -> impl Future<Output = ()> + Send + use<> {
        let cut = self.cut(|peer| peer.vma.name == vma && !trusted.contains(&peer.key.fingerprint().to_string()));
        async move {
            for live in cut {
                live.done.cancelled().await;
            }
        }
    }

    fn cut(&self, which: impl Fn(&Peer) -> bool) -> Vec<Arc<Live>> {
        let cut = self.inner.live(which);
        for live in &cut {
            if !live.control.is_cut()
                && let Some(peer) = live.peer.get()
            {
                self.inner.saw(&Event::Revoked { peer: peer.clone() });
            }
            live.control.cut();
        }
        cut
    }

    /// Opens a stream to the VMA by name, to its own port, at which it must listen.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] when the VMA is not connected or does not listen; [`ErrorKind::Denied`] when it refuses;
    /// [`ErrorKind::Busy`] when the connection has as many channels as it may; [`ErrorKind::Timeout`].
    pub async fn open(&self, vma: &str) -> Result<TunnelStream> {
        self.open_to(|peer| peer.vma.name == vma).await.map_err(|e| e.with("vma", vma))
    }

    /// As [`Server::open`], to the newest connection that listens: an older one may be dead already.
    async fn open_to(&self, which: impl Fn(&Peer) -> bool) -> Result<TunnelStream> {
        let fail = |kind, message: &'static str| Error::new(kind, "open a stream to a VMA", message);
        let listening = self.inner.live(which).into_iter().rev().find_map(|live| {
            let (address, port) = lock(&live.listening).first().cloned()?;
            Some((live.handle.get()?.clone(), address, port, live))
        });
        let Some((handle, address, port, live)) = listening else {
            return Err(fail(ErrorKind::Unreachable, "no connection of this VMA listens"));
        };
        if live.channels.open() >= self.inner.bounds.channels {
            return Err(fail(ErrorKind::Busy, "its connection has as many channels as it may"));
        }
        let opening = handle.channel_open_forwarded_tcpip(address, u32::from(port), "127.0.0.1", 0);
        let channel = clock::within(limits::OPEN_TIME, opening)
            .await
            .ok_or_else(|| fail(ErrorKind::Timeout, "the VMA did not answer in time"))?
            .map_err(|e| match e {
                russh::Error::ChannelOpenFailure(_) => fail(ErrorKind::Denied, "the VMA refuses the stream").with_source(e),
                e => fail(ErrorKind::Unreachable, "the connection broke").with_source(e),
            })?;
        let flow = live.channels.opened(channel.id()).await;
        let flow = flow.ok_or_else(|| fail(ErrorKind::Unreachable, "the connection ended meanwhile"))?;
        Ok(live.channels.stream(channel, flow, None))
    }

    /// Looks again and again whether the keys of live connections still hold, and cuts those that do not.
    async fn look_at_keys(&self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = clock::sleep(self.inner.key_look) => {}
            }
            let mut seen: Vec<(PublicKey, bool)> = Vec::new();
            for peer in self.connected() {
                if seen.iter().any(|(key, _)| *key == peer.key) {
                    continue;
                }
                let holds = match self.inner.holder(&peer.key).await {
                    Ok(holder) => holder.as_ref() == Some(&*peer.vma),
                    Err(error) => {
                        tracing::warn!(%error, %peer, "whether a key still holds cannot be told; its connections go on");
                        true
                    }
                };
                seen.push((peer.key, holds));
            }
            self.cut(|peer| seen.iter().any(|(key, holds)| !holds && *key == peer.key));
        }
    }
}

/// One connection of SSH, from the accepted socket to the end of its last stream.
async fn run(server: Arc<Inner>, socket: TcpStream, address: SocketAddr, place: Place, cancel: CancellationToken) {
    // A peer that is gone already is found out by the handshake.
    let _ = socket.set_nodelay(true);
    let (control, out) = (Arc::new(Control::default()), place.out());
    let channels = Channels::new(Arc::clone(&control), server.bounds.channels);
    let _cut = CutOnDrop(Arc::clone(&control), Arc::clone(&channels));
    let live = Arc::new(Live::new(address, Arc::clone(&control), Arc::clone(&channels), place, Arc::clone(&server.census)));
    lock(&server.connections).push(Arc::clone(&live));
    let end = session(&server, &live, Transport::new(socket, control), (&cancel, &out)).await;
    let silence = live.control.silence();
    channels.end();
    server.listens_no_more(&live);
    let tasks = std::mem::take(&mut *lock(&live.tasks));
    if let Err(error) = tasks.close().await {
        tracing::error!(%error, "a handler of a stream failed");
    }
    lock(&server.connections).retain(|other| !Arc::ptr_eq(other, &live));
    if let Err(why) = &end
        && is_foul(why)
    {
        server.saw(&Event::Misbehaved { peer: live.peer.get().cloned(), address, why: why.to_string() });
    }
    let why = live.why.get().cloned().or_else(|| end.err().filter(|why| !is_leave(why)).map(|why| why.to_string()));
    // Who was never told to have come is not told to have gone.
    let peer = live.peer.get().filter(|_| live.told.load(Ordering::SeqCst)).cloned();
    server.saw(&Event::Disconnected { peer, address, why, silence });
    live.done.cancel();
}

/// The session of russh is a task of its own, and so are the pumps; they must not outlive ours.
struct CutOnDrop(Arc<Control>, Arc<Channels>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
        self.1.end();
    }
}

/// The session, to its end.
async fn session(
    server: &Arc<Inner>,
    live: &Arc<Live>,
    transport: Transport<TcpStream>,
    (cancel, out): (&CancellationToken, &CancellationToken),
) -> Result<(), Broken> {
    let handler = Connection { server: Arc::clone(server), live: Arc::clone(live) };
    let no_login = |why| {
        server.saw(&Event::NoLogin { address: live.address, why });
        Broken::NotNow(why)
    };
    let late = || no_login("the login took too long");
    let crowded = || no_login("others came, and its source had more connections without a key than any other");
    let deadline = clock::now() + server.login_time;
    let begin = russh::server::run_stream(Arc::clone(&server.config), transport, handler);
    let running = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = out.cancelled() => return Err(crowded()),
        begun = tokio::time::timeout_at(deadline, begin) => begun.map_err(|_| late())??,
    };
    let _ = live.handle.set(running.handle());
    tokio::pin!(running);
    let mut end = Ok(());
    tokio::select! {
        ended = &mut running => return ended,
        () = cancel.cancelled() => {}
        () = out.cancelled() => end = Err(crowded()),
        () = login_missed(live, deadline) => end = Err(late()),
        () = live.control.silent(server.silence) => live.give_up(server, "nothing came from the VMA for too long"),
    }
    live.control.cut();
    let _ = running.await;
    end
}

/// Ends when the login was not done by the deadline; never when it was.
async fn login_missed(live: &Live, deadline: clock::Instant) {
    if tokio::time::timeout_at(deadline, live.logged_in.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}
