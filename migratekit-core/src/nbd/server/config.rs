//! What a server can be told: its bounds and its TLS.

use std::sync::Arc;
use std::time::Duration;

use crate::nbd::handshake::server::{Bounds, TlsPolicy};
use crate::nbd::limits;

/// The bounds of a server; the defaults are the constants of [`limits`], where the reasons stand.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bounds of the handshake: options, names, queries.
    pub handshake: Bounds,
    /// The longest READ or WRITE, in bytes ([`limits::MAX_PAYLOAD`]).
    pub payload: u32,
    /// Extents in one BLOCK_STATUS reply, at least 1 ([`limits::MAX_STATUS_EXTENTS`]).
    pub status_extents: u32,
    /// Requests under way on one connection, at least 1 ([`limits::MAX_IN_FLIGHT_REQUESTS`]).
    pub in_flight_requests: u32,
    /// Bytes of payload under way over all connections ([`limits::MAX_IN_FLIGHT_BYTES`]). A single request that is longer takes
    /// all of it.
    pub in_flight_bytes: u64,
    /// Bytes of payload under way on one connection, beyond a single request ([`limits::MAX_CONNECTION_BYTES`]).
    pub connection_bytes: u64,
    /// Connections served at a time ([`limits::MAX_CONNECTIONS`]).
    pub connections: u32,
    /// From the accepted connection to the end of the handshake ([`limits::HANDSHAKE_TIME`]).
    pub handshake_time: Duration,
    /// Nothing moves while the peer owes a payload or the acceptance of a reply ([`limits::STALL_TIME`]).
    pub stall_time: Duration,
    /// As `stall_time`, while other connections wait for the bytes this one holds ([`limits::CROWDED_STALL_TIME`]).
    pub crowded_stall_time: Duration,
    /// Bytes that must move of one message in `crowded_stall_time`, while others wait ([`limits::CROWDED_LEAST_BYTES`]).
    pub crowded_least_bytes: u64,
    /// No request ([`limits::IDLE_TIME`]).
    pub idle_time: Duration,
    /// Bytes gathered for one write to the socket ([`limits::WRITE_BATCH`]).
    pub write_batch: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            handshake: Bounds::default(),
            payload: limits::MAX_PAYLOAD,
            status_extents: limits::MAX_STATUS_EXTENTS,
            in_flight_requests: limits::MAX_IN_FLIGHT_REQUESTS,
            in_flight_bytes: limits::MAX_IN_FLIGHT_BYTES,
            connection_bytes: limits::MAX_CONNECTION_BYTES,
            connections: limits::MAX_CONNECTIONS,
            handshake_time: limits::HANDSHAKE_TIME,
            stall_time: limits::STALL_TIME,
            crowded_stall_time: limits::CROWDED_STALL_TIME,
            crowded_least_bytes: limits::CROWDED_LEAST_BYTES,
            idle_time: limits::IDLE_TIME,
            write_batch: limits::WRITE_BATCH,
        }
    }
}

/// How a server behaves. The default serves in clear, with the bounds of [`limits`].
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// The bounds.
    pub limits: Limits,
    /// Certificate and key; `None`: STARTTLS is refused. See [`crate::nbd::tls::server_config`].
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// With [`ServerConfig::tls`]: refuse clients that do not encrypt.
    pub require_tls: bool,
}

impl ServerConfig {
    pub(super) fn tls_policy(&self) -> TlsPolicy {
        match (&self.tls, self.require_tls) {
            (None, _) => TlsPolicy::Off,
            (Some(_), false) => TlsPolicy::Offered,
            (Some(_), true) => TlsPolicy::Required,
        }
    }
}
