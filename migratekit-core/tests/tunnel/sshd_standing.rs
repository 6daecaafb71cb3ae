//! Our standing tunnel at an OpenSSH server that was told exactly what we print for it: both directions carry, what sshd refuses is said,
//! a connection that does not live is given up, and all is made again, the port at the server too.

use std::net::SocketAddr;
use std::time::Duration;

use migratekit_core::ErrorKind;
use migratekit_core::task::Scope;
use migratekit_core::testing::peer::free_port;
use migratekit_core::tunnels::standing::{Forward, RefusedForward};
use migratekit_core::tunnels::{ClientOptions, LocalForward, Pauses, Reverse, TunnelOptions, Way};
use tokio::net::TcpListener;

use crate::hole::Path;
use crate::rig::soon;
use crate::sshd::{Sshd, sshd};
use crate::standing_rig::{KEEPALIVE, Kept, PROBING, SILENCE, echo, talk_to};

/// A service beside sshd that echoes.
async fn service() -> (u16, Scope) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, mut tasks) = (listener.local_addr().unwrap().port(), Scope::new());
    let end = tasks.token().clone();
    tasks.spawn(async move {
        let mut connections = Scope::child_of(&end);
        loop {
            let socket = tokio::select! {
                () = end.cancelled() => break,
                accepted = listener.accept() => accepted.unwrap().0,
            };
            connections.spawn(async move {
                let (mut read, mut write) = socket.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
        let _ = connections.close().await;
    });
    (port, tasks)
}

/// To these ports of the server and back from this one, through `path`, with times of seconds.
fn options(sshd: &Sshd, path: &Path, ports: &[(u16, Way)], reverse: Option<u16>) -> TunnelOptions {
    let client = ClientOptions { port: path.port, silence: SILENCE, keepalive: KEEPALIVE, ..sshd.options.clone() };
    let mut options = TunnelOptions::new(client);
    let listen = "127.0.0.1:0".parse().unwrap();
    options.locals = ports.iter().map(|&(port, way)| LocalForward { listen, port, way }).collect();
    options.reverse = Some(Reverse { port: reverse, handler: echo() });
    options.probing = PROBING;
    options.pauses = Pauses { first: Duration::from_millis(10), longest: Duration::from_millis(100) };
    options
}

async fn path_to(sshd: &Sshd) -> Path {
    Path::to(SocketAddr::from(([127, 0, 0, 1], sshd.options.port))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_stands_at_an_openssh_and_says_each_forward_that_is_refused() {
    let ((open, tasks), listen, other) = (service().await, free_port(), free_port());
    let sshd = sshd(open, listen).await;
    let path = path_to(&sshd).await;
    let ports = [(open, Way::OwnConnection), (open, Way::Control), (other, Way::OwnConnection)];
    let kept = Kept::start(options(&sshd, &path, &ports, Some(listen))).await;
    let standing = kept.stands().await;
    assert!(standing.agreed.is_none() && standing.server.is_none() && standing.vma.is_none(), "{standing:?}");
    assert_eq!(standing.reverse_port, Some(listen));
    let [RefusedForward { forward: Forward::Local { port, .. }, why }] = standing.refused.as_slice() else { panic!("{standing:?}") };
    assert!(*port == other && why.contains("refuses"), "{why}");
    for local in &kept.tunnel.locals()[..2] {
        talk_to(local.port(), 300_000).await;
    }
    talk_to(listen, 100_000).await;
    kept.close().await;

    // A port at the server that is not permitted, and none: said too, and the rest stands.
    let kept = Kept::start(options(&sshd, &path, &ports[..2], Some(other))).await;
    let refused = kept.stands().await.refused.clone();
    assert!(
        matches!(refused.as_slice(), [RefusedForward { forward: Forward::Reverse { port: Some(port) }, .. }] if *port == other),
        "{refused:?}"
    );
    talk_to(kept.tunnel.locals()[0].port(), 1000).await;
    kept.close().await;
    let kept = Kept::start(options(&sshd, &path, &[], None)).await;
    let refused = kept.stands().await.refused.clone();
    let [RefusedForward { forward: Forward::Reverse { port: None }, why }] = refused.as_slice() else { panic!("{refused:?}") };
    assert!(why.contains("foreign one"), "{why}");
    kept.close().await;
    soon("the end of the service", tasks.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_at_an_openssh_comes_back_and_gets_its_port_again_when_the_old_connection_is_seen_to_be_dead() {
    let ((open, tasks), listen) = (service().await, free_port());
    let sshd = sshd(open, listen).await;
    let path = path_to(&sshd).await;
    let kept = Kept::start(options(&sshd, &path, &[(open, Way::Control)], Some(listen))).await;
    assert!(kept.stands().await.refused.is_empty());
    // sshd does not see this for a minute and a half; the tunnel does, by questions of SSH's own or by the silence.
    path.swallow();
    kept.stood(2).await;
    let why = &kept.losses()[0];
    assert!(matches!(why.kind(), ErrorKind::Timeout | ErrorKind::Unreachable), "{why}");
    let refused = kept.stands().await.refused.clone();
    assert!(
        matches!(refused.as_slice(), [RefusedForward { forward: Forward::Reverse { port: Some(port) }, .. }] if *port == listen),
        "{refused:?}"
    );
    talk_to(kept.tunnel.locals()[0].port(), 1000).await;

    // Now it does, and no connection of ours breaks: the port is asked for again, and given.
    path.let_go();
    let mut state = kept.tunnel.state();
    let whole = state.wait_for(|state| state.standing().is_some_and(|standing| standing.reverse_port == Some(listen)));
    assert!(soon("its port again", whole).await.unwrap().standing().unwrap().refused.is_empty());
    talk_to(listen, 1000).await;
    assert_eq!(kept.losses().len(), 1, "{:?}", kept.losses());
    kept.close().await;
    soon("the end of the service", tasks.close()).await.unwrap();
}
