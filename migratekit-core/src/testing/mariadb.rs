//! A private MariaDB for tests: its own folder, socket and free port, ended always, also when the test process is killed.
//!
//! Making the system tables takes seconds, so they are made once for each build folder and copied; a server is up in a fraction of a
//! second. It survives `kill -9` of the server (the log reaches the system at each commit), not a power cut.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::peer::{Peer, free_port, program};

/// What every server is started with: small, and without what tests have no use for.
const SETTINGS: &[&str] = &[
    "--no-defaults",
    "--bind-address=127.0.0.1",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-doublewrite=0",
    "--innodb-fast-shutdown=2",
    "--performance-schema=OFF",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--max-connections=300",
];

/// A running server. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct MariaDb {
    peer: Option<Peer>,
    folder: tempfile::TempDir,
    port: u16,
    more: Vec<String>,
}

impl MariaDb {
    /// Starts a server with empty system tables.
    ///
    /// # Panics
    /// When MariaDB is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        MariaDb::start_with(&[])
    }

    /// Starts one with further options.
    ///
    /// # Panics
    /// When MariaDB is not installed or does not start.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn start_with(more: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("migratekit-mariadb-").tempdir().expect("a folder for MariaDB");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open the folder");
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template().join("data")).arg(folder.path().join("data")));
        if is_root() {
            run(Command::new("chown").args(["-R", "mysql:"]).arg(folder.path()));
        }
        let mut server = MariaDb { peer: None, folder, port: free_port(), more: more.iter().map(|&s| s.to_owned()).collect() };
        server.restart();
        server
    }

    /// Starts it again on its own data, after [`MariaDb::stop`] or [`MariaDb::kill`].
    pub fn restart(&mut self) {
        let mut command = as_mysql();
        command.arg(program("mariadbd")).args(SETTINGS);
        command.arg(format!("--datadir={}", self.path("data"))).arg(format!("--socket={}", self.socket()));
        command.arg(format!("--pid-file={}", self.path("pid"))).arg(format!("--port={}", self.port));
        command.arg(format!("--log-error={}", self.path("log"))).args(&self.more);
        let _ = fs::remove_file(self.socket());
        self.peer = Some(Peer::spawn("mariadbd", command).wait_path(Path::new(&self.socket())));
    }

    /// Ends it in order, and waits for that.
    pub fn stop(&mut self) {
        if let Some(peer) = self.peer.take() {
            peer.signal(Signal::TERM);
            let _ = peer.wait();
        }
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(peer) = self.peer.take() {
            peer.kill();
        }
    }

    /// The address of `database` by TCP, as its administrator.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}?tls=off", self.port)
    }

    /// The address by its socket.
    #[must_use]
    pub fn socket_url(&self, database: &str) -> String {
        format!("mysql://root@localhost/{database}?socket={}&tls=off", self.socket())
    }

    /// Its TCP port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL as its administrator, by MariaDB's own client, and gives its output: tabs between columns, no headings.
    ///
    /// # Panics
    /// When the client fails.
    #[allow(clippy::panic)]
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|said| panic!("{sql}: {said}"))
    }

    /// The same, or what the client says against it.
    #[allow(clippy::expect_used)]
    pub(super) fn try_sql(&self, sql: &str) -> Result<String, String> {
        let output = Command::new(program("mariadb"))
            .args([
                "--no-defaults",
                "--skip-column-names",
                "--batch",
                "--user=root",
                &format!("--socket={}", self.socket()),
                "--execute",
                sql,
            ])
            .output()
            .expect("run the mariadb client");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Makes an empty database.
    pub fn create_database(&self, name: &str) {
        self.sql(&format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"));
    }

    /// Its process.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> String {
        self.path("socket")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // Its data are thrown away: an orderly end would only take time.
        self.kill();
    }
}

/// A folder with system tables, made once for each build folder, by whichever test comes first.
#[allow(clippy::expect_used)]
pub(super) fn template() -> PathBuf {
    let build = std::env::current_exe().expect("the path of this test").parent().expect("its folder").to_path_buf();
    let ready = build.join("mariadb-template");
    if ready.join("data").is_dir() {
        return ready;
    }
    let making = tempfile::Builder::new().prefix("mariadb-template-").tempdir().expect("a folder for MariaDB's tables");
    fs::set_permissions(making.path(), fs::Permissions::from_mode(0o777)).expect("open the folder");
    let mut install = Command::new(program("mariadb-install-db"));
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=16M"]);
    install.arg(format!("--datadir={}", making.path().join("data").display()));
    if is_root() {
        install.arg("--user=mysql");
    }
    run(&mut install);
    // Of two that made one at once either is good.
    let placed = build.join(format!("mariadb-template-{}", std::process::id()));
    run(Command::new("mkdir").arg("-p").arg(&placed));
    run(Command::new("cp").arg("-a").arg(making.path().join("data")).arg(&placed));
    if fs::rename(&placed, &ready).is_err() {
        let _ = fs::remove_dir_all(&placed);
    }
    ready
}

/// A command that ends with this process and, when that is root's, runs as user mysql: MariaDB refuses to run as root.
pub(super) fn as_mysql() -> Command {
    let mut command = Command::new(program("setpriv"));
    if is_root() {
        command.args(["--reuid=mysql", "--regid=mysql", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL", "--"]);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[allow(clippy::expect_used, clippy::panic)]
pub(super) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("run a command");
    if !output.status.success() {
        panic!("{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
}
