//! What russh asks us about a connection to a server. Nothing here waits for a consumer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelId, Names};

use super::ReverseHandler;
use crate::task::{CancellationToken, Scope};
use crate::tunnels::channels::{Broken, Channels, reads_frames};
use crate::tunnels::keys::{Fingerprint, PublicKey};

/// What the connection and its handler share.
pub(super) struct Shared {
    pub(super) pinned: Fingerprint,
    /// The key that the server showed, when it was another.
    pub(super) found: OnceLock<Option<Fingerprint>>,
    /// Whether the server reads frames.
    pub(super) frames: AtomicBool,
    pub(super) channels: Arc<Channels>,
    /// What is served to the server, by port.
    pub(super) listening: Mutex<HashMap<u16, ReverseHandler>>,
    /// The tasks that serve it; empty once the connection is dropped.
    pub(super) tasks: Mutex<Scope>,
    /// Why it ended, when that is known.
    pub(super) why: OnceLock<String>,
    /// Cancelled at its end.
    pub(super) ended: CancellationToken,
}

impl Shared {
    fn listener(&self, port: u32) -> Option<ReverseHandler> {
        let port = u16::try_from(port).ok()?;
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned()
    }
}

/// See the [module documentation](self).
pub(super) struct Connection(pub(super) Arc<Shared>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.channels.end();
        self.0.ended.cancel();
    }
}

impl Handler for Connection {
    type Error = Broken;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Broken> {
        let found = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => PublicKey::of_peer(key).map(|key| key.fingerprint()),
            PublicKeyOrCertificate::Certificate(_) => None,
        };
        if found.as_ref() == Some(&self.0.pinned) {
            return Ok(true);
        }
        let _ = self.0.found.set(found);
        Ok(false)
    }

    async fn kex_done(&mut self, _: Option<&[u8]>, _: &Names, session: &mut Session) -> Result<(), Broken> {
        self.0.frames.store(reads_frames(session.remote_sshid()), Ordering::SeqCst);
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Broken>) -> Result<(), Broken> {
        let (why, end) = match reason {
            DisconnectReason::ReceivedDisconnect(_) => ("the server closed the connection".to_owned(), Ok(())),
            DisconnectReason::Error(e) => (e.to_string(), Err(e)),
        };
        let _ = self.0.why.set(why);
        end
    }

    async fn channel_open_confirmation(&mut self, id: ChannelId, _packet: u32, _window: u32, session: &mut Session) -> Result<(), Broken> {
        self.0.channels.confirm(id, session.remote_sshid())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        _address: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Broken> {
        // Dropping the reply refuses.
        let Some(handler) = self.0.listener(port) else { return Ok(()) };
        let Ok(flow) = self.0.channels.begin(channel.id(), session.remote_sshid()) else { return Ok(()) };
        let stream = self.0.channels.stream(channel, flow, None);
        reply.accept().await;
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(handler(stream));
        Ok(())
    }

    // The others are accepted unless one says otherwise; dropping the reply refuses.

    async fn server_channel_open_session(&mut self, _: Channel<Msg>, _: ChannelOpenHandle, _: &mut Session) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(&mut self, _: Channel<Msg>, _: ChannelOpenHandle, _: &mut Session) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Broken> {
        self.0.channels.data(channel, data)
    }

    async fn extended_data(&mut self, channel: ChannelId, code: u32, data: &[u8], _session: &mut Session) -> Result<(), Broken> {
        self.0.channels.extended(channel, code, data)
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Broken> {
        self.0.channels.eof(channel);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Broken> {
        self.0.channels.closed(channel);
        Ok(())
    }
}
