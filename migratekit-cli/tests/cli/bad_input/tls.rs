//! TLS that is missing, not trusted, or of another name.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{Case, Table};
use crate::run::Served;

/// A folder with an authority and a server's certificate for `name`, as all NBD programs name the files.
fn make(folder: &Path, name: &str) {
    fs::create_dir(folder).unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority of {name}"));
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join("ca-cert.pem"), ca.pem()).unwrap();
    for role in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        fs::write(folder.join(format!("{role}-cert.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
    }
}

pub(super) fn certificates(t: &mut Table) {
    let (ours, other, bare, empty) = (t.path("ours"), t.path("other"), t.path("bare"), t.path("empty"));
    make(&ours, "localhost");
    make(&other, "localhost");
    for folder in [&bare, &empty] {
        fs::create_dir(folder).unwrap();
    }
    fs::copy(ours.join("ca-cert.pem"), bare.join("ca-cert.pem")).unwrap();
    let source = t.path("source");
    let served = Served::start(&source, &["--read-only", "--tls-certs", ours.to_str().unwrap()]);
    let plain = served.uri();
    let with = |folder: &Path, more: &str| {
        format!("{}?tls-certificates={}{more}", plain.replace("nbd://127.0.0.1", "nbds://localhost"), folder.display())
    };
    let target = t.text("target");
    crate::run::succeed(&["nbd", "info", &with(&ours, "")]);

    t.copy("TLS server without TLS", 7, &plain, &target, &[&plain, "requires TLS", "nbds://"]);
    t.copy("no authority named", 7, &plain.replace("nbd:", "nbds:"), &target, &["tls-certificates=DIR", "side source"]);
    t.copy("another authority", 7, &with(&other, ""), &target, &["not trusted", "side source"]);
    t.copy("another name", 7, &with(&ours, "&tls-hostname=elsewhere"), &target, &["another name", "side source"]);
    t.copy("no client certificate", 7, &with(&bare, ""), &target, &["client certificate", "side source"]);
    t.copy("folder without an authority", 4, &with(&empty, ""), &target, &["ca-cert.pem"]);
    fs::write(empty.join("ca-cert.pem"), "no certificate").unwrap();
    t.copy("authority is no certificate", 3, &with(&empty, ""), &target, &["ca-cert.pem", "no certificate"]);
    let no_tls = Served::start(&source, &["--read-only"]);
    let wanted = format!("{}?tls-certificates={}", no_tls.uri().replace("nbd:", "nbds:"), ours.display());
    t.copy("server without TLS", 7, &wanted, &target, &["does not offer it", "side source"]);
    let export = format!("a={}", source.display());
    let missing = t.text("absent");
    t.case(&Case::new(
        "serve without certificates",
        4,
        &["nbd", "serve", &export, "--read-only", "--tls-certs", &missing, "--listen", "127.0.0.1:0"],
        &["server-cert.pem"],
    ));
    assert!(!t.path("target").exists(), "a target was made without a source");
}
