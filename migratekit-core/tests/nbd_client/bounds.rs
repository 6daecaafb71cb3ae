//! Each bound of the client, reached and exceeded (`nbd info --limits` shows them).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migratekit_core::block::{BlockRead, BoxFuture};
use migratekit_core::error::{ErrorKind, Result};
use migratekit_core::nbd::client::{Client, ConnectOptions, Dial};
use migratekit_core::nbd::handshake::client::{Machine, Plan, Purpose, Then};
use migratekit_core::nbd::limits;
use migratekit_core::nbd::stream::{ByteStream, split_any};
use migratekit_core::nbd::wire::{self, BASE_ALLOCATION, chunk, errno, info, option, option_reply};
use migratekit_core::units::ByteRange;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake::{self, End, FIRST};

const GIB: u64 = 1 << 30;

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

fn big() -> Vec<u8> {
    let head = [fake::greeting(), fake::structured(), fake::context(1, BASE_ALLOCATION), fake::contexts_end()].concat();
    [head, fake::export_info(GIB), fake::go_end()].concat()
}

/// What comes of a handshake with these bytes of a server.
fn shake(purpose: Purpose, bytes: &[u8]) -> Result<Machine> {
    let mut machine = Machine::new(Plan { purpose, ..Plan::default() });
    let mut rest = bytes;
    loop {
        let (now, later) = rest.split_at(machine.wants());
        rest = later;
        if machine.feed(now)?.then == Then::Done {
            return Ok(machine);
        }
    }
}

#[test]
fn option_reply() {
    let answer = |length: u32| {
        let description = fake::go_info(info::DESCRIPTION, &vec![b'd'; length as usize - 2]);
        shake(Purpose::Open, &[fake::greeting(), fake::no_structured(), description, fake::export_info(1), fake::go_end()].concat())
    };
    assert!(answer(limits::MAX_OPTION_REPLY).unwrap().finish().description.is_some());
    let error = answer(limits::MAX_OPTION_REPLY + 1).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Protocol, "an option reply is longer than the client accepts"));
}

#[test]
fn list() {
    let answer = |count: u32| {
        let entry = wire::encode_option_reply(option::LIST, option_reply::SERVER, &[0, 0, 0, 1, b'x']);
        let end = wire::encode_option_reply(option::LIST, option_reply::ACK, &[]);
        shake(Purpose::List, &[fake::greeting(), entry.repeat(count as usize), end].concat())
    };
    assert_eq!(answer(limits::MAX_LIST).unwrap().finish().exports.len(), limits::MAX_LIST as usize);
    let error = answer(limits::MAX_LIST + 1).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Protocol, "the server does not end its answer to an option"));
}

#[tokio::test]
async fn reply_chunks() {
    let answer = |empty: u32| async move {
        let nothing = fake::piece(0, chunk::NONE, FIRST, b"");
        let replies = [nothing.repeat(empty as usize), fake::data(chunk::FLAG_DONE, 0, &[7; 512])].concat();
        let client = fake::open(fake::serve(fake::handshake(), replies, End::Silence)).await.unwrap();
        client.read(range(0, 512)).await
    };
    assert_eq!(answer(limits::MAX_REPLY_CHUNKS - 1).await.unwrap(), vec![7; 512]);
    let error = answer(limits::MAX_REPLY_CHUNKS).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Protocol, "a reply has more chunks than the client accepts"));
}

#[tokio::test]
async fn status_reply() {
    let answer = |count: u32| async move {
        let list: Vec<(u32, u32)> = (0..count).map(|i| (512, i % 2 * 3)).collect();
        let client = fake::open(fake::serve(big(), fake::extents(chunk::FLAG_DONE, 1, &list), End::Silence)).await.unwrap();
        client.extents(range(0, u64::from(count) * 512)).await
    };
    let most = (limits::MAX_STATUS_REPLY - 4) / 8;
    assert_eq!(answer(most).await.unwrap().len(), most as usize);
    let error = answer(most + 1).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Protocol, "a chunk of extents is longer than the client accepts"));
}

#[tokio::test]
async fn connections() {
    let (_server, uri) = crate::servers::nbdkit(&["memory", "16M"]);
    let with = |connections| ConnectOptions { connections, ..crate::servers::options(&uri) };
    let client = Client::connect(with(limits::MAX_CLIENT_CONNECTIONS)).await.unwrap();
    assert_eq!(client.connections(), limits::MAX_CLIENT_CONNECTIONS);
    for wrong in [0, limits::MAX_CLIENT_CONNECTIONS + 1] {
        assert_eq!(Client::connect(with(wrong)).await.err().unwrap().kind(), ErrorKind::InvalidInput, "{wrong}");
    }
}

/// Asks for one read more than `most`, each of `length` bytes, of a server that is silent until told: how many it sees.
async fn at_most(most: u64, length: u64) {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let seen = Arc::new(AtomicU64::new(0));
    let answer = Arc::new(tokio::sync::Notify::new());
    let (count, told) = (Arc::clone(&seen), Arc::clone(&answer));
    tokio::spawn(async move {
        far.write_all(&big()).await.unwrap();
        let mut skipped = Vec::new();
        // What the client says in the handshake ends where the first request begins.
        while !skipped.ends_with(&wire::REQUEST_MAGIC.to_be_bytes()) {
            skipped.push(far.read_u8().await.unwrap());
        }
        let mut rest = [0; wire::REQUEST_LENGTH];
        far.read_exact(&mut rest[4..]).await.unwrap();
        loop {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                () = told.notified() => {
                    // Chunk by chunk it may refuse: the first request is over.
                    far.write_all(&fake::piece(chunk::FLAG_DONE, chunk::ERROR, FIRST, &[0, 0, 0, errno::EIO as u8, 0, 0])).await.unwrap();
                    far.read_exact(&mut rest).await.unwrap();
                }
                read = far.read_exact(&mut rest) => if read.is_err() { return },
            }
        }
    });
    let client = Arc::new(fake::open(near).await.unwrap());
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..=most {
        let client = Arc::clone(&client);
        reads.spawn(async move { client.read(range(0, length)).await });
    }
    while seen.load(Ordering::SeqCst) < most {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.load(Ordering::SeqCst), most, "one waits in the client");
    answer.notify_one();
    assert_eq!(reads.join_next().await.unwrap().unwrap().unwrap_err().kind(), ErrorKind::Io);
    while seen.load(Ordering::SeqCst) <= most {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_under_way() {
    at_most(u64::from(limits::MAX_CLIENT_REQUESTS), 512).await;
}

#[tokio::test]
async fn bytes_under_way() {
    at_most(2, u64::from(limits::MAX_CLIENT_BYTES / 2)).await;
}

/// A way to a server that takes its time.
struct Slow(Duration);

impl Dial for Slow {
    fn dial(&self) -> BoxFuture<'_, Result<Box<dyn ByteStream>>> {
        Box::pin(async {
            tokio::time::sleep(self.0).await;
            Ok(split_any(fake::serve(fake::handshake(), Vec::new(), End::Silence)))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn connect_time() {
    let options = || ConnectOptions { timeouts: migratekit_core::nbd::client::Timeouts::default(), ..fake::options() };
    let just = limits::CONNECT_TIME - Duration::from_millis(10);
    Client::with_dialer(Arc::new(Slow(just)), options()).await.unwrap();
    let late = limits::CONNECT_TIME + Duration::from_millis(10);
    let error = Client::with_dialer(Arc::new(Slow(late)), options()).await.err().unwrap();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Timeout, "the connection was not made within the deadline"));
}
