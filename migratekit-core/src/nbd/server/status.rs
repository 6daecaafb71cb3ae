//! BLOCK_STATUS: what is known of a range, in each selected context.
//!
//! The disk is asked in windows that grow while the answers are short: a huge hole costs few questions, and a disk in a million
//! pieces never makes a long list.

use super::reply::Extents;
use super::session::Session;
use crate::block::ExtentKind;
use crate::error::Result;
use crate::nbd::handshake::server::Context;
use crate::nbd::wire::{STATE_HOLE, STATE_ZERO};
use crate::units::{ByteRange, MIB};

/// The first window where one extent is wanted.
const FIRST_WINDOW_ONE: u64 = MIB;
/// The first window otherwise.
const FIRST_WINDOW: u64 = 64 * MIB;
/// A window whose answer has fewer extents is followed by a larger one.
const FEW: usize = 16;

/// The answer to a request for `range`; `one`: a single extent per context.
pub(super) async fn answer(session: &Session, range: ByteRange, one: bool) -> Result<Vec<Extents>> {
    let most = if one { 1 } else { session.max_extents.max(1) };
    let mut answers = Vec::with_capacity(session.contexts.len());
    for context in &session.contexts {
        let mut runs = Runs::new(range, most);
        match context {
            Context::Allocation => allocation(session, range, one, &mut runs).await?,
            Context::Ledger => {
                for (part, state) in session.export.ledger(session.pass.as_deref(), range)? {
                    if !runs.push(part.length(), state) {
                        break;
                    }
                }
            }
            // It names the pass; there is nothing to tell of the blocks.
            Context::Pass(_) => {
                runs.push(range.length(), 0);
            }
        }
        answers.push(Extents { context: context.id(), extents: runs.finish() });
    }
    Ok(answers)
}

async fn allocation(session: &Session, range: ByteRange, one: bool, runs: &mut Runs) -> Result<()> {
    if !session.info.can.extents {
        runs.push(range.length(), 0);
        return Ok(());
    }
    let mut window = if one { FIRST_WINDOW_ONE } else { FIRST_WINDOW };
    let mut at = range.offset();
    while at < range.end() {
        let part = ByteRange::between(at, range.end().min(at.saturating_add(window)));
        let extents = session.disk.extents(part).await?;
        for extent in &extents {
            let flags = match extent.kind {
                ExtentKind::Data => 0,
                ExtentKind::Zero => STATE_ZERO,
                ExtentKind::Hole => STATE_HOLE | STATE_ZERO,
            };
            if !runs.push(extent.range.intersection(part).length(), flags) {
                return Ok(());
            }
        }
        if extents.len() < FEW {
            window = window.saturating_mul(8);
        }
        at = part.end();
    }
    Ok(())
}

/// Extents one after the other, neighbours of one kind merged, bounded in number and reach.
struct Runs {
    runs: Vec<(u64, u32)>,
    left: u64,
    most: usize,
}

impl Runs {
    fn new(range: ByteRange, most: usize) -> Self {
        Runs { runs: Vec::new(), left: range.length(), most }
    }

    /// Appends; `false` when there is no more to be said.
    fn push(&mut self, length: u64, flags: u32) -> bool {
        let length = length.min(self.left);
        let full = self.runs.len() >= self.most;
        match self.runs.last_mut() {
            _ if length == 0 => return self.left > 0,
            Some((last, same)) if *same == flags => *last += length,
            _ if full => return false,
            _ => self.runs.push((length, flags)),
        }
        self.left -= length;
        self.left > 0
    }

    /// At least one extent, each at most as long as the request, so it fits.
    fn finish(mut self) -> Vec<(u32, u32)> {
        if self.runs.is_empty() {
            self.runs.push((self.left, 0));
        }
        self.runs.into_iter().map(|(length, flags)| (u32::try_from(length).unwrap_or(u32::MAX), flags)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_merge_and_end_at_the_bound() {
        let mut runs = Runs::new(ByteRange::between(0, 100), 2);
        assert!(runs.push(10, 0) && runs.push(10, 0) && runs.push(5, 1));
        assert!(!runs.push(5, 0), "a third run is one too many");
        assert_eq!(runs.finish(), [(20, 0), (5, 1)]);
        let mut runs = Runs::new(ByteRange::between(0, 30), 9);
        assert!(!runs.push(40, 3), "never beyond the request");
        assert_eq!(runs.finish(), [(30, 3)]);
        assert_eq!(Runs::new(ByteRange::between(0, 7), 1).finish(), [(7, 0)]);
    }
}
