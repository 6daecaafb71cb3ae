//! Where the file system lies on a disk: on the whole of it, or in a partition of an MBR or GPT table.
//!
//! Only ext2/3/4 is looked for, because `debugfs` of the same package can change and read it without root. Partitions inside an
//! extended one are not looked at. What stands in a table is believed only where the file system's own mark is found behind it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use migratekit_core::units::{ByteRange, MIB};
use migratekit_core::{Error, Result};

/// Sectors of partition tables, in bytes; disks with 4096-byte sectors are not looked into.
const SECTOR: u64 = 512;
/// The most entries of a GPT that are read; the usual table has 128.
const GPT_ENTRIES: u32 = 256;
/// The partition type of Linux file systems in an MBR.
const MBR_LINUX: u8 = 0x83;
/// The one entry of the MBR in front of a GPT.
const MBR_PROTECTIVE: u8 = 0xee;

/// Where the demo's own partition begins; 1 MiB, as partitioning tools do it.
pub const FIRST: u64 = MIB;

/// The partition table of a disk that has one Linux partition from [`FIRST`] to its end (at most 2 TiB), as the first sector.
#[must_use]
pub fn table(disk_size: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    let sectors = u32::try_from(disk_size.saturating_sub(FIRST) / SECTOR).unwrap_or(u32::MAX).to_le_bytes();
    let start = u32::try_from(FIRST / SECTOR).unwrap_or(u32::MAX).to_le_bytes();
    // Status, first CHS (unused: FE FF FF), type, last CHS, first sector, number of sectors.
    let entry = [&[0, 0xfe, 0xff, 0xff, MBR_LINUX, 0xfe, 0xff, 0xff][..], &start[..], &sectors[..]].concat();
    for (at, byte) in sector.iter_mut().skip(446).zip(entry) {
        *at = byte;
    }
    for (at, byte) in sector.iter_mut().skip(510).zip([0x55, 0xaa]) {
        *at = byte;
    }
    sector
}

/// The largest ext2/3/4 file system on the disk.
pub fn find_ext(disk: &File, size: u64) -> Result<Option<ByteRange>> {
    let mut candidates = vec![ByteRange::between(0, size)];
    let mbr = read(disk, 0, SECTOR, size)?;
    if byte(&mbr, 510) == 0x55 && byte(&mbr, 511) == 0xaa {
        for entry in (446..510).step_by(16) {
            if byte(&mbr, entry + 4) == MBR_PROTECTIVE {
                candidates.extend(gpt(disk, size)?);
            } else {
                let start = u64::from(le32(&mbr, entry + 8)) * SECTOR;
                candidates.push(ByteRange::between(start, start + u64::from(le32(&mbr, entry + 12)) * SECTOR));
            }
        }
    }
    let mut found: Option<ByteRange> = None;
    for range in candidates {
        let range = range.intersection(ByteRange::between(0, size));
        if range.length() > found.map_or(0, ByteRange::length) && is_ext(disk, range, size)? {
            found = Some(range);
        }
    }
    Ok(found)
}

fn gpt(disk: &File, size: u64) -> Result<Vec<ByteRange>> {
    let header = read(disk, SECTOR, SECTOR, size)?;
    if header.get(..8) != Some(b"EFI PART".as_slice()) {
        return Ok(Vec::new());
    }
    let (at, count, step) = (le64(&header, 72).saturating_mul(SECTOR), le32(&header, 80).min(GPT_ENTRIES), u64::from(le32(&header, 84)));
    let mut ranges = Vec::new();
    for i in 0..u64::from(count) {
        let entry = read(disk, at.saturating_add(i * step), 48, size)?;
        let (first, last) = (le64(&entry, 32), le64(&entry, 40));
        if last >= first && first > 0 {
            ranges.push(ByteRange::between(first.saturating_mul(SECTOR), last.saturating_add(1).saturating_mul(SECTOR)));
        }
    }
    Ok(ranges)
}

/// The superblock lies 1024 bytes in, its mark 56 bytes further.
fn is_ext(disk: &File, range: ByteRange, size: u64) -> Result<bool> {
    let mark = read(disk, range.offset().saturating_add(1024 + 56), 2, size)?;
    Ok(range.length() > 2048 && mark == [0x53, 0xef])
}

/// Bytes of the disk; what lies beyond its end reads as nothing.
fn read(disk: &File, offset: u64, length: u64, size: u64) -> Result<Vec<u8>> {
    if offset.saturating_add(length) > size {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    disk.read_exact_at(&mut bytes, offset).map_err(|e| Error::from_io("read a partition table", e).with("offset", offset))?;
    Ok(bytes)
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use migratekit_core::units::GIB;

    const SIZE: u64 = 64 * MIB;

    fn disk(writes: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn our_own_table_is_read_back() {
        let mark = [0x53, 0xef];
        let file = disk(&[(0, &table(SIZE)), (FIRST + 1080, &mark)]);
        assert_eq!(find_ext(&file, SIZE).unwrap(), Some(ByteRange::between(FIRST, SIZE)));
    }

    #[test]
    fn a_plain_disk_and_one_without_a_file_system() {
        assert_eq!(find_ext(&disk(&[(1080, &[0x53, 0xef])]), SIZE).unwrap(), Some(ByteRange::between(0, SIZE)));
        assert_eq!(find_ext(&disk(&[]), SIZE).unwrap(), None);
        assert_eq!(find_ext(&disk(&[(0, &table(SIZE))]), SIZE).unwrap(), None, "a table alone proves nothing");
    }

    #[test]
    fn the_largest_of_a_gpt_is_taken() {
        let mut mbr = [0; 512];
        mbr[450] = MBR_PROTECTIVE;
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[72] = 2;
        header[80] = 128;
        header[84] = 128;
        let mut entries = [0; 384];
        for (i, (first, last)) in [(2048_u64, 4095_u64), (4096, 100_000), (100_001, u64::MAX)].into_iter().enumerate() {
            entries[i * 128 + 32..i * 128 + 40].copy_from_slice(&first.to_le_bytes());
            entries[i * 128 + 40..i * 128 + 48].copy_from_slice(&last.to_le_bytes());
        }
        let mark: &[u8] = &[0x53, 0xef];
        let file = disk(&[(0, &mbr), (512, &header), (1024, &entries), (2048 * 512 + 1080, mark), (4096 * 512 + 1080, mark)]);
        assert_eq!(find_ext(&file, SIZE).unwrap(), Some(ByteRange::between(4096 * 512, 100_001 * 512)));
    }

    #[test]
    fn a_table_that_lies_reads_nothing_beyond_the_disk() {
        let file = disk(&[(0, &table(16 * GIB))]);
        assert_eq!(find_ext(&file, SIZE).unwrap(), None);
        assert_eq!(find_ext(&disk(&[]), 100).unwrap(), None, "smaller than a sector");
    }
}
