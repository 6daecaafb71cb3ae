//! Passes: one run, or one run and its continuations, that bring a target to one state of its source.
//!
//! A ledger says of each block by which pass it was proven. So the id of a pass must never be used for another state of the
//! source: it is random, and it carries a fingerprint of the source, so that a resume from something else is refused.

use std::fmt;
use std::str::FromStr;

use crate::block::Extent;
use crate::error::{Error, ErrorKind, Result};

/// Hexadecimal digits of each half.
const DIGITS: usize = 16;

/// What a source is known by: its address, its size, which ranges are copied, and for a local file what changes when it is
/// written to. Of a foreign server the content cannot be known; there the caller answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint([u8; DIGITS / 2]);

impl Fingerprint {
    /// The fingerprint of a source. `state` is what changes when its content does (of a file: inode and time of change).
    #[must_use]
    pub fn new(address: &str, size: u64, state: &str, extents: Option<&[Extent]>) -> Self {
        let mut hash = blake3::Hasher::new();
        for part in [address, &size.to_string(), state] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        for extent in extents.unwrap_or(&[]) {
            hash.update(&extent.range.offset().to_be_bytes());
            hash.update(&extent.range.length().to_be_bytes());
            hash.update(&[u8::from(extent.kind.reads_zero())]);
        }
        hash.update(&[u8::from(extents.is_some())]);
        let mut short = [0; DIGITS / 2];
        hash.finalize_xof().fill(&mut short);
        Fingerprint(short)
    }

    /// A number that follows from the fingerprint: the seed of a sample.
    pub(super) fn seed(&self) -> u64 {
        u64::from_be_bytes(self.0)
    }
}

/// What a pass is called on the wire and in a ledger, `RANDOM-FINGERPRINT`; it fits a meta context's name. Inside one opened ledger
/// [`PassId`](super::ledger::PassId) stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassName(String);

impl PassName {
    /// A new pass over the source.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn new(source: &Fingerprint) -> Result<Self> {
        let mut random = [0; DIGITS / 2];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::from_io("make a random id", e.into()))?;
        Ok(PassName(format!("{}-{}", hex(&random), hex(&source.0))))
    }

    /// Refuses to continue this pass from another source, or from the same one after it changed.
    ///
    /// # Errors
    /// `Changed`.
    pub fn check(&self, source: &Fingerprint) -> Result<()> {
        if self.0.rsplit('-').next() == Some(hex(&source.0).as_str()) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Changed,
            "resume a copy",
            "the interrupted copy had another source, other extents, or the source has changed since",
        )
        .with("pass", self))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PassName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let half = |h: &str| h.len() == DIGITS && h.bytes().all(|b| b.is_ascii_hexdigit());
        match text.split_once('-') {
            Some((random, source)) if half(random) && half(source) => Ok(PassName(text.to_owned())),
            _ => Err(Error::new(ErrorKind::Unsupported, "resume a copy", "the last pass on the target was not made by this command")
                .with("pass", text)),
        }
    }
}

impl fmt::Display for PassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ExtentKind;
    use crate::units::ByteRange;

    #[test]
    fn a_pass_is_continued_only_from_its_own_source() {
        let extents = [Extent { range: ByteRange::between(0, 4096), kind: ExtentKind::Data }];
        let source = Fingerprint::new("a", 10, "1", None);
        let pass: PassName = PassName::new(&source).unwrap().as_str().parse().unwrap();
        assert!(pass.check(&source).is_ok());
        for other in [
            Fingerprint::new("b", 10, "1", None),
            Fingerprint::new("a", 11, "1", None),
            Fingerprint::new("a", 10, "2", None),
            Fingerprint::new("a", 10, "1", Some(&extents)),
            Fingerprint::new("a", 10, "1", Some(&[])),
        ] {
            assert_eq!(pass.check(&other).unwrap_err().kind(), ErrorKind::Changed);
        }
        assert_ne!(PassName::new(&source).unwrap(), PassName::new(&source).unwrap());
        assert!("job-7".parse::<PassName>().is_err());
    }
}
