//! The monitor, on both sides: who does not live is seen, cut, and comes back; by scaled times, and once by the real ones.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::ErrorKind;
use migratekit_core::block::BoxFuture;
use migratekit_core::clock;
use migratekit_core::task::CancellationToken;
use migratekit_core::tunnels::hello::HELLO_PORT;
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{Client, NBD_PORT, Pauses, Peer, Probing, StreamHandler, TunnelOptions, TunnelStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::hole::Path;
use crate::rig::{Echo, Rig, soon};
use crate::standing_rig::{KEEPALIVE, Kept, PROBING, SILENCE, both, options, quick};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_swallowed_is_given_up_by_both_sides_and_replaced() {
    let rig = Rig::with(both(), quick).await;
    let path = Path::to(rig.address).await;
    let kept = Kept::start(options(&rig, &path)).await;
    kept.stands().await;
    kept.carries(&rig).await;
    path.swallow();
    let began = clock::now();
    kept.stood(2).await;
    println!("back {:?} after the last byte, of which {SILENCE:?} are the silence allowed", began.elapsed());
    kept.carries(&rig).await;
    let why = Arc::clone(&kept.losses()[0]);
    // By the silence or by the questions, whichever comes first; both name what is known.
    assert!(matches!(why.kind(), ErrorKind::Unreachable | ErrorKind::Timeout), "{why}");
    for known in ["connected_for_s", "silent_for_s", "bytes_in", "bytes_out", "channels"] {
        assert!(why.context_value(known).is_some(), "{known}: {why}");
    }
    // The server has it no more either: given up by itself, or because the newer one came.
    let gone = |e: &Event| matches!(e, Event::GivenUp { .. } | Event::Superseded { .. });
    let event = rig.saw("the server gives the old one up", gone).await;
    let (Event::GivenUp { account, .. } | Event::Superseded { account, .. }) = event else { panic!("{event:?}") };
    assert!(account.silence > Duration::from_millis(500) && account.moved.0 > 300_000 && account.probed.answered >= 1, "{account:?}");
    soon("one connection is left", async {
        while rig.server.connected().len() != 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    kept.close().await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vma_that_vanishes_is_disconnected_at_the_server_by_its_silence() {
    let rig = Rig::with(both(), |options| {
        quick(options);
        // Only silence is left to see it by.
        options.probing.interval = Duration::from_secs(600);
    })
    .await;
    let path = Path::to(rig.address).await;
    let mut options = options(&rig, &path);
    options.pauses = Pauses { first: Duration::from_secs(600), longest: Duration::from_secs(600) };
    let kept = Kept::start(options).await;
    kept.stands().await;
    let began = clock::now();
    path.swallow();
    let event = rig.saw("it is given up", |e| matches!(e, Event::GivenUp { .. })).await;
    assert!(
        began.elapsed() >= SILENCE - KEEPALIVE - Duration::from_millis(100),
        "a keepalive may have been on its way: {:?}",
        began.elapsed()
    );
    let Event::GivenUp { why, account, .. } = event else { panic!("{event:?}") };
    assert!(why.contains("nothing came") && account.silence >= SILENCE, "{why} {account:?}");
    let ended = rig.saw("its end is told", |e| matches!(e, Event::Disconnected { peer: Some(_), .. })).await;
    assert!(matches!(ended, Event::Disconnected { why: Some(why), .. } if why.contains("nothing came")));
    assert_eq!(rig.server.connected().len(), 0);
    kept.close().await;
    rig.close().await;
}

/// Says hello as a server does, and answers no question.
struct Deaf;

impl StreamHandler for Deaf {
    fn serve(&self, mut stream: TunnelStream, _peer: Peer, end: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let hello = "{\"hello\":{\"version\":1,\"least\":1,\"features\":[\"probe\"],\"ports\":[8082,10809],\"reverse_port\":9081}}\n";
            // Hello, one answer, one question; then nothing more.
            let words = format!("{hello}{{\"answer\":1}}\n{{\"probe\":1}}\n");
            let mut buffer = [0; 4096];
            let mut heard = Vec::new();
            while !String::from_utf8_lossy(&heard).contains("probe\":1}") {
                match stream.read(&mut buffer).await {
                    Ok(n) if n > 0 => heard.extend_from_slice(&buffer[..n]),
                    _ => return,
                }
                if heard.contains(&b'\n') && !String::from_utf8_lossy(&heard).contains("probe\":1}") {
                    let _ = stream.write_all(hello.as_bytes()).await;
                    let _ = stream.flush().await;
                }
            }
            let _ = stream.write_all(&words.as_bytes()[hello.len()..]).await;
            let _ = stream.flush().await;
            tokio::select! {
                () = end.cancelled() => {}
                _ = async { while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {} } => {}
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lives_and_does_not_answer_is_given_up_after_three_questions() {
    let mut handlers = both();
    handlers.push((HELLO_PORT, Arc::new(Deaf)));
    // Its keepalives go on: bytes come all the time.
    let rig = Rig::with(handlers, quick).await;
    let path = Path::to(rig.address).await;
    let mut options = options(&rig, &path);
    options.probing = Probing { interval: Duration::from_millis(300), deadline: Duration::from_millis(300), failures: 3 };
    options.client.keepalive = Duration::from_millis(200);
    let kept = Kept::start(options).await;
    kept.stands().await;
    kept.stood(2).await;
    let why = Arc::clone(&kept.losses()[0]);
    assert_eq!(
        (why.kind(), why.context_value("missed"), why.context_value("answered")),
        (ErrorKind::Timeout, Some("3"), Some("1")),
        "{why}"
    );
    kept.close().await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vma_that_lives_and_does_not_answer_is_cut_after_three_questions() {
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(Echo))], |options| {
        quick(options);
        options.probing = Probing { interval: Duration::from_millis(300), deadline: Duration::from_millis(300), failures: 3 };
    })
    .await;
    let link = rig.client().connect().await.unwrap();
    let mut stream = link.open(HELLO_PORT).await.unwrap();
    stream.write_all(b"{\"hello\":{\"version\":1,\"least\":1,\"features\":[\"probe\"]}}\n").await.unwrap();
    stream.flush().await.unwrap();
    let reading = async {
        let mut all = Vec::new();
        // Reads all that is asked; SSH itself answers all the time.
        let _ = stream.read_to_end(&mut all).await;
        String::from_utf8(all).unwrap()
    };
    let asked = soon("the end of the connection", reading).await;
    assert_eq!(asked.matches("\"probe\":").count(), 3, "{asked}");
    soon("the link is cut", link.ended()).await;
    let seen = rig.saw("it is given up", |e| matches!(e, Event::GivenUp { .. })).await;
    let Event::GivenUp { why, account, .. } = seen else { panic!("{seen:?}") };
    assert!(why.contains("did not answer") && account.probed.asked == 3 && account.probed.answered == 0, "{why} {account:?}");
    assert_eq!(rig.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Unanswered { .. })).count(), 3);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_dead_and_not_known_to_be_make_room_for_a_new_one() {
    let rig = Rig::with(both(), |options| {
        quick(options);
        (options.silence, options.keepalive) = (Duration::from_secs(600), Duration::from_millis(200));
        options.bounds.sessions_per_vma = 3;
    })
    .await;
    let path = Path::to(rig.address).await;
    let mut through = rig.options(&rig.key);
    through.port = path.port;
    let client = Client::new(through);
    let _dead = (client.connect().await.unwrap(), client.connect().await.unwrap());
    path.swallow();
    // One that lives: it answers the server's keepalives, and keeps its place.
    let alive = rig.client().connect().await.unwrap();
    let again = async {
        loop {
            match client.connect().await {
                Ok(link) => return link,
                Err(e) => assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let again = soon("room for a new one", again).await;
    crate::rig::there_and_back(again.open(NBD_PORT).await.unwrap(), 1000).await;
    crate::rig::there_and_back(alive.open(NBD_PORT).await.unwrap(), 1000).await;
    rig.saw("a dead one gave way", |e| matches!(e, Event::Superseded { .. })).await;
    rig.close().await;
}

/// By the times that hold without settings; a test of minutes, so in the long suite only. In the short one it runs by a tenth of them, and
/// asserts what follows from those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swallowed_connection_is_disconnected_within_100_s_and_back_within_4_min_by_the_defaults() {
    let long = std::env::var_os("MIGRATEKIT_ROUNDS_TIMES").is_some();
    let tenth = |time: Duration| if long { time } else { time / 10 };
    let rig = Rig::with(both(), |options| {
        (options.silence, options.keepalive) = (tenth(options.silence), tenth(options.keepalive));
        (options.probing.interval, options.probing.deadline) = (tenth(options.probing.interval), tenth(options.probing.deadline));
    })
    .await;
    let path = Path::to(rig.address).await;
    let mut client = rig.options(&rig.key);
    client.port = path.port;
    (client.silence, client.keepalive) = (tenth(client.silence), tenth(client.keepalive));
    let mut options = TunnelOptions::new(client);
    (options.probing.interval, options.probing.deadline) = (tenth(options.probing.interval), tenth(options.probing.deadline));
    let kept = Kept::start(options).await;
    kept.stands().await;
    path.swallow();
    let began = clock::now();
    let mut state = kept.tunnel.state();
    let lost = clock::within(Duration::from_secs(240), state.wait_for(|state| state.standing().is_none())).await;
    let here = began.elapsed();
    assert!(lost.is_some_and(|lost| lost.is_ok()));
    let back = clock::within(Duration::from_secs(240), state.wait_for(|state| state.standing().is_some())).await;
    let again = began.elapsed();
    assert!(back.is_some_and(|back| back.is_ok()));
    println!("defaults{}: disconnected {here:?} and back {again:?} after the last byte", if long { "" } else { " / 10" });
    rig.saw("the server has given the old one up", |e| matches!(e, Event::GivenUp { .. } | Event::Superseded { .. })).await;
    if long {
        assert!(here <= Duration::from_secs(100) && again <= Duration::from_secs(240), "{here:?} {again:?}");
    }
    assert!(PROBING.failures == 3 && kept.losses().len() == 1);
    kept.close().await;
    rig.close().await;
}
