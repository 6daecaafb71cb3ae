//! A man in the middle: he ends the TLS of the VMA with a certificate of his own and goes on to the OMA by himself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use migratekit_core::ErrorKind;
use migratekit_core::task::Scope;
use migratekit_core::tunnels::PrivateKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::rig::{Rig, oma, soon};

/// Takes any certificate.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) fn trusting() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn own_certificate() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["migratekit-oma".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// What he reads in passing.
type Heard = Arc<Mutex<Vec<u8>>>;

/// Hands on what comes, and keeps a copy.
async fn hand_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, heard: Heard) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n) = from.read(&mut buffer).await
        && n > 0
    {
        heard.lock().unwrap().extend(&buffer[..n]);
        if to.write_all(&buffer[..n]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Begins to listen in between.
async fn in_between(oma: SocketAddr, tasks: &mut Scope) -> (SocketAddr, Heard) {
    let (listener, heard) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Heard::default());
    let (address, hears, acceptor) = (listener.local_addr().unwrap(), Arc::clone(&heard), own_certificate());
    let end = tasks.token().clone();
    let serving = async move {
        while let Ok((socket, _)) = listener.accept().await {
            let vma = acceptor.accept(socket).await.unwrap();
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let there = trusting().connect(name, TcpStream::connect(oma).await.unwrap()).await.unwrap();
            let ((from_vma, to_vma), (from_oma, to_oma)) = (tokio::io::split(vma), tokio::io::split(there));
            tokio::join!(hand_on(from_vma, to_oma, Arc::clone(&hears)), hand_on(from_oma, to_vma, Arc::clone(&hears)));
        }
    };
    tasks.spawn(async move {
        tokio::select! {
            () = serving => {}
            () = end.cancelled() => {}
        }
    });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_man_in_the_middle_is_refused_by_both_and_does_not_learn_the_code() {
    let rig = Rig::new().await;
    let mut tasks = Scope::new();
    let (address, heard) = in_between(rig.address, &mut tasks).await;
    let (key, code) = (PrivateKey::generate().unwrap(), rig.code().await);
    let refused = soon("the refusal", oma(address).enroll(&key, &code, "vma-1", "1.0")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert_eq!(rig.refusals().await, ["no code that holds gives its proof"], "the OMA refused, and wrote it down");
    assert!(rig.vmas.pending().await.unwrap().is_empty());
    {
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).to_uppercase();
        let shown = code.shown();
        assert!(heard.contains("/API/V1/VMA/ENROLL") && heard.contains("DENIED"), "he did read it: {heard}");
        assert!(!heard.contains(shown.expose().as_str()) && !heard.contains(&shown.expose().replace('-', "")));
    }
    // The code is still good, for the way without him.
    let pinned = soon("the enrollment", rig.oma().enroll(&key, &code, "vma-1", "1.0")).await.unwrap();
    assert_eq!(pinned.host_key, rig.host_key);
    tasks.close().await.unwrap();
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_in_between_later_is_found_out_by_his_certificate() {
    let rig = Rig::new().await;
    let key = PrivateKey::generate().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // At first this only hands bytes on, as a router does; then it ends TLS itself.
    let (there, mut tasks) = (rig.address, Scope::new());
    let (honest, end) = (Arc::new(std::sync::atomic::AtomicBool::new(true)), tasks.token().clone());
    let routes = Arc::clone(&honest);
    let serving = async move {
        let acceptor = own_certificate();
        while let Ok((mut socket, _)) = listener.accept().await {
            if routes.load(std::sync::atomic::Ordering::SeqCst) {
                let mut on = TcpStream::connect(there).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut on).await;
            } else {
                // The VMA ends the handshake.
                let _ = acceptor.accept(socket).await;
            }
        }
    };
    tasks.spawn(async move {
        tokio::select! {
            () = serving => {}
            () = end.cancelled() => {}
        }
    });
    let pinned = soon("the enrollment", oma(address).enroll(&key, &rig.code().await, "vma-1", "1.0")).await.unwrap();
    assert!(soon("the result", pinned.result()).await.is_ok());
    honest.store(false, std::sync::atomic::Ordering::SeqCst);
    let found = soon("the result", pinned.result()).await.unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Denied);
    assert!(found.to_string().contains("another certificate"), "{found}");
    tasks.close().await.unwrap();
    rig.close().await;
}
