//! Freezing one disk: by reflink where the file system can, else by copying what is not a hole; its digests are made on the way.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::digest_map::{DIGEST_BLOCK, MapWriter, digest};
use crate::block::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::task::{CancellationToken, Passed};

const FREEZE: &str = "freeze a disk";

/// Bytes read at once: a whole number of blocks.
const STEP: u64 = 16 * DIGEST_BLOCK;

/// A frozen disk not yet digested, and perhaps not yet copied.
pub(super) struct Frozen {
    image: File,
    /// The image shares the disk's blocks already.
    pub(super) cloned: bool,
}

/// Begins: after this a cloned image no longer depends on the disk.
pub(super) fn begin(disk: &File, image: &Path, size: u64) -> Result<Frozen> {
    let fail = |e| Error::from_io(FREEZE, e).with("path", image.display());
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(image).map_err(fail)?;
    let device = disk.metadata().map_err(fail)?.file_type().is_block_device();
    let cloned = !device && rustix::fs::ioctl_ficlone(&file, disk).is_ok();
    if !cloned {
        file.set_len(size).map_err(fail)?;
    }
    Ok(Frozen { image: file, cloned })
}

/// Copies what is to be copied, digests every block, and makes the image durable. Blocks; tells `passed` each step, and watches `cancel`.
pub(super) fn complete(
    disk: &File,
    frozen: &Frozen,
    size: u64,
    map: &mut MapWriter,
    passed: &Passed,
    cancel: &CancellationToken,
) -> Result<()> {
    let source = if frozen.cloned { &frozen.image } else { disk };
    let mut at = 0;
    while at < size {
        if cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, FREEZE, "it was cancelled").with("offset", at));
        }
        let end = size.min(at + STEP);
        let holds_data = next_data(source, at).map_err(|e| Error::from_io(FREEZE, e).with("offset", at))? < end;
        if holds_data {
            copy_step(source, frozen, at, end, map)?;
        } else {
            skip_step(at, end, map)?;
        }
        passed.bytes(end - at);
        at = end;
    }
    frozen.image.sync_all().map_err(|e| Error::from_io("make a snapshot durable", e))
}

fn copy_step(source: &File, frozen: &Frozen, at: u64, end: u64, map: &mut MapWriter) -> Result<()> {
    let fail = |operation| move |e: io::Error| Error::from_io(operation, e).with("offset", at);
    let mut bytes = Buffer::take(usize::try_from(end - at).unwrap_or(0));
    source.read_exact_at(&mut bytes, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Changed, FREEZE, "the disk became shorter while its snapshot was taken").with("offset", at)
        }
        _ => fail("read a disk for its snapshot")(e),
    })?;
    for (number, block) in bytes.chunks(usize::try_from(DIGEST_BLOCK).unwrap_or(1)).enumerate() {
        let digest = digest(block);
        if !frozen.cloned && digest != [0; 32] {
            let offset = at + number as u64 * DIGEST_BLOCK;
            frozen.image.write_all_at(block, offset).map_err(fail("write a snapshot"))?;
        }
        map.push(digest).map_err(fail("keep a digest map"))?;
    }
    Ok(())
}

fn skip_step(at: u64, end: u64, map: &mut MapWriter) -> Result<()> {
    for _ in 0..(end - at).div_ceil(DIGEST_BLOCK) {
        map.push([0; 32]).map_err(|e| Error::from_io("keep a digest map", e).with("offset", at))?;
    }
    Ok(())
}

/// Where the next byte that is not in a hole may be.
fn next_data(file: &File, at: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(u64::MAX),
        // Not known here (a device): all may be data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at),
        Err(e) => Err(e.into()),
    }
}

/// Whether files in this folder share blocks: tried out, with files that have no name.
pub(super) fn can_reflink(folder: &Path) -> bool {
    use rustix::fs::{Mode, OFlags};
    let nameless =
        || rustix::fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)).map(File::from);
    match (nameless(), nameless()) {
        (Ok(a), Ok(b)) => a.write_all_at(&[1; 4096], 0).is_ok() && rustix::fs::ioctl_ficlone(&b, &a).is_ok(),
        _ => false,
    }
}
