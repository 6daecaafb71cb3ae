//! Our client against OpenSSH's server, configured with exactly what we print for it: both directions work, all else is refused.

use std::process::Command;
use std::sync::Arc;

use migratekit_core::ErrorKind;
use migratekit_core::block::{BlockRead as _, BlockWrite as _, MemoryDisk, Persist};
use migratekit_core::nbd::client::{Dial, Dialer};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::stream::{ByteStream, split_any};
use migratekit_core::nbd::{self, ConnectOptions, Listener, ServerConfig, Uri};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::testing::peer::{Peer, free_port, program};
use migratekit_core::tunnels::client::ReverseHandler;
use migratekit_core::tunnels::openssh::{SshdConfig, SshdVma};
use migratekit_core::tunnels::{Client, ClientOptions, PrivateKey};
use migratekit_core::units::{ByteRange, MIB};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::soon;

/// An sshd that permits one port to be opened and one to be listened at, run by the user of the test for that user.
pub(crate) struct Sshd {
    _peer: Peer,
    pub(crate) options: ClientOptions,
    folder: tempfile::TempDir,
}

pub(crate) async fn sshd(open: u16, listen: u16) -> Sshd {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (host_key, _) = PrivateKey::read_or_make(&path("host_key")).await.unwrap();
    let (key, _) = PrivateKey::read_or_make(&path("key")).await.unwrap();
    let user = Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
    let vma = SshdVma { key: key.public(), name: "vma".to_owned(), listen };
    let printed = SshdConfig { user: user.clone(), open: vec![open], authorized_keys: Some(path("authorized")), vmas: vec![vma.clone()] };
    std::fs::write(path("authorized"), printed.key_line(&vma).unwrap() + "\n").unwrap();
    let port = free_port();
    // A server that would give everything, were it not for the block.
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nUsePAM no\nStrictModes no\nPidFile none\nX11Forwarding yes\n\
         GatewayPorts clientspecified\nPermitTunnel yes\nPermitUserEnvironment yes\nAcceptEnv *\nSubsystem sftp internal-sftp\n{block}",
        host = path("host_key").display(),
        block = printed.block().unwrap(),
    );
    std::fs::write(path("config"), config).unwrap();
    if rustix::process::geteuid().is_root() {
        // Where root's sshd puts itself while it knows nobody.
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let mut command = Command::new(program("sshd"));
    command.args(["-D", "-e", "-f", path("config").to_str().unwrap()]);
    let peer = Peer::spawn("sshd", command).wait_port(port);
    let mut options = ClientOptions::new("127.0.0.1", port, key, host_key.public().fingerprint());
    options.user = user;
    Sshd { _peer: peer, options, folder }
}

/// OpenSSH's own client at it, by the VMA's key; whether it succeeded, and what it said.
async fn ssh(sshd: &Sshd, args: &[&str], tail: &[&str]) -> (bool, String) {
    let path = |name: &str| sshd.folder.path().join(name).display().to_string();
    let mut command = Command::new(program("ssh"));
    command.args(["-F", "none", "-i", &path("key"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
    command.args(["-o", &format!("UserKnownHostsFile={}", path("known")), "-o", "StrictHostKeyChecking=accept-new"]);
    command.args(["-o", "ExitOnForwardFailure=yes", "-p", &sshd.options.port.to_string()]).args(args);
    command.arg(format!("{}@127.0.0.1", sshd.options.user)).args(tail).stdin(std::process::Stdio::null());
    let out = soon("ssh", tokio::task::spawn_blocking(move || command.output().unwrap())).await.unwrap();
    (out.status.success(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

/// Whether sshd gave a shell, a command, or anything else but the two forwards.
async fn nothing_else_is_given(sshd: &Sshd, open: u16, listen: u16) {
    let folder = sshd.folder.path().display().to_string();
    let (made, socket) = (format!("{folder}/made"), format!("{folder}/socket"));
    let unix = format!("{socket}:127.0.0.1:{open}");
    let other = free_port();
    let (foreign, open_to_all) = (format!("127.0.0.1:{other}:127.0.0.1:1"), format!("0.0.0.0:{listen}:127.0.0.1:1"));
    let (any, foreign_port) = ("127.0.0.1:0:127.0.0.1:1", format!("127.0.0.1:{}", sshd.options.port));
    let own_name = format!("localhost:{}", sshd.options.port);
    let make = ["touch", made.as_str()];
    for (what, args, tail) in [
        ("a shell", vec!["-T"], &[][..]),
        ("a terminal", vec!["-tt"], &[]),
        ("a command", vec![], &make[..]),
        ("a command on a terminal", vec!["-tt"], &make),
        ("sftp", vec!["-s"], &["sftp"]),
        ("an agent", vec!["-A"], &make),
        ("X11", vec!["-X"], &make),
        ("a variable", vec!["-o", "SetEnv=BASH_ENV=/tmp/x"], &make),
        ("another listener", vec!["-N", "-R", &foreign], &[]),
        ("any listener", vec!["-N", "-R", any], &[]),
        ("an open listener", vec!["-N", "-R", &open_to_all], &[]),
        ("a socket's listener", vec!["-N", "-R", &unix], &[]),
        ("another port", vec!["-W", &foreign_port], &[]),
        ("another port by name", vec!["-W", &own_name], &[]),
        ("another host", vec!["-W", "192.0.2.1:80"], &[]),
        ("a password", vec!["-N", "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"], &[]),
    ] {
        let (succeeded, said) = ssh(sshd, &args, tail).await;
        assert!(!succeeded, "{what}: {said}");
    }
    assert!(!std::path::Path::new(&made).exists(), "a command ran");
    assert!(!std::path::Path::new(&socket).exists(), "a socket was made");
}

struct Through(Client, u16);

impl Dial for Through {
    fn dial(&self) -> migratekit_core::block::BoxFuture<'_, migratekit_core::Result<Box<dyn ByteStream>>> {
        Box::pin(async move { Ok(split_any(self.0.bulk(self.1).await?)) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_copies_through_an_openssh_that_was_told_what_we_print_and_nothing_else_is_given() {
    let server = nbd::Server::new(ServerConfig::default());
    server.add("disk", Arc::new(PlainExport::new(Arc::new(MemoryDisk::new("disk", 16 * MIB)), "a disk"))).unwrap();
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let (open, listen) = (listener.port().unwrap(), free_port());
    let mut tasks = Scope::new();
    let (serving, stop) = (server.clone(), CancellationToken::new());
    let token = stop.clone();
    tasks.spawn(async move { serving.serve(listener, token).await.unwrap() });
    let sshd = sshd(open, listen).await;
    let client = Client::new(sshd.options.clone());

    // NBD on channels of OpenSSH, with more under way than its windows hold.
    let uri = Uri::tcp("127.0.0.1", open, "disk");
    let dialer: Dialer = Arc::new(Through(client.clone(), open));
    let disk = soon("NBD through sshd", nbd::Client::with_dialer(dialer, ConnectOptions { connections: 2, ..ConnectOptions::new(uri) }));
    let disk = disk.await.unwrap();
    let data: Vec<u8> = (0..16 * MIB).map(|i| (i % 241) as u8).collect();
    let writes = data.chunks(MIB as usize).enumerate().map(|(i, part)| disk.write(i as u64 * MIB, part.to_vec().into(), Persist::Cached));
    for written in soon("the writes", join(writes.collect())).await {
        written.unwrap();
    }
    soon("the flush", disk.flush()).await.unwrap();
    assert!(soon("the read", disk.read(ByteRange::between(0, 16 * MIB))).await.unwrap() == data);
    disk.close().await.unwrap();

    // What is not permitted is said, and what is permitted goes on.
    let link = soon("a connection", client.connect()).await.unwrap();
    assert_eq!(soon("the refusal", link.open(free_port())).await.unwrap_err().kind(), ErrorKind::Denied);
    let echo: ReverseHandler = Arc::new(|stream| {
        Box::pin(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    });
    assert_eq!(soon("the refusal", link.listen(free_port(), Arc::clone(&echo))).await.unwrap_err().kind(), ErrorKind::Denied);
    soon("the listener", link.listen(listen, echo)).await.unwrap();
    let mut back = tokio::net::TcpStream::connect(("127.0.0.1", listen)).await.unwrap();
    back.write_all(b"hello").await.unwrap();
    back.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the echo", back.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"hello");

    // A key that sshd does not know, and a host key that is not its own.
    let stranger = ClientOptions { key: PrivateKey::generate().unwrap().into(), ..sshd.options.clone() };
    assert_eq!(soon("a stranger", Client::new(stranger).connect()).await.unwrap_err().kind(), ErrorKind::Denied);
    let other = ClientOptions { host_key: PrivateKey::generate().unwrap().public().fingerprint(), ..sshd.options.clone() };
    let refused = soon("another server", Client::new(other).connect()).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Denied && refused.message().contains("pinned"), "{refused}");
    nothing_else_is_given(&sshd, open, listen).await;
    stop.cancel();
    tasks.join().await.unwrap();
}

/// All at once.
async fn join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
