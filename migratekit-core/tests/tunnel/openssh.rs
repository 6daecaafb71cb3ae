//! OpenSSH at the other end of our server: what is permitted works, what is not is refused.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use migratekit_core::block::MemoryDisk;
use migratekit_core::copy::{Assignments, TunnelExports};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::testing::peer::{free_port, program};
use migratekit_core::tunnels::server::Event;
use migratekit_core::tunnels::{AuthorizedKeys, KeySource, NBD_PORT, PublicKey, USER};
use migratekit_core::units::MIB;

use crate::rig::{Echo, Rig, Stopped, StoppedHandler};

/// A folder with a key that ssh-keygen made.
struct Ssh {
    folder: tempfile::TempDir,
    port: u16,
}

impl Ssh {
    /// A key of OpenSSH's that `rig` lets in, and the rig's host key in a file of known hosts.
    async fn new(rig: &Rig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ssh = Ssh { folder, port: rig.address.port() };
        let key = ssh.path("key");
        let made =
            Command::new(program("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-C", "vma-ssh", "-f", &key]).output().unwrap();
        assert!(made.status.success());
        let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
        // The same file that `ssh` would be given serves as ours.
        let file = AuthorizedKeys::at(format!("{key}.pub")).await.unwrap();
        let parsed: PublicKey = public.parse().unwrap();
        assert_eq!(file.holder(&parsed).await.unwrap().unwrap().name, "vma-ssh");
        let private = migratekit_core::tunnels::PrivateKey::read(key.as_ref()).await.unwrap();
        assert_eq!(private.public(), parsed, "a key that OpenSSH made is read");
        rig.keys.allow(&private, "vma-ssh", Some(9081));
        ssh
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, more: &[&str]) -> Command {
        let known = self.path("known");
        let mut command = Command::new(program("ssh"));
        command.args(["-F", "none", "-i", &self.path("key"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
        command.args([
            "-o",
            &format!("UserKnownHostsFile={known}"),
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            "ExitOnForwardFailure=yes",
        ]);
        command.args(["-p", &self.port.to_string()]).args(more).arg(format!("{USER}@127.0.0.1"));
        command
    }
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A program that is ended when the test leaves.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(port: u16) -> TcpStream {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(e) => assert!(Instant::now() < end, "ssh does not listen: {e}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_forwards_both_ways_through_our_server() {
    let rig = Rig::echo().await;
    let ssh = Ssh::new(&rig).await;
    let (local, there) = (free_port(), free_port());
    let listener = std::net::TcpListener::bind(("127.0.0.1", there)).unwrap();
    let (forward, reverse) = (format!("127.0.0.1:{local}:127.0.0.1:{NBD_PORT}"), format!("127.0.0.1:9081:127.0.0.1:{there}"));
    let _ssh = Running(ssh.command(&["-N", "-L", &forward, "-R", &reverse]).spawn().unwrap());

    // -L: through to the handler, with more than the windows hold, in both directions at once.
    let bytes = 6 * MIB as usize;
    let echoed = tokio::task::spawn_blocking(move || {
        let mut stream = connect(local);
        let mut writer = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            writer.write_all(&vec![9; bytes]).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        got
    });
    let echoed = crate::rig::soon("the echo through ssh -L", echoed).await.unwrap();
    assert!(echoed.len() == bytes && echoed.iter().all(|b| *b == 9), "{}", echoed.len());

    // -R: the server opens a stream to the VMA.
    let answering = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = [0; 5];
        stream.read_exact(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        got
    });
    let mut stream = crate::rig::soon("a stream through ssh -R", rig.server.open("vma-ssh")).await.unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut back = [0; 5];
    crate::rig::soon("the answer", stream.read_exact(&mut back)).await.unwrap();
    assert_eq!((&back, &answering.await.unwrap()), (b"hello", b"hello"));
    drop(stream);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdcopy_works_through_openssh_on_the_vmas_own_export() {
    let server = nbd::Server::new(ServerConfig::default());
    let size = 24 * MIB + 512;
    for name in ["disk", "theirs"] {
        server.add(name, Arc::new(PlainExport::new(Arc::new(MemoryDisk::new(name, size)), name))).unwrap();
    }
    let owners = Assignments::of("vma-ssh", &["disk"]);
    let rig = Rig::new(vec![(NBD_PORT, Arc::new(TunnelExports::new(server, Arc::new(owners))))]).await;
    let ssh = Ssh::new(&rig).await;
    let local = free_port();
    let _ssh = Running(ssh.command(&["-N", "-L", &format!("127.0.0.1:{local}:127.0.0.1:{NBD_PORT}")]).spawn().unwrap());
    crate::rig::soon("ssh to listen", tokio::task::spawn_blocking(move || connect(local))).await.unwrap();

    let (there, back) = (ssh.path("there"), ssh.path("back"));
    let bytes: Vec<u8> = (0..size).map(|i| (i / 4096 % 253) as u8).collect();
    std::fs::write(&there, &bytes).unwrap();
    let uri = format!("nbd://127.0.0.1:{local}/disk");
    for args in [["--flush", &there, &uri], ["--flush", &uri, &back]] {
        let mut copy = Command::new(program("nbdcopy"));
        copy.args(args);
        let out = crate::rig::soon("nbdcopy", output(copy)).await;
        assert!(out.status.success(), "{args:?}: {out:?}");
    }
    assert!(std::fs::read(&back).unwrap() == bytes, "what came back equals what was sent");

    // nbdinfo sees the VMA's own export only, and another's is not there.
    let info = |args: &[&str]| {
        let mut info = Command::new(program("nbdinfo"));
        info.args(args);
        output(info)
    };
    let list = crate::rig::soon("nbdinfo", info(&["--list", "--json", &format!("nbd://127.0.0.1:{local}")])).await;
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(list.status.success() && text.contains("\"disk\"") && !text.contains("theirs"), "{text}");
    let theirs = crate::rig::soon("nbdinfo", info(&[&format!("nbd://127.0.0.1:{local}/theirs")])).await;
    assert!(!theirs.status.success(), "{theirs:?}");
    rig.close().await;
}

/// Makes a key of a kind, or a certificate of one; where it lies.
fn made(ssh: &Ssh, name: &str, args: &[&str]) -> String {
    let path = ssh.path(name);
    let out = Command::new(program("ssh-keygen")).args(["-q", "-N", "", "-f", &path]).args(args).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_keys_certificates_and_too_many_of_them_do_not_come_in() {
    let rig = Rig::echo().await;
    let ssh = Ssh::new(&rig).await;
    let target = format!("{USER}@127.0.0.1");
    let enter = |keys: &[&str], more: &[&str]| {
        let mut command = Command::new(program("ssh"));
        command.args(["-F", "none", "-N", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-v"]);
        command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-p", &rig.address.port().to_string()]);
        for key in keys {
            command.args(["-i", key]);
        }
        command.args(more).arg(&target);
        output(command)
    };
    let refused = |out: Output, what: &str| {
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && !said.contains("Authenticated to"), "{what}: {said}");
        said
    };
    let (rsa, ecdsa) = (made(&ssh, "rsa", &["-t", "rsa", "-b", "2048"]), made(&ssh, "ecdsa", &["-t", "ecdsa"]));
    for key in [&rsa, &ecdsa] {
        refused(crate::rig::soon("a key of another kind", enter(&[key], &[])).await, key);
    }
    // A certificate over the very key that may come in, by whatever authority. OpenSSH hears that we take none, and keeps it to itself; one
    // that is shown all the same is a test beside the server.
    let (authority, key) = (made(&ssh, "ca", &["-t", "ed25519"]), ssh.path("key"));
    let mut sign = Command::new(program("ssh-keygen"));
    sign.args(["-q", "-s", &authority, "-I", "me", "-n", USER, &format!("{key}.pub")]);
    assert!(output(sign).await.status.success());
    std::fs::copy(&key, ssh.path("bare")).unwrap();
    let certificate = format!("CertificateFile={key}-cert.pub");
    let accepted = "PubkeyAcceptedAlgorithms=ssh-ed25519-cert-v01@openssh.com";
    refused(crate::rig::soon("a certificate", enter(&[&ssh.path("bare")], &["-o", &certificate, "-o", accepted])).await, "a certificate");

    // Too many keys before the right one: the connection ends before it is tried.
    let strangers: Vec<String> = (0..8).map(|i| made(&ssh, &format!("stranger{i}"), &["-t", "ed25519"])).collect();
    let many: Vec<&str> = strangers.iter().map(String::as_str).chain([key.as_str()]).collect();
    rig.events.lock().unwrap().clear();
    refused(crate::rig::soon("many keys", enter(&many, &["-o", "CertificateFile=none"])).await, "many keys");
    let tried = rig.events.lock().unwrap().iter().filter(|e| matches!(e, Event::KeyRefused { key: Some(_), .. })).count();
    assert!((1..=migratekit_core::tunnels::limits::MAX_AUTH_ATTEMPTS).contains(&tried), "{tried} keys were tried");
    crate::rig::there_and_back(rig.client().bulk(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_is_refused_everything_else() {
    let rig = Rig::echo().await;
    let ssh = Ssh::new(&rig).await;
    let socket = ssh.path("socket");
    let unix = format!("{socket}:127.0.0.1:80");
    let refused: &[(&str, Vec<&str>)] = &[
        ("a shell", vec!["-T"]),
        ("a terminal", vec!["-tt"]),
        ("an agent", vec!["-A", "-T"]),
        ("X11", vec!["-X", "-T"]),
        ("a variable", vec!["-o", "SetEnv=A=B", "-T"]),
        ("a foreign listener", vec!["-N", "-R", "127.0.0.1:9082:127.0.0.1:1"]),
        ("an open listener", vec!["-N", "-R", "0.0.0.0:9081:127.0.0.1:1"]),
        ("any listener", vec!["-N", "-R", "127.0.0.1:0:127.0.0.1:1"]),
        ("a socket as listener", vec!["-N", "-R", &unix]),
        ("a foreign host", vec!["-W", "192.0.2.1:10809"]),
        ("a foreign port", vec!["-W", "127.0.0.1:22"]),
        ("a password", vec!["-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive", "-N"]),
    ];
    for (what, args) in refused {
        let out = crate::rig::soon(what, output(ssh.command(args))).await;
        assert!(!out.status.success(), "{what}: {out:?}");
    }
    for tail in [&["true"][..], &["-s", "sftp"][..]] {
        let mut command = ssh.command(&[]);
        command.args(tail);
        let out = crate::rig::soon("a command", output(command)).await;
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("prohibited"), "{tail:?}: {out:?}");
    }
    // What is left after all that: a server that serves.
    crate::rig::there_and_back(rig.client().bulk(NBD_PORT).await.unwrap(), 1000).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_consumer_of_openssh_is_bounded_and_harms_nobody_else() {
    let stopped = Stopped::new();
    let rig = Rig::new(vec![(NBD_PORT, Arc::new(StoppedHandler(Arc::clone(&stopped)))), (8082, Arc::new(Echo))]).await;
    let ssh = Ssh::new(&rig).await;
    let local = free_port();
    let _ssh = Running(ssh.command(&["-N", "-L", &format!("127.0.0.1:{local}:127.0.0.1:{NBD_PORT}")]).spawn().unwrap());
    let total = 64 * MIB;
    let writing = tokio::task::spawn_blocking(move || {
        let mut stream = connect(local);
        stream.write_all(&vec![3; total as usize]).unwrap();
    });
    // A session of ours beside it is as quick as ever.
    crate::rig::there_and_back(rig.client().bulk(8082).await.unwrap(), 4 * MIB as usize).await;
    assert!(!writing.is_finished(), "64 MiB went to a consumer that takes none");
    stopped.go();
    crate::rig::soon("the rest through ssh", writing).await.unwrap();
    let counted = crate::rig::soon("the count", async { stopped.ended.lock().await.recv().await }).await;
    assert_eq!(counted, Some(total));
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_keyscan_sees_one_host_key_the_pinned_one() {
    let rig = Rig::echo().await;
    let mut scan = Command::new(program("ssh-keyscan"));
    scan.args(["-p", &rig.address.port().to_string(), "127.0.0.1"]);
    let out = crate::rig::soon("ssh-keyscan", output(scan)).await;
    let text = String::from_utf8(out.stdout).unwrap();
    let keys: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(keys.len(), 1, "{text}");
    let key: PublicKey = keys[0].split_once(' ').unwrap().1.parse().unwrap();
    assert_eq!(key.fingerprint(), *rig.server.fingerprint());
    rig.close().await;
}
