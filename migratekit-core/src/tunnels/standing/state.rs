//! Where a standing tunnel is.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Error;
use crate::tunnels::hello::Agreed;

/// A forward, as people know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// From a socket here to a port there.
    Local {
        /// Where it listens here.
        listen: SocketAddr,
        /// The port of the server.
        port: u16,
    },
    /// From the server to here.
    Reverse {
        /// The port of the server; `None`: the server gives none.
        port: Option<u16>,
    },
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Forward::Local { listen, port } => write!(f, "{listen} to port {port} of the server"),
            Forward::Reverse { port: Some(port) } => write!(f, "port {port} of the server to here"),
            Forward::Reverse { port: None } => f.write_str("from the server to here"),
        }
    }
}

/// A forward that the server does not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedForward {
    /// Which.
    pub forward: Forward,
    /// Why not.
    pub why: String,
}

/// A tunnel that stands: both directions have answered.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Since when.
    pub since: Timestamp,
    /// What both sides speak; `None`: the server is a foreign one.
    pub agreed: Option<Agreed>,
    /// What the server calls itself.
    pub server: Option<String>,
    /// The name by which the server knows this VMA.
    pub vma: Option<String>,
    /// The port at which the server listens for this VMA.
    pub reverse_port: Option<u16>,
    /// What was asked for and not given.
    pub refused: Vec<RefusedForward>,
}

/// Where a tunnel is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TunnelState {
    /// A connection is being made.
    Connecting {
        /// The how many-th try since it last stood.
        attempt: u32,
    },
    /// It stands.
    Connected(Arc<Standing>),
    /// There is no connection.
    Disconnected {
        /// Since when.
        since: Timestamp,
        /// Why.
        why: Arc<Error>,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// It was closed from this side.
    Closed,
}

impl TunnelState {
    /// What stands, if it does.
    #[must_use]
    pub fn standing(&self) -> Option<&Arc<Standing>> {
        match self {
            TunnelState::Connected(standing) => Some(standing),
            _ => None,
        }
    }
}
