//! The key by which a client logs in: held in memory, or read from its file again at each login.
//!
//! A VMA's key is [rotated](crate::vmas::Rotating) while copies run and a tunnel stands. The new key lies in the file before the old one is
//! out, so whoever logs in by what the file holds now always has a key that is taken.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::keys::PrivateKey;
use crate::error::Result;

/// The key by which a client logs in: one that is held, or the one that its file holds at each login. Clones share what was read last.
#[derive(Debug, Clone)]
pub struct LoginKey {
    file: Option<PathBuf>,
    last: Arc<Mutex<PrivateKey>>,
}

impl From<PrivateKey> for LoginKey {
    /// A key that never changes.
    fn from(key: PrivateKey) -> Self {
        LoginKey { file: None, last: Arc::new(Mutex::new(key)) }
    }
}

impl LoginKey {
    /// The key in this file, now and as it will be at each login.
    ///
    /// # Errors
    /// Those of [`PrivateKey::read`].
    pub async fn read(path: &Path) -> Result<Self> {
        let key = PrivateKey::read(path).await?;
        Ok(LoginKey { file: Some(path.to_owned()), last: Arc::new(Mutex::new(key)) })
    }

    /// The key as it was read last.
    #[must_use]
    pub fn last(&self) -> PrivateKey {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key as the file holds it now. Where that cannot be read it is the one read last: what runs is not ended by a file that is gone.
    pub(super) async fn now(&self) -> PrivateKey {
        let Some(file) = &self.file else { return self.last() };
        match PrivateKey::read(file).await {
            Ok(key) => *self.last.lock().unwrap_or_else(PoisonError::into_inner) = key,
            Err(error) => tracing::warn!(%error, "the key cannot be read again; the one read before is used"),
        }
        self.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_of_a_file_is_what_the_file_holds_and_the_last_one_when_it_holds_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("key"), folder.path().join("other"));
        let (first, _) = PrivateKey::read_or_make(&path).await.unwrap();
        let (second, _) = PrivateKey::read_or_make(&other).await.unwrap();
        let key = LoginKey::read(&path).await.unwrap();
        assert_eq!(key.now().await.public(), first.public());
        std::fs::rename(&other, &path).unwrap();
        let again = key.clone();
        assert_eq!(key.last().public(), first.public());
        assert_eq!((key.now().await.public(), again.last().public()), (second.public(), second.public()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(key.now().await.public(), second.public());
        assert_eq!(LoginKey::read(&path).await.unwrap_err().kind(), crate::ErrorKind::NotFound);
    }
}
