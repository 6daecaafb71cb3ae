//! The envelope: what stands in a column in place of a secret.
//!
//! ```text
//! mk1:0123456789abcdef:base64( nonce 12 | ciphertext n | tag 16 | mark 16 )
//! │   │                        └ random  └ AES-256-GCM, the row's identity as associated data
//! │   └ fingerprint of the key                            └ keyed BLAKE3 of everything before it
//! └ version
//! ```
//!
//! The tag alone could not tell a damaged envelope from one of another row: both fail. The mark covers the envelope and not the row,
//! so an envelope whose mark is right and whose tag is not is whole, and was made for another row. It binds the envelope to one key
//! besides, which GCM does not.
//!
//! **Nonces** are drawn at random, 96 bits. NIST SP 800-38D allows 2^32 envelopes under one key then (the chance that two share a
//! nonce stays below 2^-32). Nothing counts them: a catalog writes an envelope when a person or a program enters a secret, or once for
//! each row of a rotation; a million in a day would take eleven years to get there, and every rotation begins a new count.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use aes_gcm::aead::consts::U12;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::{Zeroize, Zeroizing};

use super::key::{Fingerprint, Key, fill_random};
use super::secret::{Secret, SecretBytes, same};
use crate::error::{Error, ErrorKind, Result};

/// The longest secret, in bytes: room for private keys and chains of certificates.
pub const MAX_SECRET: usize = 64 * 1024;

const VERSION: &str = "mk1";
const NONCE: usize = 12;
const TAG: usize = 16;
const MARK: usize = 16;
/// The longest text that can be an envelope, in characters.
const MAX_TEXT: usize = 64 + (NONCE + MAX_SECRET + TAG + MARK).div_ceil(3) * 4;

const READ: &str = "read a sealed secret";
const SEAL: &str = "seal a secret";
const OPEN: &str = "open a sealed secret";

/// Where a secret stands: table, column and primary key. A secret sealed for one place opens in no other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowIdentity {
    table: Cow<'static, str>,
    column: Cow<'static, str>,
    key: String,
}

impl RowIdentity {
    /// The place `table.column` of the row with this primary key, which must be known before the secret is sealed.
    pub fn new(table: impl Into<Cow<'static, str>>, column: impl Into<Cow<'static, str>>, key: impl fmt::Display) -> Self {
        RowIdentity { table: table.into(), column: column.into(), key: key.to_string() }
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The column.
    #[must_use]
    pub fn column(&self) -> &str {
        &self.column
    }

    /// The primary key, as text.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The length in front of each part: no two rows give the same bytes.
    fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for part in [VERSION, &self.table, &self.column, &self.key] {
            data.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            data.extend(part.as_bytes());
        }
        data
    }
}

impl fmt::Display for RowIdentity {
    /// `table.column of row key`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} of row {}", self.table, self.column, self.key)
    }
}

/// A sealed secret. Its text form ([`Display`](fmt::Display), [`FromStr`]) is what a catalog keeps; the head of its source file
/// draws it. It is no secret itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    fingerprint: Fingerprint,
    nonce: [u8; NONCE],
    /// Ciphertext and tag.
    body: Vec<u8>,
    mark: [u8; MARK],
}

impl Sealed {
    /// The name of the key it was sealed with.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What every envelope under this key begins with: `LIKE 'mk1:0123456789abcdef:%'` finds them in a table.
    #[must_use]
    pub fn prefix(fingerprint: Fingerprint) -> String {
        format!("{VERSION}:{fingerprint}:")
    }

    pub(super) fn seal(key: &Key, row: &RowIdentity, secret: &[u8]) -> Result<Self> {
        if secret.len() > MAX_SECRET {
            let text = "it is longer than a secret may be";
            return Err(Error::new(ErrorKind::InvalidInput, SEAL, text).with("bytes", secret.len()).with("at most", MAX_SECRET));
        }
        let mut nonce = [0; NONCE];
        fill_random(&mut nonce, SEAL)?;
        // With room for the tag: a buffer that grows would leave the plain bytes behind.
        let mut body = Zeroizing::new(Vec::with_capacity(secret.len() + TAG));
        body.extend_from_slice(secret);
        cipher(key)
            .encrypt_in_place(&Nonce::<U12>::from(nonce), &row.associated_data(), &mut *body)
            .map_err(|_| Error::new(ErrorKind::Internal, SEAL, "the cipher refuses the length"))?;
        let mut sealed = Sealed { fingerprint: key.fingerprint(), nonce, body: std::mem::take(&mut *body), mark: [0; MARK] };
        sealed.mark = sealed.right_mark(key);
        Ok(sealed)
    }

    /// `key` must be the one that the fingerprint names.
    pub(super) fn open(&self, key: &Key, row: &RowIdentity) -> Result<SecretBytes> {
        if !same(&self.right_mark(key), &self.mark) {
            let text =
                "it was damaged, or changed by somebody who does not have the key: restore it from a backup, or enter the secret again";
            return Err(Error::new(ErrorKind::Sealed, OPEN, text));
        }
        let mut plain = Zeroizing::new(self.body.clone());
        cipher(key).decrypt_in_place(&Nonce::<U12>::from(self.nonce), &row.associated_data(), &mut *plain).map_err(|_| {
            let text = "it is whole, but was made for another row or column and was copied here: enter the secret of this row again";
            Error::new(ErrorKind::Sealed, OPEN, text)
        })?;
        Ok(Secret::new(std::mem::take(&mut *plain)))
    }

    fn right_mark(&self, key: &Key) -> [u8; MARK] {
        let mut hasher = blake3::Hasher::new_keyed(key.envelope().expose());
        // All but the body have fixed lengths.
        hasher.update(Sealed::prefix(self.fingerprint).as_bytes());
        hasher.update(&self.nonce);
        hasher.update(&self.body);
        let mut mark = [0; MARK];
        mark.iter_mut().zip(hasher.finalize().as_bytes()).for_each(|(to, from)| *to = *from);
        hasher.zeroize();
        mark
    }
}

fn cipher(key: &Key) -> Aes256Gcm {
    Aes256Gcm::new(key.cipher().expose().into())
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.nonce[..], &self.body, &self.mark].concat();
        write!(f, "{}{}", Sealed::prefix(self.fingerprint), BASE64.encode(bytes))
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}..)", Sealed::prefix(self.fingerprint))
    }
}

impl FromStr for Sealed {
    type Err = Error;

    /// Takes the one form that [`Display`](fmt::Display) writes. The text is not part of the error: it may be a secret that somebody
    /// stored in clear.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &'static str| Error::new(ErrorKind::Sealed, READ, why).with("characters", text.len());
        let (version, rest) =
            text.split_once(':').ok_or_else(|| wrong("this is no sealed secret: `mk1:` is not in front; enter it again"))?;
        if version != VERSION {
            let newer = version.strip_prefix("mk").is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 1));
            return Err(wrong(if newer {
                "a newer version of this program sealed it; use that version"
            } else {
                "it does not begin as a sealed secret does (`mk1:`); enter the secret again"
            }));
        }
        let (name, data) = rest.split_once(':').ok_or_else(|| wrong("it was cut off: the part behind the key's fingerprint is missing"))?;
        let fingerprint = Fingerprint::parse(name).ok_or_else(|| wrong("the key's fingerprint in it is not 16 hexadecimal digits"))?;
        if text.len() > MAX_TEXT {
            return Err(wrong("it is longer than a sealed secret can be"));
        }
        let bytes = BASE64.decode(data).map_err(|_| wrong("its data is damaged: this is not base64"))?;
        let parts = bytes.split_first_chunk::<NONCE>().and_then(|(nonce, rest)| Some((nonce, rest.split_last_chunk::<MARK>()?)));
        match parts {
            Some((nonce, (body, mark))) if body.len() >= TAG => Ok(Sealed { fingerprint, nonce: *nonce, body: body.to_vec(), mark: *mark }),
            _ => Err(wrong("it was cut off: its data is too short")),
        }
    }
}
