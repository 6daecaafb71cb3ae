//! What a flush may promise. Pure.
//!
//! A write that the server acknowledged is lost when the server dies before it flushed. After a connection broke we cannot tell
//! whether the server died: writes acknowledged since the last good flush are then *in doubt*, and the next flush must fail, once,
//! so that the caller writes again what is not proven. Saying "durable" then would be the one lie a copier cannot survive.
//!
//! Writes that were not acknowledged on the broken connection are sent again and are no cause of doubt; but a write under way on
//! *another* connection may yet be acknowledged out of the buffers of a dead server, so it is one.
//!
//! A connection that was made again may speak with a server that was started meanwhile, while another connection has not noticed
//! yet that its server is gone (a machine that lost power says no farewell). What others acknowledged since the break is therefore
//! in doubt as soon as the connection is back: a flush over it would not cover them.
//!
//! Several flushes may be under way. The doubt is told once, but **every** flush, and every durable write, that began before it arose
//! fails by it: [`Mark`] remembers.

use crate::error::{Error, ErrorKind};

/// The account of one client, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    /// Acknowledged writes so far that were not durable by themselves.
    acknowledged: u64,
    /// How many of them a good flush covered.
    flushed: u64,
    /// Good flushes.
    flushes: u64,
    /// Writes under way on each connection.
    under_way: Vec<u64>,
    /// Connections that broke.
    generation: u64,
    /// Whether acknowledged writes may be lost, and nobody was told.
    doubt: bool,
    /// How many times that came about.
    doubts: u64,
    /// For each connection, what was acknowledged when it broke last.
    at_break: Vec<u64>,
}

/// A moment in the account: what a flush that begins now will cover.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    acknowledged: u64,
    doubts: u64,
}

impl Durability {
    pub(crate) fn new(connections: usize) -> Self {
        Durability { under_way: vec![0; connections], at_break: vec![0; connections], ..Durability::default() }
    }

    pub(crate) fn write_begins(&mut self, connection: usize) {
        if let Some(n) = self.under_way.get_mut(connection) {
            *n += 1;
        }
    }

    /// A write ended: acknowledged, failed, or given up.
    pub(crate) fn write_ends(&mut self, connection: usize, acknowledged: bool) {
        if let Some(n) = self.under_way.get_mut(connection) {
            *n = n.saturating_sub(1);
        }
        self.acknowledged += u64::from(acknowledged);
    }

    /// A connection broke.
    pub(crate) fn broke(&mut self, connection: usize) {
        self.generation += 1;
        if let Some(at) = self.at_break.get_mut(connection) {
            *at = self.acknowledged;
        }
        if self.acknowledged > self.flushed || self.under_way_elsewhere(connection) {
            self.arises();
        }
    }

    /// A connection that broke is there again, perhaps to a server that was started meanwhile.
    pub(crate) fn made_again(&mut self, connection: usize) {
        let since = self.at_break.get(connection).copied().unwrap_or(0).max(self.flushed);
        if self.acknowledged > since || self.under_way_elsewhere(connection) {
            self.arises();
        }
    }

    fn under_way_elsewhere(&self, connection: usize) -> bool {
        self.under_way.iter().enumerate().any(|(i, n)| i != connection && *n > 0)
    }

    fn arises(&mut self) {
        self.doubt = true;
        self.doubts += 1;
    }

    /// How many connections broke so far.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Now; to be taken before the writes that a flush is to cover.
    pub(crate) fn mark(&self) -> Mark {
        Mark { acknowledged: self.acknowledged, doubts: self.doubts }
    }

    /// A flush begins: what it will cover, or the doubt. `consume`: this failure is the one that tells the caller.
    pub(crate) fn flush_begins(&mut self, consume: bool) -> Result<Mark, Error> {
        let now = self.mark();
        self.check(now, consume).map(|()| now)
    }

    /// The server completed a flush that was to cover `mark`.
    pub(crate) fn flush_ends(&mut self, mark: Mark, consume: bool) -> Result<(), Error> {
        self.check(mark, consume)?;
        self.flushed = self.flushed.max(mark.acknowledged);
        self.flushes += 1;
        Ok(())
    }

    /// Whether nothing is in doubt, nor came to be since `mark`: somebody else may have been told of it.
    pub(crate) fn check(&mut self, mark: Mark, consume: bool) -> Result<(), Error> {
        if !self.doubt && self.doubts == mark.doubts {
            return Ok(());
        }
        let error = Error::new(
            ErrorKind::Unreachable,
            "make writes durable",
            "a connection broke and was made again: writes that the server acknowledged since the last good flush may be lost, \
             and must be written again",
        )
        .with("good-flushes-before", self.flushes)
        .with("connections-broken", self.generation)
        .with("writes-in-doubt", self.acknowledged - self.flushed);
        if consume {
            // The caller knows now; what it writes again is counted from here.
            self.doubt = false;
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(d: &mut Durability, connection: usize) {
        d.write_begins(connection);
        d.write_ends(connection, true);
    }

    #[test]
    fn an_acknowledged_write_is_in_doubt_once() {
        let mut d = Durability::new(1);
        acknowledged(&mut d, 0);
        d.broke(0);
        assert_eq!(d.flush_begins(false).unwrap_err().kind(), ErrorKind::Unreachable);
        assert_eq!(d.flush_begins(true).unwrap_err().kind(), ErrorKind::Unreachable);
        let mark = d.flush_begins(true).unwrap();
        d.flush_ends(mark, true).unwrap();
    }

    #[test]
    fn flushed_durable_and_unacknowledged_writes_are_no_doubt() {
        let mut d = Durability::new(1);
        acknowledged(&mut d, 0);
        let mark = d.flush_begins(true).unwrap();
        d.flush_ends(mark, true).unwrap();
        d.broke(0);
        d.write_begins(0);
        d.broke(0);
        d.write_ends(0, true);
        let mark = d.flush_begins(true).unwrap();
        d.flush_ends(mark, true).unwrap();
        assert_eq!(d.generation(), 2);
    }

    #[test]
    fn a_break_during_a_flush_spoils_it() {
        let mut d = Durability::new(2);
        acknowledged(&mut d, 0);
        let mark = d.flush_begins(true).unwrap();
        d.broke(1);
        assert!(d.flush_ends(mark, true).is_err());
    }

    #[test]
    fn a_write_after_the_flush_began_is_not_covered() {
        let mut d = Durability::new(1);
        let mark = d.flush_begins(true).unwrap();
        acknowledged(&mut d, 0);
        d.flush_ends(mark, true).unwrap();
        d.broke(0);
        assert!(d.flush_begins(true).is_err());
    }

    #[test]
    fn a_write_under_way_elsewhere_counts() {
        let mut d = Durability::new(2);
        d.write_begins(1);
        d.broke(0);
        assert!(d.flush_begins(true).is_err());
    }

    #[test]
    fn every_flush_that_began_before_the_doubt_fails_by_it() {
        let mut d = Durability::new(1);
        acknowledged(&mut d, 0);
        let (first, second, third) = (d.flush_begins(true).unwrap(), d.flush_begins(true).unwrap(), d.flush_begins(false).unwrap());
        d.broke(0);
        assert!(d.flush_ends(first, true).is_err());
        assert!(d.flush_ends(second, true).is_err(), "its writes are lost, whoever heard of it first");
        assert!(d.flush_ends(third, false).is_err(), "so is a durable write");
        let mark = d.flush_begins(true).unwrap();
        d.flush_ends(mark, true).unwrap();
    }

    #[test]
    fn what_others_acknowledged_before_a_connection_came_back_is_in_doubt() {
        let mut d = Durability::new(2);
        d.broke(0);
        acknowledged(&mut d, 1);
        d.made_again(0);
        assert!(d.flush_begins(true).is_err(), "the server behind connection 1 may be gone, and nobody noticed");
        let mark = d.flush_begins(true).unwrap();
        d.flush_ends(mark, true).unwrap();
        d.broke(0);
        d.made_again(0);
        assert!(d.flush_begins(true).is_ok(), "all was flushed");
    }

    #[test]
    fn a_connection_that_comes_back_does_not_tell_its_own_doubt_twice() {
        let mut d = Durability::new(1);
        acknowledged(&mut d, 0);
        d.broke(0);
        assert!(d.flush_begins(true).is_err());
        d.write_begins(0);
        d.made_again(0);
        d.write_ends(0, true);
        assert!(d.flush_begins(true).is_ok());
    }
}
