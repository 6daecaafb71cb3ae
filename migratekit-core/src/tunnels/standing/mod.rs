//! The standing tunnel: the VMA's side, kept up.
//!
//! ```text
//!              ┌────────────────────── pause, longer each time, never the same ─────────────────────┐
//!              ▼                                                                                     │
//!  start ─▶ Connecting ── login, hello, forwards, both sides answered ─▶ Connected ── it broke ─▶ Disconnected
//!              └───────────────────────────── it did not succeed ───────────────────────────────────▶┘
//! ```
//!
//! A [`Tunnel`] keeps one **control connection**: the stream of the hello with the monitor's questions, the port at which the server reaches
//! us, and the small streams to the API. What carries data has connections of its own, made when they are needed: they live and die by
//! themselves, and a control connection that breaks takes none of them along.
//!
//! What it promises:
//!
//! - **After each break all is made again**: hello, listener at the server, each forward looked at. Sockets that listen here stay open meanwhile.
//! - **What the server does not give is said** ([`Standing::refused`]); OpenSSH does not notice a refused `-L` at all.
//! - **A connection that does not live is given up**: nothing came for [`limits::SILENCE`](super::limits::SILENCE), or the server left three
//!   questions unanswered. What was known of it is logged, and stands in the state.
//! - **It never gives up by itself**, not even when the server says no: a VMA that is approved later, or again, comes in.
//!
//! What it does not do: it changes no key (it reads [its own](super::LoginKey) again at each login) and believes no other server than the
//! pinned one.

mod connection;
mod local;
mod pauses;
mod state;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

pub use self::local::{LocalForward, Way};
pub use self::pauses::Pauses;
pub use self::state::{Forward, RefusedForward, Standing, TunnelState};
use super::client::{Client, ClientOptions, Link, ReverseHandler};
use super::hello::Dialect;
use super::probe::Probing;
use super::stream::TunnelStream;
use crate::clock::{self, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::task::{CancellationToken, Scope};

/// Hears of every state; must not wait.
pub type StateObserver = Arc<dyn Fn(&TunnelState) + Send + Sync>;

/// What the server may reach here (`-R`).
#[derive(Clone)]
pub struct Reverse {
    /// At which port of the server; `None`: the one that the server's hello tells. A foreign server tells none.
    pub port: Option<u16>,
    /// What serves it.
    pub handler: ReverseHandler,
}

/// What a tunnel is told.
#[derive(Clone)]
pub struct TunnelOptions {
    /// The server, and how to come in.
    pub client: ClientOptions,
    /// The forwards from here to the server.
    pub locals: Vec<LocalForward>,
    /// What the server may reach here.
    pub reverse: Option<Reverse>,
    /// What is said in the hello.
    pub speaks: Dialect,
    /// When the server is asked whether it lives.
    pub probing: Probing,
    /// Between two tries.
    pub pauses: Pauses,
    /// Hears of every state, besides the log.
    pub observer: Option<StateObserver>,
}

impl TunnelOptions {
    /// With the times of [`limits`](super::limits), and no forwards.
    #[must_use]
    pub fn new(client: ClientOptions) -> Self {
        TunnelOptions {
            client,
            locals: Vec::new(),
            reverse: None,
            speaks: Dialect::default(),
            probing: Probing::default(),
            pauses: Pauses::default(),
            observer: None,
        }
    }
}

/// See the [module documentation](self). Dropped, it ends at once; [`Tunnel::close`] ends it in order.
#[derive(Debug)]
pub struct Tunnel {
    inner: Arc<Inner>,
    locals: Vec<SocketAddr>,
    tasks: Scope,
}

/// What the tasks of a tunnel share.
struct Inner {
    client: Client,
    options: TunnelOptions,
    /// The same for all its connections, and no other's.
    instance: String,
    state: watch::Sender<TunnelState>,
    link: Mutex<Option<Arc<Link>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("client", &self.client).field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Listens for the local forwards and begins to connect; returns before there is a connection. Ends with `cancel`.
    ///
    /// # Errors
    /// When it cannot listen: the address is taken ([`ErrorKind::Busy`]), or not this host's.
    pub async fn start(options: TunnelOptions, cancel: &CancellationToken) -> Result<Self> {
        let mut listening = Vec::new();
        for forward in &options.locals {
            let (listener, address) = local::bind(forward).await?;
            listening.push((listener, LocalForward { listen: address, ..*forward }));
        }
        let locals: Vec<LocalForward> = listening.iter().map(|(_, forward)| *forward).collect();
        let addresses = locals.iter().map(|forward| forward.listen).collect();
        let inner = Arc::new(Inner {
            client: Client::new(options.client.clone()),
            options: TunnelOptions { locals, ..options },
            instance: uuid::Uuid::now_v7().simple().to_string(),
            state: watch::channel(TunnelState::Connecting { attempt: 1 }).0,
            link: Mutex::default(),
        });
        let mut tasks = Scope::child_of(cancel);
        for (listener, forward) in listening {
            tasks.spawn(local::serve(Arc::clone(&inner), listener, forward, tasks.token().clone()));
        }
        let (standing, end) = (Arc::clone(&inner), tasks.token().clone());
        tasks.spawn(async move { standing.keep_up(end).await });
        Ok(Tunnel { inner, locals: addresses, tasks })
    }

    /// Where it is, now and later.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<TunnelState> {
        self.inner.state.subscribe()
    }

    /// Where the local forwards listen, in the order of the options: the port that was given for a port 0.
    #[must_use]
    pub fn locals(&self) -> &[SocketAddr] {
        &self.locals
    }

    /// What it was told; the local forwards with the addresses at which they listen.
    #[must_use]
    pub fn options(&self) -> &TunnelOptions {
        &self.inner.options
    }

    /// The way to the server, for streams with connections of their own ([`Client::bulk`]).
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// A stream of the control connection to a port of the server.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] while there is none; those of [`Link::open`].
    pub async fn open(&self, port: u16) -> Result<TunnelStream> {
        self.inner.link()?.open(port).await
    }

    /// Ends it, and waits for that.
    ///
    /// # Errors
    /// When one of its tasks panicked.
    pub async fn close(self) -> Result<()> {
        self.tasks.close().await
    }
}

impl Inner {
    /// The control connection, if it stands.
    fn link(&self) -> Result<Arc<Link>> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        link.ok_or_else(|| Error::new(ErrorKind::Unreachable, "open a stream through the tunnel", "the tunnel is not connected"))
    }

    fn set_link(&self, link: Option<Arc<Link>>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    fn says(&self, state: TunnelState) {
        if let Some(observer) = &self.options.observer {
            observer(&state);
        }
        self.state.send_replace(state);
    }

    /// Connects again and again, until the end.
    async fn keep_up(self: Arc<Self>, end: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            self.says(TunnelState::Connecting { attempt: failures.saturating_add(1) });
            let (why, stood) = tokio::select! {
                // The connection is dropped with what waits for it, and with that cut.
                () = end.cancelled() => break,
                ended = self.connection() => ended,
            };
            self.set_link(None);
            // One that stood for long begins anew; one that breaks again and again is given longer and longer pauses.
            failures = if stood.is_some_and(|stood| stood >= self.options.pauses.longest) { 1 } else { failures.saturating_add(1) };
            let refused = matches!(why.kind(), ErrorKind::Denied | ErrorKind::Unsupported);
            let retry_in = self.options.pauses.after(failures, refused, pauses::random());
            tracing::warn!(error = %why, ?stood, ?retry_in, failures, "the tunnel is not connected");
            self.says(TunnelState::Disconnected { since: Timestamp::now(), why: Arc::new(why), retry_in });
            tokio::select! {
                () = end.cancelled() => break,
                () = clock::sleep(retry_in) => {}
            }
        }
        self.set_link(None);
        self.says(TunnelState::Closed);
    }
}
