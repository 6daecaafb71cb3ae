//! A MariaDB with a certificate: who is trusted, who is refused, each with its text, and that nothing secret is said on the way.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use migratekit_core::credentials::SecretString;
use migratekit_core::testing::catalog::ask;
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::{Error, ErrorKind, Result, Store, StoreOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

const PASSWORD: &str = "hunter2-ß";

/// An authority, and a server's certificate for 127.0.0.1 alone, in files that the server may read.
fn certificates(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    // Two authorities of one name would be told apart by their signatures only.
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority of {}", folder.display()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (name, text) in [("ca.pem", authority.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())] {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// Opens the catalog and tells the cipher of its connection; empty without one.
fn cipher(url: &str) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(url, StoreOptions::new().password(SecretString::new(PASSWORD.to_owned()))).await?;
        let sql = "SELECT VARIABLE_VALUE AS value FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'SSL_CIPHER'";
        let cipher = ask(&store, sql).await?.remove(0).unwrap_or_default();
        store.close().await;
        Ok(cipher)
    })
}

/// All that an error says, its sources included.
fn all_of(error: &Error) -> String {
    let mut said = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        said += &format!(" {next} {next:?}");
        source = next.source();
    }
    said
}

#[test]
fn a_server_is_trusted_by_its_certificate_and_refused_with_the_reason() {
    let (folder, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(folder.path());
    certificates(foreign.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let server = MariaDb::start_with(&[
        &format!("--ssl-cert={}", file("cert.pem")),
        &format!("--ssl-key={}", file("key.pem")),
        &format!("--ssl-ca={}", file("ca.pem")),
    ]);
    let plain = MariaDb::start_with(&["--skip-ssl"]);
    for server in [&server, &plain] {
        server.create_database("catalog");
    }
    server.sql(&format!("CREATE USER mk@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL; GRANT ALL ON catalog.* TO mk@'%'"));
    plain.sql(&format!("CREATE USER mk@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON catalog.* TO mk@'%'"));
    let at = |host: &str, server: &MariaDb, tls: &str| format!("mysql://mk@{host}:{}/catalog?tls={tls}", server.port());
    let verified = |host: &str, ca: &Path| format!("{}&ca={}", at(host, &server, "verified"), ca.display());

    let good = verified("127.0.0.1", &folder.path().join("ca.pem"));
    assert!(cipher(&good).unwrap().starts_with("TLS_"), "encrypted");
    for lax in ["required", "preferred"] {
        assert!(!cipher(&at("127.0.0.1", &server, lax)).unwrap().is_empty(), "{lax}: encrypted, by whomever");
    }
    assert_eq!(cipher(&at("127.0.0.1", &plain, "preferred")).unwrap(), "", "preferred: plain where there is nothing else");

    fs::write(folder.path().join("text.pem"), "no certificate").unwrap();
    let mut texts = BTreeSet::new();
    for (name, url, kind, part) in [
        ("foreign authority", verified("127.0.0.1", &foreign.path().join("ca.pem")), ErrorKind::Denied, "nobody who is trusted here"),
        ("another name", verified("localhost", &folder.path().join("ca.pem")), ErrorKind::Denied, "another name"),
        ("no encryption there", at("127.0.0.1", &plain, "required"), ErrorKind::Denied, "offers no encryption"),
        ("no encryption here", at("127.0.0.1", &server, "off"), ErrorKind::Denied, "let this user in"),
        ("no file", verified("127.0.0.1", Path::new("/none/ca.pem")), ErrorKind::NotFound, ""),
        ("no certificate", verified("127.0.0.1", &folder.path().join("text.pem")), ErrorKind::InvalidInput, "holds no certificate"),
    ] {
        let error = cipher(&url).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.message().contains(part), "{name}: {error}");
        assert!(texts.insert(error.message().to_owned()), "{name}: another cause has this text: {error}");
        assert!(!all_of(&error).contains(PASSWORD), "{name}: it tells the password");
    }
    // An authority of one's own is not this system's: without its name it is foreign.
    let unnamed = cipher(&at("127.0.0.1", &server, "verified")).unwrap_err();
    assert!(unnamed.message().contains("nobody who is trusted here"), "{unnamed}");
}
