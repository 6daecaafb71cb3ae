//! Every bound of the tunnel, by name, with unit and reason.

use std::time::Duration;

use crate::units::{KIB, MIB};

/// What a peer may have under way on one channel before it hears of the window again, in bytes. russh writes a whole batch before it
/// reads again, so more than the sockets hold of it can block both sides; 2 MiB fills 40 MB/s at 50 ms, and more speed needs more connections.
pub const WINDOW: u32 = 2 * 1024 * 1024;
/// The longest payload of one packet, in bytes. 32 KiB costs half as much again in processor time, 256 KiB gains nothing more.
pub const PACKET: u32 = 64 * 1024;
/// Bytes a channel holds for a consumer that does not take them. Our own peers send no more until the consumer took some; on a
/// connection of a foreign peer nothing more is read then.
pub const CHANNEL_BUFFER: u64 = WINDOW as u64 + 256 * KIB;
/// As [`CHANNEL_BUFFER`], for a foreign peer whose window our own write waits for: the window comes behind what it sent before.
pub const STUCK_BUFFER: u64 = 8 * MIB;
/// Bytes a channel gives to its session before the socket has taken what the session had, in bytes. russh encrypts all it is given into one
/// buffer, which never becomes smaller: without this bound a whole window lay there for each connection.
pub const BATCH: u64 = 2 * PACKET as u64;
/// Bytes a connection reads ahead while it must write and cannot, beside [`READ_AHEAD_PER_CHANNEL`].
pub const READ_AHEAD: u64 = MIB;
/// The same for each open channel: all that the peer may send on it before it hears of the window again, so that two sides that both
/// write always find a reader.
pub const READ_AHEAD_PER_CHANNEL: u64 = 2 * WINDOW as u64;
/// Bytes taken from the socket by one read, in bytes: packets come in many small pieces otherwise.
pub const SOCKET_READ: usize = 128 * 1024;
/// Channels of one connection. A bulk connection has one; more than a few come only through forwarded ports.
pub const MAX_CHANNELS: usize = 16;
/// Connections of one VMA: the control connection and those of sixteen disks over a long way, at sixteen each.
pub const MAX_SESSIONS_PER_VMA: usize = 257;
/// Connections that have not shown a key yet, from one address.
pub const MAX_HANDSHAKES_PER_SOURCE: usize = 64;
/// Connections that have not shown a key yet, from everywhere; further ones are closed at once.
pub const MAX_HANDSHAKES: usize = 256;
/// Connections with a key, from everywhere.
pub const MAX_SESSIONS: usize = 1536;
/// Those of them that only VMAs with few connections get, so that a few VMAs with very many keep nobody out: enough for 64 VMAs, whatever
/// the others do.
pub const RESERVED_SESSIONS: usize = 64 * FEW_SESSIONS;
/// Few connections: the control connection, and those of a copy that goes on with less than it would like.
pub const FEW_SESSIONS: usize = 8;
/// From the accepted connection to the accepted key.
pub const LOGIN_TIME: Duration = Duration::from_secs(20);
/// How long a connection may say nothing before it is taken for SSH, when TLS is served at the same port: a client of TLS always speaks
/// first, one of SSH may wait for our greeting (ssh-keyscan does).
pub const SNIFF_TIME: Duration = Duration::from_secs(1);
/// The whole time of a connection of TLS: it carries a few short requests.
pub const TLS_TIME: Duration = Duration::from_secs(60);
/// Keys one connection may offer.
pub const MAX_AUTH_ATTEMPTS: usize = 6;
/// A refused key is answered after this long, whatever the reason.
pub const REFUSAL_TIME: Duration = Duration::from_millis(300);
/// Silence after which the peer is asked whether it lives.
pub const KEEPALIVE: Duration = Duration::from_secs(30);
/// Questions without an answer after which the connection is given up.
pub const KEEPALIVE_MISSES: usize = 3;
/// A session in which nothing at all happens for so many times [`KEEPALIVE`] ends: one whose peer said goodbye and never closes.
pub const SILENT_KEEPALIVES: u32 = 5;
/// The socket takes nothing for this long while there is something to send: the connection is given up. As long as the keepalives.
pub const WRITE_STALL: Duration = Duration::from_secs(90);
/// Characters of a peer's own words that an event repeats: its user's name, the host it asked for.
pub const MAX_SHOWN: usize = 128;
/// Until the connection to a server is made, and until it has answered the first packets.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Until the other side answered the wish for a channel or a forward.
pub const OPEN_TIME: Duration = Duration::from_secs(30);
/// Between two looks whether the keys of live connections still hold; half of the second within which a revoked key is cut.
pub const KEY_LOOK: Duration = Duration::from_millis(400);
/// For the answer of the source of keys; without one nobody new comes in, and who is in stays.
pub const KEY_ANSWER: Duration = Duration::from_secs(10);
/// Bytes each way between two exchanges of keys (RFC 4253, 9).
pub const REKEY_BYTES: usize = 1 << 30;
/// The longest time between two exchanges of keys (RFC 4253, 9).
pub const REKEY_TIME: Duration = Duration::from_secs(3600);
/// The first port at which the OMA reaches a VMA; each VMA has its own.
pub const FIRST_REVERSE_PORT: u16 = 9081;
/// Nothing at all came from the peer for this long: the connection is cut, so that nobody is called connected more than 100 s after the
/// last byte. The keepalives of SSH make a living peer answer every 30 s, but give up a dead one only after two minutes.
pub const SILENCE: Duration = Duration::from_secs(95);
/// Between two questions of the monitor.
pub const PROBE: Duration = Duration::from_secs(60);
/// For the answer to one.
pub const PROBE_ANSWER: Duration = Duration::from_secs(15);
/// Questions without an answer, in a row, after which the connection is given up.
pub const PROBE_FAILURES: u32 = 3;
/// The first pause before a connection is made again; each further one is twice as long.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause: half a minute, so that a path that works again is used soon.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The hello of the other side, from the wish for it to its last byte.
pub const HELLO_TIME: Duration = Duration::from_secs(15);
/// Sockets that a local forward serves at a time with connections of their own: those of one VMA, but for the control connection.
pub const OWN_CONNECTIONS: usize = MAX_SESSIONS_PER_VMA - 1;
/// Sockets that a local forward serves at a time through the control connection; the others wait to be accepted. Half of its channels.
pub const SHARED_STREAMS: usize = MAX_CHANNELS / 2;
/// Sockets at a port of a VMA on the OMA's loopback that are served at a time; the others wait to be accepted.
pub const REVERSE_STREAMS: usize = MAX_CHANNELS / 4;
/// Bytes taken from a socket and given to a stream by one step of a forward, each way.
pub const RELAY_BUFFER: usize = 64 * 1024;
