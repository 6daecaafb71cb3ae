//! Where a catalog lies: `sqlite://PATH` or `mysql://USER@HOST[:PORT][,HOST[:PORT]..]/DATABASE[?socket=PATH][&tls=MODE][&ca=PATH]`. With
//! `tls=verified` the server's certificate must name the host and be signed by an authority that this system trusts, or by that of `ca`.
//!
//! A URL is shown in lists, logs and process tables, so it never carries a password; one that does is refused, and the error does not
//! repeat it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// The port of MariaDB, where a URL names none.
const MARIADB_PORT: u16 = 3306;
/// The most hosts in one URL: a cluster of more nodes needs no more to be reached.
const MAX_HOSTS: usize = 16;

/// Which database holds the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// A SQLite file on this host: one writer.
    Sqlite,
    /// MariaDB 10.6 or later, one server or a Galera cluster.
    MariaDb,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Sqlite => "sqlite",
            Backend::MariaDb => "mariadb",
        })
    }
}

/// Whether connections to MariaDB are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    Off,
    Preferred,
    Required,
    Verified,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

/// A parsed address of a catalog. It prints as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl(pub(super) Place);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Sqlite { path: PathBuf },
    MariaDb { user: String, hosts: Vec<Host>, database: String, socket: Option<PathBuf>, tls: Tls, ca: Option<PathBuf> },
}

impl StoreUrl {
    /// Which database it names.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.0 {
            Place::Sqlite { .. } => Backend::Sqlite,
            Place::MariaDb { .. } => Backend::MariaDb,
        }
    }
}

impl StoreUrl {
    /// The file of a SQLite catalog.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.0 {
            Place::Sqlite { path } => Some(path),
            Place::MariaDb { .. } => None,
        }
    }
}

fn wrong(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, "read the address of the catalog", message)
}

impl FromStr for StoreUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("sqlite", path)) => sqlite(path),
            Some(("mysql", rest)) => mariadb(rest),
            _ => Err(wrong("it begins with sqlite:// or mysql://")),
        }
        .map(StoreUrl)
    }
}

fn sqlite(path: &str) -> Result<Place> {
    if path.is_empty() {
        return Err(wrong("a path to the file must follow sqlite://"));
    }
    if path.contains(['?', '#', '\0']) || path == ":memory:" {
        return Err(wrong("a SQLite catalog is a plain file without parameters: sqlite://PATH"));
    }
    Ok(Place::Sqlite { path: PathBuf::from(path) })
}

fn mariadb(rest: &str) -> Result<Place> {
    let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) =
        main.split_once('/').ok_or_else(|| wrong("the name of the database must follow the hosts: mysql://USER@HOST/DATABASE"))?;
    let (user, hosts) =
        authority.rsplit_once('@').ok_or_else(|| wrong("a user must stand before the hosts: mysql://USER@HOST/DATABASE"))?;
    if user.contains(':') {
        return Err(wrong("a password must not stand in the address; put it into a file with mode 0600 and name that file"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$' | '.');
    if user.is_empty() || !user.chars().all(plain) {
        return Err(wrong("the user has letters, digits and _ - $ . only"));
    }
    if database.is_empty() || database.len() > 64 || !database.chars().all(plain) {
        return Err(wrong("the name of the database has 1 to 64 letters, digits and _ - $ . only"));
    }
    let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>>>()?;
    if hosts.len() > MAX_HOSTS {
        return Err(wrong("at most 16 hosts may be named"));
    }
    let (mut socket, mut tls, mut ca) = (None, Tls::Preferred, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("socket", path)) if !path.is_empty() => socket = Some(PathBuf::from(path)),
            Some(("tls", mode)) => tls = tls_mode(mode)?,
            Some(("ca", path)) if !path.is_empty() => ca = Some(PathBuf::from(path)),
            Some(("password", _)) => {
                return Err(wrong("a password must not stand among the parameters; put it into a file with mode 0600 and name that file"));
            }
            _ => return Err(wrong("the parameters are socket=PATH, tls=off, preferred, required or verified, and ca=PATH")),
        }
    }
    if ca.is_some() && tls != Tls::Verified {
        return Err(wrong("ca=PATH needs tls=verified: the other modes look at no certificate"));
    }
    Ok(Place::MariaDb { user: user.to_owned(), hosts, database: database.to_owned(), socket, tls, ca })
}

fn tls_mode(mode: &str) -> Result<Tls> {
    match mode {
        "off" => Ok(Tls::Off),
        "preferred" => Ok(Tls::Preferred),
        "required" => Ok(Tls::Required),
        "verified" => Ok(Tls::Verified),
        _ => Err(wrong("tls is off, preferred, required or verified")),
    }
}

fn host(text: &str) -> Result<Host> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(wrong("a host is a name or an address (IPv6 in brackets), several with commas between"));
    }
    let port = match port {
        None => MARIADB_PORT,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("a port is a number from 1 to 65535"))?,
    };
    Ok(Host { name: name.to_owned(), port })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') { write!(f, "[{}]:{}", self.name, self.port) } else { write!(f, "{}:{}", self.name, self.port) }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Sqlite { path } => write!(f, "sqlite://{}", path.display()),
            Place::MariaDb { user, hosts, database, socket, tls, ca } => {
                write!(f, "mysql://{user}@")?;
                for (i, host) in hosts.iter().enumerate() {
                    write!(f, "{}{host}", if i == 0 { "" } else { "," })?;
                }
                write!(f, "/{database}")?;
                let mut sign = '?';
                if let Some(socket) = socket {
                    write!(f, "{sign}socket={}", socket.display())?;
                    sign = '&';
                }
                match tls {
                    Tls::Preferred => {}
                    Tls::Off => write!(f, "{sign}tls=off")?,
                    Tls::Required => write!(f, "{sign}tls=required")?,
                    Tls::Verified => write!(f, "{sign}tls=verified")?,
                }
                ca.as_ref().map_or(Ok(()), |ca| write!(f, "&ca={}", ca.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print() {
        for text in [
            "sqlite://catalog.db",
            "sqlite:///var/lib/x y/catalog.db",
            "mysql://mk@db1:3306/catalog",
            "mysql://mk@db1:3306,db2:3307,[::1]:3308/catalog?socket=/run/m.sock&tls=required",
            "mysql://mk@db1:3306/catalog?tls=verified&ca=/etc/x y/ca.pem",
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        assert_eq!("mysql://mk@db1/c".parse::<StoreUrl>().unwrap().to_string(), "mysql://mk@db1:3306/c");
    }

    #[test]
    fn each_wrong_address_has_its_own_text_and_no_password_is_repeated() {
        let mut texts = std::collections::BTreeSet::new();
        let wrong = [
            "postgres://x",
            "sqlite://",
            "sqlite://:memory:",
            "mysql://mk@db",
            "mysql://db/c",
            "mysql://mk:hunter2@db/c",
            "mysql://m k@db/c",
            "mysql://mk@db/",
            "mysql://mk@/c",
            "mysql://mk@db:0/c",
            "mysql://mk@db/c?x=1",
            "mysql://mk@db/c?password=hunter2",
            "mysql://mk@db/c?tls=maybe",
            "mysql://mk@db/c?tls=required&ca=/x",
            "mysql://mk@a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a/c",
        ];
        for text in wrong {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(texts.insert(error.message().to_owned()), "{text}: {error}");
        }
    }
}
