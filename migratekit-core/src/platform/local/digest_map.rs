//! A digest map: what every 64 KiB of a disk was at a snapshot, in 32 bytes each.
//!
//! A header of 4 KiB says whose map it is; then the digests in order. Blocks that read as zero have the digest of 32 zero bytes, so the
//! map of a sparse disk is sparse. The header carries a digest of the body and one of itself: a map that is damaged is found and
//! refused, never half believed. A map appears under its name when it is whole and durable.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::sync_folder;
use crate::block::ExtentMap;
use crate::error::{Error, Result};
use crate::platform::names::{ChangeId, MAX_NAME};
use crate::units::{ByteRange, KIB};

/// The unit of change tracking, in bytes.
pub const DIGEST_BLOCK: u64 = 64 * KIB;

const MAGIC: [u8; 8] = *b"MKDIGEST";
const HEADER: usize = 4096;
const ENTRY: usize = 32;
/// Where the parts of the header stand: magic, size of the disk, body's digest, length of the id, id; its own digest at the end.
const AT_SIZE: usize = 8;
const AT_BODY: usize = 16;
const AT_LENGTH: usize = 48;
const AT_ID: usize = 50;
const AT_SEAL: usize = HEADER - ENTRY;
/// Digests read or written at once, in bytes.
const STEP: usize = 64 * 1024;
/// The most changed areas a comparison tells; more are joined over the gaps between them. It bounds the answer to about 50 MB.
const MAX_AREAS: usize = 1_000_000;

/// The digest of one block; zeros stand for a block of zeros.
pub(super) type BlockDigest = [u8; ENTRY];

/// Why a map is not believed, for people.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    Missing,
    Damaged,
    Other,
}

/// The digest of a block.
pub(super) fn digest(block: &[u8]) -> BlockDigest {
    if crate::copy::is_zero(block) { [0; ENTRY] } else { *blake3::hash(block).as_bytes() }
}

fn blocks(size: u64) -> u64 {
    size.div_ceil(DIGEST_BLOCK)
}

/// A map in the making.
pub(super) struct MapWriter {
    file: File,
    path: PathBuf,
    size: u64,
    id: ChangeId,
    batch: Vec<u8>,
    at: u64,
    body: blake3::Hasher,
}

impl MapWriter {
    /// Begins the map of a disk of `size` bytes, to be known by `id`.
    pub(super) fn create(path: &Path, id: ChangeId, size: u64) -> io::Result<Self> {
        let new = path.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
        Ok(MapWriter { file, path: path.to_path_buf(), size, id, batch: Vec::with_capacity(STEP), at: 0, body: blake3::Hasher::new() })
    }

    /// The digest of the next block.
    pub(super) fn push(&mut self, digest: BlockDigest) -> io::Result<()> {
        self.batch.extend_from_slice(&digest);
        if self.batch.len() < STEP { Ok(()) } else { self.write_batch() }
    }

    fn write_batch(&mut self) -> io::Result<()> {
        self.body.update(&self.batch);
        if !crate::copy::is_zero(&self.batch) {
            self.file.write_all_at(&self.batch, HEADER as u64 + self.at)?;
        }
        self.at += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }

    /// Makes it durable under its name.
    pub(super) fn finish(mut self) -> Result<()> {
        let path = self.path.clone();
        self.finish_io().map_err(|e| Error::from_io("keep a digest map", e).with("path", path.display()))?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    }

    fn finish_io(&mut self) -> io::Result<()> {
        self.write_batch()?;
        if self.at != blocks(self.size) * ENTRY as u64 {
            return Err(io::Error::other("the map has not a digest for each block"));
        }
        self.file.set_len(HEADER as u64 + self.at)?;
        let header =
            header(&self.id, self.size, self.body.finalize().as_bytes()).ok_or_else(|| io::Error::other("the change id is too long"))?;
        self.file.write_all_at(&header, 0)?;
        self.file.sync_all()?;
        std::fs::rename(self.path.with_extension("new"), &self.path)
    }
}

fn header(id: &ChangeId, size: u64, body: &BlockDigest) -> Option<Vec<u8>> {
    let id = id.as_str().as_bytes();
    let length = u16::try_from(id.len()).ok().filter(|n| usize::from(*n) <= MAX_NAME)?;
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&size.to_be_bytes());
    header.extend_from_slice(body);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(id);
    header.resize(AT_SEAL, 0);
    let seal = blake3::hash(&header);
    header.extend_from_slice(seal.as_bytes());
    Some(header)
}

/// A map that was kept.
struct MapReader {
    file: io::BufReader<File>,
    size: u64,
    claimed: BlockDigest,
    body: blake3::Hasher,
}

impl MapReader {
    /// Opens the map at `path`, if it is whole at its front and known by `id`.
    fn open(path: &Path, id: &ChangeId) -> io::Result<Result<Self, Doubt>> {
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(Doubt::Missing)),
            other => other?,
        };
        let mut head = Vec::with_capacity(HEADER);
        (&mut file).take(HEADER as u64).read_to_end(&mut head)?;
        let Some((size, claimed, name)) = parse(&head) else { return Ok(Err(Doubt::Damaged)) };
        if name != id.as_str().as_bytes() {
            return Ok(Err(Doubt::Other));
        }
        let length = file.seek(SeekFrom::End(0))?;
        if blocks(size).checked_mul(ENTRY as u64).and_then(|n| n.checked_add(HEADER as u64)) != Some(length) {
            return Ok(Err(Doubt::Damaged));
        }
        file.seek(SeekFrom::Start(HEADER as u64))?;
        Ok(Ok(MapReader { file: io::BufReader::with_capacity(STEP, file), size, claimed, body: blake3::Hasher::new() }))
    }

    fn next(&mut self) -> io::Result<BlockDigest> {
        let mut digest = [0; ENTRY];
        self.file.read_exact(&mut digest)?;
        self.body.update(&digest);
        Ok(digest)
    }

    /// Whether all that was read is what was written; the rest is read for it.
    fn ends_whole(mut self) -> io::Result<bool> {
        let mut rest = vec![0; STEP];
        loop {
            let n = self.file.read(&mut rest)?;
            if n == 0 {
                return Ok(*self.body.finalize().as_bytes() == self.claimed);
            }
            self.body.update(rest.get(..n).unwrap_or(&[]));
        }
    }
}

fn parse(header: &[u8]) -> Option<(u64, BlockDigest, &[u8])> {
    let (front, seal) = (header.get(..AT_SEAL)?, header.get(AT_SEAL..HEADER)?);
    if front.get(..AT_SIZE)? != MAGIC || blake3::hash(front).as_bytes() != seal {
        return None;
    }
    let size = u64::from_be_bytes(front.get(AT_SIZE..AT_BODY)?.try_into().ok()?);
    let body = front.get(AT_BODY..AT_LENGTH)?.try_into().ok()?;
    let length = u16::from_be_bytes(front.get(AT_LENGTH..AT_ID)?.try_into().ok()?);
    Some((size, body, front.get(AT_ID..AT_ID + usize::from(length))?))
}

/// What differs between two maps: areas of the newer disk. The older disk may be smaller; then the rest of the newer one differs.
pub(super) fn compare(old: (&Path, &ChangeId), new: (&Path, &ChangeId)) -> Result<Result<ExtentMap, Doubt>> {
    compare_io(old, new).map_err(|e| Error::from_io("compare digest maps", e).with("path", old.0.display()))
}

fn compare_io(old: (&Path, &ChangeId), new: (&Path, &ChangeId)) -> io::Result<Result<ExtentMap, Doubt>> {
    let (mut old, mut new) = match (MapReader::open(old.0, old.1)?, MapReader::open(new.0, new.1)?) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(doubt), _) | (_, Err(doubt)) => return Ok(Err(doubt)),
    };
    let (mut areas, mut gap) = (ExtentMap::new(), DIGEST_BLOCK);
    for block in 0..blocks(new.size) {
        let range = ByteRange::between(block * DIGEST_BLOCK, new.size.min((block + 1) * DIGEST_BLOCK));
        let now = new.next()?;
        // A block that was cut short by the old end is another block now.
        let before = if block < blocks(old.size) { Some(old.next()?) } else { None };
        if before != Some(now) || range.end() > old.size {
            areas.insert(range, ());
        }
        if areas.len() > MAX_AREAS {
            gap *= 2;
            areas = areas.close_gaps(gap);
        }
    }
    match old.ends_whole()? && new.ends_whole()? {
        true => Ok(Ok(areas)),
        false => Ok(Err(Doubt::Damaged)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 5 * DIGEST_BLOCK + 100;

    fn id(text: &str) -> ChangeId {
        text.parse().unwrap()
    }

    fn write(path: &Path, name: &str, size: u64, blocks: &[u8]) {
        let mut map = MapWriter::create(path, id(name), size).unwrap();
        for fill in blocks {
            map.push(digest(&[*fill; 10])).unwrap();
        }
        map.finish().unwrap();
    }

    #[test]
    fn blocks_that_differ_are_told_and_so_is_a_new_tail() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("1.map"), folder.path().join("2.map"));
        write(&a, "x/1", SIZE, &[0, 1, 2, 3, 4, 5]);
        write(&b, "x/2", SIZE, &[0, 1, 9, 3, 0, 5]);
        let areas = compare((&a, &id("x/1")), (&b, &id("x/2"))).unwrap().unwrap();
        let found: Vec<_> = areas.iter().map(|(r, ())| (r.offset() / DIGEST_BLOCK, r.length())).collect();
        assert_eq!(found, [(2, DIGEST_BLOCK), (4, DIGEST_BLOCK)]);
        assert!(compare((&a, &id("x/1")), (&a, &id("x/1"))).unwrap().unwrap().is_empty());

        write(&b, "x/2", 7 * DIGEST_BLOCK, &[0, 1, 2, 3, 4, 5, 0]);
        let areas = compare((&a, &id("x/1")), (&b, &id("x/2"))).unwrap().unwrap();
        let found: Vec<_> = areas.iter().map(|(r, ())| (r.offset() / DIGEST_BLOCK, r.length())).collect();
        assert_eq!(found, [(5, 2 * DIGEST_BLOCK)], "the block that was cut short, and the new one");
    }

    #[test]
    fn every_single_damaged_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("1.map"), folder.path().join("2.map"));
        write(&a, "x/1", SIZE, &[1, 1, 2, 3, 4, 5]);
        write(&b, "x/2", SIZE, &[1, 1, 2, 3, 4, 5]);
        let good = std::fs::read(&a).unwrap();
        for at in (0..60).chain(HEADER - ENTRY..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&a, bad).unwrap();
            assert_eq!(compare((&a, &id("x/1")), (&b, &id("x/2"))).unwrap(), Err(Doubt::Damaged), "byte {at}");
        }
        for length in [0, 7, HEADER, good.len() - 1] {
            std::fs::write(&a, &good[..length]).unwrap();
            assert_eq!(compare((&a, &id("x/1")), (&b, &id("x/2"))).unwrap(), Err(Doubt::Damaged), "{length} bytes");
        }
        std::fs::write(&a, &good).unwrap();
        assert_eq!(compare((&a, &id("x/7")), (&b, &id("x/2"))).unwrap(), Err(Doubt::Other));
        std::fs::remove_file(&a).unwrap();
        assert_eq!(compare((&a, &id("x/1")), (&b, &id("x/2"))).unwrap(), Err(Doubt::Missing));
    }

    #[test]
    fn the_map_of_an_empty_disk_takes_no_room() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.map");
        let count = 1 << 16;
        let mut map = MapWriter::create(&path, id("x/1"), count * DIGEST_BLOCK).unwrap();
        for _ in 0..count {
            map.push(digest(&[0; 64])).unwrap();
        }
        map.finish().unwrap();
        let metadata = path.metadata().unwrap();
        assert!(metadata.len() > 2_000_000 && metadata.blocks() * 512 < 65536, "{} of {}", metadata.blocks() * 512, metadata.len());
    }
}
