//! Disk images (qcow2, vmdk, vhdx, vdi) as disks to read, through a supervised `qemu-nbd`.
//!
//! QEMU knows these formats better than we ever will; what we add is care:
//!
//! - The **format is found by us**, from the first bytes, and told to QEMU. A raw disk is never probed: whoever owns the guest writes
//!   its first sector, and could make it look like an image that names a file of the host.
//! - An image that **names other files** (a backing file, an external data file, the extents of a vmdk descriptor) is refused unless
//!   the caller allows it.
//! - A **truncated or damaged image** is refused before the first byte is read. QEMU itself reads zeros where a cluster lies
//!   beyond the end of the file.
//! - The server listens on a Unix socket in a folder of mode 0700 and **ends with us**: by SIGTERM when the disk is dropped, and
//!   when our process dies, however it dies, because a pipe that it holds is closed then. The folder is removed by then, or by the
//!   next who opens an image.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::private_folder::PrivateFolder;
use crate::block::{BlockInfo, BlockRead, BoxFuture, Extent};
use crate::clock;
use crate::credentials::KEY_VARIABLE;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::client::{Client, ConnectOptions, Reconnect};
use crate::nbd::uri::Uri;
use crate::task::{self, Scope};
use crate::units::ByteRange;

const OPERATION: &str = "open the disk image";
/// What installs QEMU's tools.
const INSTALL: &str = "apt-get install qemu-utils";
/// How long `qemu-nbd` may take until it serves.
const START_TIME: Duration = Duration::from_secs(20);
/// How long one of QEMU's tools may take over the metadata of an image.
const LOOK_TIME: Duration = Duration::from_secs(300);
/// How long it may take to end.
const END_TIME: Duration = Duration::from_secs(10);
/// How often a starting server is tried.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// Connections to the server.
const CONNECTIONS: usize = 2;
/// The name of its socket, in a folder of our own.
const SOCKET: &str = "socket";
/// What is kept of the tool's messages, in bytes.
const MESSAGE: usize = 4096;

/// Runs "$@" and ends it when standard input closes, that is: when we end it, or die.
const WATCHDOG: &str = r#"exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{ cat <&3 >/dev/null 2>&1; kill "$child"; sleep 5; kill -9 "$child"; } >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$child"; code=$?
kill "$watch" 2>/dev/null
exit "$code""#;

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageFormat {
    /// QEMU's qcow2.
    Qcow2,
    /// VMware's vmdk in one file: sparse or streamOptimized.
    Vmdk,
    /// VMware's vmdk as a text that names the files that hold the data.
    VmdkDescriptor,
    /// Hyper-V's vhdx.
    Vhdx,
    /// VirtualBox's vdi.
    Vdi,
}

impl ImageFormat {
    /// The format of a file, from its first bytes; `None` when it is none of these, so a raw disk.
    ///
    /// # Errors
    /// Of opening and reading the file.
    pub fn detect(path: &Path) -> Result<Option<Self>> {
        let name = |e| Error::from_io(OPERATION, e).with("path", path.display());
        let file = File::open(path).map_err(name)?;
        let mut head = Vec::new();
        file.take(512).read_to_end(&mut head).map_err(name)?;
        Ok(Self::of(&head))
    }

    fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"QFI\xfb") {
            Some(ImageFormat::Qcow2)
        } else if head.starts_with(b"KDMV") || head.starts_with(b"COWD") {
            Some(ImageFormat::Vmdk)
        } else if head.starts_with(b"# Disk DescriptorFile") {
            Some(ImageFormat::VmdkDescriptor)
        } else if head.starts_with(b"vhdxfile") {
            Some(ImageFormat::Vhdx)
        } else if head.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]) {
            Some(ImageFormat::Vdi)
        } else {
            None
        }
    }

    /// QEMU's name for it.
    fn for_qemu(self) -> &'static str {
        match self {
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vmdk | ImageFormat::VmdkDescriptor => "vmdk",
            ImageFormat::Vhdx => "vhdx",
            ImageFormat::Vdi => "vdi",
        }
    }
}

/// How an image is opened.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// Allows the image to name other files: a backing file, a data file, the extents of a vmdk. Only for images one trusts.
    pub allow_other_files: bool,
}

/// A disk image, read-only. The head of its source file says what is refused, and why.
pub struct ImageDisk {
    info: BlockInfo,
    client: Client,
    server: Server,
}

impl ImageDisk {
    /// Opens an image.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTool`] without QEMU's tools; [`ErrorKind::InvalidInput`] for a file of no known format;
    /// [`ErrorKind::Denied`] for one that names other files; [`ErrorKind::Io`] for a damaged or truncated one.
    pub async fn open(path: &Path, options: &ImageOptions) -> Result<Self> {
        Self::start(path, options).await.map_err(|e| e.with("path", path.display()))
    }

    async fn start(path: &Path, options: &ImageOptions) -> Result<Self> {
        let given = path.to_owned();
        // An absolute path is never taken for a protocol name by QEMU.
        let (path, format) = task::blocking(move || {
            let path = given.canonicalize().map_err(|e| Error::from_io(OPERATION, e))?;
            ImageFormat::detect(&path).map(|format| (path, format))
        })
        .await??;
        let format = format.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "the file is no qcow2, vmdk, vhdx or vdi image (a raw disk is copied as a file)")
        })?;
        look(&path, format, options).await?;
        let folder = task::blocking(|| PrivateFolder::make(&std::env::temp_dir())).await??;
        let mut server = Server::start(&path, format, folder)?;
        let client = server.connect().await?;
        let info = BlockInfo { name: path.display().to_string(), ..client.info().clone() };
        Ok(ImageDisk { info, client, server })
    }

    /// An error of reading, in words of the image. `qemu-nbd` hangs up where it cannot read a place it began to send.
    fn fault(&self, e: Error) -> Error {
        if e.kind() != ErrorKind::Unreachable {
            return e.with("image", &self.info.name);
        }
        let offset = e.context_value("offset").unwrap_or("unknown").to_owned();
        Error::new(ErrorKind::Io, "read the disk image", "qemu-nbd gave up: it was ended, or the image is damaged here")
            .with("image", &self.info.name)
            .with("offset", offset)
            .with_source(e)
    }

    /// Ends the server and waits for its end.
    pub async fn close(self) -> Result<()> {
        self.client.close().await?;
        self.server.end().await
    }
}

impl BlockRead for ImageDisk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move { self.client.read(range).await.map_err(|e| self.fault(e)) })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { self.client.extents(range).await.map_err(|e| self.fault(e)) })
    }
}

/// What `qemu-img info` and `qemu-img check` tell, as far as we need it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Look {
    backing_filename: Option<String>,
    format_specific: Option<serde_json::Value>,
    image_end_offset: Option<u64>,
    cluster_size: Option<u64>,
    corruptions: u64,
    check_errors: u64,
}

/// Looks at an image before it is opened: other files, damage, truncation.
async fn look(path: &Path, format: ImageFormat, options: &ImageOptions) -> Result<()> {
    let damaged = |message: &'static str, says: String| Err(Error::new(ErrorKind::Io, OPERATION, message).with("qemu-says", says));
    if format == ImageFormat::VmdkDescriptor && !options.allow_other_files {
        return Err(refuse("the vmdk is a text that names other files, which is not allowed here"));
    }
    let (code, info, says) = qemu_img("info", path, format).await?;
    if code != Some(0) {
        return damaged("its metadata cannot be read: it is damaged or cut off", says);
    }
    if !options.allow_other_files {
        if info.backing_filename.is_some() {
            return Err(refuse("the image names a backing file, which is not allowed here"));
        }
        if info.format_specific.as_ref().and_then(|f| f.pointer("/data/data-file")).is_some() {
            return Err(refuse("the image names an external data file, which is not allowed here"));
        }
    }
    let (code, check, says) = qemu_img("check", path, format).await?;
    match code {
        // 3: clusters are leaked, which wastes space and hurts nothing. 63: the format has no check.
        Some(0 | 3 | 63) => {}
        Some(2) => return damaged("its check finds errors: it is damaged or cut off", says),
        _ => return damaged("its check fails: it is damaged or cut off", says),
    }
    if check.corruptions > 0 || check.check_errors > 0 {
        return damaged("its check finds corrupt places", says);
    }
    let file = path.to_owned();
    let length = task::blocking(move || std::fs::metadata(file)).await?.map_err(|e| Error::from_io(OPERATION, e))?.len();
    // The last cluster of a whole image may be incomplete where it holds tables, so the end is rounded up; data is looked at exactly.
    let cluster = info.cluster_size.unwrap_or(1).max(1);
    let mut needed = check.image_end_offset.filter(|end| *end > length.div_ceil(cluster).saturating_mul(cluster));
    if !options.allow_other_files {
        needed = needed.max(data_end(path, format).await?.filter(|end| *end > length));
    }
    match needed {
        Some(end) => Err(Error::new(ErrorKind::Io, OPERATION, "the file is cut off: its data reaches beyond its end")
            .with("length", length)
            .with("needed", end)),
        None => Ok(()),
    }
}

/// One line of `qemu-img map`.
#[derive(Deserialize)]
struct Mapped {
    length: u64,
    data: bool,
    offset: Option<u64>,
}

/// Where in the file the last byte of uncompressed data ends. (Reading compressed data that is cut off fails.)
async fn data_end(path: &Path, format: ImageFormat) -> Result<Option<u64>> {
    let mut command = program("qemu-img");
    command.args(["map", "-U", "-f", format.for_qemu(), "--output=json"]).arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| missing("qemu-img", e))?;
    let work = async {
        let mut end = None;
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout).lines();
            while let Some(line) = lines.next_line().await? {
                // An array with an object on each line; read line by line, because it can be long.
                let object = line.trim_start_matches('[').trim_end_matches([',', ']']);
                if let Ok(Mapped { length, data: true, offset: Some(offset) }) = serde_json::from_str(object) {
                    end = end.max(Some(offset.saturating_add(length)));
                }
            }
        }
        child.wait().await.map(|status| (status, end))
    };
    let (status, end) = tokio::time::timeout(LOOK_TIME, work)
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, OPERATION, "mapping its data takes too long"))?
        .map_err(|e| Error::from_io(OPERATION, e).with("tool", "qemu-img"))?;
    if !status.success() {
        return Err(Error::new(ErrorKind::Io, OPERATION, "its data cannot be mapped: it is damaged or cut off"));
    }
    Ok(end)
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorKind::Denied, OPERATION, message)
}

fn missing(tool: &'static str, e: std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::NotFound {
        Error::new(ErrorKind::MissingTool, OPERATION, "a tool of QEMU is not installed").with("tool", tool).with("install", INSTALL)
    } else {
        Error::from_io(OPERATION, e).with("tool", tool)
    }
}

/// A program that does not get to know our key.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env_remove(KEY_VARIABLE);
    command
}

async fn qemu_img(verb: &str, path: &Path, format: ImageFormat) -> Result<(Option<i32>, Look, String)> {
    let mut command = program("qemu-img");
    command.args([verb, "-U", "-f", format.for_qemu(), "--output=json"]).arg(path).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LOOK_TIME, command.output()).await;
    let output = output
        .map_err(|_| Error::new(ErrorKind::Timeout, OPERATION, "looking at its metadata takes too long").with("verb", verb))?
        .map_err(|e| missing("qemu-img", e))?;
    let says = text(&output.stderr);
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), says))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..MESSAGE).unwrap_or(bytes)).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A running `qemu-nbd`, its watchdog, its folder.
struct Server {
    /// The shell that watches; it ends when `qemu-nbd` does.
    child: Child,
    /// Closing it ends the server.
    leash: Option<ChildStdin>,
    folder: PrivateFolder,
    messages: Arc<Mutex<Vec<u8>>>,
    _reader: Scope,
}

impl Server {
    fn start(path: &Path, format: ImageFormat, folder: PrivateFolder) -> Result<Self> {
        let mut command = program("sh");
        command.args(["-c", WATCHDOG, "sh", "qemu-nbd", "--read-only", "--persistent", "--shared=16", "--format", format.for_qemu()]);
        command.arg("--socket").arg(folder.path().join(SOCKET)).arg(path);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| missing("sh", e))?;
        let leash = child.stdin.take();
        let messages: Arc<Mutex<Vec<u8>>> = Arc::default();
        let mut reader = Scope::new();
        if let Some(mut stderr) = child.stderr.take() {
            let messages = Arc::clone(&messages);
            reader.spawn(async move {
                let mut space = [0; 1024];
                while let Ok(n) = stderr.read(&mut space).await {
                    if n == 0 {
                        return;
                    }
                    let mut kept = messages.lock().unwrap_or_else(PoisonError::into_inner);
                    let n = n.min(MESSAGE.saturating_sub(kept.len()));
                    kept.extend_from_slice(space.get(..n).unwrap_or(&[]));
                }
            });
        }
        Ok(Server { child, leash, folder, messages, _reader: reader })
    }

    /// Connects as soon as the server listens.
    async fn connect(&mut self) -> Result<Client> {
        let options = ConnectOptions {
            connections: CONNECTIONS,
            read_only: true,
            reconnect: Reconnect::never(),
            ..ConnectOptions::new(Uri::unix(self.folder.path().join(SOCKET), ""))
        };
        let end = clock::now() + START_TIME;
        loop {
            let last = match Client::connect(options.clone()).await {
                Ok(client) => return Ok(client),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unreachable) => e,
                Err(e) => return Err(e),
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.ended(status.code()));
            }
            if clock::now() > end {
                return Err(Error::new(ErrorKind::Timeout, OPERATION, "qemu-nbd does not serve it within the deadline").with_source(last));
            }
            clock::sleep(TRY_EVERY).await;
        }
    }

    fn ended(&self, code: Option<i32>) -> Error {
        if code == Some(127) {
            return missing("qemu-nbd", std::io::ErrorKind::NotFound.into());
        }
        let says = text(&self.messages.lock().unwrap_or_else(PoisonError::into_inner));
        Error::new(ErrorKind::Io, OPERATION, "qemu-nbd cannot open it").with("qemu-says", says)
    }

    async fn end(mut self) -> Result<()> {
        drop(self.leash.take());
        tokio::time::timeout(END_TIME, self.child.wait())
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, "close the disk image", "qemu-nbd does not end within the deadline"))?
            .map(|_| ())
            .map_err(|e| Error::from_io("close the disk image", e))
    }
}
