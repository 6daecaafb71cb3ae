//! A platform replicas are kept on: volumes, known by their tag and never by their name.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::capability::TargetCapabilities;
use crate::block::{BlockRead, BoxFuture};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ContextId, DiskKey, VolumeId};
use crate::units::{ByteRange, KIB, MIB};

/// How much of a volume is looked at on either end to know it again, in bytes.
pub const EDGE: u64 = MIB;

/// What a volume belongs to: the key it is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeTag {
    /// The VM under management.
    pub context: ContextId,
    /// Its disk.
    pub disk: DiskKey,
}

impl fmt::Display for VolumeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.context, self.disk)
    }
}

/// A volume of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The platform's id of it; never given to another.
    pub id: VolumeId,
    /// What it belongs to.
    pub tag: VolumeTag,
    /// What the device says of itself when it is attached.
    pub serial: String,
    /// Its size in bytes: at least what was asked for.
    pub size_bytes: u64,
}

impl Volume {
    /// The serial number that a volume of this id shows: the first 20 hexadecimal digits of it, which is what a device has room for.
    #[must_use]
    pub fn serial_of(id: &VolumeId) -> String {
        id.as_str().chars().filter(char::is_ascii_hexdigit).take(20).collect()
    }
}

/// An entry of a listing: a volume, or why what lies there is none.
#[derive(Debug)]
pub struct VolumeListed {
    /// Where it was found, for people.
    pub place: String,
    /// The volume; an error concerns this one only.
    pub volume: Result<Volume>,
}

/// Where a volume is reached on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlace {
    /// The volume, as it was found.
    pub volume: Volume,
    /// The file or block device that is its bytes.
    pub path: PathBuf,
    /// A folder for what is written down about it (ledger, spool): beside a file, in the state folder for a device. It goes with it.
    pub records: PathBuf,
}

/// A platform that replicas are kept on. See [the module](super) for what every implementation promises.
pub trait Target: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> TargetCapabilities;

    /// Makes a volume of at least `size` bytes with this tag, in one step as far as [`Target::find_volume`] sees.
    ///
    /// # Errors
    /// `AlreadyExists`: one with this tag is there. `NoSpace`. `InvalidInput`: the size is 0 or too large.
    fn create_volume<'a>(&'a self, tag: &'a VolumeTag, size: u64) -> BoxFuture<'a, Result<Volume>>;

    /// The volume with this tag.
    ///
    /// # Errors
    /// `Mismatch`: two carry it; which one is right cannot be known.
    fn find_volume<'a>(&'a self, tag: &'a VolumeTag) -> BoxFuture<'a, Result<Option<Volume>>>;

    /// Every volume of ours, and each one that cannot be read, singly.
    fn volumes(&self) -> BoxFuture<'_, Result<Vec<VolumeListed>>>;

    /// Makes a volume at least `size` bytes large; the new part reads as zero. One that is large enough is left as it is.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported`: volumes cannot grow here; `NoSpace`.
    fn resize_volume<'a>(&'a self, id: &'a VolumeId, size: u64) -> BoxFuture<'a, Result<Volume>>;

    /// Removes a volume with all that was written down about it; false when there was none.
    ///
    /// # Errors
    /// `Busy`: somebody has it open for writing.
    fn remove_volume<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<bool>>;

    /// Makes the volume reachable on this host, and makes sure that it is the one: tag, serial and size are what `expected` says, or
    /// the size is larger. The bytes are the caller's to check ([`check_blank`], [`edges`]), who also takes the lock when it opens it.
    ///
    /// # Errors
    /// `NotFound`; `Changed`: what is there is not the expected volume.
    fn open_volume<'a>(&'a self, expected: &'a Volume) -> BoxFuture<'a, Result<VolumePlace>>;
}

/// The first and the last [`EDGE`] bytes of a disk of `size` bytes; one range when it is not larger than both.
#[must_use]
pub fn edges(size: u64) -> Vec<ByteRange> {
    if size <= 2 * EDGE {
        return vec![ByteRange::between(0, size)];
    }
    vec![ByteRange::between(0, EDGE), ByteRange::between(size - EDGE, size)]
}

/// Makes sure that nothing lies at either end of a volume that is to be written for the first time.
///
/// # Errors
/// `Mismatch`, with the offset of the first byte that is not zero: the volume holds something that is not ours. Else as reading fails.
pub async fn check_blank(disk: &dyn BlockRead) -> Result<()> {
    let step = u64::from(disk.info().max_request).min(256 * KIB);
    for piece in edges(disk.info().size).into_iter().flat_map(|edge| edge.pieces(step)) {
        let bytes = disk.read(piece).await?;
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            let offset = piece.offset().saturating_add(u64::try_from(at).unwrap_or(0));
            return Err(Error::new(ErrorKind::Mismatch, "write a volume for the first time", "it holds bytes that are not ours")
                .with("volume", &disk.info().name)
                .with("offset", offset));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockWrite, MemoryDisk, Persist};

    #[tokio::test]
    async fn a_byte_at_either_end_is_found_and_one_in_the_middle_is_not_looked_for() {
        let size = 5 * MIB + 17;
        for (at, foreign) in [(0, true), (EDGE - 1, true), (EDGE, false), (size - EDGE - 1, false), (size - EDGE, true), (size - 1, true)] {
            let disk = MemoryDisk::new("volume", size);
            assert!(check_blank(&disk).await.is_ok());
            disk.write(at, vec![1].into(), Persist::Cached).await.unwrap();
            let found = check_blank(&disk).await.err();
            assert_eq!(found.is_some(), foreign, "{at}");
            if let Some(e) = found {
                assert_eq!(e.context_value("offset"), Some(at.to_string().as_str()));
            }
        }
        let small = MemoryDisk::new("small", 3);
        small.write(2, vec![1].into(), Persist::Cached).await.unwrap();
        assert!(check_blank(&small).await.is_err());
    }
}
