//! Epochs: who may write. An export that is fenced admits only names that carry an epoch, a job and a proof.
//!
//! ```text
//! NAME / EPOCH / JOB / MAC      web-01-disk-0/7/job-42/3f2a..
//! ```
//!
//! MAC is keyed BLAKE3 (our HMAC: BLAKE3's keyed mode is a MAC by design) of volume name, epoch and job, in lower-case hex. Who
//! hands out leases and who serves the export share the key; a mover sees only its own name. The export keeps the highest epoch it
//! ever admitted, and a connection with a lower one is refused: it belongs to a mover that lost its lease and does not know it yet.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// The key that catalog and export share. It does not appear in `Debug` and has no other form.
#[derive(Clone)]
pub struct EpochKey([u8; 32]);

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochKey(..)")
    }
}

/// The right to write that a name carries, after its proof was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The epoch; a higher one ends the rights of all lower ones.
    pub epoch: u64,
    /// The job that writes.
    pub job: String,
}

impl EpochKey {
    /// A key from 32 secret random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        EpochKey(bytes)
    }

    /// The export name with which `job` may write `volume` in `epoch`. A job is 1 to 64 of `[0-9a-zA-Z._-]`, so that it can name
    /// the pass of the ledger.
    pub fn name(&self, volume: &str, epoch: u64, job: &str) -> Result<String> {
        if !super::handshake::server::is_pass_id(job) {
            return Err(Error::new(ErrorKind::InvalidInput, "build an export name", "a job has 1 to 64 of 0-9 a-z A-Z . _ -")
                .with("export", volume)
                .with("job", job));
        }
        Ok(format!("{volume}/{epoch}/{job}/{}", self.mac(volume, epoch, job).to_hex()))
    }

    /// Checks the three parts behind the volume's name. `None`: malformed, or the proof is not right.
    pub(crate) fn check(&self, token: &Token<'_>) -> Option<Claim> {
        let given = blake3::Hash::from_hex(token.mac).ok()?;
        // The comparison of hashes takes the same time wherever they differ.
        (self.mac(token.volume, token.epoch, token.job) == given).then(|| Claim { epoch: token.epoch, job: token.job.to_owned() })
    }

    fn mac(&self, volume: &str, epoch: u64, job: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in [volume.as_bytes(), &epoch.to_be_bytes(), job.as_bytes()] {
            // The length in front of each part: no two triples give the same bytes.
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// A name taken apart; nothing is proven yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// The export's plain name; it may hold `/` itself.
    pub(crate) volume: &'a str,
    pub(crate) epoch: u64,
    pub(crate) job: &'a str,
    pub(crate) mac: &'a str,
}

impl<'a> Token<'a> {
    /// Takes `NAME/EPOCH/JOB/MAC` apart; `None` when it has not this form.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.rsplitn(4, '/');
        let (mac, job, epoch, volume) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let canonical = epoch == "0" || (!epoch.starts_with(['0', '+']));
        let epoch = epoch.parse().ok().filter(|_| canonical)?;
        super::handshake::server::is_pass_id(job).then_some(Token { volume, epoch, job, mac })
    }
}

/// A name as it may be shown, in messages and logs: without the proof, if it has the form of one that carries it. Who reads a log
/// must not be able to write.
pub(crate) fn without_proof(name: &str) -> std::borrow::Cow<'_, str> {
    match Token::parse(name).and_then(|token| name.strip_suffix(token.mac)) {
        Some(front) => format!("{front}..").into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_proves_volume_epoch_and_job() {
        let key = EpochKey::new([7; 32]);
        let name = key.name("a/b", 3, "job-1").unwrap();
        let token = Token::parse(&name).unwrap();
        assert_eq!(key.check(&token), Some(Claim { epoch: 3, job: "job-1".into() }));
        assert_eq!(EpochKey::new([8; 32]).check(&token), None, "another key");
        for wrong in
            [Token { volume: "a", ..token }, Token { epoch: 4, ..token }, Token { job: "job-2", ..token }, Token { mac: "00", ..token }]
        {
            assert_eq!(key.check(&wrong), None, "{wrong:?}");
        }
        assert_eq!(format!("{key:?}"), "EpochKey(..)");
        assert!(key.name("a", 1, "no/slash").is_err());
    }

    #[test]
    fn the_proof_is_not_shown() {
        let name = EpochKey::new([7; 32]).name("a/b", 3, "job-1").unwrap();
        assert_eq!(without_proof(&name), "a/b/3/job-1/..");
        assert_eq!(without_proof(&format!("migratekit:digest:blake3:4096:{name}")), "migratekit:digest:blake3:4096:a/b/3/job-1/..");
        assert_eq!(without_proof("a/b"), "a/b");
    }

    #[test]
    fn only_the_canonical_form_is_a_token() {
        for name in ["", "a", "a/1/j", "a/x/j/00", "a/-1/j/00", "a/+1/j/00", "a/01/j/00", "a/1//00", "a/18446744073709551616/j/00"] {
            assert_eq!(Token::parse(name), None, "{name}");
        }
        assert!(Token::parse("a/18446744073709551615/j/00").is_some());
    }
}
