//! The other process of the demo: an OMA, which receives the disk through the tunnel.
//!
//! It is `migratekit tunnel serve`, started from this very program: it listens on a free port of the loopback, makes its host key, and lets in
//! the one key that this process made and never writes down. It ends when its standard input does, so also when the demo is killed.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use migratekit_core::clock;
use migratekit_core::copy::{Endpoint, TunnelledExport};
use migratekit_core::credentials::KEY_VARIABLE;
use migratekit_core::tunnels::{Client, ClientOptions, Fingerprint, PrivateKey};
use migratekit_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const OPERATION: &str = "start the demo's other process";
/// Until it listens, and until it ended.
const PATIENCE: Duration = Duration::from_secs(20);
/// The export's name.
const EXPORT: &str = "demo";

/// See the [module documentation](self).
pub(super) struct Oma {
    child: Child,
    /// Closing it ends the process.
    leash: Option<ChildStdin>,
    /// What it says: it must not lose who hears it.
    _said: Lines<BufReader<ChildStdout>>,
    tunnel: Client,
    /// Where it listens.
    pub(super) address: String,
    /// The fingerprint of its host key.
    pub(super) fingerprint: Fingerprint,
}

impl Oma {
    /// Starts it in a folder of its own, with an empty disk of `size` bytes.
    pub(super) async fn start(folder: &Path, size: u64) -> Result<Self> {
        let file = |e, path: &Path| Error::from_io(OPERATION, e).with("path", path.display());
        let (disk, keys) = (folder.join("disk.img"), folder.join("authorized_keys"));
        // A folder that an earlier demo kept.
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file(e, folder)),
            _ => std::fs::create_dir_all(folder).map_err(|e| file(e, folder))?,
        }
        std::fs::File::create(&disk).and_then(|new| new.set_len(size)).map_err(|e| file(e, &disk))?;
        let key = PrivateKey::generate()?;
        std::fs::write(&keys, format!("{} demo-vma\n", key.public())).map_err(|e| file(e, &keys))?;

        let program = std::env::current_exe().map_err(|e| Error::from_io(OPERATION, e))?;
        let mut command = Command::new(&program);
        command
            .args(["tunnel", "serve", "--listen", "127.0.0.1:0", "--end-with-stdin", "--quiet", "--host-key"])
            .arg(folder.join("host_key"));
        command.arg("--authorized-keys").arg(&keys).arg("--export").arg(format!("{EXPORT}={}", disk.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).env_remove(KEY_VARIABLE);
        let mut child = command.spawn().map_err(|e| file(e, &program))?;
        let leash = child.stdin.take();
        let said = child.stdout.take().ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "it has no standard output"))?;
        let mut lines = BufReader::new(said).lines();
        let line = clock::within(PATIENCE, lines.next_line()).await.ok_or_else(|| {
            Error::new(ErrorKind::Timeout, OPERATION, "it does not listen within the deadline").with("program", program.display())
        })?;
        let line = line.map_err(|e| Error::from_io(OPERATION, e))?.unwrap_or_default();
        let garbled =
            || Error::new(ErrorKind::Internal, OPERATION, "it does not say where it listens; its error is above").with("said", &line);
        let mut words = line.split_whitespace().skip_while(|word| *word != "on").skip(1);
        let (address, fingerprint) = (words.next().ok_or_else(garbled)?.to_owned(), words.nth(1).ok_or_else(garbled)?);
        let fingerprint: Fingerprint = fingerprint.parse()?;
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).ok_or_else(garbled)?;
        let tunnel = Client::new(ClientOptions::new("127.0.0.1", port, key, fingerprint.clone()));
        Ok(Oma { child, leash, _said: lines, tunnel, address, fingerprint })
    }

    /// The number of its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Its disk, as an end of a copy.
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Tunnel(TunnelledExport::new(self.tunnel.clone(), EXPORT))
    }

    /// Ends it; what it wrote is on the disk.
    pub(super) async fn end(mut self) -> Result<()> {
        drop(self.leash.take());
        let operation = "end the demo's other process";
        let ended = clock::within(PATIENCE, self.child.wait()).await;
        let ended = ended.ok_or_else(|| Error::new(ErrorKind::Timeout, operation, "it does not end within the deadline; it is killed"))?;
        let status = ended.map_err(|e| Error::from_io(operation, e))?;
        if status.success() { Ok(()) } else { Err(Error::new(ErrorKind::Internal, operation, "it failed").with("status", status)) }
    }
}
