//! The NBD protocol: a server of many exports, a pipelined client, over any byte stream.
//!
//! Layers, each testable without the next:
//!
//! ```text
//! wire       numbers and fixed-size headers (pure)
//! handshake  options and their replies as a state machine: bytes in, actions out (pure)
//! stream     what a connection needs of a byte stream
//! server     Server, Export, the list of exports, epochs
//! client     Client: connections, in-flight table, reconnect; it is a BlockRead + BlockWrite
//! ```
//!
//! Protocol facts come from the NBD project's `doc/proto.md`; sections are named where a fact is used.

pub mod client;
pub mod epoch;
pub mod export;
#[cfg(feature = "testing")]
pub mod fuzz;
pub mod handshake;
pub mod limits;
pub mod server;
pub mod stream;
pub mod tls;
pub mod uri;
pub mod wire;

pub use self::client::{Client, ConnectOptions};
pub use self::epoch::EpochKey;
pub use self::server::{Force, Limits, Listener, Server, ServerConfig};
pub use self::uri::Uri;
