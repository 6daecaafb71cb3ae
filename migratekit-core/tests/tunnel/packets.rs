//! Bytes that are no proper SSH: before the login, and on a connection of a VMA that is in.

use std::net::SocketAddr;
use std::time::Duration;

use migratekit_core::clock::within;
use migratekit_core::task::Scope;
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{Client, NBD_PORT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::rig::{Echo, Rig, soon, there_and_back};

/// Sends `bytes` as often as the server takes them, at most so many times; it must close the connection.
async fn thrown_out(rig: &Rig, what: &str, bytes: &[u8], times: usize) {
    let before = strangers(rig);
    let mut socket = TcpStream::connect(rig.address).await.unwrap();
    for _ in 0..times {
        if socket.write_all(bytes).await.is_err() {
            break;
        }
    }
    let mut all = Vec::new();
    let _ = soon(what, socket.read_to_end(&mut all)).await;
    soon(what, async {
        while strangers(rig) == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// How many left without having shown a key.
fn strangers(rig: &Rig) -> usize {
    rig.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Disconnected { peer: None, .. })).count()
}

/// The head of a packet in clear: its length, and a padding.
pub(crate) fn packet(length: u32) -> Vec<u8> {
    let mut bytes = b"SSH-2.0-stranger\r\n".to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.extend([4; 2048]);
    bytes
}

#[tokio::test]
async fn oversized_and_broken_packets_before_the_login_end_the_connection() {
    let rig = Rig::echo().await;
    for length in [u32::MAX, i32::MAX as u32, 1 << 28, 300 * 1024, 0, 1, 3] {
        thrown_out(&rig, &format!("a packet of {length}"), &packet(length), 1).await;
    }
    // A packet that says its padding is longer than itself.
    thrown_out(&rig, "a padding longer than its packet", &[b"SSH-2.0-x\r\n\0\0\0\x0c".as_slice(), &[0xff; 64]].concat(), 1).await;
    there_and_back(rig.client().bulk(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}

#[tokio::test]
async fn garbage_in_the_place_of_the_banner_ends_the_connection() {
    let rig = Rig::echo().await;
    for (what, bytes, times) in [
        ("a line without an end", vec![b'a'; 64 * 1024], 256),
        ("lines without an end", b"hello\r\n".repeat(1000), 256),
        ("an old SSH", b"SSH-1.5-old\r\n".to_vec(), 1),
        ("a banner with zeroes", b"SSH-2.0-\0\0\0\r\n\0\0\0\0".to_vec(), 256),
        ("no text", vec![0xff; 4096], 16),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 1),
    ] {
        thrown_out(&rig, what, &bytes, times).await;
    }
    there_and_back(rig.client().bulk(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}

#[tokio::test]
async fn who_dribbles_is_sent_away_when_the_time_of_login_is_over() {
    let rig = Rig::with(vec![(NBD_PORT, std::sync::Arc::new(Echo))], |options| options.login_time = Duration::from_secs(1)).await;
    let mut socket = TcpStream::connect(rig.address).await.unwrap();
    let (mut read, mut write) = socket.split();
    // One byte after the other, always some progress, for ever.
    let dribble = async {
        for byte in b"SSH-2.0-slow\r\n".iter().chain(std::iter::repeat(&b'\0')) {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut all = Vec::new();
    let closed = async {
        let _ = read.read_to_end(&mut all).await;
    };
    soon("the end of patience", async {
        tokio::select! {
            () = dribble => {}
            () = closed => {}
        }
    })
    .await;
    rig.saw("the end", |e| matches!(e, Event::Disconnected { peer: None, why: Some(_), .. })).await;
    rig.close().await;
}

/// A wire to the server into which a test can put bytes of its own, towards the server.
pub(crate) async fn wire(server: SocketAddr, tasks: &mut Scope) -> (u16, mpsc::Sender<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (put, mut more) = mpsc::channel::<Vec<u8>>(1);
    let token = tasks.token().clone();
    tasks.spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(server).await.unwrap();
        let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.into_split(), far.into_split());
        let there = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                tokio::select! {
                    n = near_read.read(&mut buffer) => match n {
                        Ok(n) if n > 0 => { let _ = far_write.write_all(&buffer[..n]).await; }
                        _ => return,
                    },
                    Some(bytes) = more.recv() => { let _ = far_write.write_all(&bytes).await; }
                }
            }
        };
        let back = async {
            let _ = tokio::io::copy(&mut far_read, &mut near_write).await;
            let _ = near_write.shutdown().await;
        };
        token
            .run_until_cancelled(async {
                tokio::select! { () = there => {}, () = back => {} }
            })
            .await;
    });
    (port, put)
}

#[tokio::test]
async fn an_oversized_packet_after_the_login_ends_that_connection_only() {
    let rig = Rig::echo().await;
    let beside = rig.client().connect().await.unwrap();
    // The length of a packet stands in clear before what AES-GCM seals.
    for length in [u32::MAX, i32::MAX as u32, 300 * 1024, 0] {
        let mut tasks = Scope::new();
        let (port, put) = wire(rig.address, &mut tasks).await;
        let mut options = rig.options(&rig.key);
        options.port = port;
        let link = soon("the login", Client::new(options).connect()).await.unwrap();
        there_and_back(link.open(NBD_PORT).await.unwrap(), 10_000).await;
        rig.events.lock().unwrap().clear();
        put.send([&length.to_be_bytes()[..], &[0; 4096]].concat()).await.unwrap();
        rig.saw("its end", |e| matches!(e, Event::Disconnected { peer: Some(p), why: Some(_), .. } if p.vma.name == "vma-1")).await;
        let gone = within(Duration::from_secs(30), async {
            while !link.is_closed() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(gone.await.is_some(), "{length}");
        tasks.close().await.unwrap();
    }
    there_and_back(beside.open(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}
