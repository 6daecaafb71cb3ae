//! The TLS certificate: made at the first start, in one file with its key, readable by its owner only.
//!
//! Nobody signs it, and nobody has to believe it: a VMA believes the proof that is bound to the connection, and pins the certificate after.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use migratekit_core::{Error, ErrorKind, Result, SecretString, task};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const READ: &str = "read the TLS certificate";
const MAKE: &str = "make the TLS certificate";

/// The name in the certificate; nothing is decided by it.
const NAME: &str = "migratekit-oma";
/// The longest file, in bytes.
const MAX_FILE: u64 = 256 * 1024;
/// Rights of group and others: none may be set, for the key is in it.
const OTHERS: u32 = 0o077;

/// A certificate chain with its key.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads the file, or makes it when it is not there: 0600, written as a whole or not at all. The second value: whether it was made.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when others may read the file; [`ErrorKind::InvalidInput`] when no certificate with its key is in it.
    pub async fn read_or_make(path: &Path) -> Result<(Self, bool)> {
        let file = path.to_owned();
        let found = task::blocking(move || match read(&file) {
            Err(e) if e.kind() == ErrorKind::NotFound => make(&file),
            found => found.map(|certificate| (certificate, false)),
        });
        found.await?.map_err(|e| e.with("path", path.display()))
    }

    /// For rustls: TLS 1.3 only, whose exporter needs no more to be bound to.
    pub(crate) fn server_config(&self) -> Result<Arc<rustls::ServerConfig>> {
        let wrong = |e| Error::new(ErrorKind::InvalidInput, "set up TLS", "certificate and key cannot be used").with_source(e);
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(wrong)?;
        // A resumed session would show no certificate.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Certificate> {
    let io = |e| Error::from_io(READ, e);
    let facts = std::fs::metadata(path).map_err(io)?;
    if facts.mode() & OTHERS != 0 {
        let error = Error::new(ErrorKind::Denied, READ, "others may read it, and the key is in it; allow only its owner (chmod 600)");
        return Err(error.with("mode", format!("{:o}", facts.mode() & 0o777)));
    }
    if facts.len() > MAX_FILE {
        return Err(Error::new(ErrorKind::InvalidInput, READ, "the file is longer than any certificate").with("bytes", facts.len()));
    }
    parse(&SecretString::new(std::fs::read_to_string(path).map_err(io)?))
}

fn parse(pem: &SecretString) -> Result<Certificate> {
    let wrong = |message: &'static str| Error::new(ErrorKind::InvalidInput, READ, message);
    let text = pem.expose().as_bytes();
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|_| wrong("it is not PEM"))?;
    if chain.is_empty() {
        return Err(wrong("no certificate is in it"));
    }
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| wrong("no private key is in it"))?;
    Ok(Certificate { chain, key })
}

/// Writes a new one beside the place and links it there: the link is made by one process only, and never to half a file.
fn make(path: &Path) -> Result<(Certificate, bool)> {
    let failed = |e| Error::new(ErrorKind::Internal, MAKE, "it cannot be made").with_source(e);
    let made: rcgen::CertifiedKey<rcgen::KeyPair> = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).map_err(failed)?;
    let pem = SecretString::new(made.cert.pem() + &made.signing_key.serialize_pem());
    let io = |e| Error::from_io(MAKE, e);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(io)?;
    let linked = file.write_all(pem.expose().as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::hard_link(&beside, path));
    let removed = std::fs::remove_file(&beside);
    match linked {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok((read(path)?, false)),
        linked => linked.and(removed).map_err(io)?,
    }
    Ok((parse(&pem)?, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_made_once_for_its_owner_only_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.pem");
        let (first, made) = Certificate::read_or_make(&path).await.unwrap();
        assert!(made && std::fs::metadata(&path).unwrap().mode() & 0o777 == 0o600);
        let (second, made) = Certificate::read_or_make(&path).await.unwrap();
        assert!(!made && first.chain == second.chain);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(second.server_config().is_ok() && !format!("{second:?}").contains("PRIVATE"));
    }

    #[tokio::test]
    async fn each_bad_file_is_refused_with_its_cause_and_not_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.pem");
        Certificate::read_or_make(&path).await.unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = Certificate::read_or_make(&path).await.unwrap_err();
        assert_eq!((open.kind(), open.context_value("mode")), (ErrorKind::Denied, Some("644")));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let certificate_only = whole.split("-----BEGIN PRIVATE").next().unwrap().to_owned();
        for (text, says) in [("", "no certificate"), (&certificate_only, "no private key")] {
            std::fs::write(&path, text).unwrap();
            let refused = Certificate::read_or_make(&path).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
            assert!(refused.to_string().contains(says), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
