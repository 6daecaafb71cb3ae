//! What no well-behaved client asks for, asked by a client that is not ours: other ways in, requests that belong to sessions on a channel
//! that is none, channels before the login.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::client::{self, AuthResult, KeyboardInteractiveAuthResponse};
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, ChannelOpenFailure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::{Event, KeySource, Peer, Server, ServerOptions, StreamHandler};
use crate::block::BoxFuture;
use crate::clock::within;
use crate::error::Result;
use crate::task::{CancellationToken, Scope};
use crate::tunnels::policy::Refusal;
use crate::tunnels::{NBD_PORT, PrivateKey, PublicKey, TunnelStream, USER, Vma};

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    within(PATIENCE, work).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} for: {what}"))
}

struct One(PublicKey);

impl KeySource for One {
    fn holder<'a>(&'a self, key: &'a PublicKey) -> BoxFuture<'a, Result<Option<Vma>>> {
        let found = (*key == self.0).then(|| Vma { name: "vma-1".to_owned(), reverse_port: Some(9081) });
        Box::pin(std::future::ready(Ok(found)))
    }
}

struct Echo;

impl StreamHandler for Echo {
    fn serve(&self, stream: TunnelStream, _peer: Peer, _end: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    }
}

/// A client that takes every server, with the algorithms of ours.
struct Stranger;

impl client::Handler for Stranger {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> std::result::Result<bool, russh::Error> {
        Ok(true)
    }
}

struct Doors {
    address: SocketAddr,
    key: PrivateKey,
    events: Arc<Mutex<Vec<Event>>>,
    tasks: Scope,
}

impl Doors {
    async fn new() -> Self {
        let key = PrivateKey::generate().unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut options = ServerOptions::new(PrivateKey::generate().unwrap(), Arc::new(One(key.public()))).serve(NBD_PORT, Arc::new(Echo));
        let seen = Arc::clone(&events);
        options.observer = Some(Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = Scope::new();
        let token = tasks.token().clone();
        tasks.spawn(async move { Server::new(options).serve(listener, token).await.unwrap() });
        Doors { address, key, events, tasks }
    }

    async fn knock(&self) -> client::Handle<Stranger> {
        let config = client::Config { preferred: super::PREFERRED, ..client::Config::default() };
        soon("a connection", client::connect(Arc::new(config), self.address, Stranger)).await.unwrap()
    }

    async fn enter(&self) -> client::Handle<Stranger> {
        let mut handle = self.knock().await;
        let key = PrivateKeyWithHashAlg::new(self.key.inner(), None);
        assert!(soon("the login", handle.authenticate_publickey(USER, key)).await.unwrap().success());
        handle
    }

    async fn saw(&self, what: &str, is: impl Fn(&Event) -> bool) {
        let seen = async {
            while !self.events.lock().unwrap().iter().any(&is) {
                crate::clock::sleep(Duration::from_millis(2)).await;
            }
        };
        if within(PATIENCE, seen).await.is_none() {
            panic!("not seen: {what}; seen: {:#?}", self.events.lock().unwrap());
        }
    }

    fn refusals(&self) -> Vec<Refusal> {
        let why = |e: &Event| if let Event::Refused { why, .. } = e { Some(*why) } else { None };
        self.events.lock().unwrap().iter().filter_map(why).collect()
    }

    async fn close(self) {
        soon("the end of the server", self.tasks.close()).await.unwrap();
    }
}

#[tokio::test]
async fn there_is_no_way_in_but_by_a_plain_key() {
    let doors = Doors::new().await;
    let mut handle = doors.knock().await;
    assert!(!soon("none", handle.authenticate_none(USER)).await.unwrap().success());
    let password = soon("a password", handle.authenticate_password(USER, "secret-of-mine")).await.unwrap();
    let AuthResult::Failure { remaining_methods, .. } = password else { panic!("a password came in") };
    assert_eq!(remaining_methods.iter().collect::<Vec<_>>(), [&russh::MethodKind::PublicKey]);
    let asked = soon("a question", handle.authenticate_keyboard_interactive_start(USER, None)).await.unwrap();
    assert!(matches!(asked, KeyboardInteractiveAuthResponse::Failure { .. }), "{asked:?}");
    // A certificate for the very key that may come in, by an authority that this key made.
    let mut builder = Builder::new(vec![1; 16], doors.key.inner().public_key().key_data().clone(), 0, u64::MAX - 1).unwrap();
    builder.cert_type(CertType::User).unwrap().valid_principal(USER).unwrap();
    let certificate = builder.sign(&*doors.key.inner()).unwrap();
    let shown = soon("a certificate", handle.authenticate_openssh_cert(USER, doors.key.inner(), certificate)).await.unwrap();
    assert!(!shown.success());
    for method in ["password", "keyboard-interactive", "certificate"] {
        doors.saw(method, |e| matches!(e, Event::MethodRefused { method: m, user, .. } if *m == method && user == USER)).await;
    }
    assert!(!format!("{:?}", doors.events.lock().unwrap()).contains("secret-of-mine"), "a password is not repeated");
    // After all that, by the key.
    let key = PrivateKeyWithHashAlg::new(doors.key.inner(), None);
    assert!(soon("the login", handle.authenticate_publickey(USER, key)).await.unwrap().success());
    doors.close().await;
}

#[tokio::test]
async fn who_tries_too_often_is_sent_away() {
    let doors = Doors::new().await;
    let mut handle = doors.knock().await;
    for _ in 0..20 {
        if let Ok(answer) = soon("an answer", handle.authenticate_password(USER, "guess")).await {
            assert!(!answer.success());
        }
    }
    doors.saw("the end", |e| matches!(e, Event::Disconnected { peer: None, .. })).await;
    let guesses = doors.events.lock().unwrap().iter().filter(|e| matches!(e, Event::MethodRefused { .. })).count();
    assert_eq!(guesses, crate::tunnels::limits::MAX_AUTH_ATTEMPTS, "so many were looked at");
    // And there is no stranger's name too long for a line.
    let mut handle = doors.knock().await;
    let name = "x".repeat(10_000);
    assert!(!soon("a long name", handle.authenticate_password(name, "guess")).await.unwrap().success());
    doors.saw("the long name, cut", |e| matches!(e, Event::MethodRefused { user, .. } if user.len() == 128)).await;
    doors.close().await;
}

#[tokio::test]
async fn nothing_is_opened_before_the_login() {
    let doors = Doors::new().await;
    let handle = doors.knock().await;
    let opened = soon("an answer, or the end", handle.channel_open_direct_tcpip("127.0.0.1", u32::from(NBD_PORT), "127.0.0.1", 0)).await;
    assert!(opened.is_err(), "a channel was opened without a login");
    doors.saw("the end", |e| matches!(e, Event::Disconnected { peer: None, .. })).await;
    doors.close().await;
}

/// The answer to a request on a channel: whether it was granted.
async fn granted(channel: &mut Channel<client::Msg>, what: &str) -> bool {
    loop {
        match soon(what, channel.wait()).await {
            Some(ChannelMsg::Success) => return true,
            Some(ChannelMsg::Failure) => return false,
            None => panic!("the channel ended on: {what}"),
            Some(_) => {}
        }
    }
}

#[tokio::test]
async fn a_stream_is_no_session_whatever_is_asked_on_it() {
    let doors = Doors::new().await;
    let handle = doors.enter().await;
    let opening = handle.channel_open_direct_tcpip("127.0.0.1", u32::from(NBD_PORT), "127.0.0.1", 0);
    let mut channel = soon("a stream", opening).await.unwrap();
    channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.unwrap();
    assert!(!granted(&mut channel, "a terminal").await);
    channel.set_env(true, "LD_PRELOAD", "/tmp/x.so").await.unwrap();
    assert!(!granted(&mut channel, "a variable").await);
    channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await.unwrap();
    assert!(!granted(&mut channel, "X11").await);
    channel.agent_forward(true).await.unwrap();
    assert!(!granted(&mut channel, "an agent").await);
    channel.request_shell(true).await.unwrap();
    assert!(!granted(&mut channel, "a shell").await);
    channel.exec(true, "id").await.unwrap();
    assert!(!granted(&mut channel, "a command").await);
    channel.request_subsystem(true, "sftp").await.unwrap();
    assert!(!granted(&mut channel, "sftp").await);
    channel.window_change(80, 24, 0, 0).await.unwrap();
    channel.signal(russh::Sig::KILL).await.unwrap();
    assert_eq!(doors.refusals(), [Refusal::NoSessions; 7]);
    // It is the stream it was.
    channel.make_writer().write_all(b"still here").await.unwrap();
    let mut back = Vec::new();
    while back.len() < 10 {
        match soon("the echo", channel.wait()).await {
            Some(ChannelMsg::Data { data }) => back.extend_from_slice(&data),
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
    assert_eq!(back, b"still here");
    doors.close().await;
}

#[tokio::test]
async fn every_other_channel_and_listener_is_refused_and_told() {
    let doors = Doors::new().await;
    let handle = doors.enter().await;
    let refused = |end: std::result::Result<Channel<client::Msg>, russh::Error>| {
        matches!(end, Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited)))
    };
    assert!(refused(soon("a session", handle.channel_open_session()).await));
    assert!(refused(soon("X11", handle.channel_open_x11("127.0.0.1", 6000)).await));
    assert!(refused(soon("a socket", handle.channel_open_direct_streamlocal("/run/docker.sock")).await));
    let mut expected = vec![Refusal::NoSessions, Refusal::NoX11, Refusal::NoUnixSockets];
    let nbd = u32::from(NBD_PORT);
    for (host, port, why) in [
        ("192.0.2.1", nbd, Refusal::ForeignHost),
        ("0.0.0.0", nbd, Refusal::ForeignHost),
        ("127.0.0.2", nbd, Refusal::ForeignHost),
        ("::ffff:127.0.0.1", nbd, Refusal::ForeignHost),
        ("", nbd, Refusal::ForeignHost),
        ("127.0.0.1\0", nbd, Refusal::ForeignHost),
        ("127.0.0.1", 22, Refusal::UnknownPort),
        ("127.0.0.1", nbd + 65_536, Refusal::UnknownPort),
        ("127.0.0.1", u32::MAX, Refusal::UnknownPort),
    ] {
        assert!(refused(soon("a target", handle.channel_open_direct_tcpip(host, port, "127.0.0.1", 0)).await), "{host}:{port}");
        expected.push(why);
    }
    for (address, port, why) in [
        ("127.0.0.1", 9082, Refusal::ForeignPort),
        ("127.0.0.1", 0, Refusal::ForeignPort),
        ("127.0.0.1", 22, Refusal::ForeignPort),
        ("127.0.0.1", 9081 + 65_536, Refusal::ForeignPort),
        ("0.0.0.0", 9081, Refusal::OpenListener),
        ("", 9081, Refusal::OpenListener),
        ("*", 9081, Refusal::OpenListener),
        ("192.0.2.1", 9081, Refusal::OpenListener),
    ] {
        let end = soon("a listener", handle.tcpip_forward(address, port)).await;
        assert!(matches!(end, Err(russh::Error::RequestDenied)), "{address}:{port}: {end:?}");
        expected.push(why);
    }
    assert!(soon("a socket's listener", handle.streamlocal_forward("/tmp/socket")).await.is_err());
    expected.push(Refusal::NoUnixSockets);
    assert_eq!(doors.refusals(), expected, "each was told, with its reason");
    assert!(soon("another's forward", handle.cancel_tcpip_forward("127.0.0.1", 9082)).await.is_err());
    // The connection is as good as before.
    soon("a stream", handle.channel_open_direct_tcpip("127.0.0.1", nbd, "127.0.0.1", 0)).await.unwrap();
    doors.close().await;
}
