//! The requests of one connection that wait for their replies. Pure.
//!
//! A request's mark on the wire, its *cookie*, is a serial number and the slot it waits in: finding the slot costs nothing, and a
//! reply that comes twice, or was never asked for, is told from a right one.

use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "find the request of a reply";

/// Bits of a cookie that hold the slot.
const SLOT_BITS: u32 = 16;

/// Requests that wait for replies, each with something of the caller's.
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    serial: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Slot<T> {
    cookie: u64,
    entry: Option<T>,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        InFlight { slots: Vec::new(), free: Vec::new(), serial: 0, waiting: 0 }
    }
}

impl<T> InFlight<T> {
    /// Adds an entry and tells its cookie. At most 65536 wait at a time.
    pub(crate) fn add(&mut self, entry: T) -> Result<u64> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < 1 << SLOT_BITS => {
                self.slots.push(Slot { cookie: 0, entry: None });
                self.slots.len() - 1
            }
            None => return Err(Error::new(ErrorKind::Internal, OPERATION, "too many requests wait on one connection")),
        };
        self.serial += 1;
        let cookie = (self.serial << SLOT_BITS) | slot as u64;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Slot { cookie, entry: Some(entry) };
        }
        self.waiting += 1;
        Ok(cookie)
    }

    /// Takes the entry out, to work on its reply. With `last` the request is over; without it, the entry comes back by
    /// [`InFlight::put_back`], and its place is kept.
    pub(crate) fn take(&mut self, cookie: u64, last: bool) -> Result<T> {
        let slot = slot_of(cookie);
        if let Some(place) = self.slots.get_mut(slot)
            && place.cookie == cookie
            && let Some(entry) = place.entry.take()
        {
            if last {
                self.waiting -= 1;
                self.free.push(slot);
            }
            return Ok(entry);
        }
        let serial = cookie >> SLOT_BITS;
        let message = if serial != 0 && serial <= self.serial && slot < self.slots.len() {
            "the server answers a request a second time"
        } else {
            "the server answers a request that was never made"
        };
        Err(Error::new(ErrorKind::Protocol, OPERATION, message).with("cookie", format_args!("{cookie:#x}")))
    }

    /// Puts an entry back under the cookie it was taken from: more chunks of its reply will come.
    pub(crate) fn put_back(&mut self, cookie: u64, entry: T) {
        if let Some(place) = self.slots.get_mut(slot_of(cookie)).filter(|p| p.cookie == cookie) {
            place.entry = Some(entry);
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Takes all out, in the order they were made.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let mut slots = std::mem::take(&mut self.slots);
        self.free.clear();
        self.waiting = 0;
        slots.sort_by_key(|s| s.cookie);
        slots.into_iter().filter_map(|s| s.entry).collect()
    }
}

fn slot_of(cookie: u64) -> usize {
    usize::try_from(cookie & ((1 << SLOT_BITS) - 1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_find_their_requests_once() {
        let mut table = InFlight::default();
        let a = table.add('a').unwrap();
        let b = table.add('b').unwrap();
        assert_eq!(table.take(b, true).unwrap(), 'b');
        let c = table.add('c').unwrap();
        assert_ne!(b, c, "a slot used again has another cookie");
        assert_eq!(table.take(b, true).unwrap_err().message(), "the server answers a request a second time");
        assert_eq!(table.take(c + (1 << 40), true).unwrap_err().message(), "the server answers a request that was never made");
        assert_eq!(table.take(0, true).unwrap_err().message(), "the server answers a request that was never made");
        assert_eq!(table.take(u64::MAX, true).unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!(table.len(), 2);
        assert_eq!(table.drain(), ['a', 'c']);
        assert_eq!(table.len(), 0);
        assert!(table.take(a, true).is_err());
    }

    #[test]
    fn an_entry_on_loan_keeps_its_place() {
        let mut table = InFlight::default();
        let a = table.add('a').unwrap();
        let entry = table.take(a, false).unwrap();
        let b = table.add('b').unwrap();
        table.put_back(a, entry);
        assert_eq!((table.take(a, true).unwrap(), table.take(b, true).unwrap(), table.len()), ('a', 'b', 0));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = InFlight::default();
        for n in 0..1 << SLOT_BITS {
            table.add(n).unwrap();
        }
        assert_eq!(table.add(0).unwrap_err().kind(), ErrorKind::Internal);
    }
}
