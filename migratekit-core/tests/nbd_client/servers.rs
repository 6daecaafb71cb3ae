//! Starting peers and connecting to them, in the few forms the tests need.

use std::time::Duration;

use migratekit_core::nbd::client::{Client, ConnectOptions, Reconnect};
use migratekit_core::nbd::uri::Uri;
use migratekit_core::testing::peer::{Peer, free_port};

/// An nbdkit. It ends by `kill -9`: told to end, it would wait for clients that the test's thread, waiting for it, cannot close.
pub struct Server(Option<Peer>);

impl Server {
    /// `kill -9`.
    pub fn kill(self) {}

    /// Waits for its own end.
    pub fn wait(mut self) -> Option<i32> {
        self.0.take().unwrap().wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(peer) = self.0.take() {
            peer.kill();
        }
    }
}

/// An nbdkit on a free loopback port, in the foreground.
pub fn nbdkit(args: &[&str]) -> (Server, Uri) {
    let port = free_port();
    (nbdkit_on(port, args), Uri::tcp("127.0.0.1", port, ""))
}

/// An nbdkit on a given port.
pub fn nbdkit_on(port: u16, args: &[&str]) -> Server {
    let port_text = port.to_string();
    let mut all = vec!["-f", "-i", "127.0.0.1", "-p", &port_text];
    all.extend_from_slice(args);
    Server(Some(Peer::start("nbdkit", &all).wait_port(port)))
}

/// Options for tests: they give up soon.
pub fn options(uri: &Uri) -> ConnectOptions {
    ConnectOptions { reconnect: Reconnect { total: Duration::from_secs(20), ..Reconnect::default() }, ..ConnectOptions::new(uri.clone()) }
}

/// A connected client.
pub async fn connect(uri: &Uri) -> Client {
    Client::connect(options(uri)).await.unwrap()
}

/// `length` bytes that differ from place to place.
pub fn bytes(seed: u64, length: usize) -> bytes::Bytes {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect::<Vec<u8>>().into()
}
