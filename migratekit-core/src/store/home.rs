//! Where a SQLite catalog may lie: in a folder of this host, on a file system of this host, and on the host it belongs to.
//!
//! SQLite's locks hold between the processes of one host. Two hosts that open one file over a network destroy it, so network file systems
//! are refused, and a file that was made on another host is not used before somebody says that it moved.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// What an open does first, for errors.
pub(super) const OPEN: &str = "open the catalog";
/// File systems that several hosts can reach at once, by the number that statfs tells.
const NETWORK: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
];

/// Checks the place, and makes an empty file with mode 0600 where there is none. Blocking. Tells whether the file was new or empty.
pub(super) fn prepare(path: &Path, create: bool) -> Result<bool> {
    let fail = |e| Error::from_io(OPEN, e).with("path", path.display());
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        return Err(
            Error::new(ErrorKind::NotFound, OPEN, "the folder that is to hold the file does not exist").with("path", path.display())
        );
    }
    let kind = rustix::fs::statfs(&folder).map_err(|e| fail(e.into()))?.f_type;
    if let Some(name) = network_file_system(kind.try_into().unwrap_or(0)) {
        let message = "the file lies on a network file system, where two hosts could destroy it; use a local disk, or MariaDB";
        return Err(Error::new(ErrorKind::Unsupported, OPEN, message).with("path", path.display()).with("file_system", name));
    }
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::new(ErrorKind::InvalidInput, OPEN, "it is no plain file").with("path", path.display())),
        Ok(found) => {
            fs::OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
            Ok(found.size() == 0)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && create => {
            fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(fail)?;
            Ok(true)
        }
        Err(e) => Err(fail(e)),
    }
}

fn network_file_system(kind: u64) -> Option<&'static str> {
    NETWORK.iter().find(|(number, _)| *number == kind & 0xffff_ffff).map(|(_, name)| *name)
}

/// What tells this host from others: its machine id, else nothing. Blocking.
pub(super) fn machine() -> Option<String> {
    let text = fs::read_to_string("/etc/machine-id").ok()?;
    let text = text.trim();
    // Only a digest leaves the host: the id itself is meant to stay there.
    (!text.is_empty()).then(|| blake3::hash(format!("migratekit home {text}").as_bytes()).to_hex().chars().take(32).collect())
}

/// The refusal of a file whose home is another host.
pub(super) fn elsewhere(path: &str) -> Error {
    Error::new(ErrorKind::Denied, OPEN, "the file belongs to another host; if it was moved here for good, say so once by adopting it")
        .with("path", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_whatever_the_width_of_the_number() {
        assert_eq!(network_file_system(0x6969), Some("nfs"));
        assert_eq!(network_file_system(0xffff_ffff_ff53_4d42), Some("cifs"));
        assert_eq!(network_file_system(0xef53), None);
    }
}
