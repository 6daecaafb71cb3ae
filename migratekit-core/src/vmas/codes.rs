//! Pairing codes: what an administrator reads out and somebody types at the VMA.
//!
//! `XXXX-XXXX-XXXX`, twelve characters of an alphabet of 32 without 0, 1, I and O: 60 bits of chance. A code never travels: both sides
//! stretch it with Argon2id into a [`CodeKey`] and prove to know that. The catalog has that key under a mask of the vault's: a copy of the
//! catalog tells neither the code nor how to prove it. After a rotation of the vault's key older codes do not hold any more.
//!
//! The salt is one for all codes. A salt for each would have to be asked for first, and told by whoever answers; what it is for, tables
//! made beforehand and passwords that people share, does not exist for codes of 60 random bits that hold ten minutes.

use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::{Zeroize as _, Zeroizing};

use super::limits::{STRETCH_MEMORY, STRETCH_PASSES};
use crate::credentials::{SecretString, Vault};
use crate::error::{Error, ErrorKind, Result};
use crate::id::PairingId;
use crate::task;

/// The characters of a code, five bits each; those that look like another are left out.
const ALPHABET: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
/// The characters of a code, without the dashes.
const LENGTH: usize = 12;
/// The characters between two dashes.
const GROUP: usize = 4;
/// See the [module documentation](self).
const SALT: &[u8] = b"migratekit pairing code v1";
/// What the vault's mask is derived for.
const MASK_PURPOSE: &str = "migratekit pairing codes v1";
/// What the key of the proofs is derived for.
const KEY_CONTEXT: &str = "migratekit 2026-11-21 key of the proofs of a pairing code";

/// A pairing code. It is shown once, by [`Code::shown`].
#[derive(Clone)]
pub struct Code(SecretString);

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

impl Code {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        let mut random = Zeroizing::new([0_u8; LENGTH]);
        super::proof::fill_random(&mut *random)?;
        let mut text = String::with_capacity(LENGTH);
        for byte in random.iter() {
            // 256 is a multiple of 32, so each character is as likely as any other.
            text.push(ALPHABET.get(usize::from(byte % 32)).map_or('2', |c| char::from(*c)));
        }
        Ok(Code(SecretString::new(text)))
    }

    /// As it is read out: in groups of four.
    #[must_use]
    pub fn shown(&self) -> SecretString {
        let mut text = String::with_capacity(LENGTH + 2);
        for (at, c) in self.0.expose().chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(c);
        }
        SecretString::new(text)
    }

    /// The key that both sides derive from it: slow on purpose, so that who overhears a proof cannot try codes.
    ///
    /// # Errors
    /// When there is not the memory for it.
    pub async fn stretch(&self) -> Result<CodeKey> {
        let code = self.clone();
        task::blocking(move || stretch(code.0.expose())).await?
    }
}

impl FromStr for Code {
    type Err = Error;

    /// Reads a code as people type it: case, dashes and spaces do not count. An error never shows what was typed.
    fn from_str(text: &str) -> Result<Self> {
        let mut plain = String::with_capacity(LENGTH);
        for c in text.trim().chars().filter(|c| !matches!(c, '-' | ' ')) {
            let c = c.to_ascii_uppercase();
            if plain.len() >= LENGTH || !u8::try_from(c).is_ok_and(|c| ALPHABET.contains(&c)) {
                plain.zeroize();
                return Err(wrong());
            }
            plain.push(c);
        }
        let code = SecretString::new(plain);
        if code.expose().len() == LENGTH { Ok(Code(code)) } else { Err(wrong()) }
    }
}

fn wrong() -> Error {
    let text = "it is XXXX-XXXX-XXXX, of digits and letters without 0, 1, I and O";
    Error::new(ErrorKind::InvalidInput, "read a pairing code", text)
}

fn stretch(code: &str) -> Result<CodeKey> {
    let failed = |e: argon2::Error| Error::new(ErrorKind::Internal, "stretch a pairing code", "it cannot be stretched").with("cause", e);
    let params = Params::new(STRETCH_MEMORY, STRETCH_PASSES, 1, Some(32)).map_err(failed)?;
    let mut stretched = Zeroizing::new([0_u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(code.as_bytes(), SALT, &mut *stretched).map_err(failed)?;
    Ok(CodeKey(Zeroizing::new(blake3::derive_key(KEY_CONTEXT, &*stretched))))
}

/// What a code became: the key of the proofs of both sides.
#[derive(Clone)]
pub struct CodeKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for CodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeKey(..)")
    }
}

impl CodeKey {
    /// For a proof.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As the catalog keeps it, in lower-case hex: under a mask that only the vault's key makes, another for each row.
    pub(super) fn masked(&self, vault: &Vault, row: &PairingId) -> String {
        blake3::Hash::from_bytes(self.under(vault, row)).to_hex().to_string()
    }

    /// From the catalog. With another key of the vault, or from another row, it is the key of no code.
    pub(super) fn unmasked(text: &str, vault: &Vault, row: &PairingId) -> Result<Self> {
        let wrong =
            || Error::new(ErrorKind::Internal, "read a pairing code's row", "the catalog holds something else").with("pairing", row);
        let masked = CodeKey(Zeroizing::new(*blake3::Hash::from_hex(text).map_err(|_| wrong())?.as_bytes()));
        Ok(CodeKey(Zeroizing::new(masked.under(vault, row))))
    }

    /// With the mask put on, or taken off: ids are never used twice, so no mask is.
    fn under(&self, vault: &Vault, row: &PairingId) -> [u8; 32] {
        let mask = blake3::keyed_hash(vault.derive(MASK_PURPOSE).expose(), row.as_str().as_bytes());
        let mut both = [0; 32];
        for ((both, a), b) in both.iter_mut().zip(self.0.iter()).zip(mask.as_bytes()) {
            *both = a ^ b;
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Key, Keys};

    #[test]
    fn a_code_is_read_as_people_type_it_and_shown_by_nothing_but_shown() {
        let code = Code::generate().unwrap();
        let shown = code.shown();
        let text = shown.expose().as_str();
        let groups: Vec<&str> = text.split('-').collect();
        assert!(groups.len() == 3 && groups.iter().all(|g| g.len() == 4), "{text}");
        for typed in [text.to_owned(), text.to_lowercase(), text.replace('-', ""), text.replace('-', " "), format!(" {text}\n")] {
            assert!(typed.parse::<Code>().unwrap().0 == code.0, "{typed}");
        }
        assert_eq!(format!("{code:?}"), "Code(..)");
        for bad in ["", "2345-6789-ABC", "2345-6789-ABCDE", "0345-6789-ABCD", "I345-6789-ABCD", "2345-6789-ABCé"] {
            let refused = bad.parse::<Code>().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
            assert!(bad.is_empty() || !refused.to_string().contains(bad), "{refused}");
        }
    }

    #[test]
    fn codes_use_the_whole_alphabet_and_differ() {
        let all: String = (0..200).map(|_| Code::generate().unwrap().0.expose().clone()).collect();
        assert!(ALPHABET.iter().all(|c| all.contains(char::from(*c))));
        assert_eq!(ALPHABET.iter().collect::<std::collections::BTreeSet<_>>().len(), 32);
    }

    #[tokio::test]
    async fn both_sides_derive_the_same() {
        let code: Code = "2345-6789-ABCD".parse().unwrap();
        let (ours, theirs) = (code.stretch().await.unwrap(), "23456789abcd".parse::<Code>().unwrap().stretch().await.unwrap());
        assert_eq!(ours.bytes(), theirs.bytes());
        assert_ne!(ours.bytes(), "2345-6789-ABCE".parse::<Code>().unwrap().stretch().await.unwrap().bytes());
        // It does not change: codes of one version are typed at VMAs of another.
        assert_eq!(
            blake3::Hash::from_bytes(*ours.bytes()).to_hex().as_str(),
            "ed4654aefc8fdd3c1f613be295eec6c8df7b22386ac11cba55d2d69a31c92fdb"
        );
    }

    #[tokio::test]
    async fn the_catalog_gives_a_key_back_to_its_vault_and_its_row_only() {
        let vault = || Vault::new(Keys::new(Key::generate().unwrap()));
        let (ours, theirs, row, other) = (vault(), vault(), PairingId::generate(), PairingId::generate());
        let key = Code::generate().unwrap().stretch().await.unwrap();
        let kept = key.masked(&ours, &row);
        assert!(kept.len() == 64 && kept != blake3::Hash::from_bytes(*key.bytes()).to_hex().as_str());
        assert_eq!(CodeKey::unmasked(&kept, &ours, &row).unwrap().bytes(), key.bytes());
        assert_ne!(CodeKey::unmasked(&kept, &theirs, &row).unwrap().bytes(), key.bytes());
        assert_ne!(CodeKey::unmasked(&kept, &ours, &other).unwrap().bytes(), key.bytes());
        assert!(CodeKey::unmasked("d", &ours, &row).is_err());
    }
}
