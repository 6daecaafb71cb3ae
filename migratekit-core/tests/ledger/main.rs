//! The ledger from outside: crashes, damaged files, exports, digests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod crash;
mod export;
mod file;
mod interval;

/// How often the usual rounds run: ten times in the long mode.
fn times() -> u64 {
    std::env::var("MIGRATEKIT_ROUNDS_TIMES").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// A thousand rounds of lives and deaths: what a ledger calls proven is on the storage.
#[test]
fn a_thousand_kills_never_make_a_false_claim() {
    let seen = crash::rounds(0, 1000 * times());
    assert!(
        seen.kills > 1000 && seen.proven > 10_000 && seen.before > 500 && seen.demanded > 1000,
        "the rounds prove too little: {seen:?}"
    );
}
