//! A connection while it lives: what the server keeps of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use russh::server::Handle;

use super::Peer;
use super::census::{Census, Place};
use crate::task::{CancellationToken, Scope};
use crate::tunnels::channels::Channels;
use crate::tunnels::transport::Control;

/// See the [module documentation](self).
pub(super) struct Live {
    pub(super) address: SocketAddr,
    pub(super) control: Arc<Control>,
    pub(super) channels: Arc<Channels>,
    /// Set by the login.
    pub(super) peer: OnceLock<Peer>,
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
    place: Mutex<Place>,
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
            logged_in: CancellationToken::new(),
            done: CancellationToken::new(),
            listening: Mutex::default(),
            handle: OnceLock::new(),
            tasks: Mutex::new(Scope::new()),
            place: Mutex::new(place),
            census,
        }
    }

    /// The peer showed its key. `false`: there are as many connections of it as may be.
    pub(super) fn login(&self, peer: Peer, bounds: &super::Bounds) -> bool {
        let mut place = lock(&self.place);
        let Some(new) = lock(&self.census).login(&place, peer.key.fingerprint(), bounds) else { return false };
        *place = new;
        let _ = self.peer.set(peer);
        self.logged_in.cancel();
        true
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        lock(&self.census).leave(&lock(&self.place));
    }
}
