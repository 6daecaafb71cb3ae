//! Requests under way: which bytes are in motion, and which digest readings they disturb.

use crate::units::ByteRange;

/// What a request does to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of the pass that was begun under this serial number.
    Pass(u64),
    /// Bytes of no pass, or undefined ones (discard): nothing is known afterwards.
    Void,
}

/// The place of a request in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(usize);

#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) range: ByteRange,
    pub(super) kind: Kind,
    /// The serial number of the pass in whose time it was entered.
    serial: u64,
}

/// The requests under way, and the digest readings under way.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    watches: Vec<Option<Watch>>,
}

#[derive(Debug, Clone, Copy)]
struct Watch {
    range: ByteRange,
    disturbed: bool,
}

impl InFlight {
    /// Adds a request in the time of pass `serial`. A request that overlaps one of kind `Void` has no order with it: both become void.
    pub(super) fn begin(&mut self, range: ByteRange, kind: Kind, serial: u64) -> Ticket {
        let mut request = Request { range, kind, serial };
        for other in self.requests.iter_mut().flatten() {
            if overlap(other.range, range) {
                if kind == Kind::Void {
                    other.kind = Kind::Void;
                } else if other.kind == Kind::Void {
                    request.kind = Kind::Void;
                }
            }
        }
        for watch in self.watches.iter_mut().flatten() {
            watch.disturbed |= overlap(watch.range, range);
        }
        let place = self.free.pop().unwrap_or(self.requests.len());
        match self.requests.get_mut(place) {
            Some(free) => *free = Some(request),
            None => self.requests.push(Some(request)),
        }
        Ticket(place)
    }

    /// Takes a request out.
    pub(super) fn end(&mut self, ticket: Ticket) -> Option<Request> {
        let request = self.requests.get_mut(ticket.0)?.take()?;
        self.free.push(ticket.0);
        Some(request)
    }

    /// Whether none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.requests.len() == self.free.len()
    }

    /// Whether one is left of the time before pass `serial`.
    pub(super) fn has_older(&self, serial: u64) -> bool {
        self.requests.iter().flatten().any(|r| r.serial < serial)
    }

    /// Whether one touches `range`.
    pub(super) fn touches(&self, range: ByteRange) -> bool {
        self.requests.iter().flatten().any(|r| overlap(r.range, range))
    }

    /// The ranges of those that touch `range`, sorted.
    pub(super) fn touching(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut ranges: Vec<_> = self.requests.iter().flatten().map(|r| r.range).filter(|r| overlap(*r, range)).collect();
        ranges.sort_unstable();
        ranges
    }

    /// Nothing is known of what is under way now.
    pub(super) fn void_all(&mut self) {
        for request in self.requests.iter_mut().flatten() {
            request.kind = Kind::Void;
        }
        for watch in self.watches.iter_mut().flatten() {
            watch.disturbed = true;
        }
    }

    /// Begins to watch a range that is being read for its digest.
    pub(super) fn watch(&mut self, range: ByteRange) -> usize {
        let watch = Some(Watch { range, disturbed: self.touches(range) });
        match self.watches.iter().position(Option::is_none) {
            Some(place) => {
                if let Some(free) = self.watches.get_mut(place) {
                    *free = watch;
                }
                place
            }
            None => {
                self.watches.push(watch);
                self.watches.len() - 1
            }
        }
    }

    /// Ends a watch: whether the range stayed as it was all the time.
    pub(super) fn unwatch(&mut self, place: usize) -> bool {
        self.watches.get_mut(place).and_then(Option::take).is_some_and(|w| !w.disturbed)
    }

    /// The memory held, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.requests.capacity() * size_of::<Option<Request>>()
            + self.free.capacity() * size_of::<usize>()
            + self.watches.capacity() * size_of::<Option<Watch>>()
    }
}

fn overlap(a: ByteRange, b: ByteRange) -> bool {
    a.offset() < b.end() && b.offset() < a.end()
}
