//! A long, narrow or bad line between two programs: a TCP proxy that delays, limits, counts, cuts, swallows and spoils.
//!
//! ```text
//!  client ═ TCP ═ [ reader ─▶ pieces, each with the moment it arrives ─▶ writer ] ═ TCP ═ server      and the same the other way
//! ```
//!
//! Each direction of a connection has a reader and a writer. What is read gets the moment at which it comes out: when the line has passed
//! it on at its rate, plus the delay. The rate is that of the whole line: all connections of one direction share it. What is under way
//! is bounded for each connection and direction by delay times rate, as on a real line; beyond it the reader waits, and the kernel tells
//! the sender.
//!
//! What it does not do: lose, repeat or reorder packets (TCP would mend that), and delay the making of a connection: a round trip less.
//! A swallowed connection is told nothing, not even that its other end left.

mod carry;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use self::carry::{Pace, carry};
use crate::task::{CancellationToken, Scope};
use crate::units::MIB;

/// The rate by which the bytes under way are bounded where the line has no limit, in bytes a second.
const FREE_RATE: u64 = 1000 * MIB;
/// Bytes under way in one direction of a connection, at least and at most.
const HELD: (u64, u64) = (MIB, 128 * MIB);

/// What kind of line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineOptions {
    /// How long a byte is under way, each way.
    pub delay: Duration,
    /// Bytes a second, each way, for all connections together; `None`: as fast as the machine.
    pub rate: Option<u64>,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to the server.
    Up,
    /// Back.
    Down,
}

/// What has passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Bytes to the server.
    pub up: u64,
    /// Bytes from the server.
    pub down: u64,
    /// Connections that were ever made.
    pub connections: u64,
}

/// A running line. See the [module documentation](self).
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
    scope: Scope,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    delay: Duration,
    /// Bytes under way in one direction of a connection at most.
    held: u32,
    up: Direction,
    down: Direction,
    live: Mutex<Live>,
}

/// What all connections share in one direction.
#[derive(Debug)]
struct Direction {
    pace: Pace,
    passed: AtomicU64,
    /// So many pieces are still to be spoiled.
    spoil: AtomicU32,
}

#[derive(Debug, Default)]
struct Live {
    made: u64,
    swallow_new: bool,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    cut: CancellationToken,
    swallow: watch::Sender<bool>,
}

impl Line {
    /// Listens on a free port of the loopback and leads to `to`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[allow(clippy::expect_used)]
    pub async fn start(to: SocketAddr, options: LineOptions) -> Self {
        Line::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), to, options)
    }

    /// As [`Line::start`], at a listener of the caller's.
    ///
    /// # Panics
    /// When the listener has no address.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn on(listener: TcpListener, to: SocketAddr, options: LineOptions) -> Self {
        let address = listener.local_addr().expect("an address");
        let rate = u128::from(options.rate.unwrap_or(FREE_RATE));
        let held = u64::try_from(options.delay.as_micros() * rate / 1_000_000).unwrap_or(u64::MAX).clamp(HELD.0, HELD.1);
        let direction = || Direction { pace: Pace::new(options.rate), passed: AtomicU64::new(0), spoil: AtomicU32::new(0) };
        let shared = Arc::new(Shared {
            to,
            delay: options.delay,
            held: u32::try_from(held).unwrap_or(u32::MAX),
            up: direction(),
            down: direction(),
            live: Mutex::default(),
        });
        let mut scope = Scope::new();
        scope.spawn(accept(listener, Arc::clone(&shared), scope.token().clone()));
        Line { address, shared, scope }
    }

    /// Where it is entered.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has entered it so far.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let passed = |direction: &Direction| direction.passed.load(Ordering::Relaxed);
        Counted { up: passed(&self.shared.up), down: passed(&self.shared.down), connections: self.shared.live().made }
    }

    /// Cuts every connection there is, with all that is under way; tells how many.
    pub fn cut(&self) -> usize {
        let live = self.shared.live();
        live.connections.iter().for_each(|connection| connection.cut.cancel());
        live.connections.len()
    }

    /// A black hole: nothing more comes out of the connections there are; with `new`, nor of later ones. Nobody is told.
    pub fn swallow(&self, new: bool) {
        let mut live = self.shared.live();
        live.swallow_new = new;
        live.connections.iter().for_each(|connection| {
            connection.swallow.send_replace(true);
        });
    }

    /// No black hole any more: all goes on where it stood.
    pub fn clear(&self) {
        let mut live = self.shared.live();
        live.swallow_new = false;
        live.connections.iter().for_each(|connection| {
            connection.swallow.send_replace(false);
        });
    }

    /// One bit of the next larger piece in this direction comes out wrong.
    pub fn spoil(&self, way: Way) {
        let direction = match way {
            Way::Up => &self.shared.up,
            Way::Down => &self.shared.down,
        };
        direction.spoil.fetch_add(1, Ordering::Relaxed);
    }

    /// How many pieces are still to be spoiled.
    #[must_use]
    pub fn to_spoil(&self) -> u32 {
        self.shared.up.spoil.load(Ordering::Relaxed) + self.shared.down.spoil.load(Ordering::Relaxed)
    }

    /// Ends it, and every connection.
    pub async fn close(self) {
        let _ = self.scope.close().await;
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, cut: CancellationToken) -> (u64, watch::Receiver<bool>) {
        let mut live = self.live();
        live.made += 1;
        let (swallow, swallowed) = watch::channel(live.swallow_new);
        let number = live.made;
        live.connections.push(Connection { number, cut, swallow });
        (number, swallowed)
    }

    fn ends(&self, number: u64) {
        self.live().connections.retain(|connection| connection.number != number);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, token: CancellationToken) {
    let mut connections = Scope::child_of(&token);
    loop {
        let accepted = tokio::select! {
            () = token.cancelled() => break,
            // Those that ended are let go of.
            Ok(Some(())) = connections.join_one(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, _)) = accepted else { break };
        let (shared, cut) = (Arc::clone(&shared), connections.token().child_token());
        connections.spawn(async move {
            let (number, swallowed) = shared.begins(cut.clone());
            tokio::select! {
                () = cut.cancelled() => {}
                _ = connect(client, &shared, swallowed) => {}
            }
            shared.ends(number);
        });
    }
    let _ = connections.close().await;
}

/// One connection, until both directions ended. A server that is not there is one that hangs up.
async fn connect(client: TcpStream, shared: &Shared, swallowed: watch::Receiver<bool>) -> std::io::Result<()> {
    let server = TcpStream::connect(shared.to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = carry(from_client, to_server, &shared.up, shared.delay, shared.held, swallowed.clone());
    let down = carry(from_server, to_client, &shared.down, shared.delay, shared.held, swallowed);
    tokio::try_join!(up, down).map(|_| ())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::clock::{now, within};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A server that sends back what it gets.
    async fn echo() -> (SocketAddr, Scope) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut scope = Scope::new();
        let token = scope.token().clone();
        scope.spawn(async move {
            let mut streams = Scope::child_of(&token);
            while let Some(Ok((stream, _))) = token.run_until_cancelled(listener.accept()).await {
                let token = token.clone();
                streams.spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let copied = token.run_until_cancelled(tokio::io::copy(&mut read, &mut write)).await;
                    if matches!(copied, Some(Ok(_))) {
                        let _ = write.shutdown().await;
                    }
                });
            }
            streams.close().await.unwrap();
        });
        (address, scope)
    }

    async fn there_and_back(line: &Line, bytes: &[u8]) -> Vec<u8> {
        let (mut read, mut write) = TcpStream::connect(line.address()).await.unwrap().into_split();
        let send = async {
            write.write_all(bytes).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let receive = async { read.read_to_end(&mut got).await.unwrap() };
        within(PATIENCE, async { tokio::join!(send, receive) }).await.expect("all comes back");
        got
    }

    fn pattern(bytes: u64) -> Vec<u8> {
        (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    #[tokio::test]
    async fn bytes_come_out_in_order_later_and_counted() {
        let (server, scope) = echo().await;
        let line = Line::start(server, LineOptions { delay: Duration::from_millis(40), rate: None }).await;
        let (sent, began) = (pattern(3 * MIB + 7), now());
        assert!(there_and_back(&line, &sent).await == sent);
        assert!(began.elapsed() >= Duration::from_millis(80), "there and back again, {:?}", began.elapsed());
        let bytes = 3 * MIB + 7;
        assert_eq!(line.counted(), Counted { up: bytes, down: bytes, connections: 1 });
        line.close().await;
        scope.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_narrow_line_passes_no_more_than_its_rate_for_all_together() {
        let (server, scope) = echo().await;
        let line = Line::start(server, LineOptions { delay: Duration::ZERO, rate: Some(4 * MIB) }).await;
        let (sent, began) = (pattern(MIB), now());
        let both = tokio::join!(there_and_back(&line, &sent), there_and_back(&line, &sent));
        assert!(both.0 == sent && both.1 == sent);
        // 2 MiB each way at 4 MiB a second, both ways at once.
        assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
        line.close().await;
        scope.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_under_way_is_bounded() {
        // A server that takes nothing: the line takes its bound, and the kernel what it likes.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let line = Line::start(listener.local_addr().unwrap(), LineOptions::default()).await;
        let mut client = TcpStream::connect(line.address()).await.unwrap();
        let stuck = within(Duration::from_millis(500), client.write_all(&pattern(64 * MIB))).await;
        assert!(stuck.is_none(), "nobody takes 64 MiB");
        let (held, kernel) = (u64::from(line.shared.held), 16 * MIB);
        assert!((held..=held + kernel).contains(&line.counted().up), "{:?}", line.counted());
        line.close().await;
    }

    #[tokio::test]
    async fn it_swallows_and_goes_on_and_cuts() {
        let (server, scope) = echo().await;
        let line = Line::start(server, LineOptions::default()).await;
        let mut old = TcpStream::connect(line.address()).await.unwrap();
        let mut byte = [0];
        old.write_all(b"1").await.unwrap();
        within(PATIENCE, old.read_exact(&mut byte)).await.expect("an answer").unwrap();
        line.swallow(false);
        old.write_all(b"2").await.unwrap();
        assert!(within(Duration::from_millis(100), old.read_exact(&mut byte)).await.is_none(), "swallowed");
        assert!(there_and_back(&line, b"new").await == b"new", "only what was there is swallowed");
        line.swallow(true);
        let mut new = TcpStream::connect(line.address()).await.unwrap();
        new.write_all(b"3").await.unwrap();
        assert!(within(Duration::from_millis(100), new.read_exact(&mut byte)).await.is_none(), "swallowed");
        line.clear();
        for stream in [&mut old, &mut new] {
            within(PATIENCE, stream.read_exact(&mut byte)).await.expect("it goes on").unwrap();
        }
        assert_eq!(line.cut(), 2);
        let end = within(PATIENCE, old.read(&mut byte)).await.expect("it is cut");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        assert!(there_and_back(&line, b"again").await == b"again");
        line.close().await;
        scope.close().await.unwrap();
    }

    #[tokio::test]
    async fn one_bit_comes_out_wrong_when_asked_for() {
        let (server, scope) = echo().await;
        let line = Line::start(server, LineOptions::default()).await;
        line.spoil(Way::Down);
        let sent = pattern(MIB);
        let got = there_and_back(&line, &sent).await;
        let wrong: u32 = sent.iter().zip(&got).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((got.len(), wrong, line.to_spoil()), (sent.len(), 1, 0));
        line.close().await;
        scope.close().await.unwrap();
    }
}
