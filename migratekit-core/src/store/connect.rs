//! Connections, each set up so that nothing depends on the server's defaults.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::failure;
use super::session::Session;
use super::url::{Host, Place, Tls};
use crate::clock;
use crate::credentials::SecretString;
use crate::error::{Error, ErrorKind, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

/// How long SQLite waits for another process that writes, before the transaction is run again.
const BUSY_TIME: Duration = Duration::from_secs(5);
/// How often a SQLite file that is locked is opened again.
const OPEN_TRIES: u32 = 100;
/// The pause between.
const OPEN_PAUSE: Duration = Duration::from_millis(50);
/// How long one host may take to answer, before the next is tried.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The oldest MariaDB that has all that is used: 10.6.
const OLDEST: (u32, u32) = (10, 6);
/// Statements each connection keeps prepared: more than there are in the program.
const PREPARED: usize = 500;

/// Makes connections to one catalog.
#[derive(Debug)]
pub(super) enum Connector {
    Sqlite { options: Box<SqliteConnectOptions> },
    MariaDb { hosts: Vec<(Host, MySqlConnectOptions)>, preferred: AtomicUsize },
}

impl Connector {
    /// `authority`: the certificates of the file that [`authority`] read.
    pub(super) fn new(place: &Place, password: Option<&SecretString>, authority: Option<&[u8]>) -> Self {
        match place {
            Place::Sqlite { path } => Connector::Sqlite { options: Box::new(sqlite(path)) },
            Place::MariaDb { user, hosts, database, socket, tls, ca: _ } => {
                let options = |host: &Host| {
                    let mut options = MySqlConnectOptions::new()
                        .host(&host.name)
                        .port(host.port)
                        .username(user)
                        .database(database)
                        .charset("utf8mb4")
                        .collation("utf8mb4_bin")
                        .statement_cache_capacity(PREPARED)
                        .ssl_mode(match tls {
                            Tls::Off => MySqlSslMode::Disabled,
                            Tls::Preferred => MySqlSslMode::Preferred,
                            Tls::Required => MySqlSslMode::Required,
                            Tls::Verified => MySqlSslMode::VerifyIdentity,
                        })
                        .disable_statement_logging();
                    if let Some(password) = password {
                        options = options.password(password.expose());
                    }
                    if let Some(authority) = authority {
                        options = options.ssl_ca_from_pem(authority.to_vec());
                    }
                    match socket {
                        Some(socket) => options.socket(socket),
                        None => options,
                    }
                };
                let hosts = hosts.iter().map(|host| (host.clone(), options(host))).collect();
                Connector::MariaDb { hosts, preferred: AtomicUsize::new(0) }
            }
        }
    }

    /// A connection for writing; for MariaDB every connection is one.
    pub(super) async fn connect(&self, operation: &'static str) -> Result<Session> {
        match self {
            Connector::Sqlite { options } => {
                let mut tries = 0;
                loop {
                    tries += 1;
                    match options.connect().await.map_err(|e| failure::of(operation, "", e)) {
                        Ok(connection) => return Ok(Session::Sqlite(Box::new(connection))),
                        // Another process is just turning the file into a WAL one, for which SQLite does not wait.
                        Err((failure::Cause::Conflict, _)) if tries < OPEN_TRIES => clock::sleep(OPEN_PAUSE).await,
                        Err((_, error)) => return Err(error),
                    }
                }
            }
            Connector::MariaDb { hosts, preferred } => any_host(operation, hosts, preferred).await,
        }
    }

    /// A connection that the database does not let write.
    pub(super) async fn connect_reading(&self, operation: &'static str) -> Result<Session> {
        let mut session = self.connect(operation).await?;
        if let Session::Sqlite(_) = session {
            session.plain("PRAGMA query_only = ON").await.map_err(|e| failure::of(operation, "", e).1)?;
        }
        Ok(session)
    }

    /// The host just used is not fit: the next one is tried first from now on.
    pub(super) fn next_host(&self) {
        if let Connector::MariaDb { hosts, preferred } = self {
            let _ = preferred.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some((now + 1) % hosts.len().max(1)));
        }
    }
}

fn sqlite(path: &Path) -> SqliteConnectOptions {
    // FULL: a committed point or intent must outlive a power cut, since bytes outside the catalog depend on it.
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIME)
        .statement_cache_capacity(PREPARED)
        .disable_statement_logging()
}

/// The first host that answers and is fit, beginning with the one that was fit last.
async fn any_host(operation: &'static str, hosts: &[(Host, MySqlConnectOptions)], preferred: &AtomicUsize) -> Result<Session> {
    let first = preferred.load(Ordering::Relaxed);
    let mut failed = None;
    for i in 0..hosts.len() {
        let at = (first + i) % hosts.len();
        let Some((host, options)) = hosts.get(at) else { continue };
        match one_host(operation, options).await {
            Ok(session) => {
                preferred.store(at, Ordering::Relaxed);
                return Ok(session);
            }
            Err(error) => failed = Some(error.with("host", host)),
        }
    }
    Err(failed.unwrap_or_else(|| Error::new(ErrorKind::InvalidInput, operation, "no host is named")))
}

async fn one_host(operation: &'static str, options: &MySqlConnectOptions) -> Result<Session> {
    let connecting = async {
        let mut connection = options.connect().await?;
        let fit = set_up(operation, &mut connection).await?;
        sqlx::Result::Ok(fit.map(|()| connection))
    };
    match tokio::time::timeout(CONNECT_TIME, connecting).await {
        Ok(Ok(connection)) => connection.map(|connection| Session::MariaDb(Box::new(connection))),
        Ok(Err(sqlx::Error::Io(source))) => Err(not_trusted(operation, &source).unwrap_or_else(|| Error::from_io(operation, source))),
        // The driver has no other word for it.
        Ok(Err(error @ sqlx::Error::Tls(_))) if error.to_string().contains("does not support TLS") => {
            let text = "the server offers no encryption, and the catalog's address demands it";
            Err(Error::new(ErrorKind::Denied, operation, text).with_source(error))
        }
        Ok(Err(error)) => Err(failure::of(operation, "", error).1),
        Err(_) => Err(Error::new(ErrorKind::Unreachable, operation, "the database did not answer within 5 seconds")),
    }
}

/// Why a server's certificate was refused. It may be another server, or one in the way: it was told nothing, and is not asked again.
fn not_trusted(operation: &'static str, source: &std::io::Error) -> Option<Error> {
    use rustls::CertificateError as C;
    let refused = source.get_ref()?.downcast_ref::<rustls::Error>()?;
    let message = match refused {
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "nobody who is trusted here signed the server's certificate; name the file of its authority (ca=PATH)"
        }
        rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the server's certificate bears another name than the host in the catalog's address"
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => "the server's certificate has expired",
        rustls::Error::InvalidCertificate(_) => "the server's certificate is not one that can be trusted",
        _ => "the server and this program found no encryption that both accept",
    };
    Some(Error::new(ErrorKind::Denied, operation, message).with_source(refused.clone()))
}

/// The certificates of the authority that a catalog's address names, read and looked through.
pub(super) fn authority(place: &Place) -> Result<Option<Vec<u8>>> {
    const READ: &str = "read the authority of the database";
    let Place::MariaDb { ca: Some(path), .. } = place else { return Ok(None) };
    let text = std::fs::read(path).map_err(|e| Error::from_io(READ, e).with("path", path.display()))?;
    let wrong = |message: &'static str| Error::new(ErrorKind::InvalidInput, READ, message).with("path", path.display());
    let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Err(source) => Err(wrong("the file is no PEM").with_source(source)),
        Ok(found) if found.is_empty() => Err(wrong("the file holds no certificate")),
        Ok(_) => Ok(Some(text)),
    }
}

/// Checks the server and sets the session's variables. The inner result is what the server is not fit for.
async fn set_up(operation: &'static str, connection: &mut sqlx::MySqlConnection) -> sqlx::Result<Result<()>> {
    let mut known = std::collections::BTreeMap::new();
    let version: String = sqlx::query("SELECT VERSION()").fetch_one(&mut *connection).await?.try_get(0)?;
    if let Err(error) = fit_version(operation, &version) {
        return Ok(Err(error));
    }
    for sql in [
        "SHOW SESSION VARIABLES WHERE Variable_name IN ('innodb_snapshot_isolation', 'wsrep_on')",
        "SHOW GLOBAL STATUS WHERE Variable_name = 'wsrep_ready'",
    ] {
        for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
            known.insert(row.try_get::<String, _>(0)?.to_ascii_lowercase(), row.try_get::<String, _>(1)?);
        }
    }
    let is = |name: &str, value: &str| known.get(name).is_some_and(|known| known.eq_ignore_ascii_case(value));
    let cluster = is("wsrep_on", "ON");
    if cluster && !is("wsrep_ready", "ON") {
        return Ok(Err(Error::new(ErrorKind::Unreachable, operation, "this node is not part of the cluster at present")));
    }
    // A process that stands still in the middle of a transaction (stopped, swapped out) must not keep its locks: after three seconds the
    // server ends it, well before any lease is over.
    let mut settings = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO', \
                        innodb_lock_wait_timeout = 5, idle_write_transaction_timeout = 3, foreign_key_checks = 1, unique_checks = 1, autocommit = 1"
        .to_owned();
    if known.contains_key("innodb_snapshot_isolation") {
        // A row that changed since this transaction read it is an error, and the transaction is run again: no update is lost.
        settings.push_str(", innodb_snapshot_isolation = ON");
    }
    if cluster {
        // Reads, updates and inserts first wait for what the cluster has agreed on, so that a change of node is not seen.
        settings.push_str(", wsrep_sync_wait = 7");
    }
    settings.push_str("; SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ");
    sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut *connection).await?;
    connection.ping().await?;
    Ok(Ok(()))
}

fn fit_version(operation: &'static str, version: &str) -> Result<()> {
    let refused = |message| Err(Error::new(ErrorKind::Unsupported, operation, message).with("version", version));
    if !version.contains("MariaDB") {
        return refused("the server is not MariaDB; the catalog needs MariaDB 10.6 or later, or a SQLite file");
    }
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(()),
        _ => refused("this MariaDB is too old; the catalog needs 10.6 or later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_foreign_servers_are_refused_with_their_own_texts() {
        for fit in ["10.6.0-MariaDB", "10.11.19-MariaDB-0+deb12u1", "5.5.5-10.11.2-MariaDB-log", "11.4.1-MariaDB", "12.0.2-MariaDB"] {
            fit_version("x", fit).unwrap();
        }
        let old = fit_version("x", "10.5.23-MariaDB").unwrap_err();
        let foreign = fit_version("x", "8.0.36").unwrap_err();
        assert_eq!((old.kind(), foreign.kind()), (ErrorKind::Unsupported, ErrorKind::Unsupported));
        assert_ne!(old.message(), foreign.message());
    }
}
