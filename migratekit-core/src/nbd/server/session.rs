//! A connection in transmission, as data: what it may do with which disk, and the judgement of each request. Pure.

use std::sync::Arc;

use crate::block::{BlockInfo, BlockWrite, Persist, ZeroMode};
use crate::error::{Error, ErrorKind};
use crate::nbd::export::Export;
use crate::nbd::handshake::server::Context;
use crate::nbd::wire::{Request, command, command_flag as flag, errno};
use crate::units::{ByteRange, KIB, MIB};

/// Reads shorter than this are not searched for holes.
pub(super) const HOLE_SEARCH: u64 = 64 * KIB;

/// CACHE reads by this step.
pub(super) const CACHE_STEP: u64 = MIB;
/// The extents of a disk are rarely shorter than a sector; so many may an answer of a range have, to be weighed.
const SHORT_EXTENT: u64 = 512;

/// What the handshake settled.
pub(super) struct Session {
    /// The disk as this connection sees it.
    pub(super) disk: Arc<dyn BlockWrite>,
    /// What the client was told of the disk.
    pub(super) info: BlockInfo,
    pub(super) export: Arc<dyn Export>,
    /// The pass the writes belong to.
    pub(super) pass: Option<String>,
    pub(super) structured: bool,
    pub(super) contexts: Vec<Context>,
    /// The longest READ or WRITE, in bytes.
    pub(super) max_payload: u32,
    /// Extents in one answer to BLOCK_STATUS.
    pub(super) max_extents: usize,
}

/// A request that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `holes`: the answer may tell holes apart.
    Read {
        range: ByteRange,
        holes: bool,
    },
    /// The payload follows.
    Write {
        range: ByteRange,
        persist: Persist,
    },
    Zero {
        range: ByteRange,
        mode: ZeroMode,
        persist: Persist,
    },
    Trim {
        range: ByteRange,
        persist: Persist,
    },
    Flush,
    Cache {
        range: ByteRange,
    },
    Status {
        range: ByteRange,
        one: bool,
    },
}

/// A refusal: the error value and the cause in words.
pub(super) type Refused = (u32, &'static str);

impl Session {
    /// Judges a request; DISC does not come here.
    pub(super) fn judge(&self, request: &Request) -> Result<Order, Refused> {
        let persist = if request.flags & flag::FUA == 0 { Persist::Cached } else { Persist::Durable };
        self.flags_allowed(request)?;
        match request.command {
            command::READ => self.judge_read(request),
            command::WRITE => {
                self.writable()?;
                let range = self.inside(request, errno::ENOSPC)?;
                if request.length > self.max_payload {
                    return Err((errno::EINVAL, "the write is longer than the limit"));
                }
                Ok(Order::Write { range, persist })
            }
            command::FLUSH => match (request.offset, request.length, self.info.can.flush) {
                (0, 0, true) => Ok(Order::Flush),
                (0, 0, false) => Err((errno::EINVAL, "this export cannot flush")),
                _ => Err((errno::EINVAL, "a flush has neither offset nor length")),
            },
            command::TRIM => {
                self.writable()?;
                Ok(Order::Trim { range: self.inside(request, errno::EINVAL)?, persist })
            }
            command::CACHE => Ok(Order::Cache { range: self.inside(request, errno::EINVAL)? }),
            command::WRITE_ZEROES => {
                self.writable()?;
                let range = self.inside(request, errno::ENOSPC)?;
                let mode = ZeroMode { may_punch: request.flags & flag::NO_HOLE == 0, only_fast: request.flags & flag::FAST_ZERO != 0 };
                Ok(Order::Zero { range, mode, persist })
            }
            command::BLOCK_STATUS => {
                if self.contexts.is_empty() {
                    return Err((errno::EINVAL, "no metadata context was selected"));
                }
                Ok(Order::Status { range: self.inside(request, errno::EINVAL)?, one: request.flags & flag::REQ_ONE != 0 })
            }
            _ => Err((errno::EINVAL, "the command is not known")),
        }
    }

    /// The bytes of memory an order may take for its payload or its answer: its share of the budget.
    pub(super) fn weight(&self, order: Order) -> u32 {
        let bytes = match order {
            Order::Read { range, .. } | Order::Write { range, .. } => range.length(),
            Order::Cache { range } if self.info.can.cache => range.length().min(CACHE_STEP),
            Order::Status { range, one } => {
                let most = if one { 1 } else { u64::try_from(self.max_extents).unwrap_or(u64::MAX).min(range.length() / SHORT_EXTENT + 2) };
                most.saturating_mul(8).saturating_mul(u64::try_from(self.contexts.len()).unwrap_or(u64::MAX))
            }
            _ => 0,
        };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    fn judge_read(&self, request: &Request) -> Result<Order, Refused> {
        let range = self.inside(request, errno::EINVAL)?;
        let whole = request.flags & flag::DF != 0;
        if request.length > self.max_payload {
            return Err(if whole {
                (errno::EOVERFLOW, "the read is longer than an unfragmented reply may be")
            } else {
                (errno::EINVAL, "the read is longer than the limit")
            });
        }
        // A client that asks for block status knows the holes and does not read them.
        let informed = self.contexts.contains(&Context::Allocation);
        let holes = self.structured && !whole && !informed && self.info.can.extents && range.length() >= HOLE_SEARCH;
        Ok(Order::Read { range, holes })
    }

    fn flags_allowed(&self, request: &Request) -> Result<(), Refused> {
        let own = match request.command {
            command::READ if self.structured => flag::DF,
            command::WRITE_ZEROES if self.info.can.fast_zero => flag::NO_HOLE | flag::FAST_ZERO,
            command::WRITE_ZEROES => flag::NO_HOLE,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
        let everywhere = if self.info.can.fua { flag::FUA } else { 0 };
        if request.flags & !(own | everywhere) == 0 { Ok(()) } else { Err((errno::EINVAL, "a flag is not allowed with this command")) }
    }

    fn writable(&self) -> Result<(), Refused> {
        if self.info.read_only { Err((errno::EPERM, "the export is read-only")) } else { Ok(()) }
    }

    /// The range of a request, inside the disk and aligned; `beyond` is the error for one that is not inside.
    fn inside(&self, request: &Request, beyond: u32) -> Result<ByteRange, Refused> {
        let outside = (beyond, "the request reaches beyond the end of the export");
        let range = request.range().map_err(|_| outside)?;
        if range.end() > self.info.size {
            return Err(outside);
        }
        if range.is_empty() {
            return Err((errno::EINVAL, "the request is empty"));
        }
        self.info.check("serve a request", range).map_err(|_| (errno::EINVAL, "the request is not aligned to the minimum block size"))?;
        Ok(range)
    }
}

/// The error value a failure of the disk becomes. `only_fast`: the request was WRITE_ZEROES with FAST_ZERO, the only one which
/// may be answered by ENOTSUP.
pub(super) fn errno_of(error: &Error, only_fast: bool) -> u32 {
    match error.kind() {
        ErrorKind::Unsupported if only_fast => errno::ENOTSUP,
        ErrorKind::InvalidInput | ErrorKind::Unsupported => errno::EINVAL,
        ErrorKind::NoSpace => errno::ENOSPC,
        ErrorKind::ReadOnly | ErrorKind::Denied | ErrorKind::Fenced => errno::EPERM,
        ErrorKind::Cancelled => errno::ESHUTDOWN,
        _ => errno::EIO,
    }
}
