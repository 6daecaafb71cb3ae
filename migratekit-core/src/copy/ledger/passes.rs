//! The passes known by name, and which of them is current.

use super::code::{self, NAMED_PASSES, OLDER, Table};

/// The longest pass id, in bytes.
pub const MAX_PASS_ID: usize = 64;

/// The table of passes: slot 1 is the first, slot 0 stands for all that were forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Passes {
    pub(super) ids: Vec<String>,
    current: Option<u8>,
}

/// Whether an id may be used: 1 to [`MAX_PASS_ID`] of `[0-9a-zA-Z._-]`.
pub(super) fn valid_id(id: &str) -> bool {
    (1..=MAX_PASS_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl Passes {
    /// As read from a file; `None` when it contradicts itself.
    pub(super) fn from_parts(ids: Vec<String>, current: Option<u8>) -> Option<Self> {
        let unique = ids.iter().enumerate().all(|(i, id)| valid_id(id) && !ids.get(..i).is_some_and(|before| before.contains(id)));
        let inside = current.is_none_or(|slot| slot > OLDER && usize::from(slot) <= ids.len());
        (unique && inside && ids.len() <= NAMED_PASSES).then_some(Passes { ids, current })
    }

    /// The slot of the current pass.
    pub(super) fn current(&self) -> Option<u8> {
        self.current
    }

    /// The id of the current pass.
    pub(super) fn current_id(&self) -> Option<&str> {
        self.current.and_then(|slot| self.ids.get(usize::from(slot).checked_sub(1)?)).map(String::as_str)
    }

    /// The slot of a pass known by name.
    pub(super) fn slot_of(&self, id: &str) -> Option<u8> {
        self.ids.iter().zip(1_u8..).find(|(known, _)| known.as_str() == id).map(|(_, slot)| slot)
    }

    /// Makes `id` the current pass; tells how the states of blocks change.
    pub(super) fn begin(&mut self, id: &str) -> Table {
        let mut changes = Vec::new();
        if let Some(slot) = self.slot_of(id) {
            self.current = Some(slot);
        } else {
            if self.ids.len() >= NAMED_PASSES {
                self.ids.remove(0);
                for (slot, to) in (1_u8..).zip(OLDER..).take(NAMED_PASSES) {
                    changes.extend([false, true].map(|digest| (code::proven(slot, digest), code::proven(to, digest))));
                }
            }
            self.ids.push(id.to_owned());
            self.current = self.slot_of(id);
        }
        code::table(&changes)
    }
}
