//! The VMA's way to an OMA that it does not know yet: TLS to the tunnel's port, the requests of an enrollment, what to keep of it.
//!
//! The certificate is not judged by authorities: an appliance has none that anybody signed. It is taken as it is, and believed when the
//! OMA's proof, which is bound to this TLS connection, holds. Later requests want the same certificate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::applicant::{Answered, Applicant, Rotating};
use super::codes::Code;
use super::limits::{MAX_ANSWER, REQUEST_TIME, RESULT_PAUSE, ROTATE_TIME, TEND_PAUSE};
use super::proof::{self, Bytes32, EXPORTER_LABEL, LENGTH};
use super::wire::{ENROLL, EnrollAnswer, EnrollmentResult, ErrorAnswer, RESULT, VERIFY};
use crate::clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::EnrollmentId;
use crate::model::EnrollmentStatus;
use crate::task::{CancellationToken, Scope};
use crate::tunnels::{Client, PrivateKey, PublicKey};

const OPERATION: &str = "enroll at an OMA";

/// An OMA by its address.
#[derive(Debug, Clone)]
pub struct Oma {
    /// Its host.
    pub host: String,
    /// The tunnel's port.
    pub port: u16,
    /// [`RESULT_PAUSE`].
    pub result_pause: Duration,
}

/// An OMA that proved to be the one that gave the code.
#[derive(Debug, Clone)]
pub struct Pinned {
    oma: Oma,
    certificate: CertificateDer<'static>,
    /// Its host key: what [`crate::tunnels::Client`] pins.
    pub host_key: PublicKey,
    /// The VMA's enrollment there.
    pub enrollment: EnrollmentId,
    /// When that ends unless it is approved.
    pub expires_at: clock::Timestamp,
}

impl Oma {
    /// The OMA at this address.
    #[must_use]
    pub fn at(host: impl Into<String>, port: u16) -> Self {
        Oma { host: host.into(), port, result_pause: RESULT_PAUSE }
    }

    /// Enrolls the VMA with this key by a code: proves to know it, has the OMA prove it, and proves to hold the key.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the code does not hold, or the other side does not know it (then nothing is pinned);
    /// [`ErrorKind::Busy`] after too many wrong codes; [`ErrorKind::Unreachable`]; [`ErrorKind::Timeout`]; [`ErrorKind::Protocol`].
    pub async fn enroll(&self, key: &PrivateKey, code: &Code, name: &str, version: &str) -> Result<Pinned> {
        let code = code.stretch().await?;
        let (mut connection, certificate) = Connection::open(self, None).await?;
        let applicant = Applicant::new(key.clone(), code, name, version, connection.exporter)?;
        let answer: EnrollAnswer = connection.post(ENROLL, &applicant.request()).await?;
        let Answered { enrollment, host_key, expires_at, verify } = applicant.answered(&answer)?;
        let result: EnrollmentResult = connection.post(VERIFY, &verify).await?;
        connection.close().await?;
        if result.status != EnrollmentStatus::AwaitingApproval {
            let text = "the OMA says something else than that an administrator has to approve";
            return Err(Error::new(ErrorKind::Protocol, OPERATION, text).with("status", result.status));
        }
        Ok(Pinned { oma: self.clone(), certificate, host_key, enrollment, expires_at })
    }
}

impl Oma {
    /// Has the OMA take another key of a trusted VMA: the old one vouches for it, and no administrator is asked. When this returns both come
    /// in; the old one is out as soon as the new one came.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the old key is not trusted, or the other side does not hold the pinned host key; as [`Oma::enroll`].
    pub async fn rotate(&self, rotating: &Rotating<'_>) -> Result<()> {
        let (mut connection, _) = Connection::open(self, None).await?;
        let (exporter, nonce) = (connection.exporter, proof::nonce()?);
        let answer: EnrollAnswer = connection.post(ENROLL, &rotating.request(&exporter, &nonce)?).await?;
        let verify = rotating.answered(&exporter, &nonce, &answer)?;
        let result: EnrollmentResult = connection.post(VERIFY, &verify).await?;
        connection.close().await?;
        if result.status != EnrollmentStatus::Approved {
            let text = "the OMA says something else than that it takes the new key";
            return Err(Error::new(ErrorKind::Protocol, OPERATION, text).with("status", result.status));
        }
        Ok(())
    }
}

/// Comes in by a VMA's new key and stays until the old one is out, which the OMA sees to when the new one came.
///
/// # Errors
/// Those of connecting by the new key; [`ErrorKind::Timeout`] when the old one still comes in after [`ROTATE_TIME`].
pub async fn take_over(new: &Client, old: &Client) -> Result<()> {
    let link = new.connect().await?;
    let until_out = async {
        loop {
            match old.connect().await {
                Err(error) if error.kind() == ErrorKind::Denied => return,
                _ => clock::sleep(TEND_PAUSE).await,
            }
        }
    };
    let out = clock::within(ROTATE_TIME, until_out).await;
    link.cut();
    out.ok_or_else(|| Error::new(ErrorKind::Timeout, "rotate the key", "the new key comes in, and the old one still does too"))
}

impl Pinned {
    /// What became of the enrollment.
    ///
    /// # Errors
    /// As [`Oma::enroll`].
    pub async fn result(&self) -> Result<EnrollmentResult> {
        let (mut connection, _) = Connection::open(&self.oma, Some(&self.certificate)).await?;
        let result = connection.get(&format!("{RESULT}?id={}", self.enrollment)).await?;
        connection.close().await?;
        Ok(result)
    }

    /// Asks again and again until an administrator decided: the port at which the OMA reaches this VMA. An OMA that cannot be reached
    /// meanwhile is asked again.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when it was refused; [`ErrorKind::Timeout`] when nobody decided in time; [`ErrorKind::Cancelled`].
    pub async fn approved(&self, cancel: &CancellationToken) -> Result<Option<u16>> {
        let fail = |kind, message: &'static str| Error::new(kind, "wait for the approval", message).with("enrollment", &self.enrollment);
        loop {
            match self.result().await {
                Ok(EnrollmentResult { status: EnrollmentStatus::Approved, reverse_port }) => return Ok(reverse_port),
                Ok(EnrollmentResult { status: EnrollmentStatus::Expired, .. }) => {
                    return Err(fail(ErrorKind::Timeout, "nobody approved it in time; ask for another code"));
                }
                Ok(EnrollmentResult { status, .. }) if status.is_final() => {
                    return Err(fail(ErrorKind::Denied, "an administrator refused it"));
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Busy) => {
                    tracing::info!(%error, "the OMA does not answer; it is asked again");
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(fail(ErrorKind::Cancelled, "it was asked to end")),
                () = clock::sleep(self.oma.result_pause) => {}
            }
        }
    }
}

/// One connection, for a few requests.
struct Connection {
    host: String,
    sender: SendRequest<Full<Bytes>>,
    exporter: Bytes32,
    tasks: Scope,
}

impl Connection {
    /// Connects. With `pinned` the server must have that certificate.
    async fn open(oma: &Oma, pinned: Option<&CertificateDer<'static>>) -> Result<(Self, CertificateDer<'static>)> {
        let opening = Self::open_now(oma, pinned);
        let late = || Error::new(ErrorKind::Timeout, OPERATION, "the OMA did not answer in time");
        clock::within(REQUEST_TIME, opening).await.ok_or_else(late)?.map_err(|e| e.with("host", &oma.host).with("port", oma.port))
    }

    async fn open_now(oma: &Oma, pinned: Option<&CertificateDer<'static>>) -> Result<(Self, CertificateDer<'static>)> {
        let io = |e| Error::from_io(OPERATION, e);
        let socket = TcpStream::connect((oma.host.as_str(), oma.port)).await.map_err(io)?;
        socket.set_nodelay(true).map_err(io)?;
        let wrong = |_| Error::new(ErrorKind::InvalidInput, OPERATION, "the host is no name and no address");
        let name = ServerName::try_from(oma.host.clone()).map_err(wrong)?;
        let stream = tokio_rustls::TlsConnector::from(config(pinned.cloned())?).connect(name, socket).await.map_err(tls_failed)?;
        let (_, tls) = stream.get_ref();
        let certificate = tls.peer_certificates().and_then(|all| all.first()).map(|c| c.clone().into_owned());
        let certificate = certificate.ok_or_else(|| Error::new(ErrorKind::Protocol, OPERATION, "the OMA shows no certificate"))?;
        let exporter = tls
            .export_keying_material([0; LENGTH], EXPORTER_LABEL, Some(&[]))
            .map_err(|e| Error::new(ErrorKind::Internal, OPERATION, "the connection cannot be bound to").with_source(e))?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(http_failed)?;
        let mut tasks = Scope::new();
        let end = tasks.token().clone();
        tasks.spawn(async move {
            // Why it broke is told to the request that waits.
            tokio::select! {
                () = end.cancelled() => {}
                _ = driver => {}
            }
        });
        Ok((Connection { host: oma.host.clone(), sender, exporter, tasks }, certificate))
    }

    async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Error::new(ErrorKind::Internal, OPERATION, "a request cannot be written").with_source(e))?;
        self.ask(Method::POST, path, body).await
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, Vec::new()).await
    }

    async fn ask<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<T> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("migratekit/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| Error::new(ErrorKind::Internal, OPERATION, "a request cannot be made").with_source(e))?;
        let sender = &mut self.sender;
        let asking = async move {
            // After an answer the connection is not at once ready for the next request.
            sender.ready().await.map_err(http_failed)?;
            let answer = sender.send_request(request).await.map_err(http_failed)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body =
                body.map_err(|e| Error::new(ErrorKind::Protocol, OPERATION, "the answer breaks off or is too long").with_source(e))?;
            read(status, &body.to_bytes())
        };
        let late = || Error::new(ErrorKind::Timeout, OPERATION, "the OMA did not answer in time");
        clock::within(REQUEST_TIME, asking).await.ok_or_else(late)?
    }

    async fn close(self) -> Result<()> {
        drop(self.sender);
        self.tasks.close().await
    }
}

/// What an answer says.
fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T> {
    if status == StatusCode::OK {
        let strange = |e| Error::new(ErrorKind::Protocol, OPERATION, "the answer is not what an OMA says").with_source(e);
        return serde_json::from_slice(body).map_err(strange);
    }
    let said = serde_json::from_slice::<ErrorAnswer>(body).map_or_else(|_| String::new(), |said| said.message);
    let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
    let (kind, message) = match status {
        StatusCode::FORBIDDEN => {
            (ErrorKind::Denied, "the OMA refuses: the code is wrong, used or too old, or the request was changed on its way")
        }
        StatusCode::TOO_MANY_REQUESTS => (ErrorKind::Busy, "the OMA refuses for now; wait some minutes"),
        StatusCode::CONFLICT => (ErrorKind::AlreadyExists, "the OMA has this already"),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => (ErrorKind::InvalidInput, "the OMA does not take the request"),
        StatusCode::NOT_FOUND => (ErrorKind::NotFound, "the OMA does not know it"),
        _ => (ErrorKind::Unreachable, "the OMA cannot answer now"),
    };
    let error = Error::new(kind, OPERATION, message).with("status", status.as_u16()).with("said", said);
    Err(if kind == ErrorKind::Busy { error.with_retry(Retry::After(RESULT_PAUSE)) } else { error })
}

fn http_failed(error: hyper::Error) -> Error {
    Error::new(ErrorKind::Unreachable, OPERATION, "the connection broke").with_source(error)
}

fn tls_failed(error: std::io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::General(why)) if why == OTHER => {
            Error::new(ErrorKind::Denied, OPERATION, "the OMA shows another certificate than before: somebody is in between")
        }
        Some(_) => Error::new(ErrorKind::Protocol, OPERATION, "the other side does not speak TLS as an OMA does").with_source(error),
        None => Error::from_io(OPERATION, error),
    }
}

const OTHER: &str = "another certificate than the one pinned";

fn config(pinned: Option<CertificateDer<'static>>) -> Result<Arc<rustls::ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::new(ErrorKind::Internal, OPERATION, "the version of TLS cannot be used").with_source(e))?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Certificate { pinned, provider })).with_no_client_auth();
    // A resumed session has no certificate to look at.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Takes the pinned certificate, or any while none is. That the server holds its key is checked as ever.
struct Certificate {
    pinned: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("pinned", &self.pinned.is_some()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Certificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.pinned {
            Some(pinned) if pinned != certificate => Err(rustls::Error::General(OTHER.to_owned())),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
