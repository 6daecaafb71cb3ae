//! An OMA that runs in this process: catalog, tunnel, enrollment, on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migratekit_core::block::BoxFuture;
use migratekit_core::clock::within;
use migratekit_core::credentials::{Key, Keys, Vault};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::tunnels::{
    Client, ClientOptions, NBD_PORT, Peer, PrivateKey, PublicKey, Server, ServerOptions, StreamHandler, TunnelStream,
};
use migratekit_core::vmas::{Code, Oma, Pinned, Reception, Vmas};
use migratekit_core::{Result, Store, StoreOptions};
use migratekit_server::{Certificate, EnrollmentService};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What must happen.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    within(PATIENCE, work).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} for: {what}"))
}

/// Sends back what it reads.
struct Echo;

impl StreamHandler for Echo {
    fn serve(&self, stream: TunnelStream, _peer: Peer, _end: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    }
}

pub(crate) struct Rig {
    pub(crate) vmas: Vmas,
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) host_key: PublicKey,
    store: Store,
    folder: tempfile::TempDir,
    tasks: Scope,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Rig::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite://{}", folder.path().join("catalog.db").display()), StoreOptions::new()).await.unwrap();
        let vault = Vault::new(Keys::new(Key::generate().unwrap()));
        let vmas = Vmas::new(store.clone(), vault.clone()).revoke_time(PATIENCE);
        let host_key = PrivateKey::generate().unwrap();
        let (certificate, _) = Certificate::read_or_make(&folder.path().join("tls.pem")).await.unwrap();
        let service = EnrollmentService::new(&certificate, Reception::new(store.clone(), vault, host_key.clone())).unwrap();
        let public = host_key.public();
        let mut options = ServerOptions::new(host_key, Arc::new(vmas.keys())).serve(NBD_PORT, Arc::new(Echo));
        options.other = Some(Arc::new(service));
        change(&mut options);
        let server = Server::new(options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = Scope::new();
        let (serving, token) = (server.clone(), tasks.token().clone());
        tasks.spawn(async move { serving.serve(listener, token).await.unwrap() });
        let (tending, all, token) = (server.clone(), vmas.clone(), tasks.token().clone());
        tasks.spawn(async move { all.tend(&tending, &token).await });
        Rig { vmas, server, address, host_key: public, store, folder, tasks }
    }

    pub(crate) async fn code(&self) -> Code {
        self.vmas.pairing_code("ann").await.unwrap().code
    }

    pub(crate) fn oma(&self) -> Oma {
        oma(self.address)
    }

    pub(crate) async fn enroll(&self, key: &PrivateKey, name: &str) -> Pinned {
        let code = self.code().await;
        soon("the enrollment", self.oma().enroll(key, &code, name, "1.0")).await.unwrap()
    }

    /// A key that comes in.
    pub(crate) async fn trusted(&self, name: &str) -> PrivateKey {
        let key = PrivateKey::generate().unwrap();
        let pinned = self.enroll(&key, name).await;
        self.vmas.approve(&pinned.enrollment, &key.public().fingerprint(), "ann").await.unwrap();
        key
    }

    pub(crate) fn client(&self, key: &PrivateKey, host_key: &PublicKey) -> Client {
        Client::new(ClientOptions::new("127.0.0.1", self.address.port(), key.clone(), host_key.fingerprint()))
    }

    pub(crate) async fn echo(&self, key: &PrivateKey, host_key: &PublicKey) -> Result<()> {
        let mut stream = soon("a stream", self.client(key, host_key).bulk(NBD_PORT)).await?;
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        let mut back = [0; 5];
        soon("the echo", stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"hello");
        Ok(())
    }

    /// Why requests were refused, newest first.
    pub(crate) async fn refusals(&self) -> Vec<String> {
        let lines = self.vmas.refused().await.unwrap();
        lines.iter().map(|line| line.details.as_ref().unwrap()["why"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn close(self) {
        soon("the end of the server", self.tasks.close()).await.unwrap();
        self.store.close().await;
        drop(self.folder);
    }
}

/// The OMA at this address; asked often.
pub(crate) fn oma(address: SocketAddr) -> Oma {
    Oma { result_pause: Duration::from_millis(20), ..Oma::at("127.0.0.1", address.port()) }
}

/// A connection over which a client of TLS sends requests as it likes.
pub(crate) async fn tls(address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    soon("the handshake", crate::middle::trusting().connect(name, socket)).await.unwrap()
}

/// What an HTTP request gets: status and body.
pub(crate) async fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = tls(address).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server may close without TLS's goodbye after it answered.
    let _ = soon("the answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}
