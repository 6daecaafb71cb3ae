//! OpenSSH at the other end of our server: what is permitted works, what is not is refused.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use migratekit_core::testing::peer::{free_port, program};
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
