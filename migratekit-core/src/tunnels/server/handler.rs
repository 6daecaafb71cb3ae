//! What russh asks us about one connection. Nothing here waits for a consumer: the task of the session stands still while we answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use russh::keys::{Algorithm, Certificate};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty};

use super::live::{Live, lock};
use super::talk::talk;
use super::{Event, Inner, Peer};
use crate::tunnels::channels::Broken;
use crate::tunnels::compression::{Compression, FRAMES};
use crate::tunnels::hello::HELLO_PORT;
use crate::tunnels::keys::PublicKey;
use crate::tunnels::policy::{Refusal, Verdict, Wish, judge};
use crate::tunnels::{USER, limits};

/// One connection's.
pub(super) struct Connection {
    pub(super) server: Arc<Inner>,
    pub(super) live: Arc<Live>,
}

fn refused() -> Auth {
    Auth::Reject { proceed_with_methods: Some(MethodSet::from(&[MethodKind::PublicKey][..])), partial_success: false }
}

/// What a stranger says, as much of it as is worth a line.
fn shown(text: &str) -> String {
    text.chars().take(limits::MAX_SHOWN).collect()
}

impl Connection {
    /// Who comes with this key by this name, if anybody may. Where that cannot be told the connection ends without an answer: a refusal
    /// is final to who gets one, and a copy must outlive a catalog that is away for a moment.
    async fn find(&self, user: &str, key: &russh::keys::PublicKey, algorithm: &Algorithm) -> Result<Option<Peer>, Broken> {
        if user != USER || *algorithm != Algorithm::Ed25519 {
            return Ok(None);
        }
        let Some(key) = PublicKey::of_peer(key) else { return Ok(None) };
        match self.server.holder(&key).await {
            Ok(vma) => Ok(vma.map(|vma| Peer { vma: Arc::new(vma), key, address: self.live.address })),
            Err(error) => {
                tracing::warn!(%error, "whether a key may come in cannot be told; it may not");
                Err(Broken::NotNow("whether the key may come in cannot be told now"))
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
                self.server.saw(&Event::Refused { peer: peer.clone(), wish: shown(&format!("{wish:?}")), why });
                Err(why)
            }
        }
    }

    /// Says no to what is asked for on a channel: all of it belongs to sessions.
    fn no_program(&self, what: &'static str, channel: ChannelId, session: &mut Session) -> Result<(), Broken> {
        if self.judge(&Wish::Program(what)).is_ok() {
            return Err(Broken::Peer("a program was allowed"));
        }
        Ok(session.channel_failure(channel)?)
    }

    /// Says no to a way in that is not by a plain key.
    fn no_method(&self, method: &'static str, user: &str) -> Auth {
        self.server.saw(&Event::MethodRefused { address: self.live.address, method, user: shown(user) });
        refused()
    }

    fn no_key(&self, user: &str, key: &russh::keys::PublicKey) -> Auth {
        self.server.saw(&Event::KeyRefused { address: self.live.address, key: PublicKey::of_peer(key), user: shown(user) });
        refused()
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
        let known = self.find(user, offer.public_key, offer.algorithm).await?.is_some();
        Ok(if known { Auth::Accept } else { self.no_key(user, offer.public_key) })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Broken> {
        let Some(peer) = self.find(user, key.public_key, key.algorithm).await? else { return Ok(self.no_key(user, key.public_key)) };
        if !self.live.login(peer.clone(), &self.server.bounds) {
            // After a cut of the path, those that nobody knows to be dead yet must not keep the VMA out.
            if !self.server.make_room(&peer.vma.name) || !self.live.login(peer.clone(), &self.server.bounds) {
                self.server.saw(&Event::TooMany { peer });
                return Err(Broken::NotNow("there are as many connections of the VMA as may be"));
            }
        }
        // Again, now that `revoke` can see this connection: a key that was taken away before that was not cut by it.
        if self.find(user, key.public_key, key.algorithm).await?.as_ref() != Some(&peer) {
            self.no_key(user, key.public_key);
            return Err(Broken::NotNow("the key was taken away during the login"));
        }
        self.live.told.store(true, Ordering::SeqCst);
        self.server.saw(&Event::Connected { peer });
        Ok(Auth::Accept)
    }

    async fn auth_password(&mut self, user: &str, _password: &str) -> Result<Auth, Broken> {
        Ok(self.no_method("password", user))
    }

    async fn auth_keyboard_interactive<'a>(&'a mut self, user: &str, _: &str, _: Option<Response<'a>>) -> Result<Auth, Broken> {
        Ok(self.no_method("keyboard-interactive", user))
    }

    async fn auth_openssh_certificate(&mut self, user: &str, _certificate: &Certificate) -> Result<Auth, Broken> {
        Ok(self.no_method("certificate", user))
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Broken> {
        self.no_program("shell", channel, session)
    }

    async fn exec_request(&mut self, channel: ChannelId, _command: &[u8], session: &mut Session) -> Result<(), Broken> {
        self.no_program("exec", channel, session)
    }

    async fn subsystem_request(&mut self, channel: ChannelId, _name: &str, session: &mut Session) -> Result<(), Broken> {
        self.no_program("subsystem", channel, session)
    }

    async fn env_request(&mut self, channel: ChannelId, _name: &str, _value: &str, session: &mut Session) -> Result<(), Broken> {
        self.no_program("env", channel, session)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Broken> {
        self.no_program("pty", channel, session)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Broken> {
        self.no_program("x11", channel, session)
    }

    async fn agent_request(&mut self, _channel: ChannelId, _session: &mut Session) -> Result<bool, Broken> {
        Ok(self.judge(&Wish::Program("agent")).is_ok())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        originator: &str,
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
        let frames = originator == FRAMES && self.server.compression != Compression::Off;
        let stream = if frames { stream.in_frames(self.server.compression) } else { stream };
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
