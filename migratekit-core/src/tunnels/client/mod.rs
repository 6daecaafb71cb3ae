//! The client: the VMA's side.
//!
//! A [`Client`] is an address, a key, and the fingerprint of the one server it believes; it holds no connection by itself. A
//! [`Link`] is one SSH connection: streams to the server's ports, and streams from the server to ours. [`Client::bulk`] gives a stream
//! with a connection of its own, which ends with it: data has no neighbours, so that nothing that goes wrong with it touches another
//! disk or the control connection. Whoever wants it again after a break asks again; NBD's client does so with growing pauses.

mod handler;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use russh::client::AuthResult;
use russh::keys::PrivateKeyWithHashAlg;
use tokio::net::TcpStream;

use self::handler::{Connection, Shared};
use super::algorithms::{PREFERRED, rekey};
use super::channel::Flow;
use super::channels::{Broken, Channels, hello};
use super::compression::{Compression, FRAMES};
use super::keys::{Fingerprint, PrivateKey};
use super::login_key::LoginKey;
use super::stream::TunnelStream;
use super::transport::{Control, Transport};
use super::{USER, limits};
use crate::block::BoxFuture;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::task::{CancellationToken, Scope};

const CONNECT: &str = "connect to the tunnel";
const OPEN: &str = "open a stream through the tunnel";
/// From where a stream of plain bytes comes.
const ORIGINATOR: &str = "127.0.0.1";

/// Serves a stream that the server opened to a port of ours.
pub type ReverseHandler = Arc<dyn Fn(TunnelStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// What a client is told.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The server's host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// By which name to log in ([`USER`]).
    pub user: String,
    /// By which key; one that lies in a file is read again at each login.
    pub key: LoginKey,
    /// The one key the server may have.
    pub host_key: Fingerprint,
    /// [`limits::KEEPALIVE`].
    pub keepalive: Duration,
    /// [`limits::CONNECT_TIME`], for the socket and for the login each.
    pub connect_time: Duration,
    /// [`limits::REKEY_BYTES`]; more is not taken.
    pub rekey_bytes: usize,
    /// [`limits::SILENCE`].
    pub silence: Duration,
    /// Whether the streams of [`Client::bulk`] are compressed, where the server can do that too.
    pub compression: Compression,
}

impl ClientOptions {
    /// With the times of [`limits`].
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, key: impl Into<LoginKey>, host_key: Fingerprint) -> Self {
        ClientOptions {
            host: host.into(),
            port,
            user: USER.to_owned(),
            key: key.into(),
            host_key,
            keepalive: limits::KEEPALIVE,
            connect_time: limits::CONNECT_TIME,
            rekey_bytes: limits::REKEY_BYTES,
            silence: limits::SILENCE,
            compression: Compression::default(),
        }
    }
}

/// See the [module documentation](self).
#[derive(Clone)]
pub struct Client {
    options: Arc<ClientOptions>,
    config: Arc<russh::client::Config>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Client {
    /// A client; nothing is connected.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        let config = russh::client::Config {
            client_id: hello(options.compression),
            limits: rekey(options.rekey_bytes),
            window_size: limits::WINDOW,
            maximum_packet_size: limits::PACKET,
            preferred: PREFERRED,
            inactivity_timeout: Some(options.keepalive.saturating_mul(limits::SILENT_KEEPALIVES)),
            keepalive_interval: Some(options.keepalive),
            keepalive_max: limits::KEEPALIVE_MISSES,
            nodelay: true,
            ..russh::client::Config::default()
        };
        Client { options: Arc::new(options), config: Arc::new(config) }
    }

    /// What it was told.
    #[must_use]
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    fn error(&self, kind: ErrorKind, message: &'static str) -> Error {
        self.named(Error::new(kind, CONNECT, message))
    }

    fn named(&self, error: Error) -> Error {
        error.with("host", &self.options.host).with("port", self.options.port)
    }

    /// Makes a connection and logs in, by the key as it is now. Refused, it looks whether the key was replaced meanwhile, and tries that one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown host; [`ErrorKind::Unreachable`] and [`ErrorKind::Timeout`], also when the server has no room
    /// for this key now or cannot tell now who may come in; [`ErrorKind::Denied`] when the
    /// server shows another key than the pinned one, or does not take ours; [`ErrorKind::Unsupported`] when there is no algorithm that
    /// both sides take; [`ErrorKind::Protocol`] when it does not speak SSH.
    pub async fn connect(&self) -> Result<Link> {
        let key = self.options.key.now().await;
        match self.connect_by(&key).await {
            Err(refused) if refused.kind() == ErrorKind::Denied => {
                let replaced = self.options.key.now().await;
                if replaced.public() == key.public() { Err(refused) } else { self.connect_by(&replaced).await }
            }
            made => made,
        }
    }

    async fn connect_by(&self, key: &PrivateKey) -> Result<Link> {
        let late = || self.error(ErrorKind::Timeout, "the server did not answer within the deadline");
        let socket = self.socket().await?;
        let _ = socket.set_nodelay(true);
        let control = Arc::new(Control::default());
        // Cuts what is begun if we leave early, by an error or because nobody waits any more.
        let guard = CutUnlessKept(Some(Arc::clone(&control)));
        let login = self.login(Transport::new(socket, Arc::clone(&control)), Arc::clone(&control), key);
        let link = clock::within(self.options.connect_time, login).await.ok_or_else(late)??;
        guard.keep();
        Ok(link)
    }

    async fn socket(&self) -> Result<TcpStream> {
        let connecting = TcpStream::connect((self.options.host.as_str(), self.options.port));
        let connected = clock::within(self.options.connect_time, connecting).await;
        connected.ok_or_else(|| self.error(ErrorKind::Timeout, "the connection was not made within the deadline"))?.map_err(|e| {
            if e.raw_os_error().is_none() {
                return self.error(ErrorKind::NotFound, "the host name is not known").with_source(e);
            }
            self.named(Error::from_io(CONNECT, e))
        })
    }

    async fn login(&self, transport: Transport<TcpStream>, control: Arc<Control>, key: &PrivateKey) -> Result<Link> {
        let channels = Channels::new(Arc::clone(&control), limits::MAX_CHANNELS);
        let shared = Arc::new(Shared {
            pinned: self.options.host_key.clone(),
            found: OnceLock::new(),
            frames: AtomicBool::new(false),
            channels,
            listening: Mutex::default(),
            tasks: Mutex::new(Scope::new()),
            why: OnceLock::new(),
            ended: CancellationToken::new(),
        });
        let connection = Connection(Arc::clone(&shared));
        let begun = russh::client::connect_stream(Arc::clone(&self.config), transport, connection).await;
        let mut handle = begun.map_err(|e| self.refused(e, &shared))?;
        let by_key = PrivateKeyWithHashAlg::new(key.inner(), None);
        let answer = handle.authenticate_publickey(self.options.user.clone(), by_key).await.map_err(|e| self.refused(e.into(), &shared))?;
        // russh calls it a failure too when the connection ended before the answer; a server that says no names the ways in that are left.
        if matches!(&answer, AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty()) {
            let text = "the server ended the login without an answer: it has no room for this key now, or cannot tell now who may come in";
            return Err(self.error(ErrorKind::Unreachable, text));
        }
        if !answer.success() {
            return Err(self
                .error(ErrorKind::Denied, "the server does not take this key")
                .with("user", &self.options.user)
                .with("key", key.public().fingerprint()));
        }
        let (watched, seen, silence) = (Arc::clone(&control), Arc::clone(&shared), self.options.silence);
        shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            tokio::select! {
                () = seen.ended.cancelled() => {}
                () = watched.silent(silence) => {
                    let _ = seen.why.set("nothing came from the server for too long".to_owned());
                    watched.cut();
                }
            }
        });
        Ok(Link { handle, shared, control })
    }

    fn refused(&self, e: Broken, shared: &Shared) -> Error {
        use russh::Error as E;
        if let Some(found) = shared.found.get() {
            let error =
                self.error(ErrorKind::Denied, "the server has not the key that is pinned; it is another server, or somebody is in between");
            let error = error.with("pinned", &self.options.host_key);
            return match found {
                Some(found) => error.with("found", found),
                None => error.with("found", "a key of another kind"),
            };
        }
        match e {
            Broken::Ssh(E::IO(e)) => self.named(Error::from_io(CONNECT, e)),
            Broken::Ssh(e @ (E::NoCommonAlgo { .. } | E::UnknownAlgo)) => {
                self.error(ErrorKind::Unsupported, "the two sides have no algorithm in common").with_source(e)
            }
            Broken::Ssh(e @ (E::Disconnect | E::HUP | E::SendError)) => {
                self.error(ErrorKind::Unreachable, "the server closed the connection").with_source(e)
            }
            Broken::Ssh(e) => self.error(ErrorKind::Protocol, "the server does not speak SSH as it should").with_source(e),
            Broken::Peer(why) => self.error(ErrorKind::Protocol, why),
            Broken::NotNow(why) => self.error(ErrorKind::Unreachable, why),
        }
    }

    /// A stream to a port of the server, with a connection of its own.
    ///
    /// # Errors
    /// Those of [`Client::connect`] and [`Link::open`].
    pub async fn bulk(&self, port: u16) -> Result<TunnelStream> {
        let link = self.connect().await?;
        let frames = self.options.compression != Compression::Off && link.shared.frames.load(Ordering::SeqCst);
        let (channel, flow) = link.channel(port, if frames { FRAMES } else { ORIGINATOR }).await.map_err(|e| self.named(e))?;
        let channels = Arc::clone(&link.shared.channels);
        let stream = channels.stream(channel, flow, Some(Arc::new(link)));
        Ok(if frames { stream.in_frames(self.options.compression) } else { stream })
    }
}

/// Cuts a connection that is given up while it is made.
struct CutUnlessKept(Option<Arc<Control>>);

impl CutUnlessKept {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CutUnlessKept {
    fn drop(&mut self) {
        if let Some(control) = &self.0 {
            control.cut();
        }
    }
}

/// One connection to a server. Dropped, it ends when all its streams have: what was given to it before is still sent.
pub struct Link {
    handle: russh::client::Handle<Connection>,
    shared: Arc<Shared>,
    control: Arc<Control>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("pinned", &self.shared.pinned).finish_non_exhaustive()
    }
}

impl Link {
    /// A stream to a port of the server's loopback.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the server refuses it; [`ErrorKind::Busy`] when the connection has as many channels as it may;
    /// [`ErrorKind::Timeout`]; [`ErrorKind::Unreachable`] when the connection is gone.
    pub async fn open(&self, port: u16) -> Result<TunnelStream> {
        let (channel, flow) = self.channel(port, ORIGINATOR).await?;
        Ok(self.shared.channels.stream(channel, flow, None))
    }

    async fn channel(&self, port: u16, originator: &str) -> Result<(russh::Channel<russh::client::Msg>, Arc<Flow>)> {
        let fail = |kind, message: &'static str| Error::new(kind, OPEN, message).with("to", format!("127.0.0.1:{port}"));
        if self.shared.channels.open() >= limits::MAX_CHANNELS {
            return Err(fail(ErrorKind::Busy, "the connection has as many channels as it may"));
        }
        let opening = self.handle.channel_open_direct_tcpip("127.0.0.1", u32::from(port), originator, 0);
        let opened = clock::within(limits::OPEN_TIME, opening).await;
        let channel = opened.ok_or_else(|| fail(ErrorKind::Timeout, "the server did not answer in time"))?.map_err(|e| match e {
            russh::Error::ChannelOpenFailure(russh::ChannelOpenFailure::ResourceShortage) => {
                fail(ErrorKind::Busy, "the server has no room for another stream").with_source(e)
            }
            russh::Error::ChannelOpenFailure(_) => fail(ErrorKind::Denied, "the server refuses the stream").with_source(e),
            e => fail(ErrorKind::Unreachable, "the connection broke").with_source(e),
        })?;
        let flow = self.shared.channels.opened(channel.id()).await;
        Ok((channel, flow.ok_or_else(|| fail(ErrorKind::Unreachable, "the connection ended meanwhile"))?))
    }

    /// Has the server listen at `port` of its loopback, and serves its streams by `handler`.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the server refuses; [`ErrorKind::Timeout`]; [`ErrorKind::Unreachable`].
    pub async fn listen(&self, port: u16, handler: ReverseHandler) -> Result<()> {
        let fail = |kind, message: &'static str| Error::new(kind, "listen at the server", message).with("port", port);
        let listening = || self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the server may open the first stream.
        listening().insert(port, handler);
        let asked = clock::within(limits::OPEN_TIME, self.handle.tcpip_forward("127.0.0.1", u32::from(port))).await;
        let end = asked.ok_or_else(|| fail(ErrorKind::Timeout, "the server did not answer in time")).and_then(|answer| {
            answer.map_err(|e| match e {
                russh::Error::RequestDenied => fail(ErrorKind::Denied, "the server refuses to listen at this port for us"),
                e => fail(ErrorKind::Unreachable, "the connection broke").with_source(e),
            })
        });
        if end.is_err() {
            listening().remove(&port);
        }
        end.map(|_| ())
    }

    /// Whether the other side answers: one round trip.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] after `time`; [`ErrorKind::Unreachable`].
    pub async fn ping(&self, time: Duration) -> Result<()> {
        let fail = |kind, message: &'static str| Error::new(kind, "ask the tunnel whether it lives", message);
        let asked = clock::within(time, self.handle.send_ping()).await;
        asked
            .ok_or_else(|| fail(ErrorKind::Timeout, "no answer within the deadline"))?
            .map_err(|e| fail(ErrorKind::Unreachable, "the connection broke").with_source(e))
    }

    /// Ends with the connection; says why, as far as that is known.
    pub async fn ended(&self) -> Option<String> {
        self.shared.ended.cancelled().await;
        self.shared.why.get().cloned()
    }

    /// How long it lives, for how long nothing came from the server, and how many channels are open.
    pub(super) fn account(&self) -> (Duration, Duration, usize) {
        (self.control.age(), self.control.silence(), self.shared.channels.open())
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Bytes read from the socket and written to it so far.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        self.control.moved()
    }

    /// Ends the connection where it stands.
    pub fn cut(&self) {
        self.control.cut();
    }
}
