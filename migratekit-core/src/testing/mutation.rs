//! Planted bugs: the *mutation check* proves that the suite would see them.
//!
//! A bug is switched on for a whole process by the environment variable [`VARIABLE`], and only in builds with feature `testing`;
//! elsewhere the question is answered at compile time. `tests/mutations.rs` runs the tests of each bug in a child process with the
//! variable set, and demands that they fail.

/// The environment variable that names the bug.
pub const VARIABLE: &str = crate::planted::VARIABLE;

/// Every planted bug, by name.
pub const ALL: &[&str] = &[
    "ledger-before-flush",
    "no-flush",
    "no-interval",
    "zero-by-sampling",
    "lost-tail",
    "off-by-one-block",
    "resume-ignores-partial",
    "no-epoch-check",
    "apply-before-commit",
    "spool-record-before-flush",
    "spool-rewrite-in-place",
    "commit-before-complete",
    "change-ids-before-commit",
];

/// Whether this bug is switched on.
#[must_use]
pub fn active(name: &str) -> bool {
    debug_assert!(ALL.contains(&name), "{name} is not in the list of planted bugs");
    crate::planted::planted(name)
}
