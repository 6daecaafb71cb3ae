//! One port, two protocols: whoever speaks first, and whoever waits.

use std::process::{Command, Output};

use migratekit_core::testing::peer::program;
use migratekit_core::tunnels::{PrivateKey, USER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, http, soon};

async fn output(mut command: Command) -> Output {
    soon("a program", tokio::task::spawn_blocking(move || command.output().unwrap())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_and_its_keyscan_find_their_server_beside_tls() {
    let rig = Rig::new().await;
    // ssh-keyscan waits until the server speaks; ssh speaks at once.
    let mut scan = Command::new(program("ssh-keyscan"));
    scan.args(["-T", "20", "-p", &rig.address.port().to_string(), "127.0.0.1"]);
    let scanned = output(scan).await;
    let text = String::from_utf8(scanned.stdout).unwrap();
    let keys: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = rig.host_key.to_string();
    assert!(!keys.is_empty() && keys.iter().all(|line| line.ends_with(&expected)), "{text}");

    // OpenSSH comes in by a key that was enrolled over TLS.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let (key, _) = PrivateKey::read_or_make(&path).await.unwrap();
    let pinned = rig.enroll(&key, "vma-ssh").await;
    let port = rig.address.port().to_string();
    std::fs::write(folder.path().join("known"), format!("[127.0.0.1]:{port} {}\n", pinned.host_key)).unwrap();
    let ssh = || {
        let mut command = Command::new(program("ssh"));
        let known = format!("UserKnownHostsFile={}", folder.path().join("known").display());
        command.args(["-F", "none", "-i"]).arg(&path).args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", &known]);
        command.args(["-o", "StrictHostKeyChecking=yes", "-p", &port, "-W", "127.0.0.1:10809", &format!("{USER}@127.0.0.1")]);
        command.stdin(std::process::Stdio::null());
        command
    };
    let early = output(ssh()).await;
    assert!(!early.status.success() && String::from_utf8_lossy(&early.stderr).contains("Permission denied"), "{early:?}");
    rig.vmas.approve(&pinned.enrollment, &key.public().fingerprint(), "ann").await.unwrap();
    let entered = output(ssh()).await;
    assert!(entered.status.success(), "{entered:?}");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_greeted_and_who_speaks_tls_is_not() {
    let rig = Rig::new().await;
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    let mut greeting = [0; 8];
    soon("the greeting", silent.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0-");

    let mut client = TcpStream::connect(rig.address).await.unwrap();
    client.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    soon("the greeting", client.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0-");

    let (status, body) = http(rig.address, "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!((status, body.as_str()), (200, "{\"status\":\"ok\"}"));
    rig.close().await;
}
