//! Who comes in, and to what.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::clock::{now, within};
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{API_PORT, Client, NBD_PORT, PrivateKey};
use migratekit_core::{ErrorKind, Retry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Echo, Rig, Stopped, StoppedHandler, soon, there_and_back};

/// What a client says of a server that ends its login without an answer.
const NOT_NOW: &str = "the server ended the login without an answer: it has no room for this key now, or cannot tell now who may come in";

#[tokio::test]
async fn a_known_key_comes_in_and_an_unknown_one_or_another_name_does_not() {
    let rig = Rig::echo().await;
    there_and_back(rig.client().bulk(NBD_PORT).await.unwrap(), 100_000).await;
    rig.saw("the login", |e| matches!(e, Event::Connected { peer } if peer.vma.name == "vma-1")).await;

    let stranger = PrivateKey::generate().unwrap();
    let refused = Client::new(rig.options(&stranger)).connect().await.unwrap_err();
    assert_eq!((refused.kind(), refused.message()), (ErrorKind::Denied, "the server does not take this key"));
    rig.saw("the unknown key", |e| matches!(e, Event::KeyRefused { key: Some(k), .. } if *k == stranger.public())).await;

    let mut options = rig.options(&rig.key);
    options.user = "root".to_owned();
    assert_eq!(Client::new(options).connect().await.unwrap_err().kind(), ErrorKind::Denied);
    rig.saw("the other name", |e| matches!(e, Event::KeyRefused { user, .. } if user == "root")).await;

    let mut options = rig.options(&rig.key);
    options.host_key = stranger.public().fingerprint();
    let other = Client::new(options).connect().await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Denied);
    assert_eq!(other.context_value("found"), Some(rig.server.fingerprint().to_string().as_str()));

    // Nobody lets a key in of which nothing can be told. That is no refusal: it passes, for a key that is known and for one that is not.
    rig.keys.break_down();
    for key in [&rig.key, &stranger] {
        let passing = Client::new(rig.options(key)).connect().await.unwrap_err();
        assert_eq!((passing.kind(), passing.message()), (ErrorKind::Unreachable, NOT_NOW));
        assert!(matches!(passing.retry(), Retry::After(_)), "{passing}");
    }
    rig.saw("why", |e| matches!(e, Event::Disconnected { peer: None, why: Some(why), .. } if why.contains("cannot be told now"))).await;
    rig.keys.mend();
    there_and_back(rig.client().bulk(NBD_PORT).await.unwrap(), 1000).await;
    assert_eq!(Client::new(rig.options(&stranger)).connect().await.unwrap_err().kind(), ErrorKind::Denied);
    rig.close().await;
}

#[tokio::test]
async fn only_served_ports_and_the_own_listener_are_given() {
    let rig = Rig::echo().await;
    let link = rig.client().connect().await.unwrap();
    for port in [API_PORT, 22, 10810, 1] {
        assert_eq!(link.open(port).await.unwrap_err().kind(), ErrorKind::Denied, "{port}");
    }
    let nothing: migratekit_core::tunnels::client::ReverseHandler = Arc::new(|_| Box::pin(async {}));
    for port in [9082, 9080, 22, 0] {
        assert_eq!(link.listen(port, Arc::clone(&nothing)).await.unwrap_err().kind(), ErrorKind::Denied, "{port}");
    }
    // After all that the connection is as good as before.
    there_and_back(link.open(NBD_PORT).await.unwrap(), 1000).await;
    link.ping(Duration::from_secs(10)).await.unwrap();
    assert_eq!(rig.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Refused { .. })).count(), 8);
    rig.close().await;
}

#[tokio::test]
async fn the_server_opens_streams_to_a_vma_that_listens_at_its_port() {
    let rig = Rig::echo().await;
    assert_eq!(rig.server.open("vma-1").await.unwrap_err().kind(), ErrorKind::Unreachable);
    let link = rig.client().connect().await.unwrap();
    assert_eq!(rig.server.open("vma-1").await.unwrap_err().kind(), ErrorKind::Unreachable, "connected, and does not listen");
    let echo: migratekit_core::tunnels::client::ReverseHandler = Arc::new(|stream| {
        Box::pin(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    });
    link.listen(9081, echo).await.unwrap();
    for _ in 0..3 {
        there_and_back(soon("a stream to the VMA", rig.server.open("vma-1")).await.unwrap(), 300_000).await;
    }
    assert_eq!(rig.server.open("vma-2").await.unwrap_err().kind(), ErrorKind::Unreachable);
    rig.close().await;
}

#[tokio::test]
async fn channels_of_a_connection_and_connections_of_a_vma_are_counted_and_given_back() {
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(Echo))], |options| {
        options.bounds.channels = 3;
        options.bounds.sessions_per_vma = 2;
    })
    .await;
    let link = rig.client().connect().await.unwrap();
    for round in 0..3 {
        // Those of the round before are given back when the server has heard that they are closed.
        let streams = soon("three channels", async {
            loop {
                let (a, b, c) = (link.open(NBD_PORT).await, link.open(NBD_PORT).await, link.open(NBD_PORT).await);
                if let (Ok(a), Ok(b), Ok(c)) = (a, b, c) {
                    return [a, b, c];
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        assert_eq!(link.open(NBD_PORT).await.unwrap_err().kind(), ErrorKind::Busy, "{round}");
        drop(streams);
    }
    let second = rig.client().connect().await.unwrap();
    let third = rig.client().connect().await.unwrap_err();
    assert_eq!((third.kind(), third.message()), (ErrorKind::Unreachable, NOT_NOW), "there is no room now, and the key is right");
    rig.saw("the third", |e| matches!(e, Event::TooMany { .. })).await;
    // It comes in as soon as there is room.
    second.cut();
    let third = async {
        loop {
            match rig.client().connect().await {
                Ok(link) => return link,
                Err(e) => assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    there_and_back(soon("room", third).await.open(NBD_PORT).await.unwrap(), 1000).await;
    assert!(!rig.events.lock().unwrap().iter().any(|e| matches!(e, Event::KeyRefused { .. })));
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_cut_with_its_stream_full_and_comes_in_no_more() {
    let stopped = Stopped::new();
    let rig = Rig::new(vec![(NBD_PORT, Arc::new(StoppedHandler(Arc::clone(&stopped))))]).await;
    let (mut streams, link) = (Vec::new(), rig.client().connect().await.unwrap());
    // As much as goes, on several connections: nothing of it is taken.
    for _ in 0..4 {
        let mut stream = rig.client().bulk(NBD_PORT).await.unwrap();
        let full = within(Duration::from_millis(300), stream.write_all(&vec![1; 16 << 20])).await;
        assert!(full.is_none(), "a stream whose consumer takes nothing takes 16 MiB");
        streams.push(stream);
    }
    rig.keys.forget(&rig.key);
    let began = now();
    soon("the cut", rig.server.revoke(&rig.key.public().fingerprint())).await;
    let took = began.elapsed();
    assert!(rig.server.connected().is_empty(), "when revoke returns nothing is left");
    for _ in 0..4 {
        assert!(stopped.ended.lock().await.try_recv().is_ok(), "and the handlers have ended");
    }
    println!("revoked with 4 full streams in {took:?}");
    for mut stream in streams {
        let mut byte = [0];
        assert!(!matches!(soon("the broken stream", stream.read(&mut byte)).await, Ok(n) if n > 0));
    }
    soon("the control connection is gone", async {
        while !link.is_closed() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(rig.client().connect().await.unwrap_err().kind(), ErrorKind::Denied);
    rig.close().await;
}

#[tokio::test]
async fn a_key_that_another_process_takes_away_is_cut_by_the_next_look() {
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(Echo))], |options| options.key_look = Duration::from_millis(20)).await;
    let other = PrivateKey::generate().unwrap();
    rig.keys.allow(&other, "vma-2", None);
    let (link, stays) = (rig.client().connect().await.unwrap(), Client::new(rig.options(&other)).connect().await.unwrap());
    rig.keys.forget(&rig.key);
    rig.saw("the cut", |e| matches!(e, Event::Revoked { peer } if peer.vma.name == "vma-1")).await;
    soon("the connection is gone", async {
        while !link.is_closed() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    // Where it cannot be told, who is in stays in.
    rig.keys.break_down();
    there_and_back(stays.open(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_half_open_connections_are_bounded_and_others_are_still_served() {
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(Echo))], |options| {
        options.login_time = Duration::from_secs(3);
        options.bounds.handshakes_per_source = 100;
    })
    .await;
    let link = rig.client().connect().await.unwrap();
    let mut half_open = Vec::new();
    for _ in 0..1000 {
        half_open.push(TcpStream::connect(rig.address).await.unwrap());
        // Those that were sent away are let go, so that the test needs few descriptors.
        half_open.retain(|socket| match socket.try_read(&mut [0; 64]) {
            Ok(n) => n > 0,
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        });
    }
    rig.saw("the crowd is refused", |e| matches!(e, Event::Crowded { .. })).await;
    there_and_back(link.open(NBD_PORT).await.unwrap(), 1000).await;
    // Their time runs out, and whoever has a key comes in again.
    let again = async {
        loop {
            match rig.client().connect().await {
                Ok(link) => return link,
                Err(e) => assert!(matches!(e.kind(), ErrorKind::Unreachable | ErrorKind::Protocol), "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let again = soon("a login beside the crowd", again).await;
    there_and_back(again.open(NBD_PORT).await.unwrap(), 1000).await;
    let refused = rig.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Crowded { .. })).count();
    assert!(refused >= 900, "{refused} of 1000 were refused");
    rig.close().await;
}
