//! TLS of a client: whom it trusts, who it says it is. X.509 only, TLS 1.2 and 1.3, by rustls with ring.
//!
//! The server's certificate must be signed by `ca-cert.pem` of the directory that the URI names, and bear the host's name. Without
//! a directory the connection is refused: the certificate authorities of the system vouch for web sites, not for disks.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, ErrorKind, Result};
use crate::nbd::uri::{Endpoint, TlsParameters, Uri};
use crate::task;

const OPERATION: &str = "prepare TLS";

/// What a TLS connection to a URI needs.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl Tls {
    /// Reads what the URI names; `None` for a URI without TLS.
    pub(crate) async fn of(uri: &Uri) -> Result<Option<Self>> {
        let Some(parameters) = uri.tls.clone() else { return Ok(None) };
        let name = server_name(uri, &parameters)?;
        let Some(directory) = parameters.certificates else {
            return Err(Error::new(
                ErrorKind::Denied,
                OPERATION,
                "no certificate authority is named: add tls-certificates=DIR with ca-cert.pem to the URI",
            ));
        };
        let config = task::blocking(move || configure(&directory)).await??;
        Ok(Some(Tls { config: Arc::new(config), name }))
    }
}

fn server_name(uri: &Uri, parameters: &TlsParameters) -> Result<ServerName<'static>> {
    let name = match (&parameters.hostname, &uri.endpoint) {
        (Some(name), _) => name.clone(),
        (None, Endpoint::Tcp { host, .. }) => host.clone(),
        (None, Endpoint::Unix(_)) => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                OPERATION,
                "a Unix socket has no host name to check the certificate against: add tls-hostname=NAME",
            ));
        }
    };
    ServerName::try_from(name.clone()).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, OPERATION, "a certificate cannot bear this name").with("name", name).with_source(e)
    })
}

fn configure(directory: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&directory.join("ca-cert.pem"))? {
        roots.add(certificate).map_err(|e| bad("ca-cert.pem holds no usable certificate", directory).with_source(e))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Internal, OPERATION, "the TLS versions do not fit the provider").with_source(e))?
        .with_root_certificates(roots);
    let (certificate, key) = (directory.join("client-cert.pem"), directory.join("client-key.pem"));
    match (certificate.exists(), key.exists()) {
        (false, false) => Ok(builder.with_no_client_auth()),
        (true, true) => {
            let chain = certificates(&certificate)?;
            let key = PrivateKeyDer::from_pem_file(&key)
                .map_err(|e| bad("client-key.pem cannot be read as a private key", directory).with_source(e))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| bad("client-cert.pem and client-key.pem do not fit", directory).with_source(e))
        }
        (true, false) => Err(bad("client-cert.pem is there, client-key.pem is missing", directory)),
        (false, true) => Err(bad("client-key.pem is there, client-cert.pem is missing", directory)),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).map_err(|e| Error::from_io("read a certificate", e).with("path", path.display()))?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|e| {
        Error::new(ErrorKind::InvalidInput, "read a certificate", "the file is not PEM").with("path", path.display()).with_source(e)
    })?;
    if list.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "read a certificate", "the file holds no certificate").with("path", path.display()));
    }
    Ok(list)
}

fn bad(message: &'static str, directory: &Path) -> Error {
    Error::new(ErrorKind::InvalidInput, OPERATION, message).with("directory", directory.display())
}
