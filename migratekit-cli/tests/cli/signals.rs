//! Signals: the first ends the work in order, the second ends the process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use migratekit_core::nbd::wire::{Request, command};
use migratekit_core::testing::peer::{Peer, free_port};
use rustix::process::Signal;

use crate::run::command as ours;

/// A client that has sent half of a write: its server waits for the rest.
fn half_a_write(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    // Fixed newstyle, no zeroes; EXPORT_NAME.
    stream.write_all(&[&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 1], &[0, 0, 0, 4], b"disk"].concat()).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    // In one piece, so that the server has read all of it when it answers the first.
    let read = Request { flags: 0, command: command::READ, cookie: 1, offset: 0, length: 1 };
    let write = Request { flags: 0, command: command::WRITE, cookie: 2, offset: 0, length: 4096 };
    stream.write_all(&[&read.encode()[..], &write.encode(), &[7; 100]].concat()).unwrap();
    stream.read_exact(&mut [0; 17]).unwrap();
    stream
}

#[test]
fn the_second_signal_leaves_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    for (first, second) in [(Signal::INT, Signal::INT), (Signal::TERM, Signal::HUP)] {
        let port = free_port();
        let serve = ours(&["nbd", "serve", &format!("disk={}", path.display()), "--listen", &format!("127.0.0.1:{port}")]);
        let server = Peer::spawn("migratekit", serve).wait_port(port);
        let client = half_a_write(port);
        server.signal(first);
        // It has heard when it no longer listens, and it still waits for its client.
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_ok() {
            assert!(Instant::now() < end, "the first signal was not heard");
            std::thread::sleep(Duration::from_millis(1));
        }
        server.signal(second);
        assert_eq!(server.wait(), Some(130));
        drop(client);
    }
}
