//! Against nbdkit: its plugins as disks, its filters as servers that lack something.

use bytes::Bytes;
use migratekit_core::block::{BlockRead, BlockWrite, ExtentKind, Persist, ZeroMode};
use migratekit_core::error::ErrorKind;
use migratekit_core::nbd::client::{Client, Timeouts, list};
use migratekit_core::nbd::uri::Uri;
use migratekit_core::testing::peer::{Peer, free_port};
use migratekit_core::units::{ByteRange, KIB, MIB};

use crate::servers::{bytes, connect, nbdkit, options};

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

/// Writes, zeroes, discards, flushes, and reads back; works on any writable server of at least 8 MiB.
pub async fn exercise(client: &Client) {
    let data = bytes(1, 300_000 / 4096 * 4096);
    let length = data.len() as u64;
    client.write(MIB, data.clone(), Persist::Cached).await.unwrap();
    client.write(4 * MIB, data.slice(..65536), Persist::Durable).await.unwrap();
    assert_eq!(client.read(range(MIB, length)).await.unwrap(), data);
    client.zero(range(MIB + 4096, 65536), ZeroMode::default(), Persist::Cached).await.unwrap();
    client.zero(range(4 * MIB, 4096), ZeroMode { may_punch: true, only_fast: false }, Persist::Durable).await.unwrap();
    let read = client.read(range(MIB, length)).await.unwrap();
    assert_eq!(read[..4096], data[..4096]);
    assert!(read[4096..69632].iter().all(|b| *b == 0));
    assert_eq!(read[69632..], data[69632..]);
    client.discard(range(4 * MIB, 65536), Persist::Cached).await.unwrap();
    client.flush().await.unwrap();
    let extents = client.extents(range(0, 8 * MIB)).await.unwrap();
    assert_eq!(extents.first().unwrap().range.offset(), 0);
    assert_eq!(extents.last().unwrap().range.end(), 8 * MIB);
    assert!(extents.windows(2).all(|w| w[0].range.end() == w[1].range.offset()));
}

#[tokio::test]
async fn memory_takes_everything() {
    let (_server, uri) = nbdkit(&["memory", "64M"]);
    let client = connect(&uri).await;
    assert_eq!(client.info().size, 64 * MIB);
    assert_eq!(client.connections(), 4);
    assert!(client.facts().structured && client.facts().by_go && client.facts().fixed_newstyle);
    exercise(&client).await;
    let extents = client.extents(range(0, 64 * MIB)).await.unwrap();
    assert!(extents.iter().any(|e| e.kind == ExtentKind::Data) && extents.last().unwrap().kind == ExtentKind::Hole);
    assert_eq!(client.connection_generation(), 0);
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pattern_tells_each_offset_from_each_other() {
    let (_server, uri) = nbdkit(&["pattern", "1T"]);
    let client = std::sync::Arc::new(connect(&uri).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200_u64 {
        let client = std::sync::Arc::clone(&client);
        tasks.spawn(async move {
            let from = (n * 5_368_709_120 + n * 4096 + n % 7) % (1 << 40);
            let length = (1 + n * 4099).min((1 << 40) - from);
            let got = client.read(range(from, length)).await.unwrap();
            assert_eq!(got.len() as u64, length);
            for (at, byte) in (from..).zip(got.iter()) {
                assert_eq!(*byte, (at & !7).to_be_bytes()[(at & 7) as usize], "byte {at}");
            }
        });
    }
    while let Some(end) = tasks.join_next().await {
        end.unwrap();
    }
}

#[tokio::test]
async fn requests_outside_the_disk_are_refused_before_they_are_sent() {
    let (_server, uri) = nbdkit(&["memory", "1M"]);
    let client = connect(&uri).await;
    for r in [range(MIB - 1, 2), range(MIB, 1), range(0, 0)] {
        assert_eq!(client.read(r).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(client.write(MIB, Bytes::from_static(b"x"), Persist::Cached).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(client.read(range(MIB - 4 * KIB, 4 * KIB)).await.unwrap().len(), 4096);
}

#[tokio::test]
async fn a_file_holds_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    let (_server, uri) = nbdkit(&["file", path.to_str().unwrap()]);
    let client = connect(&uri).await;
    exercise(&client).await;
    let data = bytes(2, 100_000);
    client.write(16 * MIB - 100_000, data.clone(), Persist::Durable).await.unwrap();
    let disk = std::fs::read(&path).unwrap();
    assert_eq!(disk[16 * 1024 * 1024 - 100_000..], data);
    assert_eq!(client.read(range(0, 16 * MIB)).await.unwrap(), disk);
}

#[tokio::test]
async fn a_unix_socket_and_a_read_only_server() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a socket");
    let _server = Peer::start("nbdkit", &["-f", "-r", "-U", socket.to_str().unwrap(), "data", "data=1 2 3 @0x100000 4", "size=2M"])
        .wait_path(&socket);
    let client = connect(&Uri::unix(&socket, "")).await;
    assert!(client.info().read_only && client.info().size == 2 * MIB);
    assert_eq!(client.read(range(0, 4)).await.unwrap(), [1, 2, 3, 0][..]);
    assert_eq!(client.read(range(MIB, 2)).await.unwrap(), [4, 0][..]);
    assert_eq!(client.write(0, Bytes::from_static(b"x"), Persist::Cached).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(client.zero(range(0, 1), ZeroMode::default(), Persist::Cached).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(client.discard(range(0, 1), Persist::Cached).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert!(client.digests(65536).await.unwrap().is_none(), "nbdkit serves the same disk under every name");
}

#[tokio::test]
async fn extents_of_a_sparse_disk_are_true() {
    let (_server, uri) = nbdkit(&["sparse-random", "size=1G", "seed=7", "percent=5", "runlength=65536"]);
    let client = connect(&uri).await;
    let extents = client.extents(range(0, 1024 * MIB)).await.unwrap();
    assert_eq!((extents[0].range.offset(), extents.last().unwrap().range.end()), (0, 1024 * MIB));
    assert!(extents.windows(2).all(|w| w[0].range.end() == w[1].range.offset() && w[0].kind != w[1].kind));
    let holes: Vec<_> = extents.iter().filter(|e| e.kind.reads_zero()).collect();
    assert!(!holes.is_empty() && holes.len() < extents.len());
    for hole in holes.iter().take(20) {
        let part = range(hole.range.offset(), hole.range.length().min(MIB));
        assert!(client.read(part).await.unwrap().iter().all(|b| *b == 0));
    }
    for piece in extents.iter().filter(|e| e.kind == ExtentKind::Data).take(20) {
        let part = range(piece.range.offset(), piece.range.length().min(MIB));
        assert!(client.read(part).await.unwrap().iter().any(|b| *b != 0));
    }
}

#[tokio::test]
async fn servers_that_lack_something() {
    let (_server, uri) = nbdkit(&["--filter=noextents", "--filter=nozero", "memory", "16M"]);
    let client = connect(&uri).await;
    assert!(!client.info().can.zero);
    exercise(&client).await;
    let (_server, uri) = nbdkit(&["--filter=fua", "memory", "16M"]);
    let client = connect(&uri).await;
    assert!(!client.info().can.fua && client.info().can.flush);
    exercise(&client).await;
    let (_server, uri) = nbdkit(&["--filter=fua", "memory", "16M", "fuamode=force"]);
    let client = connect(&uri).await;
    assert!(client.info().can.fua);
    exercise(&client).await;
    let (_server, uri) = nbdkit(&["--filter=multi-conn", "memory", "16M", "multi-conn-mode=disable"]);
    let client = connect(&uri).await;
    assert_eq!((client.connections(), client.info().can.multi_conn), (1, false));
    exercise(&client).await;
    // Without structured replies (-o: oldstyle is refused; --no-sr: simple replies).
    let (_server, uri) = nbdkit(&["--no-sr", "memory", "16M"]);
    let client = connect(&uri).await;
    assert!(!client.facts().structured && !client.info().can.extents);
    exercise(&client).await;
    let (_server, uri) = nbdkit(&["-o", "memory", "16M"]);
    assert_eq!(Client::connect(options(&uri)).await.err().unwrap().kind(), ErrorKind::Unsupported);
    // Newstyle that is not fixed knows only EXPORT_NAME.
    let (_server, uri) = nbdkit(&["--mask-handshake=0", "memory", "16M"]);
    let client = connect(&uri).await;
    assert!(!client.facts().by_go && !client.facts().fixed_newstyle);
    exercise(&client).await;
}

#[tokio::test]
async fn block_sizes_are_kept() {
    let (_server, uri) = nbdkit(&[
        "--filter=blocksize-policy",
        "memory",
        "16M",
        "blocksize-minimum=4096",
        "blocksize-preferred=64K",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
    ]);
    let client = connect(&uri).await;
    let info = client.info();
    assert_eq!((info.min_block, info.preferred_block, info.max_request), (4096, 65536, 1 << 20));
    assert_eq!(client.read(range(512, 4096)).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(client.read(range(0, 2 * MIB)).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    client.zero(range(0, 16 * MIB), ZeroMode::default(), Persist::Durable).await.unwrap();
    client.discard(range(0, 16 * MIB), Persist::Cached).await.unwrap();
    exercise(&client).await;
}

#[tokio::test]
async fn errors_of_the_filter_are_named_and_the_client_lives_on() {
    let (_server, uri) = nbdkit(&["--filter=error", "memory", "16M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"]);
    let client = connect(&uri).await;
    for _ in 0..3 {
        let error = client.write(8192, bytes(3, 4096), Persist::Cached).await.unwrap_err();
        assert_eq!((error.kind(), error.context_value("offset")), (ErrorKind::NoSpace, Some("8192")), "{error}");
    }
    assert!(client.read(range(0, MIB)).await.unwrap().iter().all(|b| *b == 0));
    let (_server, uri) = nbdkit(&["--filter=error", "pattern", "64M", "error-pread=EIO", "error-pread-rate=30%"]);
    let client = connect(&uri).await;
    let mut failed = 0;
    for n in 0..200 {
        match client.read(range(n * 4096, 4096)).await {
            Ok(got) => assert_eq!(got[..8], (n * 4096).to_be_bytes()),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Io);
                failed += 1;
            }
        }
    }
    assert!((1..200).contains(&failed), "{failed}");
}

#[tokio::test]
async fn slow_and_retrying_servers_serve_many_requests_at_once() {
    let (_server, uri) = nbdkit(&["--filter=delay", "--filter=retry", "memory", "16M", "delay-read=20ms", "delay-write=20ms"]);
    let client = std::sync::Arc::new(connect(&uri).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64_u64 {
        let client = std::sync::Arc::clone(&client);
        tasks.spawn(async move {
            client.write(n * 65536, bytes(n, 65536), Persist::Cached).await.unwrap();
            assert_eq!(client.read(range(n * 65536, 65536)).await.unwrap(), bytes(n, 65536));
        });
    }
    while let Some(end) = tasks.join_next().await {
        end.unwrap();
    }
}

#[tokio::test]
async fn futures_dropped_at_any_moment_leave_the_connection_whole() {
    let (_server, uri) = nbdkit(&["--filter=delay", "memory", "16M", "delay-read=2ms", "delay-write=2ms"]);
    let client = connect(&uri).await;
    for n in 0..300_u64 {
        let wait = std::time::Duration::from_micros(n * 37 % 4000);
        let data = bytes(n, 200_000);
        let _ = tokio::time::timeout(wait, client.write(8 * MIB, data, Persist::Cached)).await;
        let _ = tokio::time::timeout(wait, client.read(range(0, MIB))).await;
    }
    client.write(0, bytes(9, 300_000), Persist::Durable).await.unwrap();
    assert_eq!(client.read(range(0, 300_000)).await.unwrap(), bytes(9, 300_000));
    assert_eq!(client.connection_generation(), 0);
}

#[tokio::test]
async fn leaving_lets_exitlast_end_the_server() {
    let (server, uri) = nbdkit(&["--filter=exitlast", "memory", "16M"]);
    let client = connect(&uri).await;
    exercise(&client).await;
    client.close().await.unwrap();
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let dead = Uri::tcp("127.0.0.1", free_port(), "");
    assert_eq!(Client::connect(options(&dead)).await.err().unwrap().kind(), ErrorKind::Unreachable);
    let gone = Uri::unix("/nonexistent/socket", "");
    assert_eq!(Client::connect(options(&gone)).await.err().unwrap().kind(), ErrorKind::NotFound);
    let (_server, uri) = nbdkit(&[
        "--filter=exportname",
        "memory",
        "1M",
        "exportname=a",
        "exportname=b",
        "exportname-list=explicit",
        "exportname-strict=true",
    ]);
    let error = Client::connect(options(&uri.with_export("c"))).await.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Protocol), "{error}");
    let names: Vec<_> = list(&uri, Timeouts::default()).await.unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["a", "b"]);
}
