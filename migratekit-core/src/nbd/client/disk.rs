//! The client as a disk: [`BlockRead`] and [`BlockWrite`] over requests.

use bytes::Bytes;

use super::Client;
use super::assembly::{Expect, Outcome};
use super::core::Ask;
use super::durability::Mark;
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, ExtentKind, Persist, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::wire::{BASE_ALLOCATION, STATE_HOLE, STATE_ZERO, command, command_flag, transmission};
use crate::units::ByteRange;

/// What zeros are sent from, where the server cannot make them: a piece of this many bytes at a time.
const ZEROS: usize = 1024 * 1024;

/// The bytes of one BLOCK_STATUS request at most, in bytes; a multiple of every minimum block size.
const STATUS_STEP: u64 = 2 * 1024 * 1024 * 1024;

impl BlockRead for Client {
    fn info(&self) -> &BlockInfo {
        &self.core.info
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.core.info.check_transfer("read from the export", range)?;
            let length = self.length_of(range)?;
            let expect = Expect::Data { offset: range.offset(), length };
            match self.ask("read from the export", command::READ, 0, range, Bytes::new(), expect).await? {
                Outcome::Data(bytes) => Ok(bytes),
                Outcome::Done | Outcome::Status(_) => Err(unexpected()),
            }
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            if !self.core.info.can.extents {
                return Ok(vec![Extent { range, kind: ExtentKind::Data }]);
            }
            let mut extents: Vec<Extent> = Vec::new();
            for (range, flags) in self.status(BASE_ALLOCATION, range).await? {
                let kind = match (flags & STATE_HOLE != 0, flags & STATE_ZERO != 0) {
                    (true, true) => ExtentKind::Hole,
                    (false, true) => ExtentKind::Zero,
                    // A hole that is not said to read as zero may hold anything.
                    (_, false) => ExtentKind::Data,
                };
                match extents.last_mut() {
                    Some(last) if last.kind == kind => last.range = ByteRange::between(last.range.offset(), range.end()),
                    _ => extents.push(Extent { range, kind }),
                }
            }
            Ok(extents)
        })
    }
}

impl BlockWrite for Client {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let range = ByteRange::new(offset, data.len() as u64)?;
            self.core.info.check_write("write to the export", range)?;
            self.core.info.check_transfer("write to the export", range)?;
            let since = self.core.account().mark();
            self.change("write to the export", command::WRITE, 0, range, data, persist).await?;
            self.settle(persist, since).await
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            const OPERATION: &str = "zero a range of the export";
            self.core.info.check_write(OPERATION, range)?;
            let can = self.core.info.can;
            if mode.only_fast && !can.fast_zero {
                return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the server does not tell fast zeroing from slow")
                    .with("server", &self.core.name));
            }
            let since = self.core.account().mark();
            if can.zero {
                let mut flags = if mode.may_punch { 0 } else { command_flag::NO_HOLE };
                if mode.only_fast {
                    flags |= command_flag::FAST_ZERO;
                }
                for piece in range.pieces(self.step()) {
                    self.change(OPERATION, command::WRITE_ZEROES, flags, piece, Bytes::new(), persist).await?;
                }
            } else {
                let zeros = Bytes::from(vec![0; ZEROS.min(usize::try_from(self.step()).unwrap_or(ZEROS))]);
                for piece in range.pieces(zeros.len() as u64) {
                    let data = zeros.slice(..usize::try_from(piece.length()).unwrap_or(zeros.len()));
                    self.change(OPERATION, command::WRITE, 0, piece, data, persist).await?;
                }
            }
            self.settle(persist, since).await
        })
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            const OPERATION: &str = "discard a range of the export";
            self.core.info.check_write(OPERATION, range)?;
            if !self.core.info.can.discard {
                return Ok(());
            }
            let since = self.core.account().mark();
            for piece in range.pieces(self.step()) {
                self.change(OPERATION, command::TRIM, 0, piece, Bytes::new(), persist).await?;
            }
            self.settle(persist, since).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.make_durable(true))
    }
}

impl Client {
    /// The extents of a meta context that was selected, with its flags: sorted, without gaps, covering `range` exactly; neighbours
    /// differ. Works for contexts given in [`super::ConnectOptions::contexts`]; `range` may be the whole disk.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the server did not select the context.
    pub async fn status(&self, context: &str, range: ByteRange) -> Result<Vec<(ByteRange, u32)>> {
        const OPERATION: &str = "read the extents of the export";
        if !self.core.facts.contexts.iter().any(|c| c.name == context) {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the server does not offer this meta context for the export")
                .with("server", &self.core.name)
                .with("context", context));
        }
        self.core.info.check(OPERATION, range)?;
        let mut all: Vec<(ByteRange, u32)> = Vec::new();
        let mut at = range.offset();
        while at < range.end() {
            let part = ByteRange::between(at, range.end().min(at.saturating_add(STATUS_STEP)));
            let expect = Expect::Status { length: self.length_of(part)? };
            let Outcome::Status(reply) = self.ask(OPERATION, command::BLOCK_STATUS, 0, part, Bytes::new(), expect).await? else {
                return Err(unexpected());
            };
            let told = reply.into_iter().find(|(name, _)| name == context).map(|(_, extents)| extents).unwrap_or_default();
            if told.is_empty() {
                return Err(Error::new(ErrorKind::Protocol, OPERATION, "the reply leaves the meta context out")
                    .with("server", &self.core.name)
                    .with("context", context)
                    .with("offset", at));
            }
            for (length, flags) in told {
                let next = ByteRange::between(at, at.saturating_add(u64::from(length)));
                at = next.end();
                match all.last_mut() {
                    Some((last, same)) if *same == flags => *last = ByteRange::between(last.offset(), next.end()),
                    _ => all.push((next, flags)),
                }
            }
        }
        Ok(all)
    }

    /// Brings `range` into the server's cache; does nothing where the server cannot.
    pub async fn cache(&self, range: ByteRange) -> Result<()> {
        const OPERATION: &str = "cache a range of the export";
        self.core.info.check(OPERATION, range)?;
        if self.core.info.can.cache {
            for piece in range.pieces(self.step()) {
                self.ask(OPERATION, command::CACHE, 0, piece, Bytes::new(), Expect::Done).await?;
            }
        }
        Ok(())
    }

    /// The length by which requests without payload are split.
    fn step(&self) -> u64 {
        u64::from(self.core.info.max_request)
    }

    fn length_of(&self, range: ByteRange) -> Result<u32> {
        u32::try_from(range.length()).map_err(|_| {
            Error::new(ErrorKind::Internal, "make a request", "it is longer than the protocol allows").with("length", range.length())
        })
    }

    async fn ask(
        &self,
        operation: &'static str,
        command: u16,
        flags: u16,
        range: ByteRange,
        payload: Bytes,
        expect: Expect,
    ) -> Result<Outcome> {
        let length = self.length_of(range)?;
        self.core.ask(Ask { operation, command, flags, offset: range.offset(), length, payload, expect, leaves_dirt: false }).await
    }

    /// A request that changes the disk; durable by FUA where asked for and possible.
    async fn change(
        &self,
        operation: &'static str,
        command: u16,
        flags: u16,
        range: ByteRange,
        payload: Bytes,
        persist: Persist,
    ) -> Result<()> {
        let length = self.length_of(range)?;
        let durable = persist == Persist::Durable && self.core.info.can.fua;
        let flags = if durable { flags | command_flag::FUA } else { flags };
        let ask = Ask { operation, command, flags, offset: range.offset(), length, payload, expect: Expect::Done, leaves_dirt: !durable };
        self.core.ask(ask).await.map(|_| ())
    }

    /// What [`Persist::Durable`] still needs after the writes, where the server has no FUA. `since`: before the first of them.
    async fn settle(&self, persist: Persist, since: Mark) -> Result<()> {
        if persist != Persist::Durable || self.core.info.can.fua {
            return Ok(());
        }
        self.make_durable(false).await?;
        // A doubt between write and flush, of which another flush told, is one of this write too.
        self.core.account().check(since, false).map_err(|e| e.with("server", &self.core.name))
    }

    /// A flush. `consume`: its failure is the one by which the caller learns of writes in doubt.
    async fn make_durable(&self, consume: bool) -> Result<()> {
        let name = |e: Error| e.with("server", &self.core.name);
        let mark = self.core.account().flush_begins(consume).map_err(name)?;
        if self.core.facts.has(transmission::SEND_FLUSH) && !self.core.info.read_only {
            let ask = Ask {
                operation: "flush the export",
                command: command::FLUSH,
                flags: 0,
                offset: 0,
                length: 0,
                payload: Bytes::new(),
                expect: Expect::Done,
                leaves_dirt: false,
            };
            self.core.ask(ask).await?;
        }
        self.core.account().flush_ends(mark, consume).map_err(name)
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "take a reply of the NBD server", "the reply is of another form than the request")
}
