//! Zeros without sending them: holes, zeroed ranges, discards; and finding holes again.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::{Inner, Kind};
use crate::block::{Extent, ExtentKind, ZERO_STEP, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// Zeros to write where the file system knows no better way.
static ZEROS: [u8; 1024 * 1024] = [0; 1024 * 1024];

impl Inner {
    /// Makes `range` read as zero; may block.
    pub(super) fn zero(&self, range: ByteRange, mode: ZeroMode) -> Result<()> {
        if mode.may_punch && self.is_hole(range) {
            return Ok(());
        }
        if mode.only_fast {
            return self.zero_fast(range, mode);
        }
        for piece in range.pieces(ZERO_STEP) {
            let (head, middle, tail) = self.split(piece);
            self.write_zeros(head)?;
            self.write_zeros(tail)?;
            if !middle.is_empty() && !self.allocate_zeros(middle, mode.may_punch)? {
                self.write_zeros(middle)?;
            }
        }
        Ok(())
    }

    /// All by `fallocate` in one call, so that a refusal comes before anything was changed; short unaligned edges of a block
    /// device are written after that.
    fn zero_fast(&self, range: ByteRange, mode: ZeroMode) -> Result<()> {
        let (head, middle, tail) = self.split(range);
        // On a block device ZERO_RANGE falls back to writing inside the kernel, so only PUNCH_HOLE is known to be fast.
        let possible = mode.may_punch || self.kind != Kind::Device;
        if middle.is_empty() || !possible || !self.allocate_zeros(middle, mode.may_punch)? {
            return Err(Error::new(ErrorKind::Unsupported, "zero", "it would be as slow as writing zeros")
                .with("disk", &self.info.name)
                .with("offset", range.offset()));
        }
        self.write_zeros(head)?;
        self.write_zeros(tail)
    }

    /// Gives `range` back where possible; may block.
    pub(super) fn discard(&self, range: ByteRange) -> Result<()> {
        for piece in range.pieces(ZERO_STEP) {
            let (_, middle, _) = self.split(piece);
            if !middle.is_empty() && !self.fallocate(&self.known.no_punch, FallocateFlags::PUNCH_HOLE, middle, "discard")? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The part `fallocate` takes, and what is left on both sides. Files take all.
    fn split(&self, range: ByteRange) -> (ByteRange, ByteRange, ByteRange) {
        let block = self.fallocate_block.max(1);
        let start = range.offset().next_multiple_of(block).min(range.end());
        let end = (range.end() / block * block).max(start);
        (ByteRange::between(range.offset(), start), ByteRange::between(start, end), ByteRange::between(end, range.end()))
    }

    /// Zeros by the file system; false where it cannot.
    fn allocate_zeros(&self, range: ByteRange, may_punch: bool) -> Result<bool> {
        if may_punch && self.fallocate(&self.known.no_punch, FallocateFlags::PUNCH_HOLE, range, "zero")? {
            return Ok(true);
        }
        self.fallocate(&self.known.no_zero_range, FallocateFlags::ZERO_RANGE, range, "zero")
    }

    fn fallocate(&self, refused: &AtomicBool, how: FallocateFlags, range: ByteRange, operation: &'static str) -> Result<bool> {
        if refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        loop {
            match rustix::fs::fallocate(&self.fd, how | FallocateFlags::KEEP_SIZE, range.offset(), range.length()) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    refused.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                // A block device whose cached pages are busy just now.
                Err(Errno::BUSY) => return Ok(false),
                Err(e) => return Err(self.fail(operation, e, range.offset())),
            }
        }
    }

    fn write_zeros(&self, range: ByteRange) -> Result<()> {
        let step = u64::try_from(ZEROS.len()).unwrap_or(1);
        for piece in range.pieces(step) {
            let zeros = usize::try_from(piece.length()).ok().and_then(|n| ZEROS.get(..n)).unwrap_or(&ZEROS);
            self.write_full(zeros, piece.offset())?;
        }
        Ok(())
    }

    /// Whether no byte of `range` is allocated. A file that became shorter is not a hole.
    fn is_hole(&self, range: ByteRange) -> bool {
        if self.kind == Kind::Device {
            return false;
        }
        match rustix::fs::seek(&self.fd, SeekFrom::Data(range.offset())) {
            Ok(data) => data >= range.end(),
            Err(Errno::NXIO) => self.check_size("zero").is_ok(),
            Err(_) => false,
        }
    }

    /// Where data is and where holes; may block.
    pub(super) fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        const OPERATION: &str = "ask for extents";
        if self.kind == Kind::Device {
            self.check_size(OPERATION)?;
            return Ok(vec![Extent { range, kind: ExtentKind::Data }]);
        }
        let mut found = Vec::new();
        let mut at = range.offset();
        while at < range.end() {
            let data = match rustix::fs::seek(&self.fd, SeekFrom::Data(at)) {
                Ok(offset) => offset.clamp(at, range.end()),
                Err(Errno::NXIO) => range.end(),
                // Not known here: then all may be data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(e) => return Err(self.fail(OPERATION, e, at)),
            };
            if data > at {
                found.push(Extent { range: ByteRange::between(at, data), kind: ExtentKind::Hole });
                at = data;
                continue;
            }
            let hole = match rustix::fs::seek(&self.fd, SeekFrom::Hole(at)) {
                // Punched meanwhile: the next turn looks again, but data of at least a byte is always right to say.
                Ok(offset) => offset.clamp(at + 1, range.end()),
                Err(_) => range.end(),
            };
            found.push(Extent { range: ByteRange::between(at, hole), kind: ExtentKind::Data });
            at = hole;
        }
        // Beyond the end of a file that became shorter everything looks like a hole; so this check comes last.
        self.check_size(OPERATION)?;
        Ok(found)
    }
}
