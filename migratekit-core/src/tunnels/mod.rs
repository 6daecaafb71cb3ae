//! The tunnel: one port, two directions, no way in for anybody else.
//!
//! All traffic between the VMware side and the cloud side goes through SSH, ours at both ends.
//!
//! ```text
//!  VMA                                              OMA
//!  nbd client ── TunnelStream ══ one channel, ══ TunnelStream ── StreamHandler of port 10809 ── nbd server
//!                 (Client)       one connection     (Server)  ── StreamHandler of port 8082  ── HTTP
//! ```
//!
//! - [`Server`]: listens, knows VMAs by their keys ([`KeySource`]), gives each stream with the VMA it comes from to the handler of its
//!   port. There is no socket between the channel and the handler. What may be asked for is [`policy`]'s to say; all else is refused.
//! - [`TlsHandler`]: what serves connections that begin with TLS at the same port, if there is such a thing (enrollment).
//! - [`Client`]: goes out to a server whose key is pinned, and opens streams.
//! - [`Tunnel`]: keeps a VMA's control connection up: hello, forwards, the way back, a monitor, and a state that can be watched.
//! - [`hello`]: what the two ends tell each other; [`probe`]: whether the other one lives; [`LocalService`]: streams to another process.
//! - [`keys`]: host keys, user keys, fingerprints; [`authorized`]: a file of keys that may come in.
//! - [`Compression`]: whether streams of data are packed on their way.
//! - [`openssh`]: what an OpenSSH server must be told to stand in the server's place.
//!
//! What it promises:
//!
//! - **A slow consumer harms its own stream only.** The task of a session never waits for a consumer; what a channel holds is bounded by
//!   credit beside SSH's windows (`flow`), between ends of ours; a foreign peer's connection is held up as a whole.
//! - **Both directions may be full at once**: a write that waits takes in what the peer sends (`transport`).
//! - **A revoked key is out**: [`Server::revoke`] cuts its connections and returns when their streams have ended; keys are looked at again
//!   every [`limits::KEY_LOOK`] besides.
//! - **Little memory over a long way**: a session is given what its socket takes, and not a window ahead (`channel`).
//! - **Every wait ends**: by keepalives, by a write that stands still, by deadlines of login and of opening ([`limits`]).
//!
//! What it does not do: run programs, give terminals, forward Unix sockets, X11 or agents. It does not know what travels in its streams.
//! Only this module knows russh. Why it is built so: docs/adr (the tunnel).

mod algorithms;
pub mod authorized;
mod channel;
mod channels;
pub mod client;
mod compression;
mod flow;
#[cfg(feature = "testing")]
pub mod fuzz;
pub mod hello;
pub mod keys;
pub mod limits;
mod login_key;
pub mod openssh;
pub mod policy;
pub mod probe;
mod relay;
pub mod server;
pub mod standing;
mod stream;
mod transport;

pub use self::authorized::AuthorizedKeys;
pub use self::client::{Client, ClientOptions};
pub use self::compression::Compression;
pub use self::hello::Dialect;
pub use self::keys::{Fingerprint, PrivateKey, PublicKey};
pub use self::login_key::LoginKey;
pub use self::probe::Probing;
pub use self::relay::LocalService;
pub use self::server::{KeySource, Peer, Server, ServerOptions, StreamHandler, TlsHandler};
pub use self::standing::{LocalForward, Pauses, Reverse, Standing, Tunnel, TunnelOptions, TunnelState, Way};
pub use self::stream::{ReadHalf, TunnelStream, WriteHalf};

/// The user by whose name VMAs log in.
pub const USER: &str = "vma_tunnel";
/// The port behind which the NBD server is, on the OMA's loopback.
pub const NBD_PORT: u16 = 10809;
/// The port behind which the API is, on the OMA's loopback.
pub const API_PORT: u16 = 8082;

/// A VMA that may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vma {
    /// What it is known by, in logs and to the handlers of its streams.
    pub name: String,
    /// The one port at which it may listen here.
    pub reverse_port: Option<u16>,
}
