//! The NBD client: an export of any server as a disk.
//!
//! ```text
//!  callers ---> Core: bounds, least loaded lane
//!                 |--> lane 0: queue -> connection (writer | reader | watch) -> socket     each lane makes its
//!                 |--> lane 1: queue -> connection                           -> socket     connection again when
//!                 ...                                                                      it breaks
//! ```
//!
//! - **Pipelined**: any number of requests are under way; headers and payloads leave in one system call, payloads arrive straight
//!   in the buffer that is handed out.
//! - **Falls back**: without GO, structured replies, meta contexts, block sizes, FUA, WRITE_ZEROES, FLUSH or CAN_MULTI_CONN it does
//!   the next best thing, and [`BlockInfo`] tells what is left. Where the server has no FLUSH, a flush
//!   succeeds and promises nothing: look at [`Capabilities::flush`](crate::block::Capabilities::flush).
//! - **Comes back**: a broken connection is made again within [`Reconnect`], the export compared with the one it was, and every
//!   request without an acknowledgement is sent again. What the server acknowledged but had not flushed is then in doubt: the next
//!   [`flush`](crate::block::BlockWrite::flush) fails, once, with kind [`ErrorKind::Unreachable`] and the context key
//!   `writes-in-doubt`; the caller writes again what no good flush covers. A [`Persist::Durable`](crate::block::Persist) write on
//!   a server without FUA fails by the same error, and leaves it to the next flush as well.
//! - **Trusts nobody**: lengths, offsets, cookies, chunk order, extents are checked; a server that breaks the protocol ends the
//!   client by an error of kind [`ErrorKind::Protocol`].
//! - **Bounded**: bytes under way, replies, and every wait (see [`super::limits`], [`Timeouts`]).
//!
//! Dropping a request's future gives up the wait; the request may still be done. Dropping the client closes its sockets;
//! [`Client::close`] takes leave of the server first.

mod assembly;
mod connection;
mod core;
mod coverage;
mod dial;
mod disk;
mod durability;
#[cfg(feature = "testing")]
pub mod fuzz;
mod inflight;
mod lane;
mod options;
mod order;
mod tls;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::core::{Core, Lane};
use self::dial::{Opened, Origin};
use self::durability::Durability;
pub use self::options::{ConnectOptions, Dial, Dialer, Reconnect, Timeouts};
use self::order::Order;
use self::tls::Tls;
use crate::block::{BlockInfo, BlockRead, Capabilities, MAX_REQUEST, PREFERRED_BLOCK};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::handshake::client::{Plan, Purpose, Style};
pub use crate::nbd::handshake::facts::{BlockSizes, ListedExport, MetaContext, Negotiated};
use crate::nbd::limits::MAX_CLIENT_CONNECTIONS;
use crate::nbd::stream::ByteStream;
use crate::nbd::uri::Uri;
use crate::nbd::wire::{BASE_ALLOCATION, DIGEST_NAME_PREFIX, LEDGER_CONTEXT, PASS_CONTEXT_PREFIX, transmission};
use crate::task::Scope;
use crate::units::ByteRange;

/// The prefix of our own meta contexts, as a query.
const OUR_CONTEXTS: &str = "migratekit:";

/// An open export; see the [module documentation](self).
pub struct Client {
    core: Arc<Core>,
    tasks: Scope,
}

impl Client {
    /// Connects by URI.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for options out of range, [`ErrorKind::Unreachable`] and [`ErrorKind::Timeout`] for a server
    /// that is not there, [`ErrorKind::NotFound`] for an unknown host, socket or export, [`ErrorKind::Denied`] for TLS that is
    /// refused, required or not trusted, [`ErrorKind::Protocol`] for a peer that does not speak NBD.
    pub async fn connect(options: ConnectOptions) -> Result<Self> {
        let name = options.uri.to_string();
        let tls = Tls::of(&options.uri).await.map_err(|e| e.with("server", &name))?;
        let origin = Origin::Uri(options.uri.clone(), tls);
        Client::open(Arc::new(origin), name, options).await
    }

    /// Opens an export over one stream. `options.uri` names the export and serves for messages; the client cannot reconnect.
    pub async fn over(stream: Box<dyn ByteStream>, options: ConnectOptions) -> Result<Self> {
        let name = options.uri.to_string();
        Client::open(Arc::new(Origin::Once(Mutex::new(Some(stream)))), name, options).await
    }

    /// Opens an export over streams of `dialer`, which is asked for each connection and after each break. `options.uri` names the
    /// export and serves for messages.
    pub async fn with_dialer(dialer: Dialer, options: ConnectOptions) -> Result<Self> {
        let name = options.uri.to_string();
        Client::open(Arc::new(Origin::Dialer(dialer)), name, options).await
    }

    async fn open(origin: Arc<Origin>, name: String, options: ConnectOptions) -> Result<Self> {
        check_options(&options)?;
        let mut plan = plan_of(&options);
        let begin_more = |plan: &Plan, round_trip| {
            let connections = options.connections_over(round_trip);
            (connections > 1 && origin.can_repeat()).then(|| More::begin(&origin, plan, &options, connections - 1))
        };
        let begun = options.round_trip.and_then(|round_trip| begin_more(&plan, round_trip));
        let first = origin.open(plan.clone(), options.timeouts).await.map_err(|e| e.with("server", &name))?;
        plan.style = first.style;
        let (facts, round_trip) = (first.facts.clone(), first.round_trip);
        let mut opened = vec![first];
        if facts.has(transmission::CAN_MULTI_CONN)
            && let Some(more) = begun.or_else(|| begin_more(&plan, round_trip))
        {
            opened.extend(more.gather(&facts).await.map_err(|e| e.with("server", &name))?);
        }
        let (mut lanes, mut queues) = (Vec::new(), Vec::new());
        for _ in &opened {
            let (queue, orders) = unbounded_channel();
            lanes.push(Lane { queue, load: Arc::default(), up: AtomicBool::new(true) });
            queues.push(orders);
        }
        let info = info_of(&name, &facts, options.read_only);
        let bytes_limit = options.bytes_in_flight;
        let core = Arc::new(Core {
            name,
            origin,
            plan,
            options,
            facts,
            info,
            account: Arc::new(Mutex::new(Durability::new(lanes.len()))),
            lanes,
            bytes: Arc::new(Semaphore::new(usize::try_from(bytes_limit).unwrap_or(Semaphore::MAX_PERMITS))),
            bytes_limit,
            round_trip,
            failed: OnceLock::new(),
        });
        Ok(Client { tasks: start(&core, opened, queues), core })
    }

    /// What the server told of itself and the export, as plain data.
    #[must_use]
    pub fn facts(&self) -> &Negotiated {
        &self.core.facts
    }

    /// The export as the server offers it, whatever this client was told to leave alone ([`ConnectOptions::read_only`]).
    #[must_use]
    pub fn offer(&self) -> BlockInfo {
        info_of(&self.core.name, &self.core.facts, false)
    }

    /// The server's line for people about the export.
    #[must_use]
    pub fn server_description(&self) -> Option<&str> {
        self.core.facts.description.as_deref()
    }

    /// How many connections are used.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.core.lanes.len()
    }

    /// Whether the server allows several connections that write as one.
    #[must_use]
    pub fn can_multi_conn(&self) -> bool {
        self.core.facts.has(transmission::CAN_MULTI_CONN)
    }

    /// How long an answer was under way when the client connected: the shortest of the handshake's.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.core.round_trip
    }

    /// How many times a connection broke so far. When it rises, writes acknowledged before and not flushed are in doubt.
    #[must_use]
    pub fn connection_generation(&self) -> u64 {
        self.core.account().generation()
    }

    /// Whether the server records this client's writes for [`ConnectOptions::pass`].
    #[must_use]
    pub fn pass_accepted(&self) -> bool {
        self.core.facts.contexts.iter().any(|c| c.name.starts_with(PASS_CONTEXT_PREFIX))
    }

    /// Whether [`Client::ledger`] can be asked.
    #[must_use]
    pub fn has_ledger(&self) -> bool {
        self.core.facts.contexts.iter().any(|c| c.name == LEDGER_CONTEXT)
    }

    /// The pass that wrote to the export last, as it was when the client connected with [`ConnectOptions::want_ledger`] or
    /// [`ConnectOptions::pass`]. `None`: none, or the server is not one of ours.
    #[must_use]
    pub fn last_pass(&self) -> Option<&str> {
        self.core.facts.offered_contexts.iter().find_map(|name| name.strip_prefix(PASS_CONTEXT_PREFIX))
    }

    /// The server's ledger of `range`, with flags of [`super::wire::ledger_state`]: sorted, without gaps, covering it. Needs
    /// [`ConnectOptions::want_ledger`].
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the server keeps none.
    pub async fn ledger(&self, range: ByteRange) -> Result<Vec<(ByteRange, u32)>> {
        self.status(LEDGER_CONTEXT, range).await
    }

    /// The digests of this export as a disk of their own: 32 bytes (BLAKE3) for each block of `block_size` bytes, computed by the
    /// server from what it stores. `None` when the server offers none (it is not one of ours), or when this client has only one
    /// stream.
    ///
    /// # Errors
    /// Of connecting; a server that merely lacks the digests is no error.
    pub async fn digests(&self, block_size: u32) -> Result<Option<Client>> {
        if !self.core.origin.can_repeat() || block_size == 0 {
            return Ok(None);
        }
        let name = format!("{DIGEST_NAME_PREFIX}{block_size}:{}", self.core.plan.export);
        let options = &self.core.options;
        let options = ConnectOptions {
            uri: options.uri.with_export(name),
            connections: 1,
            window: None,
            round_trip: None,
            pass: None,
            want_ledger: false,
            contexts: Vec::new(),
            list_contexts: false,
            read_only: true,
            ..options.clone()
        };
        let origin = match &*self.core.origin {
            Origin::Uri(_, tls) => Origin::Uri(options.uri.clone(), tls.clone()),
            Origin::Dialer(dialer) => Origin::Dialer(Arc::clone(dialer)),
            Origin::Once(_) => return Ok(None),
        };
        let server = options.uri.to_string();
        match Client::open(Arc::new(origin), server, options).await {
            // Some servers serve the same disk under every name; the digests have a size of their own.
            Ok(client)
                if client.info().size == self.info().size.div_ceil(u64::from(block_size)) * 32
                    && client.info().size != self.info().size =>
            {
                Ok(Some(client))
            }
            Ok(client) => client.close().await.map(|()| None),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Unsupported) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes leave of the server and ends all connections. Does not flush.
    pub async fn close(self) -> Result<()> {
        self.tasks.close().await
    }
}

/// The exports of a server; the export name in `uri` is not used.
///
/// # Errors
/// As [`Client::connect`]; [`ErrorKind::Denied`] when the server does not list.
pub async fn list(uri: &Uri, timeouts: Timeouts) -> Result<Vec<ListedExport>> {
    let name = uri.to_string();
    let work = async {
        let origin = Origin::Uri(uri.clone(), Tls::of(uri).await?);
        let plan = Plan { purpose: Purpose::List, ..Plan::default() };
        Ok(origin.open(plan, timeouts).await?.facts.exports)
    };
    work.await.map_err(|e: Error| e.with("server", name))
}

fn start(core: &Arc<Core>, opened: Vec<Opened>, queues: Vec<UnboundedReceiver<Order>>) -> Scope {
    let mut tasks = Scope::new();
    for (index, (opened, queue)) in opened.into_iter().zip(queues).enumerate() {
        let token = tasks.token().clone();
        tasks.spawn(lane::run(Arc::clone(core), index, opened, queue, token));
    }
    tasks
}

/// The further connections. One that cannot be made is done without; one that shows another export is an error.
struct More {
    results: UnboundedReceiver<Result<Opened>>,
    _dialling: Scope,
}

impl More {
    fn begin(origin: &Arc<Origin>, plan: &Plan, options: &ConnectOptions, connections: usize) -> Self {
        // A server that lets more connections wait than it serves must not hold up the one that stands.
        let timeouts = Timeouts { handshake: options.timeouts.handshake.min(options.timeouts.connect), ..options.timeouts };
        let mut dialling = Scope::new();
        let (done, results) = unbounded_channel();
        for _ in 0..connections {
            let (origin, plan, done) = (Arc::clone(origin), plan.clone(), done.clone());
            dialling.spawn(async move {
                let _ = done.send(origin.again(plan, timeouts).await);
            });
        }
        More { results, _dialling: dialling }
    }

    async fn gather(mut self, facts: &Negotiated) -> Result<Vec<Opened>> {
        let mut opened = Vec::new();
        while let Some(result) = self.results.recv().await {
            match result {
                Ok(more) => {
                    lane::same_export(facts, &more.facts)?;
                    opened.push(more);
                }
                Err(e) => tracing::debug!(fault = %e, "a further NBD connection could not be made; the client does without it"),
            }
        }
        Ok(opened)
    }
}

fn check_options(options: &ConnectOptions) -> Result<()> {
    let wrong = |message| Err(Error::new(ErrorKind::InvalidInput, "connect to the NBD server", message));
    if !(1..=MAX_CLIENT_CONNECTIONS).contains(&options.connections) {
        return wrong("the number of connections is not between 1 and 16");
    }
    if options.bytes_in_flight == 0 {
        return wrong("the bytes in flight are bounded by 0");
    }
    if let Some(pass) = &options.pass
        && (pass.is_empty() || pass.len() > 64 || !pass.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
    {
        return wrong("the id of a pass is not 1 to 64 letters, digits, dots, dashes, underscores");
    }
    Ok(())
}

fn plan_of(options: &ConnectOptions) -> Plan {
    let mut contexts = vec![BASE_ALLOCATION.to_owned()];
    contexts.extend(options.pass.iter().map(|pass| format!("{PASS_CONTEXT_PREFIX}{pass}")));
    if options.want_ledger {
        contexts.push(LEDGER_CONTEXT.to_owned());
    }
    contexts.extend(options.contexts.iter().cloned());
    let mut list_contexts = Vec::new();
    if options.want_ledger || options.pass.is_some() {
        list_contexts.push(vec![OUR_CONTEXTS.to_owned()]);
    }
    if options.list_contexts {
        list_contexts.push(Vec::new());
    }
    Plan { export: options.uri.export.clone(), purpose: Purpose::Open, style: Style::Full, tls: false, contexts, list_contexts }
}

/// What the server told, in the words of a disk.
fn info_of(name: &str, facts: &Negotiated, read_only: bool) -> BlockInfo {
    let has = |flag| facts.has(flag);
    let read_only = read_only || has(transmission::READ_ONLY);
    let min_block = facts.block_sizes.map_or(1, |b| b.minimum);
    let max_request = facts.block_sizes.map_or(MAX_REQUEST, |b| b.maximum.min(MAX_REQUEST));
    let preferred = facts.block_sizes.map_or(PREFERRED_BLOCK, |b| b.preferred);
    let longest = 1 << max_request.max(1).ilog2();
    BlockInfo {
        name: name.to_owned(),
        size: facts.size,
        read_only,
        min_block,
        preferred_block: preferred.min(longest).max(min_block),
        max_request,
        can: Capabilities {
            flush: has(transmission::SEND_FLUSH),
            fua: has(transmission::SEND_FUA),
            discard: !read_only && has(transmission::SEND_TRIM),
            zero: !read_only && has(transmission::SEND_WRITE_ZEROES),
            fast_zero: !read_only && has(transmission::SEND_WRITE_ZEROES) && has(transmission::SEND_FAST_ZERO),
            extents: facts.contexts.iter().any(|c| c.name == BASE_ALLOCATION),
            multi_conn: has(transmission::CAN_MULTI_CONN),
            cache: has(transmission::SEND_CACHE),
        },
    }
}
