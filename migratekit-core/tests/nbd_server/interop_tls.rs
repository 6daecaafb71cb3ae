//! STARTTLS, with libnbd and by hand.

use std::fs;
use std::path::Path;

use migratekit_core::block::MemoryDisk;
use migratekit_core::nbd::wire::{encode_option, option, option_reply};
use migratekit_core::nbd::{ServerConfig, tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::raw::Raw;
use crate::rig::{Rig, attempt, run};

/// A folder with an authority, a server's and a client's certificate, as libnbd and we name the files.
fn certificates(folder: &Path) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join("ca-cert.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(folder.join(format!("{name}-cert.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

fn rig(folder: &Path, require_tls: bool) -> Rig {
    let config = ServerConfig { tls: Some(tls::server_config(folder).unwrap()), require_tls, ..ServerConfig::default() };
    Rig::with_disk(config, MemoryDisk::from_bytes("m", &vec![7; 3 << 20]))
}

fn nbds(rig: &Rig, folder: &Path) -> String {
    format!("nbds://localhost:{}/disk?tls-certificates={}", rig.port, folder.display())
}

#[test]
fn libnbd_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    for required in [false, true] {
        let rig = rig(folder.path(), required);
        let info: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &nbds(&rig, folder.path())])).unwrap();
        assert_eq!((&info["TLS"], &info["structured"]), (&true.into(), &true.into()));
        let out = tempfile::NamedTempFile::new().unwrap();
        run("nbdcopy", &[&nbds(&rig, folder.path()), out.path().to_str().unwrap()]);
        assert!(fs::read(out.path()).unwrap() == vec![7; 3 << 20]);
        run("nbdcopy", &[out.path().to_str().unwrap(), &nbds(&rig, folder.path())]);
        assert_eq!(attempt("nbdinfo", &[&rig.uri("disk")]).status.success(), !required, "in clear");
    }
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_demanded() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let bare = tempfile::tempdir().unwrap();
    fs::copy(folder.path().join("ca-cert.pem"), bare.path().join("ca-cert.pem")).unwrap();
    let rig = rig(folder.path(), true);
    assert!(!attempt("nbdinfo", &[&nbds(&rig, bare.path())]).status.success());
    // Without an authority the server asks for none.
    fs::rename(folder.path().join("ca-cert.pem"), folder.path().join("kept.pem")).unwrap();
    let rig = self::rig(folder.path(), true);
    run("nbdinfo", &[&nbds(&rig, bare.path())]);
}

#[test]
fn before_tls_nothing_but_starttls_and_abort_where_it_is_required() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let rig = rig(folder.path(), true);
    let mut raw = Raw::options(rig.port);
    for (code, data) in [(option::LIST, &b""[..]), (option::GO, b"\0\0\0\x04disk\0\0"), (option::INFO, b""), (0xdead, b"x")] {
        assert_eq!(raw.verdict(code, data).0, option_reply::ERR_TLS_REQD, "option {code}");
    }
    assert_eq!(raw.verdict(option::ABORT, b"").0, option_reply::ACK);
    assert!(raw.is_closed());
    let mut raw = Raw::options(rig.port);
    raw.send(&encode_option(option::EXPORT_NAME, b"disk"));
    assert!(raw.is_closed());
    // What is sent in clear behind STARTTLS is not taken for options.
    let mut raw = Raw::options(rig.port);
    raw.send(&[encode_option(option::STARTTLS, b""), encode_option(option::LIST, b"")].concat());
    assert_eq!(raw.replies(option::STARTTLS), [(option_reply::ACK, vec![])]);
    assert!(raw.is_closed());
}

#[test]
fn certificates_that_cannot_be_used_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let e = tls::server_config(folder.path()).unwrap_err();
    assert_eq!(e.kind(), migratekit_core::ErrorKind::NotFound);
    assert!(e.context_value("path").unwrap().ends_with("server-cert.pem"));
    certificates(folder.path());
    fs::write(folder.path().join("server-key.pem"), "not a key").unwrap();
    let e = tls::server_config(folder.path()).unwrap_err();
    assert!(e.context_value("path").unwrap().ends_with("server-key.pem"), "{e}");
    fs::copy(folder.path().join("client-key.pem"), folder.path().join("server-key.pem")).unwrap();
    let e = tls::server_config(folder.path()).unwrap_err();
    assert_eq!(e.message(), "certificate and key do not belong together");
}
