//! A disk in memory, as sparse as what was written to it: a disk of 16 TiB with two written pages takes two pages.

use std::collections::BTreeMap;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Buffer, Capabilities, Extent, ExtentKind, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// The unit of allocation, in bytes.
const PAGE: u64 = 64 * 1024;

/// As [`PAGE`], for lengths in memory.
const PAGE_LENGTH: usize = 64 * 1024;

type Pages = BTreeMap<u64, Box<[u8]>>;

/// A sparse disk in memory. What was never written, and what was zeroed or discarded page-wise, is a hole. Nothing is durable:
/// a flush succeeds because nothing can be lost before the disk itself.
#[derive(Debug)]
pub struct MemoryDisk {
    info: BlockInfo,
    pages: RwLock<Pages>,
}

impl MemoryDisk {
    /// An empty disk of `size` bytes.
    #[must_use]
    pub fn new(name: impl Into<String>, size: u64) -> Self {
        let can = Capabilities {
            flush: true,
            fua: true,
            discard: true,
            zero: true,
            fast_zero: true,
            extents: true,
            multi_conn: true,
            cache: false,
        };
        MemoryDisk::with_info(BlockInfo { can, ..BlockInfo::plain(name, size) })
    }

    /// An empty disk that is and can do what `info` says (read-only, block sizes, limits): it refuses the rest.
    #[must_use]
    pub fn with_info(info: BlockInfo) -> Self {
        MemoryDisk { info, pages: RwLock::new(Pages::new()) }
    }

    /// A disk with this content; zero pages take no memory.
    #[must_use]
    pub fn from_bytes(name: impl Into<String>, content: &[u8]) -> Self {
        let mut disk = MemoryDisk::new(name, u64::try_from(content.len()).unwrap_or(u64::MAX));
        let pages = disk.pages.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (number, chunk) in (0..).zip(content.chunks(PAGE_LENGTH)) {
            if chunk.iter().any(|b| *b != 0) {
                let mut page = empty_page();
                if let Some(start) = page.get_mut(..chunk.len()) {
                    start.copy_from_slice(chunk);
                }
                pages.insert(number, page);
            }
        }
        disk
    }

    /// How many bytes of memory the content takes.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        u64::try_from(self.shared().len()).unwrap_or(u64::MAX).saturating_mul(PAGE)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Pages> {
        self.pages.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read_now(&self, range: ByteRange) -> Result<Bytes> {
        self.info.check_transfer("read", range)?;
        let mut buffer = Buffer::take(usize::try_from(range.length()).unwrap_or(usize::MAX));
        let pages = self.shared();
        let mut rest: &mut [u8] = &mut buffer;
        for piece in range.pieces(PAGE) {
            let (number, inside) = place(piece);
            let Some((to, after)) = rest.split_at_mut_checked(inside.len()) else { break };
            match pages.get(&number).and_then(|page| page.get(inside)) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0),
            }
            rest = after;
        }
        drop(pages);
        Ok(buffer.freeze())
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, u64::try_from(data.len()).unwrap_or(u64::MAX)).map_err(|e| e.with("disk", &self.info.name))?;
        self.info.check_write("write", range)?;
        self.info.check_transfer("write", range)?;
        let mut pages = self.alone();
        let mut rest = data;
        for piece in range.pieces(PAGE) {
            let (number, inside) = place(piece);
            let Some((from, after)) = rest.split_at_checked(inside.len()) else { break };
            if let Some(to) = pages.entry(number).or_insert_with(empty_page).get_mut(inside) {
                to.copy_from_slice(from);
            }
            rest = after;
        }
        Ok(())
    }

    fn zero_now(&self, range: ByteRange) {
        let mut pages = self.alone();
        for number in numbers(&pages, range) {
            let whole = ByteRange::between(number * PAGE, (number + 1) * PAGE);
            let piece = range.intersection(whole);
            // The last page of the disk is whole when all of the disk in it is covered.
            if piece == whole || piece == ByteRange::between(whole.offset(), self.info.size) {
                pages.remove(&number);
            } else if let Some(part) = pages.get_mut(&number).and_then(|page| page.get_mut(place(piece).1)) {
                part.fill(0);
            }
        }
    }

    fn extents_now(&self, range: ByteRange) -> Vec<Extent> {
        let pages = self.shared();
        let mut found: Vec<Extent> = Vec::new();
        let mut at = range.offset();
        for number in numbers(&pages, range) {
            let page = range.intersection(ByteRange::between(number * PAGE, (number + 1) * PAGE));
            if page.offset() > at {
                found.push(Extent { range: ByteRange::between(at, page.offset()), kind: ExtentKind::Hole });
            }
            match found.last_mut() {
                Some(last) if last.kind == ExtentKind::Data && last.range.end() == page.offset() => {
                    last.range = ByteRange::between(last.range.offset(), page.end());
                }
                _ => found.push(Extent { range: page, kind: ExtentKind::Data }),
            }
            at = page.end();
        }
        if at < range.end() {
            found.push(Extent { range: ByteRange::between(at, range.end()), kind: ExtentKind::Hole });
        }
        found
    }
}

fn empty_page() -> Box<[u8]> {
    vec![0; PAGE_LENGTH].into_boxed_slice()
}

/// The page of `piece` (which lies within one) and where in it.
fn place(piece: ByteRange) -> (u64, std::ops::Range<usize>) {
    let start = usize::try_from(piece.offset() % PAGE).unwrap_or(0);
    let length = usize::try_from(piece.length()).unwrap_or(0);
    (piece.offset() / PAGE, start..start + length)
}

/// The allocated pages that `range` touches.
fn numbers(pages: &Pages, range: ByteRange) -> Vec<u64> {
    pages.range(range.offset() / PAGE..range.end().div_ceil(PAGE)).map(|(n, _)| *n).collect()
}

impl BlockRead for MemoryDisk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move { self.read_now(range) })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            self.info.check("ask for extents", range)?;
            if !self.info.can.extents {
                return Ok(vec![Extent { range, kind: ExtentKind::Data }]);
            }
            Ok(self.extents_now(range))
        })
    }
}

impl BlockWrite for MemoryDisk {
    fn write(&self, offset: u64, data: Bytes, _persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.write_now(offset, &data) })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, _persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.info.check_write("zero", range)?;
            if mode.only_fast && !self.info.can.fast_zero {
                return Err(
                    Error::new(ErrorKind::Unsupported, "zero", "this disk does not know fast zeroing").with("disk", &self.info.name)
                );
            }
            self.zero_now(range);
            Ok(())
        })
    }

    fn discard(&self, range: ByteRange, _persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.info.check_write("discard", range)?;
            if self.info.can.discard {
                self.zero_now(range);
            }
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TIB;

    #[tokio::test]
    async fn a_disk_of_16_tib_takes_what_was_written() {
        let disk = MemoryDisk::new("big", 16 * TIB);
        let near_the_end = 16 * TIB - 100_000;
        disk.write(near_the_end, Bytes::from(vec![7; 100_000]), Persist::Cached).await.unwrap();
        assert!(disk.allocated() <= 3 * PAGE);
        let all = disk.extents(ByteRange::whole(16 * TIB).unwrap()).await.unwrap();
        assert_eq!(all.iter().map(|e| e.kind).collect::<Vec<_>>(), [ExtentKind::Hole, ExtentKind::Data]);
        let back = disk.read(ByteRange::new(near_the_end - 10, 100_010).unwrap()).await.unwrap();
        assert!(back[..10].iter().all(|b| *b == 0) && back[10..].iter().all(|b| *b == 7));
        disk.zero(ByteRange::whole(16 * TIB).unwrap(), ZeroMode::default(), Persist::Cached).await.unwrap();
        assert_eq!(disk.allocated(), 0);
    }

    #[tokio::test]
    async fn content_given_is_content_read() {
        let mut content = vec![0; 200_001];
        content[200_000] = 9;
        let disk = MemoryDisk::from_bytes("m", &content);
        assert_eq!(disk.allocated(), PAGE);
        assert_eq!(disk.read(ByteRange::whole(200_001).unwrap()).await.unwrap(), content);
    }
}
