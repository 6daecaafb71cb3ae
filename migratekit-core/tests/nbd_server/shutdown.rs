//! The end: of the server, of a stream handed to it, of who waits for one.

use std::sync::Arc;

use migratekit_core::ErrorKind;
use migratekit_core::block::MemoryDisk;
use migratekit_core::nbd::ServerConfig;
use migratekit_core::nbd::stream::split_any;
use migratekit_core::nbd::wire::{Request, command, encode_option, errno, option};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{Raw, Said};
use crate::rig::{Gated, Rig, Shared, wait_for};

#[test]
fn requests_under_way_are_answered_and_new_ones_refused() {
    let gate = Gated::new(1 << 20, false, false);
    let rig = Rig::with_disk(ServerConfig::default(), Shared(Arc::clone(&gate)));
    let mut raw = Raw::simple(rig.port, "disk");
    let mut waiting = Raw::options(rig.port);
    raw.write(1, 0, b"in flight");
    wait_for("the write to be under way", || gate.waiting() == 1);
    rig.stop.cancel();
    while raw.ask(command::FLUSH, 0, 0, 0) != Said::Simple(errno::ESHUTDOWN) {}
    assert_eq!(waiting.info(option::GO, "disk", &[]).unwrap_err().0, 0x8000_0007, "ERR_SHUTDOWN");
    gate.set_open(true);
    assert_eq!(raw.reply(), (1, Said::Simple(0)));
    assert!(raw.is_closed());
    assert_eq!(waiting.verdict(option::ABORT, b"").0, 1);
    wait_for("all connections to be gone", || rig.connections().is_empty());
    assert_eq!(gate.written.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn shutdown_ends_every_connection_and_returns() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", 4096));
    let mut raws: Vec<Raw> = (0..8).map(|_| Raw::simple(rig.port, "disk")).collect();
    rig.runtime.block_on(rig.server.shutdown());
    assert!(rig.connections().is_empty());
    assert!(raws.iter_mut().all(Raw::is_closed));
}

/// The bytes of a client that enters transmission with `disk`, by the old way.
fn entrance() -> Vec<u8> {
    [&3u32.to_be_bytes()[..], &encode_option(option::EXPORT_NAME, b"disk")].concat()
}

#[test]
fn any_stream_can_be_handed_in() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::from_bytes("m", b"hello, channel"));
    rig.runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(64);
        let server = rig.server.clone();
        let handled = tokio::spawn(async move { server.handle(split_any(far), "a channel").await });
        let mut head = [0; 18];
        near.read_exact(&mut head).await.unwrap();
        near.write_all(&entrance()).await.unwrap();
        near.read_exact(&mut [0; 10]).await.unwrap();
        assert_eq!(rig.connections()[0].client, "a channel");
        let read = Request { flags: 0, command: command::READ, cookie: 1, offset: 0, length: 14 };
        near.write_all(&read.encode()).await.unwrap();
        let mut reply = [0; 30];
        near.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply[16..], b"hello, channel");
        let leave = Request { flags: 0, command: command::DISC, cookie: 2, offset: 0, length: 0 };
        near.write_all(&leave.encode()).await.unwrap();
        handled.await.unwrap().unwrap();

        // A stream that ends in the middle of a request is an error that names the client.
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(&entrance()).await.unwrap();
        near.write_all(&read.encode()[..20]).await.unwrap();
        let server = rig.server.clone();
        let handled = tokio::spawn(async move { server.handle(split_any(far), "a channel").await });
        near.read_exact(&mut [0; 28]).await.unwrap();
        near.shutdown().await.unwrap();
        let e = handled.await.unwrap().unwrap_err();
        assert_eq!((e.kind(), e.context_value("client")), (ErrorKind::Unreachable, Some("a channel")));
    });
}

#[test]
fn dropping_the_handle_closes_the_stream_and_what_is_under_way_still_ends() {
    let gate = Gated::new(1 << 20, false, false);
    let rig = Rig::with_disk(ServerConfig::default(), Shared(Arc::clone(&gate)));
    rig.runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(4096);
        let server = rig.server.clone();
        let handled = tokio::spawn(async move { server.handle(split_any(far), "a channel").await });
        near.write_all(&entrance()).await.unwrap();
        near.read_exact(&mut [0; 28]).await.unwrap();
        let write = Request { flags: 0, command: command::WRITE, cookie: 1, offset: 0, length: 4 };
        near.write_all(&[&write.encode()[..], b"data"].concat()).await.unwrap();
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        handled.abort();
        assert!(handled.await.unwrap_err().is_cancelled());
        assert_eq!(rig.connections().len(), 1, "a write is under way");
        gate.set_open(true);
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
    });
    wait_for("the connection to be gone", || rig.connections().is_empty());
    assert_eq!(gate.written.load(std::sync::atomic::Ordering::SeqCst), 1);
}
