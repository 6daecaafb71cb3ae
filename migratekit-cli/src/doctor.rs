//! The check of this host: what MigrateKit needs, whether it is here, and how to mend what is not.
//!
//! Each [`Check`] ends as `ok`, `warning` (something optional is missing; what then does not work is said) or `failed` (ordinary
//! work will fail). Nothing is changed on the host; a file written to try a folder is removed again.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use migratekit_core::units::{ByteSize, GIB, KIB, MIB};
use migratekit_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::tool::{Tool, last_line, path_of};

/// The port of NBD.
const NBD_PORT: u16 = 10809;
/// A clock before this moment (2026-01-01, seconds since 1970) is wrong: this program is younger.
const YOUNGEST: Duration = Duration::from_secs(1_767_225_600);
/// Free bytes a folder should have.
const ROOM: u64 = 2 * GIB;
/// Memory that should be free, in bytes: one copy, one server, and the system's air.
const MEMORY: u64 = 256 * MIB;
/// Open files a server with many connections wants.
const OPEN_FILES: u64 = 1024;

/// Tools, the argument that prints their version, their package, and what they are for.
const TOOLS: [(&str, &str, &str, &str); 7] = [
    ("qemu-nbd", "--version", "qemu-utils", "copying from qcow2, vmdk, vhdx and vdi images"),
    ("qemu-img", "--version", "qemu-utils", "looking into image files"),
    ("mkfs.ext4", "-V", "e2fsprogs", "the demo's file system"),
    ("debugfs", "-V", "e2fsprogs", "the demo's changes, and its proof by another tool"),
    ("e2fsck", "-V", "e2fsprogs", "the demo's check of the replica"),
    ("cp", "--version", "coreutils", "the demo's copy of a disk of yours"),
    ("cmp", "--version", "diffutils", "the demo's comparison of disks without a file system"),
];

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something optional is missing.
    Warning,
    /// Ordinary work will fail.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What: `tool qemu-nbd`, `temporary folder`.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it; none when it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The worst of the checks.
    pub status: Status,
    /// The checks, in a fixed order.
    pub checks: Vec<Check>,
}

/// Looks at this host. Blocks for as long as the tools take to print their versions.
#[must_use]
pub fn examine() -> Report {
    let mut checks: Vec<Check> = TOOLS.iter().map(|(name, version, package, purpose)| tool(name, version, package, purpose)).collect();
    checks.push(room("temporary folder", Status::Failed, &std::env::temp_dir(), "set TMPDIR to a folder with more room"));
    checks.push(room(
        "state folder",
        Status::Warning,
        &state_folder(),
        "needed for ledgers of block devices: make room there, or set XDG_STATE_HOME",
    ));
    checks.extend([loopback(), nbd_port(), devices(), clock(), processors(), memory(), open_files()]);
    Report::of(checks)
}

impl Report {
    /// The report of these checks.
    #[must_use]
    pub fn of(checks: Vec<Check>) -> Self {
        let status = checks.iter().map(|c| c.status).max().unwrap_or(Status::Ok);
        Report { status, checks }
    }

    /// An error of kind [`ErrorKind::Unsupported`] that names the failed checks, if there is one.
    pub fn verdict(&self) -> Result<()> {
        let failed: Vec<&str> = self.checks.iter().filter(|c| c.status == Status::Failed).map(|c| c.name.as_str()).collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "work on this host", "it is not fit yet; mend what is marked failed")
            .with("failed", failed.join(", ")))
    }

    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let width = self.checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for check in &self.checks {
            let status = match check.status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Failed => "FAILED",
            };
            lines.push(format!("{status:<8} {:<width$}  {}", check.name, check.found));
            if let Some(mend) = &check.mend {
                lines.push(format!("{:<8} {:<width$}  -> {mend}", "", ""));
            }
        }
        lines.join("\n")
    }
}

fn check(name: &str, status: Status, found: impl Into<String>, mend: &str) -> Check {
    let mend = (status != Status::Ok).then(|| mend.to_owned());
    Check { name: name.to_owned(), status, found: found.into(), mend }
}

fn tool(name: &str, version: &str, package: &str, purpose: &str) -> Check {
    let title = format!("tool {name}");
    let mend = format!("needed for {purpose}: apt-get install {package}");
    match Tool::find(name, package).and_then(|tool| tool.run(Path::new("/"), [version])) {
        Ok(said) => {
            // The tools of e2fsprogs print their version on stderr.
            let text = if said.stdout.is_empty() { said.stderr } else { said.stdout };
            let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned();
            if line.is_empty() {
                check(&title, Status::Warning, "it does not tell its version", &mend)
            } else {
                check(&title, Status::Ok, line, &mend)
            }
        }
        Err(error) if error.kind() == ErrorKind::MissingTool => check(&title, Status::Warning, "not installed", &mend),
        Err(error) => check(&title, Status::Warning, error.to_string(), &mend),
    }
}

/// Where ledgers of devices are kept: `$XDG_STATE_HOME/migratekit`, by default below the home folder.
fn state_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(|| PathBuf::from("/var/lib")).join("migratekit")
}

/// A folder (or the nearest one above it that exists) can be written, else the check ends as `otherwise`; and it has room.
fn room(name: &str, otherwise: Status, folder: &Path, mend: &str) -> Check {
    let existing = folder.ancestors().find(|f| f.is_dir()).unwrap_or(Path::new("/"));
    let trial = existing.join(format!(".migratekit-doctor-{}", std::process::id()));
    if let Err(error) = fs::write(&trial, b"trial").and_then(|()| fs::remove_file(&trial)) {
        return check(name, otherwise, format!("{} cannot be written: {error}", existing.display()), mend);
    }
    match free(existing) {
        Some(bytes) if bytes < ROOM => check(name, Status::Warning, format!("{}: only {} free", folder.display(), ByteSize(bytes)), mend),
        Some(bytes) => check(name, Status::Ok, format!("{}: {} free", folder.display(), ByteSize(bytes)), mend),
        None => check(name, Status::Warning, format!("{}: `df` does not tell the free space", folder.display()), mend),
    }
}

/// Free bytes, as `df` tells them to the user who runs it.
fn free(folder: &Path) -> Option<u64> {
    let df = Tool::find("df", "coreutils").ok()?;
    let said = df.succeed(Path::new("/"), ["-P".as_ref(), "-k".as_ref(), folder.as_os_str()]).ok()?;
    last_line(&said.stdout)?.split_whitespace().nth(3)?.parse::<u64>().ok()?.checked_mul(KIB)
}

fn loopback() -> Check {
    match TcpListener::bind("127.0.0.1:0") {
        Ok(_) => check("loopback", Status::Ok, "ports of 127.0.0.1 can be listened on", ""),
        Err(error) => check("loopback", Status::Failed, format!("127.0.0.1: {error}"), "bring it up: ip link set lo up"),
    }
}

fn nbd_port() -> Check {
    let mend = "another server has it: stop that, or give `nbd serve --listen` another port";
    match TcpListener::bind(("127.0.0.1", NBD_PORT)) {
        Ok(_) => check("NBD port", Status::Ok, format!("{NBD_PORT} is free"), mend),
        Err(error) => check("NBD port", Status::Warning, format!("{NBD_PORT}: {error}"), mend),
    }
}

/// Block devices, and whether this user may write them.
fn devices() -> Check {
    let Ok(entries) = fs::read_dir("/sys/block") else {
        return check("block devices", Status::Warning, "/sys/block cannot be read", "files work; for devices, mount sysfs on /sys");
    };
    let names: Vec<String> =
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|name| !name.starts_with("ram")).collect();
    let writable =
        names.iter().filter(|name| fs::OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(name)).is_ok()).count();
    let found = format!("{} known, {writable} of them open for writing to this user", names.len());
    let status = if !names.is_empty() && writable == 0 { Status::Warning } else { Status::Ok };
    check("block devices", status, found, "files work; for devices run as root, or as a member of their group (disk)")
}

fn clock() -> Check {
    let mend = "set the clock, and keep it right: apt-get install systemd-timesyncd or chrony";
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since < YOUNGEST {
        return check("clock", Status::Failed, format!("{} seconds since 1970 is before this program was made", since.as_secs()), mend);
    }
    let synchronised = path_of("timedatectl")
        .and_then(|_| Tool::find("timedatectl", "systemd").ok())
        .and_then(|t| t.succeed(Path::new("/"), ["show", "--property=NTPSynchronized", "--value"]).ok())
        .and_then(|said| last_line(&said.stdout));
    match synchronised.as_deref() {
        Some("no") => check("clock", Status::Warning, "plausible, but not synchronised", mend),
        Some(_) => check("clock", Status::Ok, "synchronised", mend),
        None => check("clock", Status::Ok, "plausible", mend),
    }
}

fn processors() -> Check {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    check("processors", Status::Ok, count.to_string(), "")
}

fn memory() -> Check {
    let mend = "end other programs, or give this host more memory";
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib.saturating_mul(KIB))
    };
    let (Some(total), Some(free)) = (value("MemTotal:"), value("MemAvailable:")) else {
        return check("memory", Status::Warning, "/proc/meminfo cannot be read", "mount procfs on /proc");
    };
    let status = if free < MEMORY { Status::Warning } else { Status::Ok };
    check("memory", status, format!("{} of {} available", ByteSize(free), ByteSize(total)), mend)
}

fn open_files() -> Check {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    let mend = "raise it: ulimit -n 4096, or LimitNOFILE= in the unit";
    match soft {
        Some(text) => {
            let status = if text.parse::<u64>().is_ok_and(|n| n < OPEN_FILES) { Status::Warning } else { Status::Ok };
            check("open files", status, format!("at most {text}"), mend)
        }
        None => check("open files", Status::Warning, "/proc/self/limits cannot be read", "mount procfs on /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ok_says_how_to_mend_it() {
        let report = examine();
        assert!(report.checks.len() >= 14);
        for check in &report.checks {
            assert_eq!(check.mend.is_none(), check.status == Status::Ok, "{check:?}");
            assert!(!check.found.is_empty() && report.table().contains(&check.name), "{check:?}");
            assert!(check.mend.as_ref().is_none_or(|mend| !mend.is_empty()), "{check:?}");
        }
        assert_eq!(report.status, report.checks.iter().map(|c| c.status).max().unwrap());
    }

    #[test]
    fn a_missing_tool_is_a_warning_that_names_its_package() {
        let check = tool("no-such-program-here", "--version", "its-package", "this test");
        assert_eq!(check.status, Status::Warning);
        assert!(check.mend.unwrap().contains("apt-get install its-package"));
    }

    #[test]
    fn a_failed_check_fails_the_verdict_and_a_warning_does_not() {
        let mut report = Report { status: Status::Warning, checks: vec![check("one", Status::Warning, "x", "do this")] };
        assert!(report.verdict().is_ok());
        report.checks.push(check("two", Status::Failed, "x", "do that"));
        let error = report.verdict().unwrap_err();
        assert_eq!((error.kind(), error.context_value("failed")), (ErrorKind::Unsupported, Some("two")));
        assert!(report.table().contains("FAILED") && report.table().contains("-> do that"));
    }

    #[test]
    fn a_folder_that_cannot_be_written_fails() {
        assert_eq!(room("x", Status::Failed, Path::new("/proc/1"), "choose another").status, Status::Failed);
    }
}
