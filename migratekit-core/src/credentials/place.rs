//! Where the key is: in the environment, in a named file, or in the file of this user.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::key::Keys;
use super::key_file::KeyFile;
use super::secret::{Secret, SecretString};
use crate::error::{Error, ErrorKind, Result};

/// The environment variable that holds the key (44 characters of base64 or 64 of hexadecimal), or several with commas between
/// them: the one that seals first. It wins over any file. Programs that we start do not inherit it.
pub const KEY_VARIABLE: &str = "MIGRATEKIT_CRED_ENCRYPTION_KEY";

/// What to do when there is no key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenMissing {
    /// Make one: nothing is sealed yet.
    Make,
    /// Refuse: something is sealed, and a new key would not open it.
    Refuse,
}

/// Where the key is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum KeyPlace {
    /// In [`KEY_VARIABLE`]; the text was read at start.
    Environment(SecretString),
    /// In a file.
    File(KeyFile),
}

impl KeyPlace {
    /// The place for this process: [`KEY_VARIABLE`] if it is set, else `file`, else [`default_key_file`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the variable is set and empty or not text, or when there is no place at all.
    pub fn find(file: Option<&Path>) -> Result<Self> {
        Self::from_settings(std::env::var_os(KEY_VARIABLE), file, default_key_file)
    }

    fn from_settings(variable: Option<OsString>, file: Option<&Path>, otherwise: impl FnOnce() -> Result<PathBuf>) -> Result<Self> {
        let wrong = |text| Err(Error::new(ErrorKind::InvalidInput, "find the key", text).with("variable", KEY_VARIABLE));
        match variable.map(OsString::into_string) {
            Some(Ok(text)) if text.trim().is_empty() => wrong("the variable is set but empty; unset it, or put the key into it"),
            Some(Ok(text)) => Ok(KeyPlace::Environment(Secret::new(text))),
            Some(Err(_)) => wrong("what the variable holds is not text"),
            None => Ok(KeyPlace::File(KeyFile::at(file.map_or_else(otherwise, |path| Ok(path.to_owned()))?))),
        }
    }

    /// The keys of the place.
    pub(super) async fn read(&self, when_missing: WhenMissing) -> Result<Keys> {
        match (self, when_missing) {
            (KeyPlace::Environment(text), _) => Keys::parse(text.expose()).map_err(|e| e.with("variable", KEY_VARIABLE)),
            (KeyPlace::File(file), WhenMissing::Make) => file.read_or_make().await,
            (KeyPlace::File(file), WhenMissing::Refuse) => file.read().await.map_err(|e| match e.kind() {
                ErrorKind::NotFound => {
                    let text = "the key file is gone, and secrets are sealed with its key: restore it from a backup or name the right one; \
                                if the key is lost, make a new one with `migratekit key generate` and enter every secret again";
                    Error::new(ErrorKind::NotFound, "read the key file", text).with("path", file.path().display())
                }
                _ => e,
            }),
        }
    }
}

/// `$XDG_DATA_HOME/migratekit/key`; without that variable `$HOME/.local/share/migratekit/key`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when neither variable holds an absolute path.
pub fn default_key_file() -> Result<PathBuf> {
    data_folder(std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME")).map(|folder| folder.join("migratekit").join("key"))
}

/// A relative path is as good as none: so the specification of these variables says.
fn data_folder(data: Option<OsString>, home: Option<OsString>) -> Result<PathBuf> {
    let absolute = |text: Option<OsString>| text.map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(data).or_else(|| absolute(home).map(|home| home.join(".local").join("share"))).ok_or_else(|| {
        let text = "neither XDG_DATA_HOME nor HOME holds an absolute path; name the key file";
        Error::new(ErrorKind::InvalidInput, "find the key", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_then_the_named_file_then_the_default() {
        let place = |variable: Option<&str>, file: Option<&str>| {
            KeyPlace::from_settings(variable.map(OsString::from), file.map(Path::new), || Ok("/default".into()))
        };
        assert!(matches!(place(Some("text"), Some("/file")).unwrap(), KeyPlace::Environment(text) if text.expose() == "text"));
        assert!(matches!(place(None, Some("/file")).unwrap(), KeyPlace::File(file) if file.path() == Path::new("/file")));
        assert!(matches!(place(None, None).unwrap(), KeyPlace::File(file) if file.path() == Path::new("/default")));
        assert!(place(Some(" "), Some("/file")).unwrap_err().message().contains("set but empty"));
        assert!(!format!("{:?}", place(Some("hunter2"), None)).contains("hunter2"));
    }

    #[test]
    fn the_folder_is_the_users() {
        let folder = |data: Option<&str>, home: Option<&str>| data_folder(data.map(OsString::from), home.map(OsString::from));
        assert_eq!(folder(Some("/data"), Some("/home/x")).unwrap(), Path::new("/data"));
        assert_eq!(folder(Some("data"), Some("/home/x")).unwrap(), Path::new("/home/x/.local/share"));
        assert_eq!(folder(None, Some("/home/x")).unwrap(), Path::new("/home/x/.local/share"));
        assert_eq!(folder(None, None).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_bad_key_in_the_variable_names_the_variable_and_not_the_key() {
        let place = KeyPlace::Environment("hunter2".into());
        let error = place.read(WhenMissing::Make).await.unwrap_err();
        assert_eq!(error.context_value("variable"), Some(KEY_VARIABLE));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
