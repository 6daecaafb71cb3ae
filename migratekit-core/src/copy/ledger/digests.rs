//! The side file of digests: 40 bytes for each block, and a bit in the ledger that says whether they count.
//!
//! An entry is the digest and eight bytes that bind it to volume, generation and block, so that a damaged or misplaced entry is no
//! digest rather than a wrong one. It is written and synced before the ledger says that it is there, and only while no durable
//! ledger refers to the one before (a block that is written loses its digest durably before the write begins).

use std::sync::Arc;

use super::Ledger;
use super::code;
use super::core::Core;
use super::keeper::run;
use crate::error::Result;
use crate::units::ByteRange;

/// Bytes of an entry.
const ENTRY: usize = 40;

impl Ledger {
    /// Begins a reading of whole blocks for their digests; [`Ledger::end_digests`] ends it.
    pub fn begin_digests(self: &Arc<Self>, range: ByteRange) -> Reading {
        let place = self.core().inflight.watch(range);
        Reading { ledger: Arc::clone(self), place: Some(place) }
    }

    /// Ends a reading: the digests of the blocks from `first` on are kept for those that are proven, if nothing touched the range
    /// meanwhile. Durable with the next snapshot. Tells how many were kept.
    ///
    /// # Errors
    /// As the side file says; nothing is kept then.
    pub async fn end_digests(self: &Arc<Self>, mut reading: Reading, first: u64, digests: Vec<[u8; 32]>) -> Result<u64> {
        let generation = {
            let core = self.core();
            let end = first + u64::try_from(digests.len()).unwrap_or(0);
            let mut missing = false;
            core.map.for_runs(first, end, |_, _, state| missing |= code::slot(state).is_some() && !code::has_digest(state));
            match missing {
                true => Some(core.facts.generation),
                false => None,
            }
        };
        let (Some(file), Some(generation)) = (self.digests.clone(), generation) else {
            return Ok(0);
        };
        let ledger = Arc::clone(self);
        run(Arc::clone(&file), move || {
            let entries = ledger.entries(generation, first, &digests);
            let mut written = Ok(());
            // Entries that count already hold the same digest: their block was not touched since.
            for (block, entry) in (first..).zip(&entries) {
                let state = ledger.core().map.get(block);
                if code::slot(state).is_some() && !code::has_digest(state) {
                    written = written.and_then(|()| file.write_at(block * ENTRY as u64, entry));
                }
            }
            let written = written.and_then(|()| file.sync());
            let mut core = ledger.core();
            let undisturbed = reading.end(&mut core) && core.facts.generation == generation;
            written?;
            let blocks = (first..).take(entries.len());
            Ok(if undisturbed { blocks.filter(|b| core.note_digest(*b)).count().try_into().unwrap_or(0) } else { 0 })
        })
        .await?
    }

    fn entries(&self, generation: u64, first: u64, digests: &[[u8; 32]]) -> Vec<[u8; ENTRY]> {
        (first..)
            .zip(digests)
            .map(|(block, digest)| {
                let mut entry = [0; ENTRY];
                let (to, bind) = entry.split_at_mut(32);
                to.copy_from_slice(digest);
                bind.copy_from_slice(&self.binding(generation, block, digest));
                entry
            })
            .collect()
    }

    fn binding(&self, generation: u64, block: u64, digest: &[u8; 32]) -> [u8; 8] {
        let mut hash = blake3::Hasher::new();
        hash.update(&generation.to_be_bytes()).update(&block.to_be_bytes()).update(digest).update(self.volume().as_bytes());
        let mut out = [0; 8];
        hash.finalize_xof().fill(&mut out);
        out
    }

    /// The digest of a block, when it is proven and its digest is known.
    ///
    /// # Errors
    /// As the side file says.
    pub async fn digest(self: &Arc<Self>, block: u64) -> Result<Option<[u8; 32]>> {
        let (state, generation) = {
            let core = self.core();
            (core.map.get(block), core.facts.generation)
        };
        let Some(file) = self.digests.clone().filter(|_| code::has_digest(state)) else { return Ok(None) };
        let ledger = Arc::clone(self);
        run(Arc::clone(&file), move || {
            let mut entry = [0; ENTRY];
            let read = file.read_at(block * ENTRY as u64, &mut entry)?;
            let (digest, bind) = entry.split_at(32);
            let Some(digest) = digest.try_into().ok().filter(|_| read == ENTRY) else { return Ok(None) };
            let right = ledger.binding(generation, block, &digest) == bind && code::has_digest(ledger.core().map.get(block));
            Ok(right.then_some(digest))
        })
        .await?
    }
}

/// A reading of blocks for their digests, under way.
#[must_use]
pub struct Reading {
    ledger: Arc<Ledger>,
    place: Option<usize>,
}

impl Reading {
    fn end(&mut self, core: &mut Core) -> bool {
        self.place.take().is_some_and(|place| core.inflight.unwatch(place))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.ledger.core().inflight.unwatch(place);
        }
    }
}
