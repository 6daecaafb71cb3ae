//! Keys: who a server is, who a client is, who may come in.
//!
//! Ed25519 and nothing else. A private key lies in a file as OpenSSH writes it, readable by its owner only; a host key is made once, and
//! of two processes that make it at once both get the same. Private keys have no text: neither `Display` nor in `Debug`.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, HashAlg};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::task;

/// The longest file that holds a key, in bytes.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Rights of group and others: none may be set on a private key's file.
const OTHERS: u32 = 0o077;

/// The fingerprint of a public key, as OpenSSH prints it: `SHA256:` and 43 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(String);

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |e| {
            Error::new(ErrorKind::InvalidInput, "read a fingerprint", "write it as ssh-keygen -l prints it: SHA256: and 43 characters")
                .with("fingerprint", text)
                .with_source(e)
        };
        let print: russh::keys::ssh_key::Fingerprint = text.parse().map_err(refuse)?;
        if !print.is_sha256() {
            return Err(Error::new(ErrorKind::InvalidInput, "read a fingerprint", "only SHA256 is known").with("fingerprint", text));
        }
        Ok(Fingerprint(print.to_string()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(russh::keys::PublicKey);

impl PublicKey {
    /// A key that a peer showed; `None` when it is of another kind than Ed25519.
    pub(super) fn of_peer(key: &russh::keys::PublicKey) -> Option<Self> {
        (key.algorithm() == Algorithm::Ed25519).then(|| PublicKey(russh::keys::PublicKey::new(key.key_data().clone(), "")))
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(self.0.fingerprint(HashAlg::Sha256).to_string())
    }

    /// Whether `signature` is one of `message` by this key's owner ([`PrivateKey::sign`]).
    #[must_use]
    pub fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Some(key) = self.0.key_data().ed25519() else { return false };
        UnparsedPublicKey::new(&ED25519, key.0).verify(message, signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    /// Reads `ssh-ed25519 AAAA...`, with or without a remark behind it.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |message: &'static str| Error::new(ErrorKind::InvalidInput, "read a public key", message);
        let key = russh::keys::PublicKey::from_openssh(text.trim())
            .map_err(|e| refuse("it is not a public key as OpenSSH writes it").with_source(e))?;
        PublicKey::of_peer(&key).ok_or_else(|| refuse("only Ed25519 keys are taken").with("algorithm", key.algorithm()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_openssh().unwrap_or_default().trim_end())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// A private key: a server's host key, or a client's own.
#[derive(Clone)]
pub struct PrivateKey(Arc<russh::keys::PrivateKey>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, secret)", self.public().fingerprint())
    }
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        let mut filled = 0;
        while filled < seed.len() {
            let rest = seed.get_mut(filled..).unwrap_or_default();
            filled +=
                rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).map_err(|e| Error::from_io("make a key", e.into()))?;
        }
        Ok(PrivateKey(Arc::new(russh::keys::PrivateKey::from(Ed25519Keypair::from_seed(&seed)))))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(russh::keys::PublicKey::new(self.0.public_key().key_data().clone(), ""))
    }

    /// Its signature of `message` (Ed25519, RFC 8032). A message begins with what it is for, so that it cannot be one of SSH's own,
    /// which begin with the length of a session's id.
    ///
    /// # Errors
    /// None that a key of ours can have.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        let fail = || Error::new(ErrorKind::Internal, "sign with a private key", "the key cannot be used");
        let pair = self.0.key_data().ed25519().ok_or_else(fail)?;
        let seed = Zeroizing::new(pair.private.to_bytes());
        let pair = Ed25519KeyPair::from_seed_and_public_key(&*seed, &pair.public.0).map_err(|_| fail())?;
        pair.sign(message).as_ref().try_into().map_err(|_| fail())
    }

    /// For russh.
    pub(super) fn inner(&self) -> Arc<russh::keys::PrivateKey> {
        Arc::clone(&self.0)
    }

    /// Reads a file that OpenSSH or [`PrivateKey::read_or_make`] wrote.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Denied`] when others may read it; [`ErrorKind::Sealed`] when it is behind a passphrase;
    /// [`ErrorKind::InvalidInput`] when it is no Ed25519 key.
    pub async fn read(path: &Path) -> Result<Self> {
        let file = path.to_owned();
        task::blocking(move || read(&file).map_err(|e| e.with("path", file.display()))).await?
    }

    /// Reads the file, or makes it with a new key when it is not there: 0600, written as a whole or not at all. The second value: whether
    /// it was made.
    ///
    /// # Errors
    /// Those of [`PrivateKey::read`], and of writing.
    pub async fn read_or_make(path: &Path) -> Result<(Self, bool)> {
        let file = path.to_owned();
        task::blocking(move || {
            match read(&file) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                found => return found.map(|key| (key, false)),
            }
            make(&file)
        })
        .await?
        .map_err(|e| e.with("path", path.display()))
    }
}

const READ: &str = "read a private key";
const MAKE: &str = "make a private key";

fn read(path: &Path) -> Result<PrivateKey> {
    let refuse = |kind, message: &'static str| Error::new(kind, READ, message);
    let file = std::fs::File::open(path).map_err(|e| Error::from_io(READ, e))?;
    let facts = file.metadata().map_err(|e| Error::from_io(READ, e))?;
    if !facts.is_file() {
        return Err(refuse(ErrorKind::InvalidInput, "it is not a file"));
    }
    if facts.mode() & OTHERS != 0 {
        return Err(refuse(ErrorKind::Denied, "others may read it; allow only its owner (chmod 600)")
            .with("mode", format!("{:o}", facts.mode() & 0o777)));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_KEY_FILE + 1).read_to_end(&mut text).map_err(|e| Error::from_io(READ, e))?;
    let key = russh::keys::PrivateKey::from_openssh(text.as_slice())
        .map_err(|e| refuse(ErrorKind::InvalidInput, "it is not a private key as OpenSSH writes it").with_source(e))?;
    if key.is_encrypted() {
        return Err(refuse(ErrorKind::Sealed, "it is behind a passphrase; a key that is used without a person has none"));
    }
    if key.algorithm() != Algorithm::Ed25519 {
        return Err(refuse(ErrorKind::InvalidInput, "only Ed25519 keys are used").with("algorithm", key.algorithm()));
    }
    Ok(PrivateKey(Arc::new(key)))
}

/// Writes a new key beside the place and links it there: the link is made by one process only, and never to half a file.
fn make(path: &Path) -> Result<(PrivateKey, bool)> {
    let key = PrivateKey::generate()?;
    let text =
        key.0.to_openssh(LineEnding::LF).map_err(|e| Error::new(ErrorKind::Internal, MAKE, "it cannot be written").with_source(e))?;
    let io = |e| Error::from_io(MAKE, e);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&beside).map_err(io)?;
    let linked = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::hard_link(&beside, path));
    let removed = std::fs::remove_file(&beside);
    match linked {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok((read(path)?, false)),
        linked => linked.and(removed).map_err(io)?,
    }
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(io)?;
    }
    Ok((key, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_key_is_made_once_for_its_owner_only_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host_key");
        let (first, made) = PrivateKey::read_or_make(&path).await.unwrap();
        assert!(made);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (second, made) = PrivateKey::read_or_make(&path).await.unwrap();
        assert!(!made && first.public() == second.public());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn many_that_make_it_at_once_get_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host_key");
        let made = tokio::join!(PrivateKey::read_or_make(&path), async { PrivateKey::read(&path).await.map(|k| (k, false)) });
        let (key, _) = made.0.unwrap();
        let link = make(&path).unwrap();
        assert!(!link.1 && link.0.public() == key.public(), "the later one takes the earlier one's");
    }

    #[tokio::test]
    async fn each_bad_file_is_refused_with_its_cause() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(PrivateKey::read(&path).await.unwrap_err().kind(), ErrorKind::NotFound);
        PrivateKey::read_or_make(&path).await.unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let open = PrivateKey::read(&path).await.unwrap_err();
        assert_eq!((open.kind(), open.context_value("mode")), (ErrorKind::Denied, Some("640")));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "ssh-ed25519 AAAA").unwrap();
        assert_eq!(PrivateKey::read_or_make(&path).await.unwrap_err().kind(), ErrorKind::InvalidInput, "and it is not replaced");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ssh-ed25519 AAAA");
    }

    #[test]
    fn a_signature_holds_for_its_message_and_its_key_only() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let mut signature = key.sign(b"for a test: yes").unwrap();
        assert!(key.public().is_signed(b"for a test: yes", &signature));
        assert!(!key.public().is_signed(b"for a test: no", &signature));
        assert!(!other.public().is_signed(b"for a test: yes", &signature));
        assert!(!key.public().is_signed(b"for a test: yes", &signature[..63]));
        signature[5] ^= 1;
        assert!(!key.public().is_signed(b"for a test: yes", &signature));
    }

    #[test]
    fn keys_and_fingerprints_have_one_text() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public();
        let again: PublicKey = format!("{public} some remark").parse().unwrap();
        assert_eq!(again, public);
        let print = public.fingerprint();
        assert_eq!(print.to_string().parse::<Fingerprint>().unwrap(), print);
        assert!(format!("{key:?}").contains("secret") && !format!("{key:?}").contains("OPENSSH"));
        for bad in ["", "SHA256:", "SHA256:abc", "MD5:00:11", "sha256:x"] {
            assert_eq!(bad.parse::<Fingerprint>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        assert_eq!("ssh-rsa AAAA".parse::<PublicKey>().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
