//! What russh asks us about one connection. Nothing here waits for a consumer: the task of the session stands still while we answer.

use std::sync::Arc;

use russh::keys::Algorithm;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet};

use super::live::{Live, lock};
use super::talk::talk;
use super::{Event, Inner, Peer};
use crate::tunnels::USER;
use crate::tunnels::channels::Broken;
use crate::tunnels::hello::HELLO_PORT;
use crate::tunnels::keys::PublicKey;
use crate::tunnels::policy::{Refusal, Verdict, Wish, judge};

/// One connection's.
pub(super) struct Connection {
    pub(super) server: Arc<Inner>,
    pub(super) live: Arc<Live>,
}

fn refused() -> Auth {
    Auth::Reject { proceed_with_methods: Some(MethodSet::from(&[MethodKind::PublicKey][..])), partial_success: false }
}

impl Connection {
    /// Who comes with this key by this name, if anybody may.
    async fn find(&self, user: &str, key: &russh::keys::PublicKey, algorithm: &Algorithm) -> Option<Peer> {
        if user != USER || *algorithm != Algorithm::Ed25519 {
            return None;
        }
        let key = PublicKey::of_peer(key)?;
        match self.server.keys.holder(&key).await {
            Ok(vma) => vma.map(|vma| Peer { vma: Arc::new(vma), key, address: self.live.address }),
            Err(error) => {
                tracing::warn!(%error, "whether a key may come in cannot be told; it may not");
                None
            }
        }
    }

    /// What is to be done about a wish.
    fn judge(&self, wish: &Wish<'_>) -> Result<(u16, Peer), Refusal> {
        // A wish before the login does not come this far; if it did, it would be refused.
        let Some(peer) = self.live.peer.get() else { return Err(Refusal::NoSessions) };
        match judge(wish, &peer.vma, &self.server.ports) {
            Verdict::Port(port) => Ok((port, peer.clone())),
            Verdict::Refused(why) => {
                self.server.saw(&Event::Refused { peer: peer.clone(), wish: format!("{wish:?}"), why });
                Err(why)
            }
        }
    }

    async fn refuse(&self, wish: &Wish<'_>, reply: ChannelOpenHandle) -> Result<(), Broken> {
        if self.judge(wish).is_ok() {
            return Err(Broken::Peer("a channel that cannot be served was allowed"));
        }
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }
}

impl Handler for Connection {
    type Error = Broken;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Broken> {
        let known = self.find(user, offer.public_key, offer.algorithm).await.is_some();
        if !known {
            self.server.saw(&Event::KeyRefused {
                address: self.live.address,
                key: PublicKey::of_peer(offer.public_key),
                user: user.to_owned(),
            });
        }
        Ok(if known { Auth::Accept } else { refused() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Broken> {
        let Some(peer) = self.find(user, key.public_key, key.algorithm).await else {
            self.server.saw(&Event::KeyRefused {
                address: self.live.address,
                key: PublicKey::of_peer(key.public_key),
                user: user.to_owned(),
            });
            return Ok(refused());
        };
        if !self.live.login(peer.clone(), &self.server.bounds) {
            // After a cut of the path, those that nobody knows to be dead yet must not keep the VMA out.
            if !self.server.make_room(&peer.key) || !self.live.login(peer.clone(), &self.server.bounds) {
                self.server.saw(&Event::TooMany { peer });
                return Ok(refused());
            }
        }
        self.server.saw(&Event::Connected { peer });
        Ok(Auth::Accept)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Broken> {
        let wish = Wish::Stream { host, port };
        let Ok((port, peer)) = self.judge(&wish) else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let handler = self.server.handlers.get(&port).cloned();
        if handler.is_none() && port != HELLO_PORT {
            return Err(Broken::Peer("a channel that cannot be served was allowed"));
        }
        let flow = match self.live.channels.begin(channel.id(), session.remote_sshid()) {
            Ok(flow) => flow,
            Err(why) => {
                self.server.saw(&Event::Refused { peer, wish: format!("{wish:?}"), why });
                reply.reject(ChannelOpenFailure::ResourceShortage).await;
                return Ok(());
            }
        };
        let stream = self.live.channels.stream(channel, flow, None);
        reply.accept().await;
        let mut tasks = lock(&self.live.tasks);
        let end = tasks.token().clone();
        match handler {
            Some(handler) => tasks.spawn(async move { handler.serve(stream, peer, end).await }),
            None => {
                let (server, live) = (Arc::clone(&self.server), Arc::clone(&self.live));
                tasks.spawn(async move { talk(server, live, peer, stream, end).await });
            }
        }
        Ok(())
    }

    async fn tcpip_forward(&mut self, address: &str, port: &mut u32, _session: &mut Session) -> Result<bool, Broken> {
        let wish = Wish::Listen { address, port: *port };
        let Ok((port, peer)) = self.judge(&wish) else { return Ok(false) };
        {
            let mut listening = lock(&self.live.listening);
            listening.retain(|(_, p)| *p != port);
            listening.push((address.to_owned(), port));
        }
        if let Some(sockets) = &self.server.sockets
            && let Err(why) = sockets.hold(&self.server, &peer, port).await
        {
            lock(&self.live.listening).retain(|(_, p)| *p != port);
            self.server.saw(&Event::Refused { peer, wish: format!("{wish:?}"), why });
            return Ok(false);
        }
        self.server.saw(&Event::Listening { peer, port });
        Ok(true)
    }

    async fn cancel_tcpip_forward(&mut self, address: &str, port: u32, _session: &mut Session) -> Result<bool, Broken> {
        let (before, after) = {
            let mut listening = lock(&self.live.listening);
            let before = listening.len();
            listening.retain(|(a, p)| a != address || u32::from(*p) != port);
            (before, listening.len())
        };
        self.server.let_go();
        Ok(after < before)
    }

    async fn streamlocal_forward(&mut self, _path: &str, _session: &mut Session) -> Result<bool, Broken> {
        Ok(self.judge(&Wish::UnixSocket).is_ok())
    }

    async fn channel_open_session(&mut self, _: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), Broken> {
        self.refuse(&Wish::Session, reply).await
    }

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator: &str,
        _port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Broken> {
        self.refuse(&Wish::X11, reply).await
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Broken> {
        self.refuse(&Wish::Reverse, reply).await
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Broken> {
        self.refuse(&Wish::UnixSocket, reply).await
    }

    async fn channel_open_confirmation(&mut self, id: ChannelId, _packet: u32, _window: u32, session: &mut Session) -> Result<(), Broken> {
        self.live.channels.confirm(id, session.remote_sshid())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Broken> {
        self.live.channels.data(channel, data)
    }

    async fn extended_data(&mut self, channel: ChannelId, code: u32, data: &[u8], _session: &mut Session) -> Result<(), Broken> {
        self.live.channels.extended(channel, code, data)
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Broken> {
        self.live.channels.eof(channel);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Broken> {
        self.live.channels.closed(channel);
        Ok(())
    }
}
