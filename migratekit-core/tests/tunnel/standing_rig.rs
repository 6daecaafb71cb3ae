//! A standing tunnel for tests: its options, what it came through, waiting for its states.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use migratekit_core::task::CancellationToken;
use migratekit_core::tunnels::client::ReverseHandler;
use migratekit_core::tunnels::{
    API_PORT, LocalForward, NBD_PORT, Pauses, Probing, Reverse, ServerOptions, Standing, StreamHandler, Tunnel, TunnelOptions, TunnelState,
    Way,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::hole::Path;
use crate::rig::{Echo, PATIENCE, Rig, soon};

/// Echoes on the VMA's side.
pub(crate) fn echo() -> ReverseHandler {
    Arc::new(|stream| {
        Box::pin(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    })
}

/// Echo at both of the OMA's ports.
pub(crate) fn both() -> Vec<(u16, Arc<dyn StreamHandler>)> {
    vec![(NBD_PORT, Arc::new(Echo)), (API_PORT, Arc::new(Echo))]
}

/// Times of seconds instead of minutes; long enough for a machine that is busy.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(1);
pub(crate) const PROBING: Probing = Probing { interval: Duration::from_secs(1), deadline: Duration::from_secs(1), failures: 3 };

/// A server with such times.
pub(crate) fn quick(options: &mut ServerOptions) {
    (options.silence, options.keepalive, options.probing) = (SILENCE, KEEPALIVE, PROBING);
}

/// Both forwards and the way back, with short times, through `path`.
pub(crate) fn options(rig: &Rig, path: &Path) -> TunnelOptions {
    let mut client = rig.options(&rig.key);
    (client.port, client.silence, client.keepalive) = (path.port, SILENCE, KEEPALIVE);
    let mut options = TunnelOptions::new(client);
    let listen = "127.0.0.1:0".parse().unwrap();
    options.locals =
        vec![LocalForward { listen, port: NBD_PORT, way: Way::OwnConnection }, LocalForward { listen, port: API_PORT, way: Way::Control }];
    options.reverse = Some(Reverse { port: None, handler: echo() });
    options.probing = PROBING;
    options.pauses = Pauses { first: Duration::from_millis(10), longest: Duration::from_millis(100) };
    options
}

/// A tunnel, and what it came through.
pub(crate) struct Kept {
    pub(crate) tunnel: Tunnel,
    pub(crate) states: Arc<Mutex<Vec<TunnelState>>>,
}

impl Kept {
    pub(crate) async fn start(mut options: TunnelOptions) -> Self {
        let states = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&states);
        options.observer = Some(Arc::new(move |state: &TunnelState| seen.lock().unwrap().push(state.clone())));
        Kept { tunnel: Tunnel::start(options, &CancellationToken::new()).await.unwrap(), states }
    }

    /// What stands, when it does.
    pub(crate) async fn stands(&self) -> Arc<Standing> {
        let mut state = self.tunnel.state();
        let standing = async { state.wait_for(|state| state.standing().is_some()).await.unwrap().standing().unwrap().clone() };
        match migratekit_core::clock::within(PATIENCE, standing).await {
            Some(standing) => standing,
            None => panic!("it does not stand: {:#?}", self.states.lock().unwrap()),
        }
    }

    /// Waits until so many connections have stood.
    pub(crate) async fn stood(&self, times: usize) {
        let stood = async {
            while self.states.lock().unwrap().iter().filter(|state| state.standing().is_some()).count() < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        soon(&format!("it stands for the {times}. time"), stood).await;
    }

    /// Why it lost its connections, or got none, so far.
    pub(crate) fn losses(&self) -> Vec<Arc<migratekit_core::Error>> {
        let states = self.states.lock().unwrap();
        states
            .iter()
            .filter_map(|state| if let TunnelState::Disconnected { why, .. } = state { Some(Arc::clone(why)) } else { None })
            .collect()
    }

    /// The three ways it has all carry bytes.
    pub(crate) async fn carries(&self, rig: &Rig) {
        for local in self.tunnel.locals() {
            talk_to(local.port(), 300_000).await;
        }
        let back = soon("a stream to the VMA", rig.server.open("vma-1")).await.unwrap();
        crate::rig::there_and_back(back, 100_000).await;
    }

    pub(crate) async fn close(self) {
        soon("the end of the tunnel", self.tunnel.close()).await.unwrap();
        assert!(matches!(self.states.lock().unwrap().last(), Some(TunnelState::Closed)));
    }
}

/// Bytes to an echo behind a socket of this host, and back. They are read only when all are written and the end was said: a half-closed
/// connection goes on.
pub(crate) async fn talk_to(port: u16, bytes: usize) {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let sent: Vec<u8> = (0..bytes).map(|i| (i % 247) as u8).collect();
    let (mut read, mut write) = socket.into_split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(writing, read.read_to_end(&mut got)) };
    soon("bytes through a forward and back", both).await.1.unwrap();
    assert!(got == sent, "{} of {bytes} bytes came back, or others", got.len());
}
