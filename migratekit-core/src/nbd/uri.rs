//! Where an export is: `nbd://host[:port]/export`, `nbd+unix:///export?socket=PATH`, and both with TLS as `nbds`, `nbds+unix`.
//!
//! The form is that of the NBD project's `doc/uri.md`. Names are percent-decoded, IPv6 hosts stand in brackets. TLS takes its
//! parameters from the query: `tls-certificates=DIR` (with `ca-cert.pem`, and for a client certificate `client-cert.pem` and
//! `client-key.pem`) and `tls-hostname=NAME` (the name the server's certificate must bear, where it is not the host).
//!
//! Reading is strict: an unknown parameter, a fragment, a user or password is an error and never ignored.
//!
//! A URI is printed in errors and reports, so neither [`Display`](fmt::Display) nor `Debug` nor an error of reading shows the proof
//! that an export's name may carry ([`super::epoch`]). The text that reads back as the same value is [`Uri::whole`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::limits::MAX_NAME;
use crate::error::{Error, ErrorKind, Result};

/// The port of NBD, assigned by IANA.
pub const DEFAULT_PORT: u16 = 10809;

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// By TCP.
    Tcp {
        /// A host name or address; an IPv6 address without brackets.
        host: String,
        /// The port, 1 to 65535.
        port: u16,
    },
    /// By a Unix socket.
    Unix(PathBuf),
}

/// The place of an export; see the [module documentation](self).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Uri {
    /// How the server is reached.
    pub endpoint: Endpoint,
    /// The name of the export; empty names the server's default one.
    pub export: String,
    /// TLS, or `None` for plain.
    pub tls: Option<TlsParameters>,
}

/// What a URI says of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsParameters {
    /// A directory with `ca-cert.pem`, and, for a client certificate, `client-cert.pem` and `client-key.pem`.
    pub certificates: Option<PathBuf>,
    /// The name the server's certificate must bear; by default the host.
    pub hostname: Option<String>,
}

impl Uri {
    /// An export on a TCP server, without TLS.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        Uri { endpoint: Endpoint::Tcp { host: host.into(), port }, export: export.into(), tls: None }
    }

    /// An export on a server that listens on a Unix socket, without TLS.
    #[must_use]
    pub fn unix(socket: impl AsRef<Path>, export: impl Into<String>) -> Self {
        Uri { endpoint: Endpoint::Unix(socket.as_ref().to_owned()), export: export.into(), tls: None }
    }

    /// The same server, another export.
    #[must_use]
    pub fn with_export(&self, export: impl Into<String>) -> Self {
        Uri { export: export.into(), ..self.clone() }
    }

    /// The whole text, which reads back as the same value; for those who connect. Where the export's name carries the proof of an
    /// epoch, so does this text: it belongs in no message and no log.
    #[must_use]
    pub fn whole(&self) -> String {
        Text { uri: self, export: &self.export }.to_string()
    }

    /// Whether a text looks like an NBD URI (and not like a path), without reading it further.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| scheme_of(scheme).is_some())
    }
}

/// Whether the scheme is by Unix socket, and whether with TLS.
fn scheme_of(scheme: &str) -> Option<(bool, bool)> {
    match scheme {
        "nbd" => Some((false, false)),
        "nbds" => Some((false, true)),
        "nbd+unix" => Some((true, false)),
        "nbds+unix" => Some((true, true)),
        _ => None,
    }
}

fn wrong(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, "read an NBD URI", message)
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // A text with a password is not repeated in the error, nor is a proof.
        parse(text).map_err(|e| if text.contains('@') { e } else { e.with("uri", without_digests(text)) })
    }
}

/// A text that could not be read, without anything that may be a proof: no run of hexadecimal digits as long as half of one.
fn without_digests(text: &str) -> String {
    const LONGEST: usize = 31;
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        if digits.len() > LONGEST {
            shown.push_str("..");
            shown.push_str(part.get(digits.len()..).unwrap_or_default());
        } else {
            shown.push_str(part);
        }
    }
    shown
}

fn parse(text: &str) -> Result<Uri> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it must begin with nbd://, nbds://, nbd+unix:// or nbds+unix://"))?;
    let (by_socket, with_tls) = scheme_of(scheme).ok_or_else(|| wrong("its scheme is none of nbd, nbds, nbd+unix, nbds+unix"))?;
    if rest.contains('#') {
        return Err(wrong("it has a fragment (a # in a name is written %23)"));
    }
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(r, q)| (r, Some(q)));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(wrong("it names a user or password, which this client does not use (and a URI must not hold)"));
    }
    let export = decode(path)?;
    if u32::try_from(export.len()).map_or(true, |n| n > MAX_NAME) {
        return Err(wrong("its export name is longer than 4096 bytes"));
    }
    let parameters = Parameters::parse(query)?;
    let endpoint = match (by_socket, parameters.socket) {
        (true, Some(path)) if authority.is_empty() => Endpoint::Unix(path),
        (true, Some(_)) => return Err(wrong("a Unix socket takes no host: write three slashes, nbd+unix:///")),
        (true, None) => return Err(wrong("it lacks the parameter socket=PATH")),
        (false, Some(_)) => return Err(wrong("the parameter socket belongs to nbd+unix and nbds+unix")),
        (false, None) => tcp_endpoint(authority)?,
    };
    let tls = match (with_tls, parameters.certificates, parameters.hostname) {
        (true, certificates, hostname) => Some(TlsParameters { certificates, hostname }),
        (false, None, None) => None,
        (false, _, _) => return Err(wrong("TLS parameters belong to nbds and nbds+unix")),
    };
    Ok(Uri { endpoint, export, tls })
}

fn tcp_endpoint(authority: &str) -> Result<Endpoint> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| wrong("its IPv6 address lacks the closing bracket"))?;
        host.parse::<std::net::Ipv6Addr>().map_err(|e| wrong("what stands in brackets is no IPv6 address").with_source(e))?;
        (
            host.to_owned(),
            if port.is_empty() {
                None
            } else {
                Some(port.strip_prefix(':').ok_or_else(|| wrong("after the IPv6 address only :PORT may follow"))?)
            },
        )
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
        if port.is_some_and(|p| p.contains(':')) {
            return Err(wrong("an IPv6 address stands in brackets: nbd://[::1]/export"));
        }
        (decode(host)?, port)
    };
    if host.is_empty() {
        return Err(wrong("it names no host"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|p| *p != 0 && text.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| wrong("its port is not a number from 1 to 65535"))?,
    };
    Ok(Endpoint::Tcp { host, port })
}

#[derive(Default)]
struct Parameters {
    socket: Option<PathBuf>,
    certificates: Option<PathBuf>,
    hostname: Option<String>,
}

impl Parameters {
    fn parse(query: Option<&str>) -> Result<Self> {
        let mut parameters = Parameters::default();
        for pair in query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| wrong("a parameter lacks its value").with("parameter", pair))?;
            let value = decode(value)?;
            if value.is_empty() {
                return Err(wrong("a parameter is empty").with("parameter", key));
            }
            let double = match key {
                "socket" => parameters.socket.replace(value.into()).is_some(),
                "tls-certificates" => parameters.certificates.replace(value.into()).is_some(),
                "tls-hostname" => parameters.hostname.replace(value).is_some(),
                "tls-psk-file" => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "read an NBD URI",
                        "pre-shared keys are not supported; use certificates (tls-certificates=DIR)",
                    ));
                }
                _ => return Err(wrong("its parameters are socket, tls-certificates, tls-hostname; this is none").with("parameter", key)),
            };
            if double {
                return Err(wrong("a parameter is given twice").with("parameter", key));
            }
        }
        Ok(parameters)
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (digit(), digit()) {
            (Some(0), Some(0)) => return Err(wrong("it holds a NUL byte (%00)")),
            (Some(high), Some(low)) => bytes.push(high * 16 + low),
            _ => return Err(wrong("a % is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8 after decoding"))
}

/// Writes `text` with all but unreserved characters and `keep` percent-encoded.
fn encode(f: &mut fmt::Formatter<'_>, text: &str, keep: &[u8]) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uri({self})")
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text { uri: self, export: &super::epoch::without_proof(&self.export) }.fmt(f)
    }
}

/// A URI as text, with the export's name as it is to be written.
struct Text<'a> {
    uri: &'a Uri,
    export: &'a str,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text { uri: Uri { endpoint, tls, .. }, export } = self;
        let s = if tls.is_some() { "s" } else { "" };
        let mut separator = '?';
        let mut parameter = |f: &mut fmt::Formatter<'_>, key: &str, value: &str| {
            write!(f, "{separator}{key}=")?;
            separator = '&';
            encode(f, value, b"/")
        };
        match endpoint {
            Endpoint::Tcp { host, port } => {
                write!(f, "nbd{s}://")?;
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    encode(f, host, b"")?;
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                f.write_str("/")?;
                encode(f, export, b"/:")?;
            }
            Endpoint::Unix(path) => {
                write!(f, "nbd{s}+unix:///")?;
                encode(f, export, b"/:")?;
                parameter(f, "socket", &path.to_string_lossy())?;
            }
        }
        if let Some(tls) = tls {
            if let Some(path) = &tls.certificates {
                parameter(f, "tls-certificates", &path.to_string_lossy())?;
            }
            if let Some(name) = &tls.hostname {
                parameter(f, "tls-hostname", name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_of_an_epoch_is_not_shown() {
        let key = crate::nbd::EpochKey::new([7; 32]);
        let name = key.name("vol", 3, "job").unwrap();
        let proof = name.rsplit('/').next().unwrap();
        let uri = Uri::tcp("h", 1, &name);
        assert_eq!(uri.whole(), format!("nbd://h:1/vol/3/job/{proof}"));
        assert_eq!(uri.to_string(), "nbd://h:1/vol/3/job/..");
        assert_eq!(format!("{uri:?}"), "Uri(nbd://h:1/vol/3/job/..)");
        assert_eq!(uri.whole().parse::<Uri>().unwrap(), uri);
        for text in [
            format!("nbd://h:0/{name}"),
            format!("nbd://h/{name}?color=red"),
            format!("nbd://h/{}#a", name.replace('/', "%2F")),
            format!("http://h/{}", name.to_uppercase()),
        ] {
            let error = text.parse::<Uri>().unwrap_err().to_string();
            let half = proof.get(..32).unwrap();
            assert!(!error.to_lowercase().contains(half) && error.contains(".."), "{error}");
            assert!(error.contains("://h"), "the rest is shown: {error}");
        }
    }

    #[test]
    fn reads_and_prints() {
        for (text, canonical) in [
            ("nbd://host", "nbd://host/"),
            ("nbd://host/", "nbd://host/"),
            ("nbd://host:10809/a", "nbd://host/a"),
            ("nbd://host:1/a/b", "nbd://host:1/a/b"),
            ("nbd://[::1]:99/x", "nbd://[::1]:99/x"),
            ("nbd://[fe80::1]/x", "nbd://[fe80::1]/x"),
            ("nbd://h/with%20space%3f", "nbd://h/with%20space%3F"),
            ("nbd://h//lead", "nbd://h//lead"),
            ("nbd+unix:///?socket=/run/s", "nbd+unix:///?socket=/run/s"),
            ("nbd+unix:///vol%231?socket=/a%26b", "nbd+unix:///vol%231?socket=/a%26b"),
            ("nbds://h/v?tls-hostname=other&tls-certificates=/etc/pki", "nbds://h/v?tls-certificates=/etc/pki&tls-hostname=other"),
            ("nbds+unix:///v?socket=s&tls-hostname=h", "nbds+unix:///v?socket=s&tls-hostname=h"),
            ("nbd://h/migratekit:digest:blake3:65536:v", "nbd://h/migratekit:digest:blake3:65536:v"),
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!((uri.to_string().as_str(), uri.whole().as_str()), (canonical, canonical));
            assert_eq!(uri.whole().parse::<Uri>().unwrap(), uri);
            assert!(Uri::looks_like(text));
        }
        assert!(!Uri::looks_like("/dev/nbd0") && !Uri::looks_like("http://x"));
    }

    #[test]
    fn each_fault_has_its_own_text() {
        let long = format!("nbd://h/{}", "x".repeat(4097));
        let bad = [
            "/path",
            "http://h/",
            "nbd://h/a#b",
            "nbd://user:secret@h/",
            "nbd:///noname",
            "nbd://h:0/",
            "nbd://[::1/",
            "nbd://[host]/",
            "nbd://[::1]x/",
            "nbd://::1/",
            "nbd://h/%4",
            "nbd://h/%00",
            "nbd://h/%ff",
            "nbd://h/?socket=/x",
            "nbd+unix:///x",
            "nbd+unix://h/x?socket=/s",
            "nbd://h/?tls-hostname=x",
            "nbds://h/?tls-psk-file=x",
            "nbds://h/?tls-hostname=",
            "nbds://h/?tls-hostname",
            "nbds://h/?tls-hostname=a&tls-hostname=b",
            "nbds://h/?color=red",
            &long,
        ];
        let mut texts = std::collections::BTreeSet::new();
        for text in bad {
            let e = text.parse::<Uri>().unwrap_err();
            assert!(!e.to_string().contains("secret"), "{e}");
            assert!(texts.insert(e.message().to_owned()), "two causes share a text: {e}");
        }
        for text in ["nbd://h:65536/", "nbd://h:+1/", "nbd://h:/"] {
            assert_eq!(text.parse::<Uri>().unwrap_err().message(), "its port is not a number from 1 to 65535");
        }
    }
}
