//! Our client against OpenSSH's server: forwards that it permits work, others are noticed and said.

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
use migratekit_core::tunnels::{Client, ClientOptions, PrivateKey};
use migratekit_core::units::{ByteRange, MIB};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::soon;

/// An sshd that permits one port to be opened and one to be listened at, run by the user of the test for that user.
struct Sshd {
    _peer: Peer,
    options: ClientOptions,
    _folder: tempfile::TempDir,
}

async fn sshd(open: u16, listen: u16) -> Sshd {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (host_key, _) = PrivateKey::read_or_make(&path("host_key")).await.unwrap();
    let (key, _) = PrivateKey::read_or_make(&path("key")).await.unwrap();
    std::fs::write(path("authorized"), format!("{} vma\n", key.public())).unwrap();
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {authorized}\nUsePAM no\nStrictModes no\nPidFile none\n\
         AllowTcpForwarding yes\nPermitOpen 127.0.0.1:{open}\nPermitListen 127.0.0.1:{listen}\nPermitTTY no\nX11Forwarding no\n",
        host = path("host_key").display(),
        authorized = path("authorized").display()
    );
    std::fs::write(path("config"), config).unwrap();
    if rustix::process::geteuid().is_root() {
        // Where root's sshd puts itself while it knows nobody.
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let mut command = Command::new(program("sshd"));
    command.args(["-D", "-e", "-f", path("config").to_str().unwrap()]);
    let peer = Peer::spawn("sshd", command).wait_port(port);
    let user = Command::new("id").arg("-un").output().unwrap();
    let mut options = ClientOptions::new("127.0.0.1", port, key, host_key.public().fingerprint());
    options.user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
    Sshd { _peer: peer, options, _folder: folder }
}

struct Through(Client, u16);

impl Dial for Through {
    fn dial(&self) -> migratekit_core::block::BoxFuture<'_, migratekit_core::Result<Box<dyn ByteStream>>> {
        Box::pin(async move { Ok(split_any(self.0.bulk(self.1).await?)) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_copies_through_openssh_and_hears_of_each_refused_forward() {
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
    let stranger = ClientOptions { key: PrivateKey::generate().unwrap(), ..sshd.options.clone() };
    assert_eq!(soon("a stranger", Client::new(stranger).connect()).await.unwrap_err().kind(), ErrorKind::Denied);
    let other = ClientOptions { host_key: PrivateKey::generate().unwrap().public().fingerprint(), ..sshd.options.clone() };
    let refused = soon("another server", Client::new(other).connect()).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Denied && refused.message().contains("pinned"), "{refused}");
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
