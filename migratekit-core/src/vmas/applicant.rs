//! The VMA's side of an enrollment, as a function of messages: what to ask, what to believe of the answer, what to prove.
//!
//! Nothing of an answer is believed before the OMA's proof held: only then is there an [`Answered`], and with it a host key to pin.

use super::codes::CodeKey;
use super::proof::{self, Asked, Bytes32, SIGNATURE, Side, Signer};
use super::wire::{EnrollAnswer, EnrollRequest, VerifyRequest};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::EnrollmentId;
use crate::tunnels::{PrivateKey, PublicKey};

/// A VMA that asks.
#[derive(Debug)]
pub struct Applicant {
    key: PrivateKey,
    code: CodeKey,
    name: String,
    version: String,
    nonce: Bytes32,
    exporter: Bytes32,
}

/// What an OMA that knows the code answered.
#[derive(Debug)]
pub struct Answered {
    /// The enrollment.
    pub enrollment: EnrollmentId,
    /// The OMA's host key: the one to pin.
    pub host_key: PublicKey,
    /// When the enrollment ends unless it is approved.
    pub expires_at: Timestamp,
    /// What to send next.
    pub verify: VerifyRequest,
}

impl Applicant {
    /// On the TLS connection with this exporter.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(key: PrivateKey, code: CodeKey, name: &str, version: &str, exporter: Bytes32) -> Result<Self> {
        Ok(Applicant { key, code, name: name.to_owned(), version: version.to_owned(), nonce: proof::nonce()?, exporter })
    }

    fn asked<'a>(&'a self, key: &'a PublicKey) -> Asked<'a> {
        Asked { exporter: &self.exporter, vma_key: key, name: &self.name, version: &self.version, vma_nonce: &self.nonce }
    }

    /// What to send first.
    #[must_use]
    pub fn request(&self) -> EnrollRequest {
        let key = self.key.public();
        EnrollRequest {
            name: self.name.clone(),
            version: self.version.clone(),
            public_key: key.to_string(),
            nonce: proof::text(&self.nonce),
            proof: proof::text(&self.asked(&key).prove(&self.code)),
            replaces: None,
        }
    }

    /// What an answer says, if its proof holds.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the other side does not know the code, or is not at the other end of this very connection.
    pub fn answered(&self, answer: &EnrollAnswer) -> Result<Answered> {
        let (key, host_key): (_, PublicKey) = (self.key.public(), answer.host_key.parse()?);
        let (oma_nonce, given) = (proof::bytes("nonce", &answer.nonce)?, proof::bytes("proof", &answer.proof)?);
        let seen = self.asked(&key).answered(&host_key, &oma_nonce, &answer.enrollment);
        if !seen.holds(Side::Oma, &self.code, &given) {
            let text = "the other side does not prove to know the code: it is not the OMA that gave it, or somebody is in between";
            return Err(Error::new(ErrorKind::Denied, "enroll at an OMA", text));
        }
        let verify = VerifyRequest {
            enrollment: answer.enrollment.clone(),
            proof: proof::text(&seen.prove(Side::Vma, &self.code)),
            signature: proof::text(&seen.sign(Signer::Vma, &self.key)?),
        };
        Ok(Answered { enrollment: answer.enrollment.clone(), host_key, expires_at: answer.expires_at, verify })
    }
}

/// A trusted VMA that wants another key: what it knows, and both its keys.
#[derive(Debug, Clone, Copy)]
pub struct Rotating<'a> {
    /// The OMA's host key, which is pinned.
    pub host_key: &'a PublicKey,
    /// The VMA's enrollment.
    pub enrollment: &'a EnrollmentId,
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The key that comes in now.
    pub old: &'a PrivateKey,
    /// The key that is to come in.
    pub new: &'a PrivateKey,
}

impl Rotating<'_> {
    /// What to send first, on the connection with this exporter.
    ///
    /// # Errors
    /// When the old key cannot sign.
    pub fn request(&self, exporter: &Bytes32, nonce: &Bytes32) -> Result<EnrollRequest> {
        let key = self.new.public();
        let asked = Asked { exporter, vma_key: &key, name: self.name, version: self.version, vma_nonce: nonce };
        Ok(EnrollRequest {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            public_key: key.to_string(),
            nonce: proof::text(nonce),
            proof: proof::text(&asked.sign_rotation(self.enrollment, self.old)?),
            replaces: Some(self.enrollment.clone()),
        })
    }

    /// What to send next, if the answer is that of the OMA whose host key is pinned.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the answer is somebody else's.
    pub fn answered(&self, exporter: &Bytes32, nonce: &Bytes32, answer: &EnrollAnswer) -> Result<VerifyRequest> {
        let key = self.new.public();
        let asked = Asked { exporter, vma_key: &key, name: self.name, version: self.version, vma_nonce: nonce };
        let (oma_nonce, given): (_, [u8; SIGNATURE]) = (proof::bytes("nonce", &answer.nonce)?, proof::bytes("proof", &answer.proof)?);
        let seen = asked.answered(self.host_key, &oma_nonce, &answer.enrollment);
        if !seen.is_signed(Signer::Oma, self.host_key, &given) {
            let text = "the other side does not hold the pinned host key: it is another OMA, or somebody is in between";
            return Err(Error::new(ErrorKind::Denied, "rotate the key", text));
        }
        Ok(VerifyRequest {
            enrollment: answer.enrollment.clone(),
            proof: proof::text(&seen.sign(Signer::OldKey, self.old)?),
            signature: proof::text(&seen.sign(Signer::Vma, self.new)?),
        })
    }
}
