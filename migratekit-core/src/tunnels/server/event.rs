//! What a server tells of its connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::tunnels::Vma;
use crate::tunnels::hello::Agreed;
use crate::tunnels::keys::PublicKey;
use crate::tunnels::policy::Refusal;
use crate::tunnels::probe::Probed;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The VMA, as the [`KeySource`](super::KeySource) knows it.
    pub vma: Arc<Vma>,
    /// The key it showed.
    pub key: PublicKey,
    /// Where it came from.
    pub address: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.vma.name, self.address)
    }
}

/// What is known of a connection: logged whenever it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// How long it lived.
    pub age: Duration,
    /// For how long nothing came from the peer.
    pub silence: Duration,
    /// Bytes that came, and that went.
    pub moved: (u64, u64),
    /// Channels that are open.
    pub channels: usize,
    /// What came of the questions so far.
    pub probed: Probed,
}

/// What happened: for the log, the audit, and tests.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A key that may not come in, or a name other than [`USER`](crate::tunnels::USER).
    KeyRefused {
        /// Where from.
        address: SocketAddr,
        /// The key, when it was of the kind we take.
        key: Option<PublicKey>,
        /// The user's name, as it was given.
        user: String,
    },
    /// Somebody tried another way in than by a key: a password, a certificate.
    MethodRefused {
        /// Where from.
        address: SocketAddr,
        /// The method, in the words of SSH.
        method: &'static str,
        /// The user's name, as it was given.
        user: String,
    },
    /// The VMA has as many connections as it may, or there is no more room for any of its number.
    TooMany {
        /// Whose.
        peer: Peer,
    },
    /// A VMA is connected.
    Connected {
        /// Which.
        peer: Peer,
    },
    /// A VMA asked for something that it does not get.
    Refused {
        /// Which.
        peer: Peer,
        /// What it asked for.
        wish: String,
        /// Why not.
        why: Refusal,
    },
    /// A connection is cut because its key was revoked.
    Revoked {
        /// Whose.
        peer: Peer,
    },
    /// Both ends are ours and have said hello: this is the VMA's control connection.
    Hello {
        /// Which VMA.
        peer: Peer,
        /// What both speak.
        agreed: Agreed,
        /// What the VMA calls itself.
        agent: String,
    },
    /// The two ends have no version in common, or what the peer said is no hello.
    HelloRefused {
        /// Which VMA.
        peer: Peer,
        /// Why.
        why: String,
    },
    /// A VMA listens at its port.
    Listening {
        /// Which.
        peer: Peer,
        /// The port, on the loopback of this side.
        port: u16,
    },
    /// A question of the monitor was not answered in time.
    Unanswered {
        /// By whom.
        peer: Peer,
        /// What is known of the connection.
        account: Account,
    },
    /// A connection is cut because its peer does not live, as far as can be told from here.
    GivenUp {
        /// Whose.
        peer: Peer,
        /// By what that was seen.
        why: String,
        /// What is known of the connection.
        account: Account,
    },
    /// A connection is cut because a newer one of the same VMA takes its place.
    Superseded {
        /// Whose.
        peer: Peer,
        /// What is known of the connection.
        account: Account,
    },
    /// A connection ended.
    Disconnected {
        /// Whose; `None`: it had not shown a key.
        peer: Option<Peer>,
        /// Where from.
        address: SocketAddr,
        /// Why, if not by the peer's wish.
        why: Option<String>,
        /// For how long nothing had come from the peer.
        silence: Duration,
    },
    /// A connection is ended because what came on it is no SSH, or is not what the tunnel allows: packets that are too long, more data than
    /// there was credit for.
    Misbehaved {
        /// Whose; `None`: it had not shown a key.
        peer: Option<Peer>,
        /// Where from.
        address: SocketAddr,
        /// What it did.
        why: String,
    },
    /// A connection is ended because nobody logged in on it: its time was over, or others came and its source had most of the places.
    NoLogin {
        /// Where from.
        address: SocketAddr,
        /// Which of the two.
        why: &'static str,
    },
    /// A connection was closed at once: there are too many.
    Crowded {
        /// Where from.
        address: SocketAddr,
    },
}

/// Hears of every [`Event`]; must not wait.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;
