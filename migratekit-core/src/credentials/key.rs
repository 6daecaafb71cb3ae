//! Keys: 32 random bytes, what they are called, how they are written.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::{Zeroize, Zeroizing};

use super::secret::{Secret, SecretString, same};
use crate::error::{Error, ErrorKind, Result};

/// The length of a key, in bytes: that of AES-256.
const KEY_BYTES: usize = 32;

/// Characters of a key in base64, with its padding.
const BASE64_CHARS: usize = 44;

/// Characters of a key in hexadecimal.
const HEX_CHARS: usize = 64;

/// A key with fewer different bytes than this was not drawn at random: 32 random bytes have fewer with a chance of 2^-120.
const MIN_DIFFERENT: usize = 8;

/// Keys kept beside the current one, at most: a rotation under way needs one, a restored backup of rows a few more.
pub const MAX_OLDER_KEYS: usize = 8;

/// Contexts of the derived keys: each use has one, and none may ever change.
const FINGERPRINT: &str = "migratekit credentials v1 key fingerprint";
const CIPHER: &str = "migratekit credentials v1 cipher AES-256-GCM";
const ENVELOPE: &str = "migratekit credentials v1 envelope MAC";
const PURPOSE: &str = "migratekit credentials v1 key for a purpose";

const READ: &str = "read a key";

/// What a key is called: the first 8 bytes of a hash of it, 16 hexadecimal digits. It is public.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// Reads the form that [`Display`](fmt::Display) writes, and no other (lower case only).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lower = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(text, 16).ok().filter(|_| lower)?;
        Some(Fingerprint(number.to_be_bytes()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A key: 32 random bytes. Its `Debug` shows the fingerprint only, and it is wiped on drop.
#[derive(Clone)]
pub struct Key(Box<[u8; KEY_BYTES]>);

impl Key {
    /// A new key, from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system has none to give.
    pub fn generate() -> Result<Self> {
        let mut key = Key(Box::new([0; KEY_BYTES]));
        fill_random(key.0.as_mut_slice(), "make a key")?;
        key.checked()
    }

    /// Reads a key as 44 characters of base64 (`openssl rand -base64 32`) or 64 hexadecimal digits; white space around it is ignored.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for another length, other characters, or bytes that were plainly not drawn at random. The text
    /// itself is never part of the error.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        // One byte more than is needed: base64 wants room for its last group.
        let mut bytes = Zeroizing::new([0; KEY_BYTES + 1]);
        let wrong = |why: &'static str| Error::new(ErrorKind::InvalidInput, READ, why).with("characters", text.chars().count());
        match text.len() {
            BASE64_CHARS => {
                let found = BASE64.decode_slice(text, bytes.as_mut_slice());
                found.ok().filter(|n| *n == KEY_BYTES).ok_or_else(|| wrong("its 44 characters are not base64"))?;
            }
            HEX_CHARS => unhex(text, bytes.as_mut_slice()).ok_or_else(|| wrong("its 64 characters are not all hexadecimal digits"))?,
            0 => return Err(wrong("it is empty; a key is 44 characters of base64 (`openssl rand -base64 32` makes one)")),
            _ => {
                let text = "it has a wrong length; a key is 44 characters of base64 (`openssl rand -base64 32`) or 64 of hexadecimal";
                return Err(wrong(text));
            }
        }
        let mut key = Key(Box::new([0; KEY_BYTES]));
        key.0.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from);
        key.checked()
    }

    fn checked(self) -> Result<Self> {
        let mut seen = Zeroizing::new([false; 256]);
        for byte in self.0.iter() {
            if let Some(mark) = seen.get_mut(usize::from(*byte)) {
                *mark = true;
            }
        }
        if seen.iter().filter(|mark| **mark).count() < MIN_DIFFERENT {
            let text = "it is too weak: its bytes hardly differ; `openssl rand -base64 32` makes a good one";
            return Err(Error::new(ErrorKind::InvalidInput, READ, text));
        }
        Ok(self)
    }

    /// What it is called.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let derived = self.derived(FINGERPRINT, &[]);
        let mut short = [0; 8];
        short.iter_mut().zip(derived.expose()).for_each(|(to, from)| *to = *from);
        Fingerprint(short)
    }

    /// In base64, for a key file.
    pub(super) fn to_text(&self) -> SecretString {
        Secret::new(BASE64.encode(self.0.as_slice()))
    }

    /// The key that encrypts.
    pub(super) fn cipher(&self) -> Secret<[u8; KEY_BYTES]> {
        self.derived(CIPHER, &[])
    }

    /// The key that proves an envelope, whatever row it is for.
    pub(super) fn envelope(&self) -> Secret<[u8; KEY_BYTES]> {
        self.derived(ENVELOPE, &[])
    }

    /// A key for something else.
    pub(super) fn purpose(&self, name: &str) -> Secret<[u8; KEY_BYTES]> {
        self.derived(PURPOSE, name.as_bytes())
    }

    /// The key's length is fixed, so key and name cannot be split in two ways.
    fn derived(&self, context: &'static str, name: &[u8]) -> Secret<[u8; KEY_BYTES]> {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(self.0.as_slice());
        hasher.update(name);
        let mut hash = hasher.finalize();
        let derived = Secret::new(*hash.as_bytes());
        hash.zeroize();
        hasher.zeroize();
        derived
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        same(self.0.as_slice(), other.0.as_slice())
    }
}

impl Eq for Key {}

/// The current key, and older ones that may still be needed to open what they sealed. At most [`MAX_OLDER_KEYS`] older ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    current: Key,
    older: Vec<Key>,
}

impl Keys {
    /// One key.
    #[must_use]
    pub fn new(current: Key) -> Self {
        Keys { current, older: Vec::new() }
    }

    /// A current key and older ones, the youngest first; what is there twice counts once.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there are more than [`MAX_OLDER_KEYS`].
    pub fn with_older(current: Key, older: impl IntoIterator<Item = Key>) -> Result<Self> {
        let mut keys = Keys::new(current);
        for key in older {
            if !keys.all().any(|known| *known == key) {
                keys.older.push(key);
            }
        }
        if keys.older.len() > MAX_OLDER_KEYS {
            let text = "there are too many older keys; keep those that something is still sealed with";
            return Err(Error::new(ErrorKind::InvalidInput, READ, text)
                .with("older keys", keys.older.len())
                .with("at most", MAX_OLDER_KEYS));
        }
        Ok(keys)
    }

    /// Reads keys that stand one in a line, or with commas between them: the current one first, older ones after it. Empty lines and
    /// lines that begin with `#` are ignored.
    ///
    /// # Errors
    /// As [`Key::parse`], with the number of the key; or when there is none.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut keys = Vec::new();
        for (i, part) in lines.flat_map(|line| line.split(',')).enumerate().take(2 * MAX_OLDER_KEYS) {
            keys.push(Key::parse(part).map_err(|e| e.with("key number", i + 1))?);
        }
        let mut keys = keys.into_iter();
        let none = || Error::new(ErrorKind::InvalidInput, READ, "there is no key in it; `openssl rand -base64 32` makes one");
        Keys::with_older(keys.next().ok_or_else(none)?, keys)
    }

    /// The key that seals.
    #[must_use]
    pub fn current(&self) -> &Key {
        &self.current
    }

    /// The others, the youngest first.
    #[must_use]
    pub fn older(&self) -> &[Key] {
        &self.older
    }

    /// The key of this name.
    #[must_use]
    pub fn find(&self, fingerprint: Fingerprint) -> Option<&Key> {
        self.all().find(|key| key.fingerprint() == fingerprint)
    }

    /// All, the current one first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(&self.older)
    }

    /// Their names, the current one's first: `a1.. b2..`.
    pub(super) fn names(&self) -> String {
        self.all().map(|key| key.fingerprint().to_string()).collect::<Vec<_>>().join(" ")
    }
}

/// Random bytes for keys and nonces.
pub(super) fn fill_random(bytes: &mut [u8], operation: &'static str) -> Result<()> {
    let wanted = bytes.len();
    // Requests of up to 256 bytes are answered whole.
    match rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(n) if n == wanted => Ok(()),
        Ok(n) => Err(Error::new(ErrorKind::Io, operation, "the operating system gave too little randomness").with("bytes", n)),
        Err(e) => Err(Error::from_io(operation, e.into())),
    }
}

fn unhex(text: &str, bytes: &mut [u8]) -> Option<()> {
    for (pair, byte) in text.as_bytes().chunks_exact(2).zip(bytes) {
        let digit = |at: usize| pair.get(at).and_then(|c| char::from(*c).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never used but in tests.
    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const TEXT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn both_forms_are_the_same_key_and_the_fingerprint_never_changes() {
        let key = Key::parse(TEXT).unwrap();
        assert_eq!(key, Key::parse(&format!(" {HEX}\n")).unwrap());
        assert_eq!(key, Key::parse(&HEX.to_uppercase()).unwrap());
        assert_eq!(key.to_text().expose(), TEXT);
        // Stored in every catalog: a change of this value makes all of them unreadable.
        assert_eq!(key.fingerprint().to_string(), "89d0a96c2a221c50");
        assert_eq!(Fingerprint::parse(&key.fingerprint().to_string()), Some(key.fingerprint()));
        assert_eq!(format!("{key:?}"), format!("Key({})", key.fingerprint()));
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_repeated() {
        let cases = [
            ("", "it is empty"),
            ("hunter2-hunter2", "wrong length"),
            ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "wrong length"),
            ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=", "not base64"),
            ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8h", "not base64"),
            ("AAEC_wQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "not base64"),
            ("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eXY", "not all hexadecimal"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "too weak"),
            ("deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef", "too weak"),
        ];
        for (text, why) in cases {
            let error = Key::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.message().contains(why), "{text}: {error}");
            assert!(text.is_empty() || !format!("{error} {error:?}").contains(text), "{error}");
        }
    }

    #[test]
    fn every_use_has_a_key_of_its_own() {
        let key = Key::parse(TEXT).unwrap();
        let all = [key.cipher(), key.envelope(), key.purpose(""), key.purpose("a"), key.purpose("b"), Secret::new(*key.0)];
        for (i, one) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|other| one != other), "{i}");
        }
        assert_eq!(key.purpose("a"), key.purpose("a"));
        assert_ne!(Key::generate().unwrap().purpose("a"), key.purpose("a"));
    }

    #[test]
    fn several_keys_are_read_in_order() {
        let (a, b) = (Key::generate().unwrap(), Key::generate().unwrap());
        let (ta, tb) = (a.to_text(), b.to_text());
        for text in [format!("{}\n{}\n", ta.expose(), tb.expose()), format!("# keys\n\n{}, {},{}", ta.expose(), tb.expose(), ta.expose())] {
            let keys = Keys::parse(&text).unwrap();
            assert_eq!((keys.current(), keys.older()), (&a, &[b.clone()][..]));
            assert_eq!(keys.find(b.fingerprint()), Some(&b));
            assert_eq!(keys.names(), format!("{} {}", a.fingerprint(), b.fingerprint()));
        }
        let cut = format!("{}\n{}", ta.expose(), &tb.expose()[..20]);
        assert_eq!(Keys::parse(&cut).unwrap_err().context_value("key number"), Some("2"));
        assert!(Keys::parse("# nothing\n").unwrap_err().message().contains("no key in it"));
        let many: Vec<Key> = (0..=MAX_OLDER_KEYS).map(|_| Key::generate().unwrap()).collect();
        assert!(Keys::with_older(a, many).unwrap_err().message().contains("too many"));
    }
}
