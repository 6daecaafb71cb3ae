//! The OMA's listening sockets, for processes that are not this one: off unless asked for, the VMA's own port only, never two VMAs at one.

use std::process::Command;
use std::time::Duration;

use migratekit_core::testing::peer::{free_port, program};
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{API_PORT, LocalService, NBD_PORT, PrivateKey, USER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::hole::Path;
use crate::rig::{Rig, soon};
use crate::standing_rig::{Kept, both, options, quick, talk_to};

/// A server with sockets, whose VMA has a port that is free on this host.
async fn with_sockets() -> (Rig, u16) {
    let rig = Rig::with(both(), |options| {
        quick(options);
        options.sockets = true;
    })
    .await;
    let port = free_port();
    rig.keys.forget(&rig.key);
    rig.keys.allow(&rig.key, "vma-1", Some(port));
    (rig, port)
}

/// Waits until somebody listens at a port, or nobody.
async fn listens(port: u16, wanted: bool) {
    soon(&format!("port {port} listens: {wanted}"), async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_reaches_the_vma_at_its_port_also_after_a_cut_and_not_when_it_is_gone() {
    let (rig, port) = with_sockets().await;
    let path = Path::to(rig.address).await;
    let kept = Kept::start(options(&rig, &path)).await;
    assert_eq!(kept.stands().await.reverse_port, Some(port));
    talk_to(port, 500_000).await;
    for round in 2..6 {
        // A cut takes the socket away, or the next connection takes it over: both at a time that nobody knows.
        if round % 2 == 0 {
            path.cut()
        } else {
            path.swallow()
        }
        kept.stood(round).await;
        talk_to(port, 100_000).await;
    }
    // As many as are served at a time, and more: the others wait for their turn.
    let mut many = tokio::task::JoinSet::new();
    for _ in 0..12 {
        many.spawn(talk_to(port, 50_000));
    }
    while let Some(done) = many.join_next().await {
        done.unwrap();
    }
    kept.close().await;
    listens(port, false).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_somebody_has_is_refused_and_that_is_said() {
    let (rig, port) = with_sockets().await;
    // Another program.
    let other = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let path = Path::to(rig.address).await;
    let kept = Kept::start(options(&rig, &path)).await;
    assert_eq!(kept.stands().await.refused.len(), 1, "and the rest stands");
    talk_to(kept.tunnel.locals()[1].port(), 1000).await;
    rig.saw("it is said", |e| matches!(e, Event::Refused { why, .. } if why.to_string().contains("listens at this port already"))).await;
    drop(other);
    path.cut();
    kept.stood(2).await;
    talk_to(port, 1000).await;
    // Another VMA with the same port.
    let second = PrivateKey::generate().unwrap();
    rig.keys.allow(&second, "vma-2", Some(port));
    let mut theirs = options(&rig, &path);
    theirs.client.key = second.into();
    let theirs = Kept::start(theirs).await;
    assert_eq!(theirs.stands().await.refused.len(), 1);
    talk_to(port, 1000).await;
    theirs.close().await;
    kept.close().await;
    listens(port, false).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vma_that_changes_its_key_keeps_its_port() {
    let (rig, port) = with_sockets().await;
    let path = Path::to(rig.address).await;
    let by_old = Kept::start(options(&rig, &path)).await;
    assert_eq!(by_old.stands().await.reverse_port, Some(port));
    talk_to(port, 1000).await;
    // It comes by its new key while the old one's connection stands, and nothing is refused.
    let new = PrivateKey::generate().unwrap();
    rig.keys.allow(&new, "vma-1", Some(port));
    let mut theirs = options(&rig, &path);
    theirs.client.key = new.into();
    let by_new = Kept::start(theirs).await;
    let stands = by_new.stands().await;
    assert!(stands.reverse_port == Some(port) && stands.refused.is_empty(), "{stands:?}");
    talk_to(port, 1000).await;
    // The old one goes; the socket is the VMA's still.
    by_old.close().await;
    soon("the old connection is gone", async {
        while rig.server.connected().len() > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    talk_to(port, 100_000).await;
    by_new.close().await;
    listens(port, false).await;
    rig.close().await;
}

/// A program that is ended when the test leaves.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_and_services_of_other_processes_meet_through_our_server() {
    // The API is a service of another process on the OMA's host.
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = LocalService(service.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut socket, _)) = service.accept().await {
            let (mut read, mut write) = socket.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    });
    let rig = Rig::with(vec![(API_PORT, std::sync::Arc::new(to))], |options| {
        quick(options);
        options.sockets = true;
    })
    .await;
    let (port, there, local) = (free_port(), free_port(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    let (key, _) = PrivateKey::read_or_make(&key_file).await.unwrap();
    rig.keys.allow(&key, "vma-ssh", Some(port));
    let known = folder.path().join("known");
    std::fs::write(&known, format!("[127.0.0.1]:{} {}\n", rig.address.port(), rig.host_key.public())).unwrap();
    let agent = TcpListener::bind(("127.0.0.1", there)).await.unwrap();
    let mut command = Command::new(program("ssh"));
    command.args(["-F", "none", "-N", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]);
    command.arg("-i").arg(&key_file).arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
    command.args(["-L", &format!("127.0.0.1:{local}:127.0.0.1:{API_PORT}"), "-R", &format!("127.0.0.1:{port}:127.0.0.1:{there}")]);
    command.args(["-p", &rig.address.port().to_string(), &format!("{USER}@127.0.0.1")]);
    let _ssh = Running(command.spawn().unwrap());
    rig.saw("ssh listens", |e| matches!(e, Event::Listening { peer, .. } if peer.vma.name == "vma-ssh")).await;
    // Another process of the OMA's host to the VMA's agent behind ssh -R.
    let mut other = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    other.write_all(b"hello").await.unwrap();
    let (mut got, _) = soon("ssh forwards it", agent.accept()).await.unwrap();
    let mut words = [0; 5];
    soon("its words", got.read_exact(&mut words)).await.unwrap();
    got.write_all(&words).await.unwrap();
    soon("and back", other.read_exact(&mut words)).await.unwrap();
    assert_eq!(&words, b"hello");
    // And from behind ssh -L to the service of the other process.
    listens(local, true).await;
    talk_to(local, 300_000).await;
    // A port that is not served stays closed, though something may listen there.
    assert!(rig.client().connect().await.unwrap().open(NBD_PORT).await.is_err());
    rig.close().await;
}
