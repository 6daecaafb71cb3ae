//! TLS against nbdkit with certificates made for the test.

use std::path::Path;

use migratekit_core::block::BlockRead;
use migratekit_core::error::ErrorKind;
use migratekit_core::nbd::client::{Client, Timeouts, list};
use migratekit_core::nbd::uri::{TlsParameters, Uri};
use migratekit_core::units::{ByteRange, MIB};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

use crate::nbdkit::exercise;
use crate::servers::{nbdkit, options};

/// A folder with a certificate authority, a server certificate for `localhost`, a client certificate.
fn certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    for (name, usage) in [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(folder.join(format!("{name}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

fn with_tls(uri: &Uri, folder: Option<&Path>, name: Option<&str>) -> Uri {
    let tls = TlsParameters { certificates: folder.map(Path::to_owned), hostname: name.map(str::to_owned) };
    Uri { tls: Some(tls), ..uri.clone() }
}

#[tokio::test]
async fn a_trusted_server() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let place = format!("--tls-certificates={}", dir.path().display());
    let (_server, uri) = nbdkit(&["--tls=require", "--tls-verify-peer", &place, "memory", "16M"]);
    let good = with_tls(&uri, Some(dir.path()), Some("localhost"));
    let client = Client::connect(options(&good)).await.unwrap();
    assert!(client.facts().tls && client.connections() == 4);
    exercise(&client).await;
    client.read(ByteRange::new(0, 16 * MIB).unwrap()).await.unwrap();
    assert_eq!(list(&good, Timeouts::default()).await.unwrap().len(), 1);
    assert_eq!(good.to_string().parse::<Uri>().unwrap(), good);
}

#[tokio::test]
async fn what_is_not_trusted_is_refused_each_with_its_text() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let bare = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("ca-cert.pem"), bare.path().join("ca-cert.pem")).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let place = format!("--tls-certificates={}", dir.path().display());
    let (_server, uri) = nbdkit(&["--tls=require", &place, "memory", "16M"]);
    let (_plain, plain) = nbdkit(&["memory", "16M"]);
    let cases = [
        ("plain client, TLS server", uri.clone(), ErrorKind::Denied),
        ("TLS client, plain server", with_tls(&plain, Some(dir.path()), Some("localhost")), ErrorKind::Denied),
        ("no authority named", with_tls(&uri, None, Some("localhost")), ErrorKind::Denied),
        ("foreign authority", with_tls(&uri, Some(other.path()), Some("localhost")), ErrorKind::Denied),
        ("another name", with_tls(&uri, Some(bare.path()), Some("example.org")), ErrorKind::Denied),
        ("no such folder", with_tls(&uri, Some(empty.path()), Some("localhost")), ErrorKind::NotFound),
        ("name that cannot be", with_tls(&uri, Some(dir.path()), Some("not a name")), ErrorKind::InvalidInput),
        ("socket without a name", Uri { tls: Some(TlsParameters::default()), ..Uri::unix("/x", "") }, ErrorKind::InvalidInput),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (cause, uri, kind) in cases {
        let error = Client::connect(options(&uri)).await.err().unwrap_or_else(|| panic!("{cause}: accepted"));
        assert_eq!(error.kind(), kind, "{cause}: {error}");
        assert!(texts.insert(error.message().to_owned()), "{cause} shares its text: {error}");
        assert!(error.context_value("server").is_some(), "{cause}: {error}");
    }
}
