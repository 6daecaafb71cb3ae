//! Orders on their way through the disk.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::budget::{Share, Wait};
use super::reply::{Answer, Extents, Mark, Piece};
use super::session::{CACHE_STEP, HOLE_SEARCH, Order, Session};
use super::status;
use crate::block::{BlockRead, BoxFuture};
use crate::error::Result;
use crate::units::ByteRange;

/// The future of an order, by what it brings; the disk's own future is not wrapped.
pub(super) enum Work<'a> {
    Unit(BoxFuture<'a, Result<()>>),
    Data(BoxFuture<'a, Result<Bytes>>),
    Pieces(BoxFuture<'a, Result<Vec<Piece>>>),
    Status(BoxFuture<'a, Result<Vec<Extents>>>),
}

impl<'a> Work<'a> {
    /// Begins an order; `payload` is that of a write.
    pub(super) fn start(session: &'a Session, order: Order, payload: Bytes) -> Self {
        let disk = &session.disk;
        match order {
            Order::Read { range, holes: false } => Work::Data(disk.read(range)),
            Order::Read { range, holes: true } => Work::Pieces(Box::pin(read_pieces(disk.as_ref(), range))),
            Order::Write { range, persist } => Work::Unit(disk.write(range.offset(), payload, persist)),
            Order::Zero { range, mode, persist } => Work::Unit(disk.zero(range, mode, persist)),
            Order::Trim { range, persist } => Work::Unit(disk.discard(range, persist)),
            Order::Flush => Work::Unit(disk.flush()),
            Order::Cache { range } => Work::Unit(Box::pin(cache(disk.as_ref(), range))),
            Order::Status { range, one } => Work::Status(Box::pin(status::answer(session, range, one))),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer>> {
        Poll::Ready(match self {
            Work::Unit(f) => ready!(f.as_mut().poll(cx)).map(|()| Answer::Done),
            Work::Data(f) => ready!(f.as_mut().poll(cx)).map(Answer::Data),
            Work::Pieces(f) => ready!(f.as_mut().poll(cx)).map(Answer::Pieces),
            Work::Status(f) => ready!(f.as_mut().poll(cx)).map(Answer::Status),
        })
    }
}

/// An order under way: what its answer needs.
pub(super) struct Ticket {
    pub(super) mark: Mark,
    /// The request was WRITE_ZEROES with FAST_ZERO.
    pub(super) only_fast: bool,
    pub(super) share: Share,
}

/// What a connection waits for.
pub(super) enum Awaited<'a> {
    Order(Option<Ticket>, Work<'a>),
    Share(Wait),
    Signal(BoxFuture<'a, Signal>),
}

/// What happens to a connection from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Close now; nothing more is read or written.
    Kill,
    /// Answer what is under way, begin nothing new.
    Drain,
    /// Time to look at the clock.
    Tick,
}

/// What came of what was awaited.
pub(super) enum Event {
    Answered(Ticket, Result<Answer>),
    Share(Share),
    Signal(Signal),
}

impl Future for Awaited<'_> {
    type Output = Event;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        match self.get_mut() {
            Awaited::Order(ticket, work) => {
                let answer = ready!(work.poll(cx));
                // Polled again after its end it stays silent, as nobody asks twice.
                ticket.take().map_or(Poll::Pending, |ticket| Poll::Ready(Event::Answered(ticket, answer)))
            }
            Awaited::Share(wait) => wait.as_mut().poll(cx).map(Event::Share),
            Awaited::Signal(signal) => signal.as_mut().poll(cx).map(Event::Signal),
        }
    }
}

/// Reads what is data, and tells the holes.
async fn read_pieces<D: BlockRead + ?Sized>(disk: &D, range: ByteRange) -> Result<Vec<Piece>> {
    let mut parts: Vec<(ByteRange, bool)> = Vec::new();
    for extent in disk.extents(range).await? {
        let inside = extent.range.intersection(range);
        // A short hole is cheaper as bytes.
        let zero = extent.kind.reads_zero() && inside.length() >= HOLE_SEARCH;
        match parts.last_mut() {
            _ if inside.is_empty() => {}
            Some((last, same)) if *same == zero => *last = ByteRange::between(last.offset(), inside.end()),
            _ => parts.push((inside, zero)),
        }
    }
    if parts.is_empty() {
        parts.push((range, false));
    }
    let mut pieces = Vec::with_capacity(parts.len());
    for (part, zero) in parts {
        let offset = part.offset();
        pieces.push(match u32::try_from(part.length()) {
            Ok(length) if zero => Piece::Hole { offset, length },
            _ => Piece::Data { offset, data: disk.read(part).await? },
        });
    }
    Ok(pieces)
}

/// Brings a range into the cache by reading it.
async fn cache<D: BlockRead + ?Sized>(disk: &D, range: ByteRange) -> Result<()> {
    if disk.info().can.cache {
        for piece in range.pieces(CACHE_STEP) {
            disk.read(piece).await?;
        }
    }
    Ok(())
}
