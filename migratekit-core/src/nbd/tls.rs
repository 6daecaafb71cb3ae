//! TLS of the server (NBD's STARTTLS), by rustls with X.509 certificates; one crypto provider (ring) everywhere.
//!
//! A folder of certificates has the names libnbd and nbdkit use: `server-cert.pem` and `server-key.pem`; and `ca-cert.pem` if the
//! server is to demand a certificate of each client.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::{ReadHalf, WriteHalf};
use crate::error::{Error, ErrorKind, Result};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server's side of TLS from a folder; see the [module documentation](self).
///
/// # Errors
/// [`ErrorKind::NotFound`] or [`ErrorKind::InvalidInput`] naming the file.
pub fn server_config(folder: &Path) -> Result<Arc<rustls::ServerConfig>> {
    let chain = certificates(&folder.join("server-cert.pem"))?;
    let key = private_key(&folder.join("server-key.pem"))?;
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(folder, "the TLS versions cannot be used", e))?;
    let ca = folder.join("ca-cert.pem");
    let builder = if ca.exists() {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&ca)?), provider())
            .build()
            .map_err(|e| wrong(&ca, "it holds no usable authority", e))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let config = builder.with_single_cert(chain, key).map_err(|e| wrong(folder, "certificate and key do not belong together", e))?;
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| wrong(path, "it holds a certificate that is no authority", e))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|e| wrong(path, "it is not PEM", e))?;
    if found.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "set up TLS", "it holds no certificate").with("path", path.display()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| wrong(path, "it holds no private key in PEM", e))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::from_io("set up TLS", e).with("path", path.display()))
}

fn wrong(path: &Path, message: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::InvalidInput, "set up TLS", message).with("path", path.display()).with_source(source)
}

/// Begins TLS as a server over a stream in two halves.
pub(super) async fn accept(config: Arc<rustls::ServerConfig>, reader: ReadHalf, writer: WriteHalf) -> io::Result<(ReadHalf, WriteHalf)> {
    let stream = tokio_rustls::TlsAcceptor::from(config).accept(Joined { reader, writer }).await?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Box::new(reader), Box::new(writer)))
}

/// Two halves as one stream, which TLS wants.
pub(super) struct Joined {
    pub(super) reader: ReadHalf,
    pub(super) writer: WriteHalf,
}

impl AsyncRead for Joined {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for Joined {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
