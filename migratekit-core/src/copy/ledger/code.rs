//! What is known of one block, in four bits.
//!
//! ```text
//!            write begins                  last byte covered        flush begins         flush succeeded
//!  unknown ───────────────▶ partial ──────────────────────▶ covered ─────────────▶ flushing ─────────────▶ proven (pass)
//!     ▲                        ▲                               │                      │                       │
//!     │ anonymous write,       └───────────────────────────────┴──── write begins ────┴───────────────────────┘
//!     │ discard, failed flush, another pass begins (partial, covered, flushing)
//! ```
//!
//! Covered and flushing are known to memory only; a file says partial in their place.

/// Nothing is known.
pub(super) const UNKNOWN: u8 = 0;
/// The current pass began to write it.
pub(super) const PARTIAL: u8 = 1;
/// The current pass wrote every byte; no flush began since.
pub(super) const COVERED: u8 = 2;
/// As covered, and a flush is under way that began afterwards.
pub(super) const FLUSHING: u8 = 3;
/// The first of the codes that say proven.
pub(super) const FIRST_PROVEN: u8 = 4;
/// How many codes there are: four bits.
pub(super) const CODES: usize = 16;
/// Passes known by name; what older ones proved belongs to slot [`OLDER`].
pub(super) const NAMED_PASSES: usize = 5;
/// The slot of all passes that are no longer known by name.
pub(super) const OLDER: u8 = 0;

/// A map from each code to another.
pub(super) type Table = [u8; CODES];

/// The code of a block proven by the pass of `slot`, with a digest in the side file or without.
pub(super) const fn proven(slot: u8, digest: bool) -> u8 {
    FIRST_PROVEN + slot * 2 + digest as u8
}

/// The slot of the pass that proved the block; `None` when it is not proven.
pub(super) const fn slot(code: u8) -> Option<u8> {
    if code < FIRST_PROVEN { None } else { Some((code - FIRST_PROVEN) / 2) }
}

/// Whether the side file holds the block's digest.
pub(super) const fn has_digest(code: u8) -> bool {
    code >= FIRST_PROVEN && (code - FIRST_PROVEN) % 2 == 1
}

/// The table that changes the codes named, `(from, to)`, and no other.
pub(super) fn table(changes: &[(u8, u8)]) -> Table {
    let mut table = [0; CODES];
    for (to, code) in table.iter_mut().zip(0_u8..) {
        *to = changes.iter().find(|(from, _)| *from == code).map_or(code, |(_, to)| *to);
    }
    table
}

/// What a table makes of a code.
pub(super) fn apply(table: &Table, code: u8) -> u8 {
    table.get(usize::from(code)).copied().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_fit_four_bits_and_come_back() {
        for slot_number in 0..=NAMED_PASSES as u8 {
            for digest in [false, true] {
                let code = proven(slot_number, digest);
                assert!(usize::from(code) < CODES);
                assert_eq!((slot(code), has_digest(code)), (Some(slot_number), digest));
            }
        }
        for code in [UNKNOWN, PARTIAL, COVERED, FLUSHING] {
            assert_eq!((slot(code), has_digest(code)), (None, false));
        }
    }
}
