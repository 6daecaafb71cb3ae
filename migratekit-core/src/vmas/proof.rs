//! What both sides prove at an enrollment, as functions of bytes.
//!
//! ```text
//!  VMA                                                        OMA
//!   ── name, VMA key, VMA nonce, ASK ─────────────────────────▶   knows a code that gives this proof, and uses it up
//!   ◀─ host key, OMA nonce, PROVE(oma) ────────────────────────   knows the code: the VMA pins its host key now, not before
//!   ── PROVE(vma), SIGN ───────────────────────────────────────▶   the VMA saw the same, and holds its key
//! ```
//!
//! - ASK = HMAC(code key; exporter, VMA key, name, version, VMA nonce).
//! - TRANSCRIPT = SHA-256(exporter, VMA key, host key, name, version, VMA nonce, OMA nonce, enrollment).
//! - PROVE(side) = HMAC(code key; TRANSCRIPT), with a label for each side: neither proof can be sent back as the other.
//! - SIGN = the VMA key's Ed25519 signature of TRANSCRIPT.
//! - A rotation has no code ([`Rotating`](super::Rotating)): signatures stand where the proofs do, ASK's by the old key, the OMA's by its host key,
//!   which is pinned. Each signer has a label of its own.
//!
//! The exporter is that of the TLS connection (RFC 9266): it differs on the two connections of a man in the middle, so what he hands on
//! is no proof, and he knows no code to make one of his own. He learns nothing that lets him try codes faster than Argon2id runs. Every
//! field goes in with its length before it, so that no two lists of fields make the same bytes. HMAC is compared in constant time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};

use super::codes::CodeKey;
use crate::error::{Error, ErrorKind, Result};
use crate::id::EnrollmentId;
use crate::tunnels::{PrivateKey, PublicKey};

/// The label of the exporter (RFC 9266), whose context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// The length of the exporter, a nonce, a proof and a transcript, in bytes.
pub const LENGTH: usize = 32;
/// The length of a signature, in bytes.
pub const SIGNATURE: usize = 64;

const ASK: &[u8] = b"migratekit enrollment v1: vma asks";
const TRANSCRIPT: &[u8] = b"migratekit enrollment v1: transcript";
const ROTATE: &[u8] = b"migratekit enrollment v1: vma asks to rotate";

/// 32 bytes: an exporter, a nonce, a proof, a transcript.
pub type Bytes32 = [u8; LENGTH];

/// Who proves to know the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The OMA.
    Oma,
    /// The VMA.
    Vma,
}

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// The VMA, by the key that asks.
    Vma,
    /// The VMA, by the key that is to be replaced.
    OldKey,
    /// The OMA, by its host key.
    Oma,
}

impl Signer {
    fn label(self) -> &'static [u8] {
        match self {
            Signer::Vma => b"migratekit enrollment v1: vma signs",
            Signer::OldKey => b"migratekit enrollment v1: old key signs",
            Signer::Oma => b"migratekit enrollment v1: oma signs",
        }
    }
}

impl Side {
    fn label(self) -> &'static [u8] {
        match self {
            Side::Oma => b"migratekit enrollment v1: oma proves",
            Side::Vma => b"migratekit enrollment v1: vma proves",
        }
    }
}

/// What a VMA asks with.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The exporter of the TLS connection.
    pub exporter: &'a Bytes32,
    /// The VMA's key.
    pub vma_key: &'a PublicKey,
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its nonce.
    pub vma_nonce: &'a Bytes32,
}

impl Asked<'_> {
    fn message(&self) -> Vec<u8> {
        let key = self.vma_key.to_string();
        joined(&[ASK, self.exporter, key.as_bytes(), self.name.as_bytes(), self.version.as_bytes(), self.vma_nonce])
    }

    /// The proof that goes with the request.
    #[must_use]
    pub fn prove(&self, key: &CodeKey) -> Bytes32 {
        mac(key, &self.message())
    }

    /// Whether `proof` is that of `key`, in a time that does not tell.
    #[must_use]
    pub fn holds(&self, key: &CodeKey, proof: &Bytes32) -> bool {
        same_mac(key, &self.message(), proof)
    }

    fn rotation(&self, replaces: &EnrollmentId) -> Vec<u8> {
        joined(&[ROTATE, replaces.as_str().as_bytes(), &self.message()])
    }

    /// The old key's signature that goes with the request to replace it.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign_rotation(&self, replaces: &EnrollmentId, old: &PrivateKey) -> Result<[u8; SIGNATURE]> {
        old.sign(&self.rotation(replaces))
    }

    /// Whether the old key signed the request to replace it.
    #[must_use]
    pub fn is_rotation_signed(&self, replaces: &EnrollmentId, old: &PublicKey, signature: &[u8; SIGNATURE]) -> bool {
        old.is_signed(&self.rotation(replaces), signature)
    }

    /// All that both sides know now.
    #[must_use]
    pub fn answered(&self, host_key: &PublicKey, oma_nonce: &Bytes32, enrollment: &EnrollmentId) -> Transcript {
        let (vma, host) = (self.vma_key.to_string(), host_key.to_string());
        let all = joined(&[
            TRANSCRIPT,
            self.exporter,
            vma.as_bytes(),
            host.as_bytes(),
            self.name.as_bytes(),
            self.version.as_bytes(),
            self.vma_nonce,
            oma_nonce,
            enrollment.as_str().as_bytes(),
        ]);
        let mut transcript = [0; LENGTH];
        for (to, from) in transcript.iter_mut().zip(digest::digest(&digest::SHA256, &all).as_ref()) {
            *to = *from;
        }
        Transcript(transcript)
    }
}

/// What both sides saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript(Bytes32);

impl Transcript {
    /// The proof of a side that it knows the code and saw this.
    #[must_use]
    pub fn prove(&self, side: Side, key: &CodeKey) -> Bytes32 {
        mac(key, &joined(&[side.label(), &self.0]))
    }

    /// Whether `proof` is that of the side, in a time that does not tell.
    #[must_use]
    pub fn holds(&self, side: Side, key: &CodeKey, proof: &Bytes32) -> bool {
        same_mac(key, &joined(&[side.label(), &self.0]), proof)
    }

    /// A signer's signature.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&self, signer: Signer, key: &PrivateKey) -> Result<[u8; SIGNATURE]> {
        key.sign(&joined(&[signer.label(), &self.0]))
    }

    /// Whether the key signed this, as that signer.
    #[must_use]
    pub fn is_signed(&self, signer: Signer, key: &PublicKey, signature: &[u8; SIGNATURE]) -> bool {
        key.is_signed(&joined(&[signer.label(), &self.0]), signature)
    }

    /// As the catalog keeps it until it is signed.
    #[must_use]
    pub fn text(&self) -> String {
        text(&self.0)
    }

    /// From the catalog.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when it is something else.
    pub fn of_text(text: &str) -> Result<Self> {
        bytes("transcript", text).map(Transcript)
    }
}

/// Each field with its length before it.
fn joined(fields: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::with_capacity(fields.iter().map(|f| f.len() + 8).sum());
    for field in fields {
        all.extend((field.len() as u64).to_be_bytes());
        all.extend(*field);
    }
    all
}

fn mac(key: &CodeKey, message: &[u8]) -> Bytes32 {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.bytes()), message);
    let mut proof = [0; LENGTH];
    for (to, from) in proof.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    proof
}

fn same_mac(key: &CodeKey, message: &[u8], proof: &Bytes32) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key.bytes()), message, proof).is_ok()
}

/// A fresh nonce.
///
/// # Errors
/// When the system gives no random bytes.
pub fn nonce() -> Result<Bytes32> {
    let mut nonce = [0; LENGTH];
    fill_random(&mut nonce)?;
    Ok(nonce)
}

/// Random bytes of the system; it waits for entropy only while the system starts (and then whatever reads it says so).
pub(super) fn fill_random(into: &mut [u8]) -> Result<()> {
    use ring::rand::SecureRandom as _;
    ring::rand::SystemRandom::new().fill(into).map_err(|_| Error::new(ErrorKind::Io, "read random bytes", "the system gives none"))
}

/// Bytes as they travel.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes that travelled, of exactly this length.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] naming the field.
pub fn bytes<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N]> {
    let wrong = || {
        Error::new(ErrorKind::InvalidInput, "read an enrollment", "a field is not the base64 of as many bytes as it should")
            .with("field", field)
    };
    STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmas::Code;

    struct Ends {
        key: CodeKey,
        vma: PrivateKey,
        host: PrivateKey,
        enrollment: EnrollmentId,
    }

    async fn ends() -> Ends {
        let key = Code::generate().unwrap().stretch().await.unwrap();
        let (vma, host) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        Ends { key, vma, host, enrollment: EnrollmentId::generate() }
    }

    #[tokio::test]
    async fn every_field_counts_in_every_proof() {
        let e = ends().await;
        let (vma_key, host_key, other) = (e.vma.public(), e.host.public(), PrivateKey::generate().unwrap().public());
        let asked = Asked { exporter: &[1; 32], vma_key: &vma_key, name: "a", version: "b", vma_nonce: &[2; 32] };
        let proof = asked.prove(&e.key);
        assert!(asked.holds(&e.key, &proof));
        let seen = asked.answered(&host_key, &[3; 32], &e.enrollment);
        let (oma, vma) = (seen.prove(Side::Oma, &e.key), seen.prove(Side::Vma, &e.key));
        assert!(seen.holds(Side::Oma, &e.key, &oma) && seen.holds(Side::Vma, &e.key, &vma));
        assert!(!seen.holds(Side::Vma, &e.key, &oma) && !seen.holds(Side::Oma, &e.key, &vma), "no proof serves the other side");
        let signature = seen.sign(Signer::Vma, &e.vma).unwrap();
        assert!(seen.is_signed(Signer::Vma, &vma_key, &signature) && !seen.is_signed(Signer::Vma, &other, &signature));

        for signer in [Signer::OldKey, Signer::Oma] {
            assert!(!seen.is_signed(signer, &vma_key, &signature), "no signature serves another signer");
        }
        let rotation = asked.sign_rotation(&e.enrollment, &e.vma).unwrap();
        assert!(asked.is_rotation_signed(&e.enrollment, &vma_key, &rotation));
        assert!(!asked.is_rotation_signed(&EnrollmentId::generate(), &vma_key, &rotation));

        let others = [
            Asked { exporter: &[9; 32], ..asked.clone() },
            Asked { vma_key: &other, ..asked.clone() },
            Asked { name: "c", ..asked.clone() },
            Asked { version: "c", ..asked.clone() },
            Asked { name: "ab", version: "", ..asked.clone() },
            Asked { vma_nonce: &[9; 32], ..asked.clone() },
        ];
        for changed in &others {
            assert!(!changed.holds(&e.key, &proof), "{changed:?}");
            assert!(!changed.is_rotation_signed(&e.enrollment, &vma_key, &rotation), "{changed:?}");
        }
        let mut transcripts: Vec<_> = others.iter().map(|o| o.answered(&host_key, &[3; 32], &e.enrollment)).collect();
        transcripts.push(asked.answered(&other, &[3; 32], &e.enrollment));
        transcripts.push(asked.answered(&host_key, &[9; 32], &e.enrollment));
        transcripts.push(asked.answered(&host_key, &[3; 32], &EnrollmentId::generate()));
        for changed in transcripts {
            assert!(!changed.holds(Side::Oma, &e.key, &oma) && !changed.holds(Side::Vma, &e.key, &vma));
            assert!(!changed.is_signed(Signer::Vma, &vma_key, &signature));
        }
        let stranger = ends().await.key;
        assert!(!asked.holds(&stranger, &proof) && !seen.holds(Side::Oma, &stranger, &oma));
        assert_eq!(Transcript::of_text(&seen.text()).unwrap(), seen);
    }

    #[test]
    fn bytes_travel_whole_or_not_at_all() {
        assert_eq!(bytes::<3>("nonce", &text(b"abc")).unwrap(), *b"abc");
        for bad in ["", "YWI=", "YWJjZA==", "!!!!", "YWJj\n"] {
            let refused = bytes::<3>("nonce", bad).unwrap_err();
            assert_eq!((refused.kind(), refused.context_value("field")), (ErrorKind::InvalidInput, Some("nonce")), "{bad}");
        }
    }
}
