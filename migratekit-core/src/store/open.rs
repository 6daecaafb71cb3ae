//! Opening a catalog.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connect::{self, Connector};
use super::home::{self, Identity, OPEN};
use super::pool::{Pool, Turn};
use super::session::Session;
use super::url::Place;
use super::{Backend, StoreUrl, migrate};
use crate::credentials::SecretString;
use crate::error::{Error, ErrorKind, Result};
use crate::task;

/// Connections that read a SQLite file at once.
const SQLITE_READERS: usize = 4;
/// Connections to MariaDB, for reading and writing together.
const MARIADB_CONNECTIONS: usize = 16;
/// How long a transaction is tried while the database cannot be reached: a restart or a change of node takes less.
const PATIENCE: Duration = Duration::from_secs(30);
/// A password file has one line, and not a long one.
const MAX_PASSWORD: u64 = 4096;

/// How a catalog is opened.
#[derive(Clone)]
pub struct StoreOptions {
    password: Option<SecretString>,
    password_file: Option<PathBuf>,
    create: bool,
    migrate: bool,
    pub(super) adopt: bool,
    pub(super) identity: Identity,
    patience: Duration,
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions").field("create", &self.create).field("migrate", &self.migrate).finish_non_exhaustive()
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            password: None,
            password_file: None,
            create: true,
            migrate: true,
            adopt: false,
            identity: Identity::default(),
            patience: PATIENCE,
        }
    }
}

impl StoreOptions {
    /// A file is made where there is none, the schema is brought up to date, no password.
    #[must_use]
    pub fn new() -> Self {
        StoreOptions::default()
    }

    /// The password for MariaDB.
    #[must_use]
    pub fn password(mut self, password: SecretString) -> Self {
        self.password = Some(password);
        self
    }

    /// A file with the password for MariaDB in its first line; only its owner may read it (mode 0600 or less).
    #[must_use]
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password_file = Some(path.into());
        self
    }

    /// Whether a SQLite file is made where there is none (default: yes).
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether an older schema is brought up to date (default: yes). Without, an older schema is left as it is; a newer one is refused always.
    #[must_use]
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Takes over a SQLite file that was moved here from another host for good.
    #[must_use]
    pub fn adopt(mut self, adopt: bool) -> Self {
        self.adopt = adopt;
        self
    }

    /// What tells this host from others, instead of the machine's id: for containers that move with their disk.
    #[must_use]
    pub fn host_identity(mut self, identity: impl Into<String>) -> Self {
        self.identity.machine = Some(identity.into());
        self
    }

    /// What tells this run of the host from others, instead of the kernel's boot id, and how long a runner is watched that may be another
    /// host's (default: 11 s).
    #[must_use]
    pub fn boot_identity(mut self, identity: impl Into<String>, watch: Duration) -> Self {
        self.identity.boot = Some(identity.into());
        self.identity.watch = watch;
        self
    }

    /// How long a transaction is tried while the database cannot be reached (default: 30 s).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// An open catalog. Clones share it; the last one closes it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: StoreUrl,
    connector: Connector,
    writers: Pool,
    /// SQLite has one writer and separate readers; for MariaDB this is unused and `writers` serves both.
    readers: Option<Pool>,
    patience: Duration,
    writes: AtomicU64,
}

impl Store {
    /// Opens the catalog at `url`, checks it, and brings its schema up to date.
    ///
    /// # Errors
    /// Each cause has its own text: a malformed address, a missing folder, a network file system, a file of another program or another
    /// host, a damaged file, a newer schema, a server that is too old, missing rights, an unreachable server.
    pub async fn open(url: &str, options: StoreOptions) -> Result<Store> {
        let url: StoreUrl = url.parse()?;
        let (password, authority) = task::blocking({
            let (options, url) = (options.clone(), url.clone());
            move || Ok::<_, Error>((password(&options)?, connect::authority(&url.0)?))
        })
        .await??;
        let connector = Connector::new(&url.0, password.as_ref(), authority.as_deref());
        let (writers, readers) = match url.backend() {
            Backend::Sqlite => (Pool::new(1), Some(Pool::new(SQLITE_READERS))),
            Backend::MariaDb => (Pool::new(MARIADB_CONNECTIONS), None),
        };
        let store = Store(Arc::new(Inner { url, connector, writers, readers, patience: options.patience, writes: AtomicU64::new(0) }));
        let named = |error: Error| error.with("catalog", &store.0.url);
        if let Place::Sqlite { path } = &store.0.url.0 {
            let (path, create) = (path.clone(), options.create);
            task::blocking(move || home::prepare(&path, create)).await?.map_err(named)?;
        }
        // The first connection tells early, and without patience, whether the database is there at all.
        let (turn, session) = store.session(OPEN, true).await.map_err(named)?;
        store.put_away(turn, Some(session), false);
        migrate::opened(&store, options.migrate).await.map_err(named)?;
        if store.backend() == Backend::Sqlite {
            store.live_here(options).await?;
        }
        Ok(store)
    }

    /// Which database it is.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.0.url.backend()
    }

    /// Where it is; without any secret.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.0.url
    }

    /// Closes all connections; what still runs ends first. Other clones give errors from now on.
    pub async fn close(&self) {
        self.0.writers.close().await;
        if let Some(readers) = &self.0.readers {
            readers.close().await;
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// Counts one more committed transaction.
    pub(super) fn count_write(&self) -> u64 {
        self.0.writes.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn next_host(&self) {
        self.0.connector.next_host();
    }

    /// A connection, with the right to use it.
    pub(super) async fn session(&self, operation: &'static str, write: bool) -> Result<(Turn, Session)> {
        let pool = self.pool(write);
        let turn = pool.turn(operation).await?;
        let session = match pool.idle() {
            Some(session) => session,
            None if write => self.0.connector.connect(operation).await?,
            None => self.0.connector.connect_reading(operation).await?,
        };
        Ok((turn.of(write), session))
    }

    /// Ends the use of a connection; see `transaction.rs`.
    pub(super) fn put_away(&self, turn: Turn, session: Option<Session>, lost: bool) {
        let pool = self.pool(turn.writes());
        if lost {
            drop(pool.forget());
        } else if let Some(session) = session {
            pool.give(session);
        }
        drop(turn);
    }

    fn pool(&self, write: bool) -> &Pool {
        match &self.0.readers {
            Some(readers) if !write => readers,
            _ => &self.0.writers,
        }
    }
}

fn password(options: &StoreOptions) -> Result<Option<SecretString>> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    const READ: &str = "read the catalog's password";
    let Some(path) = &options.password_file else { return Ok(options.password.clone()) };
    let fail = |e| Error::from_io(READ, e).with("path", path.display());
    let file = std::fs::File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.permissions().mode() & 0o077 != 0 {
        let message = "others may read the file; give it mode 0600";
        return Err(Error::new(ErrorKind::Denied, READ, message).with("path", path.display()));
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(MAX_PASSWORD).read_to_string(&mut text).map_err(fail)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Some(SecretString::new(line.to_owned()))),
        _ => Err(Error::new(ErrorKind::InvalidInput, READ, "the first line of the file is empty").with("path", path.display())),
    }
}
