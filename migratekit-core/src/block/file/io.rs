//! Reading and writing bytes: at once if that cannot block, else on the pool.

use std::io::{IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use super::{FileDisk, Inner, Kind, ReadPath};
use crate::block::{Buffer, Persist};
use crate::error::{Error, ErrorKind, Result};
use crate::task;
use crate::units::ByteRange;

/// The alignment of direct reads, in bytes: at least that of every device we know.
const DIRECT_ALIGN: u64 = 4096;

/// As [`DIRECT_ALIGN`], for addresses.
const DIRECT_ALIGN_MEMORY: usize = 4096;

impl FileDisk {
    pub(super) async fn read_range(&self, range: ByteRange) -> Result<Bytes> {
        self.0.info.check_transfer("read", range)?;
        let inner = &self.0;
        match (&inner.read_mode, inner.kind) {
            (ReadPath::Cached, Kind::Tmpfs) => {
                let mut buffer = Buffer::take(length_of(range.length()));
                inner.read_full(&mut buffer, range.offset())?;
                Ok(buffer.freeze())
            }
            (ReadPath::Cached, _) => {
                let mut buffer = Buffer::take(length_of(range.length()));
                let done = inner.read_cached(&mut buffer, range.offset());
                if done == buffer.len() {
                    return Ok(buffer.freeze());
                }
                let inner = inner.clone();
                task::blocking(move || {
                    let rest = buffer.get_mut(done..).unwrap_or(&mut []);
                    inner.read_full(rest, advance(range.offset(), done))?;
                    Ok(buffer.freeze())
                })
                .await?
            }
            _ => {
                let inner = inner.clone();
                task::blocking(move || inner.read_past_cache(range)).await?
            }
        }
    }

    pub(super) async fn write_bytes(&self, offset: u64, data: Bytes, persist: Persist) -> Result<()> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let range = ByteRange::new(offset, length).map_err(|e| e.with("disk", &self.0.info.name))?;
        self.0.info.check_write("write", range)?;
        self.0.info.check_transfer("write", range)?;
        if persist == Persist::Durable {
            return self.run(move |inner| inner.write_durable(&data, offset)).await;
        }
        if self.0.kind == Kind::Tmpfs {
            // The kernel lets one writer into a file at a time while the others burn their processors; here they sleep, and no
            // longer than one request takes to be copied. (To wait in the task instead would let a connection read ahead, and its
            // bytes would have left the processor's cache when their turn comes.)
            let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
            return self.0.write_full(&data, offset);
        }
        let done = self.0.write_now(&data, offset);
        if done == data.len() {
            return Ok(());
        }
        let inner: Arc<Inner> = self.0.clone();
        task::blocking(move || inner.write_full(data.get(done..).unwrap_or(&[]), advance(offset, done))).await?
    }
}

impl Inner {
    /// Reads what the page cache holds, from the start; returns how much. Errors are left to the read that may block.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> usize {
        attempt(&self.known.no_nowait_read, || {
            rustix::io::preadv2(&self.fd, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT)
        })
    }

    /// Writes what can be written without waiting, from the start; returns how much.
    fn write_now(&self, data: &[u8], offset: u64) -> usize {
        attempt(&self.known.no_nowait_write, || rustix::io::pwritev2(&self.fd, &[IoSlice::new(data)], offset, ReadWriteFlags::NOWAIT))
    }

    /// Reads all of `buffer`; may block.
    fn read_full(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = advance(offset, done);
            match rustix::io::pread(&self.fd, rest, at) {
                Ok(0) => return Err(self.shorter(at)),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.fail("read", e, at)),
            }
        }
        Ok(())
    }

    /// Writes all of `data`; may block.
    pub(super) fn write_full(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            let at = advance(offset, done);
            match rustix::io::pwrite(&self.fd, rest, at) {
                Ok(0) => return Err(self.no_progress(at)),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.write_error(e, at)),
            }
        }
        Ok(())
    }

    /// Writes all of `data` and makes it durable; may block. A failure poisons, for it may be that of the sync.
    fn write_durable(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_poison("write")?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            if self.known.no_dsync.load(Ordering::Relaxed) {
                self.write_full(rest, advance(offset, done))?;
                return self.sync("write");
            }
            let at = advance(offset, done);
            match rustix::io::pwritev2(&self.fd, &[IoSlice::new(rest)], at, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(self.no_progress(at)),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.known.no_dsync.store(true, Ordering::Relaxed),
                Err(e) => return Err(self.poison("write", e).with("offset", at)),
            }
        }
        Ok(())
    }

    /// Reads what the storage holds; may block.
    fn read_past_cache(&self, range: ByteRange) -> Result<Bytes> {
        if let ReadPath::Direct(fd) = &self.read_mode {
            match self.read_direct(fd, range) {
                // This file system takes the flag and refuses the read; the cache can still be dropped.
                Err(Errno::INVAL) => {}
                Err(e) => return Err(self.fail("read", e, range.offset())),
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => return Err(self.shorter(range.offset())),
            }
        }
        // Dirty pages stay where they are; those who verify flush first.
        rustix::fs::fadvise(&self.fd, range.offset(), NonZeroU64::new(range.length()), Advice::DontNeed)
            .map_err(|e| self.fail("drop cached pages", e, range.offset()))?;
        let mut buffer = Buffer::take(length_of(range.length()));
        self.read_full(&mut buffer, range.offset())?;
        Ok(buffer.freeze())
    }

    /// Reads with `O_DIRECT`: offset, length and address are aligned by reading more into a larger buffer. `None`: came short.
    fn read_direct(&self, fd: &OwnedFd, range: ByteRange) -> Result<Option<Bytes>, Errno> {
        let start = range.offset() / DIRECT_ALIGN * DIRECT_ALIGN;
        let skip = length_of(range.offset() - start);
        let wanted = skip + length_of(range.length());
        let aligned = wanted.next_multiple_of(DIRECT_ALIGN_MEMORY);
        let mut buffer = Buffer::take(aligned + DIRECT_ALIGN_MEMORY);
        let shift = buffer.as_ptr().align_offset(DIRECT_ALIGN_MEMORY);
        let mut done = 0;
        while done < wanted {
            let Some(rest) = buffer.get_mut(shift + done..shift + aligned) else { return Ok(None) };
            match rustix::io::pread(fd, rest, advance(start, done)) {
                Ok(n) if n == 0 || (done + n < wanted && !n.is_multiple_of(DIRECT_ALIGN_MEMORY)) => return Ok(None),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Some(buffer.freeze().slice(shift + skip..shift + wanted)))
    }

    fn shorter(&self, offset: u64) -> Error {
        Error::new(ErrorKind::Changed, "read", "the file became shorter while it was read")
            .with("disk", &self.info.name)
            .with("offset", offset)
            .with("size_was", self.info.size)
    }

    fn no_progress(&self, offset: u64) -> Error {
        Error::new(ErrorKind::Io, "write", "the operating system took no byte").with("disk", &self.info.name).with("offset", offset)
    }

    /// A block device says "no space" for a write beyond its end, and we never write beyond the end it had.
    fn write_error(&self, errno: Errno, offset: u64) -> Error {
        if self.kind == Kind::Device
            && errno == Errno::NOSPC
            && let Err(changed) = self.check_size("write")
        {
            return changed.with("offset", offset);
        }
        self.fail("write", errno, offset)
    }
}

/// One try that must not block; a file system that cannot do this is remembered in `refused`.
fn attempt(refused: &AtomicBool, call: impl FnOnce() -> Result<usize, Errno>) -> usize {
    if refused.load(Ordering::Relaxed) {
        return 0;
    }
    match call() {
        Ok(done) => done,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            refused.store(true, Ordering::Relaxed);
            0
        }
        Err(_) => 0,
    }
}

/// Lengths here are at most `MAX_REQUEST`, which every machine can hold.
fn length_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn advance(offset: u64, done: usize) -> u64 {
    offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX))
}
