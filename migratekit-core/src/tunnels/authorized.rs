//! A file of keys that may come in, as OpenSSH has it: one key in a line, `ssh-ed25519 AAAA... NAME`. The remark is the name by which the
//! VMA is known; without one it is the key's fingerprint.
//!
//! The file is read again whenever it is asked for, so that a line that is added or removed counts at once. A line with anything else
//! before the key (options such as `restrict`) is refused with the whole file: a rule that is written there and not kept would be worse.

use std::path::{Path, PathBuf};

use super::Vma;
use super::keys::PublicKey;
use super::server::KeySource;
use crate::block::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::task;

const OPERATION: &str = "read the authorized keys";

/// The longest file, in bytes: some ten thousand keys.
pub const MAX_FILE: u64 = 1024 * 1024;

/// See the [module documentation](self).
#[derive(Debug, Clone)]
pub struct AuthorizedKeys {
    path: PathBuf,
}

impl AuthorizedKeys {
    /// The file at `path`, which must be there and hold nothing but keys.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] naming the line.
    pub async fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let keys = AuthorizedKeys { path: path.into() };
        keys.entries().await?;
        Ok(keys)
    }

    /// The keys in it now, with their holders.
    ///
    /// # Errors
    /// As [`AuthorizedKeys::at`].
    pub async fn entries(&self) -> Result<Vec<(PublicKey, Vma)>> {
        let path = self.path.clone();
        task::blocking(move || read(&path).map_err(|e| e.with("path", path.display()))).await?
    }
}

impl KeySource for AuthorizedKeys {
    fn holder<'a>(&'a self, key: &'a PublicKey) -> BoxFuture<'a, Result<Option<Vma>>> {
        Box::pin(async move {
            let found = match self.entries().await {
                Ok(entries) => entries.into_iter().find(|(k, _)| k == key).map(|(_, vma)| vma),
                // A file that was removed lets nobody in; one that cannot be read is a fault, and decides nothing.
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            };
            Ok(found)
        })
    }
}

fn read(path: &Path) -> Result<Vec<(PublicKey, Vma)>> {
    let facts = std::fs::metadata(path).map_err(|e| Error::from_io(OPERATION, e))?;
    if facts.len() > MAX_FILE {
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the file is longer than any list of keys").with("bytes", facts.len()));
    }
    parse(&std::fs::read_to_string(path).map_err(|e| Error::from_io(OPERATION, e))?)
}

fn parse(text: &str) -> Result<Vec<(PublicKey, Vma)>> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key: PublicKey = line.parse().map_err(|e: Error| e.with("line", number + 1))?;
        let remark = line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
        let name = if remark.is_empty() { key.fingerprint().to_string() } else { remark };
        entries.push((key, Vma { name, reverse_port: None }));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnels::PrivateKey;

    #[tokio::test]
    async fn a_line_counts_as_soon_as_it_is_written_and_no_longer_than_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        assert_eq!(AuthorizedKeys::at(&path).await.unwrap_err().kind(), ErrorKind::NotFound);
        let (a, b) = (PrivateKey::generate().unwrap().public(), PrivateKey::generate().unwrap().public());
        std::fs::write(&path, format!("# our VMAs\n\n{a} site one\n")).unwrap();
        let keys = AuthorizedKeys::at(&path).await.unwrap();
        assert_eq!(keys.holder(&a).await.unwrap().unwrap().name, "site one");
        assert_eq!(keys.holder(&b).await.unwrap(), None);
        std::fs::write(&path, b.to_string()).unwrap();
        assert_eq!(keys.holder(&a).await.unwrap(), None);
        assert_eq!(keys.holder(&b).await.unwrap().unwrap().name, b.fingerprint().to_string());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(keys.holder(&b).await.unwrap(), None);
    }

    #[test]
    fn what_is_no_plain_key_is_refused_with_its_line() {
        let key = PrivateKey::generate().unwrap().public();
        let refused = parse(&format!("{key}\nrestrict {key}\n")).unwrap_err();
        assert_eq!((refused.kind(), refused.context_value("line")), (ErrorKind::InvalidInput, Some("2")));
    }
}
