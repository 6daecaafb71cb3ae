//! Servers that die and come back: reads resume, unacknowledged writes are made again, and a flush tells of what is in doubt.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::block::{BlockRead, BlockWrite, Persist};
use migratekit_core::error::{ErrorKind, Retry};
use migratekit_core::nbd::client::{Client, ConnectOptions, Reconnect};
use migratekit_core::nbd::uri::Uri;
use migratekit_core::testing::peer::free_port;
use migratekit_core::units::{ByteRange, MIB};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::fake;
use crate::servers::{bytes, connect, nbdkit_on, options};

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_resume_after_kill_9() {
    let port = free_port();
    let args = ["--filter=delay", "pattern", "1G", "delay-read=5ms"];
    let mut server = nbdkit_on(port, &args);
    let client = Arc::new(connect(&Uri::tcp("127.0.0.1", port, "")).await);
    for round in 1..=3_u64 {
        let mut tasks = JoinSet::new();
        for n in 0..256_u64 {
            let client = Arc::clone(&client);
            tasks.spawn(async move {
                let at = n * 4 * MIB;
                let got = client.read(range(at, 256 * 1024)).await.unwrap();
                assert!(got.chunks(8).zip((at..).step_by(8)).all(|(word, at)| word == at.to_be_bytes()));
            });
        }
        tasks.join_next().await.unwrap().unwrap();
        server.kill();
        server = nbdkit_on(port, &args);
        while let Some(end) = tasks.join_next().await {
            end.unwrap();
        }
        assert!(client.connection_generation() >= round, "round {round}");
    }
    client.flush().await.unwrap();
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_made_again_and_a_flush_tells_of_doubt_once() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(64 * MIB).unwrap();
    let port = free_port();
    let args = ["--filter=delay", "file", disk.to_str().unwrap(), "delay-write=5ms"];
    let server = nbdkit_on(port, &args);
    let client = Arc::new(connect(&Uri::tcp("127.0.0.1", port, "")).await);
    client.write(0, bytes(1, 4096), Persist::Cached).await.unwrap();
    client.flush().await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..256_u64 {
        let client = Arc::clone(&client);
        tasks.spawn(async move { client.write(n * 256 * 1024, bytes(n, 65536), Persist::Cached).await.unwrap() });
    }
    tasks.join_next().await.unwrap().unwrap();
    server.kill();
    let server = nbdkit_on(port, &args);
    while let Some(end) = tasks.join_next().await {
        end.unwrap();
    }
    assert!(client.connection_generation() > 0);
    let doubt = client.flush().await.unwrap_err();
    assert_eq!(doubt.kind(), ErrorKind::Unreachable);
    assert_eq!(doubt.context_value("good-flushes-before"), Some("1"));
    assert!(doubt.context_value("writes-in-doubt").is_some() && doubt.message().contains("may be lost"), "{doubt}");
    client.flush().await.unwrap();
    let written = std::fs::read(&disk).unwrap();
    for n in 0..256_usize {
        assert_eq!(written[n * 262_144..n * 262_144 + 65536], bytes(n as u64, 65536), "block {n}");
    }
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_server_that_died_lost_what_a_flush_then_refuses_to_promise() {
    let port = free_port();
    let server = nbdkit_on(port, &["memory", "16M"]);
    let client = connect(&Uri::tcp("127.0.0.1", port, "")).await;
    client.write(0, bytes(1, 65536), Persist::Cached).await.unwrap();
    server.kill();
    let server = nbdkit_on(port, &["memory", "16M"]);
    assert!(client.read(range(0, 65536)).await.unwrap().iter().all(|b| *b == 0), "the new server knows nothing of the write");
    assert_eq!(client.flush().await.unwrap_err().kind(), ErrorKind::Unreachable);
    client.write(0, bytes(1, 65536), Persist::Cached).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.read(range(0, 65536)).await.unwrap(), bytes(1, 65536));
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_writes_are_never_in_doubt() {
    let port = free_port();
    let server = nbdkit_on(port, &["memory", "16M"]);
    let client = connect(&Uri::tcp("127.0.0.1", port, "")).await;
    assert!(client.info().can.fua);
    client.write(0, bytes(1, 65536), Persist::Durable).await.unwrap();
    server.kill();
    let server = nbdkit_on(port, &["memory", "16M"]);
    client.read(range(0, 512)).await.unwrap();
    assert!(client.connection_generation() > 0);
    client.flush().await.unwrap();
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_or_other_abilities_end_the_client() {
    for (args, want) in [
        (&["memory", "32M"][..], "the export changed its size from 16777216 to 33554432 bytes"),
        (&["--filter=nozero", "memory", "16M"][..], "the export changed its abilities"),
        (&["-r", "memory", "16M"][..], "the export changed its abilities"),
    ] {
        let port = free_port();
        let server = nbdkit_on(port, &["memory", "16M"]);
        let client = connect(&Uri::tcp("127.0.0.1", port, "")).await;
        server.kill();
        let server = nbdkit_on(port, args);
        let error = client.read(range(0, 512)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
        assert!(error.message().starts_with(want), "{error}");
        assert_eq!(client.read(range(0, 512)).await.unwrap_err().kind(), ErrorKind::Changed);
        server.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_is_said() {
    let port = free_port();
    let server = nbdkit_on(port, &["memory", "16M"]);
    let mut options = options(&Uri::tcp("127.0.0.1", port, ""));
    options.reconnect = Reconnect { attempts: 3, first_pause: Duration::from_millis(10), ..Reconnect::default() };
    let client = Client::connect(options).await.unwrap();
    server.kill();
    let error = client.read(range(4096, 512)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry(), error.context_value("offset")),
        (ErrorKind::Unreachable, Retry::Exhausted, Some("4096")),
        "{error}"
    );
}

/// A server that hangs up on the first option is asked again by EXPORT_NAME alone.
#[tokio::test]
async fn a_server_that_hangs_up_on_options() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&fake::greeting()).await.unwrap();
            let mut head = [0; 20];
            stream.read_exact(&mut head).await.unwrap();
            if head[15] == 1 {
                let mut name = vec![0; usize::from(head[19])];
                stream.read_exact(&mut name).await.unwrap();
                stream.write_all(&[&fake::SIZE.to_be_bytes()[..], &[0, 5]].concat()).await.unwrap();
                let mut request = [0; 28];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&fake::simple(0, fake::FIRST)).await.unwrap();
                stream.write_all(&[7; 512]).await.unwrap();
                let _ = stream.read(&mut request).await;
            }
        }
    });
    let client = connect(&Uri::tcp("127.0.0.1", port, "old")).await;
    assert!(!client.facts().by_go && client.info().can.flush);
    assert_eq!(client.read(range(0, 512)).await.unwrap(), [7; 512][..]);
}

/// A server that dies while the connection is made again hung up on no option: it is asked for the same as the first time.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_handshake_is_asked_again_as_before() {
    let port = free_port();
    let server = nbdkit_on(port, &["memory", "16M"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = Uri::tcp("127.0.0.1", listener.local_addr().unwrap().port(), "");
    let cut = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&cut);
    let line = tokio::spawn(async move {
        for connection in 0..3 {
            let (mut near, _) = listener.accept().await.unwrap();
            if connection == 1 {
                near.write_all(&fake::greeting()).await.unwrap();
                near.read_exact(&mut [0; 20]).await.unwrap();
                continue;
            }
            let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = told.notified() => {}
            }
        }
    });
    let client = Client::connect(ConnectOptions { connections: 1, ..options(&front) }).await.unwrap();
    client.read(range(0, 512)).await.unwrap();
    cut.notify_one();
    while client.connection_generation() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.read(range(0, 512)).await.unwrap();
    assert!(client.facts().by_go);
    client.close().await.unwrap();
    line.await.unwrap();
    server.kill();
}
