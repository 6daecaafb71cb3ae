//! The standing tunnel: it carries, it says what it does not get, it comes back after whatever happens, and leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::ErrorKind;
use migratekit_core::task::CancellationToken;
use migratekit_core::testing::peer::free_port;
use migratekit_core::tunnels::hello::HELLO_PORT;
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::standing::Forward;
use migratekit_core::tunnels::{API_PORT, Dialect, KeySource, LocalForward, NBD_PORT, PrivateKey, Reverse, Tunnel, Way};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::hole::Path;
use crate::rig::{Echo, Rig, Stopped, StoppedHandler, soon};
use crate::standing_rig::{Kept, both, echo, options, quick, talk_to};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_stands_with_both_directions_at_its_own_port_and_ends_in_order() {
    let rig = Rig::with(both(), quick).await;
    let path = Path::to(rig.address).await;
    let kept = Kept::start(options(&rig, &path)).await;
    let standing = kept.stands().await;
    assert_eq!((standing.vma.as_deref(), standing.reverse_port), (Some("vma-1"), Some(9081)), "as the hello told");
    assert_eq!(standing.agreed.as_ref().unwrap().version, 1);
    assert!(standing.refused.is_empty(), "{:?}", standing.refused);
    kept.carries(&rig).await;
    rig.saw("the hello", |e| matches!(e, Event::Hello { agent, .. } if agent.starts_with("migratekit "))).await;
    rig.saw("the listener", |e| matches!(e, Event::Listening { port: 9081, .. })).await;
    // Without sockets asked for, there are none on the OMA.
    assert!(TcpStream::connect(("127.0.0.1", 9081)).await.is_err());

    let local = kept.tunnel.locals()[0];
    let mut idle = TcpStream::connect(local).await.unwrap();
    kept.close().await;
    assert_eq!(soon("who is connected is cut off", idle.read(&mut [0])).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(local).await.is_err(), "nobody listens any more");
    soon("the server has seen it", async {
        while !rig.server.connected().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_does_not_give_is_said_and_the_rest_works() {
    let rig = Rig::with(vec![(API_PORT, Arc::new(Echo))], quick).await;
    let path = Path::to(rig.address).await;
    let mut no_port = options(&rig, &path);
    let key = PrivateKey::generate().unwrap();
    rig.keys.allow(&key, "vma-2", None);
    no_port.client.key = key.into();
    let kept = Kept::start(no_port).await;
    let refused = kept.stands().await.refused.clone();
    let [reverse, local] = refused.as_slice() else { panic!("{refused:?}") };
    assert!(reverse.forward == Forward::Reverse { port: None } && reverse.why.contains("no port of its own"), "{reverse:?}");
    assert!(matches!(local.forward, Forward::Local { port: NBD_PORT, .. }) && local.why.contains("nothing is served"), "{local:?}");
    // It is closed to who connects; the other forward works.
    let mut closed = TcpStream::connect(kept.tunnel.locals()[0]).await.unwrap();
    assert_eq!(soon("it is closed", closed.read(&mut [0])).await.unwrap_or(0), 0);
    talk_to(kept.tunnel.locals()[1].port(), 1000).await;
    kept.close().await;

    // A port that is another's.
    let mut foreign = options(&rig, &path);
    foreign.reverse = Some(Reverse { port: Some(9082), handler: echo() });
    let kept = Kept::start(foreign).await;
    let refused = kept.stands().await.refused.clone();
    assert!(refused.iter().any(|r| r.forward == Forward::Reverse { port: Some(9082) } && r.why.contains("refuses")), "{refused:?}");
    kept.close().await;

    // A local port that is taken is an error at once.
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut busy = options(&rig, &path);
    busy.locals = vec![LocalForward { listen: taken.local_addr().unwrap(), port: API_PORT, way: Way::Control }];
    let error = Tunnel::start(busy, &CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("address").is_some()), (ErrorKind::Busy, true));
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_reconnects_make_all_again_and_leave_nothing_behind() {
    let rig = Rig::with(both(), quick).await;
    let path = Path::to(rig.address).await;
    let kept = Kept::start(options(&rig, &path)).await;
    kept.stood(1).await;
    kept.carries(&rig).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut tasks = Vec::new();
    for round in 2..=21 {
        path.cut();
        kept.stood(round).await;
        kept.carries(&rig).await;
        // One connection on the path and at the server, the control connection: nothing else is left.
        soon("what was cut is gone at both ends", async {
            while path.open() != 1 || rig.server.connected().len() != 1 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        tasks.push(alive());
    }
    let least = *tasks.iter().min().unwrap();
    soon("no more tasks than at some moment before", async {
        while alive() > least + 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    println!("tasks after each reconnect: {tasks:?}; connections made: {}", path.made());
    assert_eq!(kept.losses().len(), 20);
    kept.close().await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_for_a_while_or_starts_anew_finds_its_vma_again() {
    // A port that nobody else is given while the server is away.
    let listener = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
    let rig = Rig::on(listener, both(), quick).await;
    let path = Path::to(rig.address).await;
    let kept = Kept::start(options(&rig, &path)).await;
    kept.stands().await;
    path.close(true);
    path.cut();
    soon("some tries in vain", async {
        while kept.losses().len() < 5 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(kept.tunnel.open(API_PORT).await.unwrap_err().kind(), ErrorKind::Unreachable);
    path.close(false);
    kept.stood(2).await;
    kept.carries(&rig).await;

    // The same server in another process, as it were: the same keys on the same port.
    let (address, server_key, keys, key) = (rig.address, rig.host_key.clone(), Arc::clone(&rig.keys), rig.key.clone());
    rig.close().await;
    let again = Rig::on(TcpListener::bind(address).await.unwrap(), both(), |options| {
        quick(options);
        (options.host_key, options.keys) = (server_key, Arc::clone(&keys) as Arc<dyn KeySource>);
    })
    .await;
    kept.stood(3).await;
    kept.carries(&again).await;

    // Said no, it goes on asking, and comes in when the answer is yes.
    keys.forget(&key);
    soon("the cut", again.server.revoke(&key.public().fingerprint())).await;
    soon("it is said no", async {
        while !kept.losses().iter().any(|why| why.kind() == ErrorKind::Denied) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    keys.allow(&key, "vma-1", Some(9081));
    kept.stood(4).await;
    kept.carries(&again).await;
    kept.close().await;
    again.close().await;
}

/// What a server of a version says, and what comes of it.
async fn with_versions(server: Dialect, vma: Dialect) -> (Rig, Kept) {
    let rig = Rig::with(both(), |options| {
        quick(options);
        options.speaks = server;
    })
    .await;
    let path = Path::to(rig.address).await;
    let mut options = options(&rig, &path);
    options.speaks = vma;
    let kept = Kept::start(options).await;
    // The path lives as long as its tasks; the test's runtime ends them.
    std::mem::forget(path);
    (rig, kept)
}

fn dialect(least: u32, version: u32, more: &str) -> Dialect {
    let mut dialect = Dialect { version, least, ..Dialect::default() };
    dialect.features.insert(more.to_owned());
    dialect
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_before_and_the_one_after_work_and_one_without_overlap_is_told_what_to_do() {
    for (server, vma) in [(dialect(1, 2, "new"), dialect(1, 1, "old")), (dialect(1, 1, "old"), dialect(1, 2, "new"))] {
        let (rig, kept) = with_versions(server, vma).await;
        let agreed = kept.stands().await.agreed.clone().unwrap();
        assert_eq!((agreed.version, agreed.features.into_iter().collect::<Vec<_>>()), (1, vec!["probe".to_owned()]));
        kept.carries(&rig).await;
        kept.close().await;
        rig.close().await;
    }
    for (server, vma, here, there) in [
        (dialect(2, 3, "a"), dialect(1, 1, "a"), "on this side", "on the other side"),
        (dialect(1, 1, "a"), dialect(2, 3, "a"), "on the other side", "on this side"),
    ] {
        let (rig, kept) = with_versions(server, vma).await;
        soon("it is refused", async {
            while kept.losses().is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        let why = Arc::clone(&kept.losses()[0]);
        assert!(why.kind() == ErrorKind::Unsupported && why.message().ends_with(here), "{why}");
        rig.saw("the server says the same", |e| matches!(e, Event::HelloRefused { why, .. } if why.contains(there))).await;
        kept.close().await;
        rig.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_that_are_no_hello_harm_nobody() {
    let rig = Rig::with(both(), quick).await;
    let link = rig.client().connect().await.unwrap();
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"{}\n", b"{\"hello\":7}\n", b"\n", &[b'x'; 20_000]] {
        let mut stream = link.open(HELLO_PORT).await.unwrap();
        let _ = stream.write_all(words).await;
        let _ = stream.flush().await;
        let mut answer = Vec::new();
        let _ = soon("the end of it", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    rig.saw("that is said", |e| matches!(e, Event::HelloRefused { .. })).await;
    // A second hello on one connection ends that stream only.
    let hello = b"{\"hello\":{\"version\":1,\"least\":1,\"instance\":\"i\"}}\n";
    let (mut first, mut second) = (link.open(HELLO_PORT).await.unwrap(), link.open(HELLO_PORT).await.unwrap());
    let mut byte = [0];
    for stream in [&mut first, &mut second] {
        stream.write_all(hello).await.unwrap();
        stream.flush().await.unwrap();
        soon("its hello", stream.read_exact(&mut byte)).await.unwrap();
    }
    soon("the second ends", second.read_to_end(&mut Vec::new())).await.unwrap();
    crate::rig::there_and_back(link.open(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_from_a_forward_does_not_stop_the_control_connection() {
    let stopped = Stopped::new();
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(Echo)), (API_PORT, Arc::new(StoppedHandler(Arc::clone(&stopped))))], quick).await;
    let path = Path::to(rig.address).await;
    let mut options = options(&rig, &path);
    // Both on the control connection: the worst that can be asked of it.
    options.locals[0].way = Way::Control;
    let kept = Kept::start(options).await;
    kept.stands().await;
    let (echo, stuck) = (kept.tunnel.locals()[0].port(), kept.tunnel.locals()[1]);
    let mut full = Vec::new();
    for _ in 0..3 {
        // An API that reads nothing, and a reader of an echo that reads nothing.
        let (mut silent, mut lazy) = (TcpStream::connect(stuck).await.unwrap(), TcpStream::connect(("127.0.0.1", echo)).await.unwrap());
        let bytes = vec![1; 32 << 20];
        for socket in [&mut silent, &mut lazy] {
            let written = migratekit_core::clock::within(Duration::from_millis(300), socket.write_all(&bytes)).await;
            assert!(written.is_none(), "32 MiB went where nobody takes any");
        }
        full.push((silent, lazy));
    }
    // Beside them all goes on, for longer than silence or questions would allow.
    let began = migratekit_core::clock::now();
    while began.elapsed() < crate::standing_rig::SILENCE + Duration::from_secs(2) {
        talk_to(echo, 100_000).await;
        crate::rig::there_and_back(soon("a stream to the VMA", rig.server.open("vma-1")).await.unwrap(), 100_000).await;
    }
    assert!(kept.losses().is_empty() && path.made() == 1, "{:?}", kept.losses());
    let unanswered = rig.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Unanswered { .. })).count();
    assert_eq!(unanswered, 0);
    stopped.go();
    drop(full);
    kept.close().await;
    rig.close().await;
}
