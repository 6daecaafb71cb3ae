//! How a client connects, and what it does when a connection breaks.

use std::sync::Arc;
use std::time::Duration;

use crate::block::BoxFuture;
use crate::error::Result;
use crate::nbd::limits::{CONNECT_TIME, HANDSHAKE_TIME, LONG_WAY_RATE, MAX_CLIENT_BYTES, MAX_CLIENT_CONNECTIONS, STALL_TIME};
use crate::nbd::stream::ByteStream;
use crate::nbd::uri::Uri;

/// How a client connects; see the fields. [`ConnectOptions::new`] gives what suits most.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Where the export is.
    pub uri: Uri,
    /// Connections, 1 to 16; more than one only to a server that says CAN_MULTI_CONN. By default 4.
    pub connections: usize,
    /// What one connection may have under way before it hears from the other side, in bytes, where something but TCP bounds it. Over a long
    /// way as many more connections are made as [`LONG_WAY_RATE`](crate::nbd::limits::LONG_WAY_RATE) needs. `None`: no more.
    pub window: Option<u32>,
    /// How long the way is, where an earlier client of the same export has measured it: then all connections are made at the same time.
    pub round_trip: Option<Duration>,
    /// The pass the writes belong to (a server of ours records it in its ledger): 1 to 64 of `[0-9a-zA-Z._-]`.
    pub pass: Option<String>,
    /// Asks for the server's ledger ([`super::Client::ledger`]).
    pub want_ledger: bool,
    /// Refuses to write, whatever the server allows.
    pub read_only: bool,
    /// Further meta contexts to select, such as `qemu:dirty-bitmap:NAME`.
    pub contexts: Vec<String>,
    /// Lists the meta contexts that the server offers ([`super::Client::facts`]); costs one round trip.
    pub list_contexts: bool,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// What to do when a connection breaks.
    pub reconnect: Reconnect,
    /// Bytes of payload under way over all connections, in bytes; further requests wait. By default 32 MiB.
    pub bytes_in_flight: u32,
}

impl ConnectOptions {
    /// For an export: 4 connections where the server allows, reconnecting for two minutes.
    #[must_use]
    pub fn new(uri: Uri) -> Self {
        ConnectOptions {
            uri,
            connections: 4,
            window: None,
            round_trip: None,
            pass: None,
            want_ledger: false,
            read_only: false,
            contexts: Vec::new(),
            list_contexts: false,
            timeouts: Timeouts::default(),
            reconnect: Reconnect::default(),
            bytes_in_flight: MAX_CLIENT_BYTES,
        }
    }

    /// How many connections to make over such a way: those asked for, or as many as carry [`LONG_WAY_RATE`] by windows of which half waits
    /// to be given back.
    pub(crate) fn connections_over(&self, round_trip: Duration) -> usize {
        let Some(window) = self.window else { return self.connections };
        let under_way = u128::from(LONG_WAY_RATE) * round_trip.as_micros() / 1_000_000;
        let needed = under_way.div_ceil(u128::from(window / 2).max(1));
        usize::try_from(needed).unwrap_or(MAX_CLIENT_CONNECTIONS).min(MAX_CLIENT_CONNECTIONS).max(self.connections)
    }

    /// One connection that is never made again: for a look at a server.
    #[must_use]
    pub fn glance(uri: Uri) -> Self {
        ConnectOptions { connections: 1, read_only: true, reconnect: Reconnect::never(), ..ConnectOptions::new(uri) }
    }
}

/// Deadlines of a client. Each wait of it ends by one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the socket is connected.
    pub connect: Duration,
    /// From the connected socket to the end of the handshake, TLS included.
    pub handshake: Duration,
    /// The longest time in which no byte moves while the server owes replies (or takes no request).
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: CONNECT_TIME, handshake: HANDSHAKE_TIME, stall: STALL_TIME }
    }
}

/// How often and how long a broken connection is made again. The pause doubles from `first_pause` to `longest_pause`, each shortened at random by up to
/// a half, so that many clients do not return at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// Attempts for one break; 0: never.
    pub attempts: u32,
    /// The time of all attempts for one break.
    pub total: Duration,
    /// The pause after the first failed attempt.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect {
            attempts: 1000,
            total: Duration::from_secs(120),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}

impl Reconnect {
    /// A broken connection ends the client.
    #[must_use]
    pub fn never() -> Self {
        Reconnect { attempts: 0, ..Reconnect::default() }
    }

    /// The pause after failed attempt `n` (from 0), shortened by `random` (any number).
    pub(crate) fn pause(&self, n: u32, random: u64) -> Duration {
        let full = self.first_pause.saturating_mul(1 << n.min(20)).min(self.longest_pause);
        let micros = u64::try_from(full.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(micros - random % (micros / 2 + 1))
    }
}

/// Makes byte streams to one server, for clients that are not given a URI: a channel of a tunnel.
pub trait Dial: Send + Sync {
    /// A new stream, ready for the server's greeting.
    fn dial(&self) -> BoxFuture<'_, Result<Box<dyn ByteStream>>>;
}

/// A shared [`Dial`].
pub type Dialer = Arc<dyn Dial>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_way_takes_as_many_connections_as_its_windows_need() {
        let uri = Uri::tcp("oma", 10809, "disk");
        let over = |connections, window, ms| {
            let options = ConnectOptions { connections, window, ..ConnectOptions::new(uri.clone()) };
            options.connections_over(Duration::from_millis(ms))
        };
        let window = Some(2 << 20);
        assert_eq!([0, 1, 20, 50, 200, 60_000].map(|ms| over(2, window, ms)), [2, 2, 4, 8, 16, 16]);
        assert_eq!((over(2, None, 200), over(9, window, 0)), (2, 9), "without a window, and never fewer than asked for");
    }

    #[test]
    fn pauses_grow_and_stay_within_the_longest() {
        let policy = Reconnect::default();
        for n in 0..64 {
            for random in [0, 1, 12345, u64::MAX] {
                let full = policy.pause(n, 0);
                assert!(full <= policy.longest_pause);
                let pause = policy.pause(n, random);
                assert!(pause <= full && pause >= full / 2, "{n} {random} {pause:?}");
            }
        }
        assert_eq!(policy.pause(0, 0), policy.first_pause);
        assert_eq!(policy.pause(40, 0), policy.longest_pause);
    }
}
