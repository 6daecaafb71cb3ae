//! The channels of one session, as its handler and those who use them see them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use russh::{ChannelId, ChannelMsg, ChannelWriteHalf, SshId};
use tokio::sync::Notify;

use super::channel::{Flow, Outgoing, pump};
use super::compression::Compression;
use super::policy::Refusal;
use super::stream::TunnelStream;
use super::transport::Control;
use crate::task::Scope;

/// The first words of a peer of ours; the version of the tunnel's own protocol (credit beside the data) follows.
const OURS: &str = "SSH-2.0-MigrateKit_";

/// How we begin. A peer that speaks version 1 or above keeps the account of credit; one of version 2 reads frames besides.
const HELLO: &str = "SSH-2.0-MigrateKit_2";

/// How we begin when we want nothing of frames.
const HELLO_WITHOUT_FRAMES: &str = "SSH-2.0-MigrateKit_1";

/// The code of the extended data that gives credit back: four bytes, how much. Codes from 0xFE000000 on are for private use
/// (RFC 4254, 5.2).
pub(super) const CREDIT: u32 = 0xFE00_4D4B;

/// The line by which we say who we are.
pub(super) fn hello(compression: Compression) -> SshId {
    SshId::Standard(Cow::Borrowed(if compression == Compression::Off { HELLO_WITHOUT_FRAMES } else { HELLO }))
}

/// Whether a peer that began like this reads frames.
pub(super) fn reads_frames(hello: &[u8]) -> bool {
    let Some(rest) = hello.strip_prefix(OURS.as_bytes()) else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    is_ours(hello) && (digits > 1 || rest.first() != Some(&b'1'))
}

/// Whether a peer that began like this is one of ours.
fn is_ours(hello: &[u8]) -> bool {
    let Some(rest) = hello.strip_prefix(OURS.as_bytes()) else { return false };
    rest.first().is_some_and(|digit| (b'1'..=b'9').contains(digit))
}

/// Why a session is ended from our side.
#[derive(Debug)]
pub(super) enum Broken {
    /// russh says so.
    Ssh(russh::Error),
    /// The peer broke the rules of the tunnel.
    Peer(&'static str),
    /// The peer did nothing wrong: there is no room for it now, or nobody can tell who it is.
    NotNow(&'static str),
}

impl From<russh::Error> for Broken {
    fn from(e: russh::Error) -> Self {
        Broken::Ssh(e)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Ssh(e) => e.fmt(f),
            Broken::Peer(why) | Broken::NotNow(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Broken::Ssh(e) => Some(e),
            Broken::Peer(_) | Broken::NotNow(_) => None,
        }
    }
}

/// The channels of a session.
pub(super) struct Channels {
    flows: Mutex<HashMap<u32, Arc<Flow>>>,
    /// Those we asked for and the peer confirmed, until who asked takes them: russh tells them first, and us here afterwards.
    confirmed: Mutex<HashMap<u32, Arc<Flow>>>,
    confirmation: Notify,
    /// Set when the session ended: what is opened later is broken from the start.
    ended: OnceLock<()>,
    control: Arc<Control>,
    most: usize,
    /// The pumps of the channels; each ends by itself when its channel has no users any more, or when the session ended.
    pumps: Mutex<Scope>,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("open", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Channels {
    /// No channels yet; at most `most` at a time.
    pub(super) fn new(control: Arc<Control>, most: usize) -> Arc<Self> {
        Arc::new(Channels {
            flows: Mutex::default(),
            confirmed: Mutex::default(),
            confirmation: Notify::new(),
            ended: OnceLock::new(),
            control,
            most,
            pumps: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel is about to open, by the peer's wish; `hello` is how the peer began.
    pub(super) fn begin(&self, id: ChannelId, hello: &[u8]) -> Result<Arc<Flow>, Refusal> {
        let mut flows = self.lock();
        if flows.len() >= self.most {
            return Err(Refusal::TooManyChannels);
        }
        let flow = Arc::new(Flow::new(is_ours(hello), Arc::clone(&self.control)));
        if self.ended.get().is_some() {
            flow.broken();
        }
        flows.insert(id.number(), Arc::clone(&flow));
        self.control.set_channels(flows.len());
        Ok(flow)
    }

    /// A channel that we asked for is open.
    pub(super) fn confirm(&self, id: ChannelId, hello: &[u8]) -> Result<(), Broken> {
        let flow = self.begin(id, hello).map_err(|_| Broken::Peer("more channels are open than may be"))?;
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.number(), flow);
        self.confirmation.notify_waiters();
        Ok(())
    }

    /// The stream of a channel. Its read half in russh is dropped, so that russh never waits for it: what arrives comes through
    /// [`Channels::data`].
    pub(super) fn stream<S>(
        self: &Arc<Self>,
        channel: russh::Channel<S>,
        flow: Arc<Flow>,
        kept: Option<Arc<dyn Send + Sync>>,
    ) -> TunnelStream
    where
        S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    {
        let id = channel.id().number();
        let (_, outgoing) = channel.split();
        let (channels, pumped) = (Arc::clone(self), Arc::clone(&flow));
        let pumping = pump(Arc::clone(&flow), outgoing, move || channels.forget(id, &pumped));
        self.pumps.lock().unwrap_or_else(PoisonError::into_inner).spawn(pumping);
        TunnelStream::new(flow, kept)
    }

    fn forget(&self, id: u32, flow: &Arc<Flow>) {
        let mut flows = self.lock();
        if flows.get(&id).is_some_and(|other| Arc::ptr_eq(other, flow)) {
            flows.remove(&id);
            self.control.set_channels(flows.len());
        }
    }

    /// The flow of a channel that we asked for, once [`Channels::confirm`] made it; `None` when the session ended before.
    pub(super) async fn opened(&self, id: ChannelId) -> Option<Arc<Flow>> {
        loop {
            let confirmed = self.confirmation.notified();
            tokio::pin!(confirmed);
            confirmed.as_mut().enable();
            if let Some(flow) = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.number()) {
                return Some(flow);
            }
            if self.ended.get().is_some() {
                return None;
            }
            confirmed.await;
        }
    }

    fn get(&self, id: ChannelId) -> Option<Arc<Flow>> {
        self.lock().get(&id.number()).cloned()
    }

    /// Data came.
    pub(super) fn data(&self, id: ChannelId, data: &[u8]) -> Result<(), Broken> {
        match self.get(id) {
            Some(flow) if !flow.arrived(data) => Err(Broken::Peer("the peer sent more than it had credit for")),
            _ => Ok(()),
        }
    }

    /// Extended data came: credit, or something that nobody wants.
    pub(super) fn extended(&self, id: ChannelId, code: u32, data: &[u8]) -> Result<(), Broken> {
        let (CREDIT, Some(flow)) = (code, self.get(id)) else { return Ok(()) };
        let amount = data.try_into().map(u32::from_be_bytes).map_err(|_| Broken::Peer("the peer's credit is not a number"))?;
        if flow.credited(amount) { Ok(()) } else { Err(Broken::Peer("the peer gave more credit than there ever was")) }
    }

    /// The peer sends no more on this channel.
    pub(super) fn eof(&self, id: ChannelId) {
        if let Some(flow) = self.get(id) {
            flow.eof();
        }
    }

    /// The channel is closed.
    pub(super) fn closed(&self, id: ChannelId) {
        let flow = {
            let mut flows = self.lock();
            let flow = flows.remove(&id.number());
            self.control.set_channels(flows.len());
            flow
        };
        if let Some(flow) = flow {
            flow.closed();
        }
    }

    /// The session ended.
    pub(super) fn end(&self) {
        let flows: Vec<_> = {
            let mut flows = self.lock();
            let _ = self.ended.set(());
            flows.drain().map(|(_, flow)| flow).collect()
        };
        self.confirmation.notify_waiters();
        for flow in flows {
            flow.broken();
        }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.lock().len()
    }
}

fn gone<T>(_: T) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the tunnel's connection is gone")
}

impl<S> Outgoing for ChannelWriteHalf<S>
where
    S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    async fn data(&self, payload: Bytes) -> io::Result<()> {
        self.data_bytes(payload).await.map_err(gone)
    }

    async fn credit(&self, amount: u32) -> io::Result<()> {
        self.extended_data_bytes(CREDIT, Bytes::copy_from_slice(&amount.to_be_bytes())).await.map_err(gone)
    }

    async fn eof(&self) -> io::Result<()> {
        ChannelWriteHalf::eof(self).await.map_err(gone)
    }

    async fn close(&self) -> io::Result<()> {
        ChannelWriteHalf::close(self).await.map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_of_ours_are_known_by_their_first_line() {
        assert!(is_ours(HELLO.as_bytes()) && is_ours(b"SSH-2.0-MigrateKit_12 more"));
        for foreign in ["SSH-2.0-OpenSSH_9.2p1", "SSH-2.0-MigrateKit_", "SSH-2.0-MigrateKit_0", "SSH-2.0-MigrateKit", ""] {
            assert!(!is_ours(foreign.as_bytes()) && !reads_frames(foreign.as_bytes()), "{foreign}");
        }
    }

    #[test]
    fn frames_are_read_from_version_2_on() {
        for (hello, reads) in
            [(HELLO, true), (HELLO_WITHOUT_FRAMES, false), ("SSH-2.0-MigrateKit_1 more", false), ("SSH-2.0-MigrateKit_10", true)]
        {
            assert_eq!((is_ours(hello.as_bytes()), reads_frames(hello.as_bytes())), (true, reads), "{hello}");
        }
    }
}
