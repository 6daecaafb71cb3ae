//! A connection while it lives: what the server keeps of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use russh::server::Handle;

use super::census::{Census, Place};
use super::{Account, Event, Inner, Peer};
use crate::task::{CancellationToken, Scope};
use crate::tunnels::channels::{Broken, Channels};
use crate::tunnels::probe::Probed;
use crate::tunnels::transport::Control;

/// See the [module documentation](self).
pub(super) struct Live {
    pub(super) address: SocketAddr,
    pub(super) control: Arc<Control>,
    pub(super) channels: Arc<Channels>,
    /// Set by the login.
    pub(super) peer: OnceLock<Peer>,
    /// Whether [`super::Event::Connected`] was told.
    pub(super) told: AtomicBool,
    /// Cancelled by the login.
    pub(super) logged_in: CancellationToken,
    /// Cancelled when the connection and all its streams have ended.
    pub(super) done: CancellationToken,
    /// The ports the peer listens at, with the address as it named it.
    pub(super) listening: Mutex<Vec<(String, u16)>>,
    /// To open channels to the peer.
    pub(super) handle: OnceLock<Handle>,
    /// The handlers of its streams.
    pub(super) tasks: Mutex<Scope>,
    /// The VMA process at the other end, as its hello told.
    pub(super) instance: OnceLock<String>,
    /// What came of the monitor's questions.
    pub(super) probed: Mutex<Probed>,
    /// Why it was cut from here.
    pub(super) why: OnceLock<String>,
    /// `None` when it gave it up before its end.
    place: Mutex<Option<Place>>,
    census: Arc<Mutex<Census>>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("address", &self.address).field("peer", &self.peer).finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a session ended because the peer closed its socket: OpenSSH says goodbye, a program that is killed does not.
pub(super) fn is_leave(why: &Broken) -> bool {
    matches!(why, Broken::Ssh(russh::Error::IO(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof)
        || matches!(why, Broken::Ssh(russh::Error::HUP | russh::Error::Disconnect))
}

/// Whether a session ended because of what the peer sent, and not because its connection broke or went silent.
pub(super) fn is_foul(why: &Broken) -> bool {
    use russh::Error as E;
    match why {
        Broken::Peer(_) => true,
        Broken::NotNow(_) => false,
        Broken::Ssh(why) => !matches!(
            why,
            E::IO(_)
                | E::HUP
                | E::Disconnect
                | E::ConnectionTimeout
                | E::KeepaliveTimeout
                | E::InactivityTimeout
                | E::Elapsed(_)
                | E::SendError
                | E::RecvError
                | E::Pending
                | E::Join(_)
        ),
    }
}

impl Live {
    pub(super) fn new(
        address: SocketAddr,
        control: Arc<Control>,
        channels: Arc<Channels>,
        place: Place,
        census: Arc<Mutex<Census>>,
    ) -> Self {
        Live {
            address,
            control,
            channels,
            peer: OnceLock::new(),
            told: AtomicBool::new(false),
            logged_in: CancellationToken::new(),
            done: CancellationToken::new(),
            listening: Mutex::default(),
            handle: OnceLock::new(),
            tasks: Mutex::new(Scope::new()),
            instance: OnceLock::new(),
            probed: Mutex::default(),
            why: OnceLock::new(),
            place: Mutex::new(Some(place)),
            census,
        }
    }

    /// The peer showed its key. `false`: there are as many connections as may be.
    pub(super) fn login(&self, peer: Peer, bounds: &super::Bounds) -> bool {
        {
            let mut place = lock(&self.place);
            let Some(old) = place.as_ref() else { return false };
            let Some(new) = lock(&self.census).login(old, &peer.vma.name, bounds) else { return false };
            *place = Some(new);
        }
        let _ = self.peer.set(peer);
        self.logged_in.cancel();
        true
    }

    /// Counts no more, from now on and not only from its end.
    pub(super) fn leave(&self) {
        if let Some(place) = lock(&self.place).take() {
            lock(&self.census).leave(&place);
        }
    }

    /// What is known of it.
    pub(super) fn account(&self) -> Account {
        Account {
            age: self.control.age(),
            silence: self.control.silence(),
            moved: self.control.moved(),
            channels: self.channels.open(),
            probed: *lock(&self.probed),
        }
    }

    /// Cuts it, because its peer seems to be dead.
    pub(super) fn give_up(&self, server: &Inner, why: impl Into<String>) {
        let why = why.into();
        if let Some(peer) = self.peer.get() {
            server.saw(&Event::GivenUp { peer: peer.clone(), why: why.clone(), account: self.account() });
        }
        let _ = self.why.set(why);
        self.control.cut();
    }

    /// Cuts it, because a newer one takes its place.
    pub(super) fn give_way(&self, server: &Inner) {
        if let Some(peer) = self.peer.get() {
            server.saw(&Event::Superseded { peer: peer.clone(), account: self.account() });
        }
        let _ = self.why.set("a newer connection of the same VMA took its place".to_owned());
        self.leave();
        self.control.cut();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.leave();
    }
}
