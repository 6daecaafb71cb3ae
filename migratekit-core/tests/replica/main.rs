//! Replicas from outside: their points under crashes, on real files, over NBD, damaged, without room.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod alone;
mod crash;
mod files;
mod foreign;
mod growth;
mod site;

/// The rounds of the crash test: `MIGRATEKIT_SPOOL_ROUNDS`, or 300; ten times that in the long mode.
fn rounds() -> u64 {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    number("MIGRATEKIT_SPOOL_ROUNDS").unwrap_or(300 * number("MIGRATEKIT_ROUNDS_TIMES").unwrap_or(1))
}

#[test]
fn a_reader_sees_the_committed_point_on_all_disks_whenever_the_power_fails() {
    let first = std::env::var("MIGRATEKIT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let rounds = rounds();
    let seen = crash::rounds(first, rounds);
    println!("{seen:?}");
    let enough = seen.deaths > 3 * rounds && seen.old > rounds / 2 && seen.new > rounds / 2 && seen.half > rounds / 10;
    assert!(
        rounds < 100 || (enough && seen.resumed > rounds / 10 && seen.abandoned > rounds / 20 && seen.proven > 0),
        "the rounds prove too little: {seen:?}"
    );
}

#[test]
fn a_spool_keeps_what_a_flush_covered_and_can_always_be_sealed() {
    let rounds = 2 * rounds();
    let deaths = alone::rounds(0, rounds);
    assert!(deaths > rounds, "{deaths} deaths in {rounds} rounds prove too little");
}

#[test]
fn an_increment_that_dies_at_any_step_leaves_the_old_point_or_the_new_one() {
    let mut seen = crash::Seen::default();
    let mut step = 1;
    while crash::dies_at(step, &mut seen) {
        step += 1;
    }
    println!("{step} steps, {seen:?}");
    assert!(step > 100 && seen.old > 20 && seen.new > 20 && seen.half > 10, "{step} steps prove too little: {seen:?}");
}
