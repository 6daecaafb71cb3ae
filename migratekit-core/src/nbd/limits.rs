//! Every bound of our NBD code, by name, with unit and reason. `migratekit nbd info --limits` prints [`ALL`].

use std::time::Duration;

use crate::units::{KIB, MIB};

/// The longest READ or WRITE payload we serve or send, in bytes. The protocol's default is 32 MiB ("Size constraints").
pub const MAX_PAYLOAD: u32 = crate::block::MAX_REQUEST;
/// The longest export name, in bytes ("String encoding": at most 4096).
pub const MAX_NAME: u32 = 4096;
/// The longest data of one option, in bytes: a name, plus meta context queries.
pub const MAX_OPTION: u32 = 64 * 1024;
/// The longest reply to one option a client accepts, in bytes.
pub const MAX_OPTION_REPLY: u32 = 64 * 1024;
/// Options a client may send before it must choose an export; endless haggling would hold a connection.
pub const MAX_OPTIONS: u32 = 64;
/// Meta context queries in one option.
pub const MAX_META_QUERIES: u32 = 32;
/// Entries of LIST a client accepts.
pub const MAX_LIST: u32 = 10_000;
/// Extents in one BLOCK_STATUS reply the server sends.
pub const MAX_STATUS_EXTENTS: u32 = 16 * 1024;
/// The longest BLOCK_STATUS chunk a client accepts, in bytes: nbdkit sends up to 1 Mi extents of 8 bytes.
pub const MAX_STATUS_REPLY: u32 = 4 + 8 * 1024 * 1024;
/// Bytes of payload under way over all connections of one client, in bytes; further requests wait their turn.
pub const MAX_CLIENT_BYTES: u32 = 32 * 1024 * 1024;
/// Requests under way over all connections of one client; further ones wait their turn.
pub const MAX_CLIENT_REQUESTS: u32 = 2048;
/// Connections of one client.
pub const MAX_CLIENT_CONNECTIONS: usize = 16;
/// What a client whose connections have windows makes enough connections for, in bytes a second: as fast as disks are read over long ways.
pub const LONG_WAY_RATE: u64 = 160 * 1000 * 1000;
/// Until a TCP or Unix socket of a server is connected.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Chunks of one structured reply a client accepts.
pub const MAX_REPLY_CHUNKS: u32 = 16 * 1024;
/// Requests under way on one connection of the server; further ones wait in the socket.
pub const MAX_IN_FLIGHT_REQUESTS: u32 = 128;
/// Bytes of payload under way over all connections of one server, in bytes; further requests wait in the socket.
pub const MAX_IN_FLIGHT_BYTES: u64 = 64 * MIB;
/// Bytes of payload under way on one connection, in bytes, beyond a single request of any length: no connection takes the whole of
/// [`MAX_IN_FLIGHT_BYTES`]; further requests wait in the socket.
pub const MAX_CONNECTION_BYTES: u64 = 16 * MIB;
/// The longest payload of a WRITE that is refused by an answer, in bytes; it is read and forgotten. Beyond, the connection is closed.
pub const MAX_DRAIN: u32 = 2 * MAX_PAYLOAD;
/// Connections one server serves at a time; further ones are closed at once.
pub const MAX_CONNECTIONS: u32 = 1024;
/// From the accepted connection to the end of the handshake.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(30);
/// A connection in transmission on which nothing moves while a reply or a payload is owed by the peer.
pub const STALL_TIME: Duration = Duration::from_secs(120);
/// As [`STALL_TIME`], while others wait for the bytes the connection holds ([`MAX_IN_FLIGHT_BYTES`]).
pub const CROWDED_STALL_TIME: Duration = Duration::from_secs(10);
/// Bytes that must move in [`CROWDED_STALL_TIME`] of one message, in bytes, while others wait for the bytes the connection holds: a
/// client that sends a payload drop by drop would hold them for ever. 26 KB/s; the slowest line that copies disks is far above.
pub const CROWDED_LEAST_BYTES: u64 = 256 * KIB;
/// A connection in transmission without any request; long, since a quiet disk is legal.
pub const IDLE_TIME: Duration = Duration::from_secs(24 * 3600);
/// Socket write batches: the bytes gathered for one system call, in bytes.
pub const WRITE_BATCH: u64 = 256 * KIB;

/// One bound, for people.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Limit {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// Its unit.
    pub unit: &'static str,
    /// What happens beyond it.
    pub beyond: &'static str,
}

/// All bounds, in the order of a connection's life.
pub const ALL: &[Limit] = &[
    Limit { name: "connections", value: MAX_CONNECTIONS as u64, unit: "per server", beyond: "the connection is closed" },
    Limit { name: "handshake", value: HANDSHAKE_TIME.as_secs(), unit: "seconds", beyond: "the connection is closed" },
    Limit { name: "options", value: MAX_OPTIONS as u64, unit: "per connection", beyond: "the connection is closed" },
    Limit { name: "option-data", value: MAX_OPTION as u64, unit: "bytes", beyond: "NBD_REP_ERR_TOO_BIG" },
    Limit { name: "option-reply", value: MAX_OPTION_REPLY as u64, unit: "bytes", beyond: "the client leaves" },
    Limit { name: "name", value: MAX_NAME as u64, unit: "bytes", beyond: "NBD_REP_ERR_TOO_BIG" },
    Limit { name: "meta-queries", value: MAX_META_QUERIES as u64, unit: "per option", beyond: "NBD_REP_ERR_TOO_BIG" },
    Limit { name: "list", value: MAX_LIST as u64, unit: "exports", beyond: "the client leaves" },
    Limit { name: "payload", value: MAX_PAYLOAD as u64, unit: "bytes per request", beyond: "NBD_EINVAL, or NBD_EOVERFLOW for DF" },
    Limit {
        name: "status-extents",
        value: MAX_STATUS_EXTENTS as u64,
        unit: "per reply",
        beyond: "the reply ends early, as the protocol allows",
    },
    Limit { name: "reply-chunks", value: MAX_REPLY_CHUNKS as u64, unit: "per reply", beyond: "the client leaves" },
    Limit { name: "status-reply", value: MAX_STATUS_REPLY as u64, unit: "bytes", beyond: "the client leaves" },
    Limit { name: "client-connections", value: MAX_CLIENT_CONNECTIONS as u64, unit: "per client", beyond: "it is refused" },
    Limit { name: "client-requests", value: MAX_CLIENT_REQUESTS as u64, unit: "per client", beyond: "they wait in the client" },
    Limit { name: "client-bytes", value: MAX_CLIENT_BYTES as u64, unit: "bytes per client", beyond: "they wait in the client" },
    Limit { name: "connect", value: CONNECT_TIME.as_secs(), unit: "seconds", beyond: "the client gives up this attempt" },
    Limit { name: "requests-in-flight", value: MAX_IN_FLIGHT_REQUESTS as u64, unit: "per connection", beyond: "they wait in the socket" },
    Limit { name: "bytes-in-flight", value: MAX_IN_FLIGHT_BYTES, unit: "bytes per server", beyond: "they wait in the socket" },
    Limit { name: "connection-bytes", value: MAX_CONNECTION_BYTES, unit: "bytes per connection", beyond: "they wait in the socket" },
    Limit { name: "drain", value: MAX_DRAIN as u64, unit: "bytes per refused request", beyond: "the connection is closed" },
    Limit { name: "stall", value: STALL_TIME.as_secs(), unit: "seconds", beyond: "the connection is closed" },
    Limit { name: "crowded-stall", value: CROWDED_STALL_TIME.as_secs(), unit: "seconds", beyond: "the connection is closed" },
    Limit { name: "crowded-least", value: CROWDED_LEAST_BYTES, unit: "bytes per crowded-stall", beyond: "the connection is closed" },
    Limit { name: "idle", value: IDLE_TIME.as_secs(), unit: "seconds", beyond: "the connection is closed" },
];
