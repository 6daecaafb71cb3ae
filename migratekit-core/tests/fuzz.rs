//! Fuzzing without a fuzzer: each target runs on its corpus (`fuzz/corpus/TARGET`) and on seeded mutations of it, for
//! `MIGRATEKIT_FUZZ_SECONDS` (20 unless set). A failure prints the seed and leaves the input in the temporary folder it names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use migratekit_core::nbd::client::fuzz::{fuzz_client_handshake, fuzz_client_replies};
use migratekit_core::nbd::fuzz;
use migratekit_core::testing::Rng;

/// Inputs do not grow beyond this, in bytes.
const MAX_INPUT: usize = 16 * 1024;

#[test]
fn frames() {
    run("frames", fuzz::fuzz_frames);
}

#[test]
fn server_handshake() {
    run("server_handshake", fuzz::fuzz_server_handshake);
}

#[test]
fn server_transmission() {
    run("server_transmission", fuzz::fuzz_server_transmission);
}

#[test]
fn client_handshake() {
    run("client_handshake", fuzz_client_handshake);
}

#[test]
fn client_replies() {
    run("client_replies", fuzz_client_replies);
}

#[test]
fn compressed() {
    run("compressed", migratekit_core::tunnels::fuzz::fuzz_compressed);
}

/// Runs one target for its time.
fn run(target: &str, check: fn(&[u8])) {
    let seconds = std::env::var("MIGRATEKIT_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let seed = std::env::var("MIGRATEKIT_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("{target}: seed {seed}, {seconds} s");
    let corpus = corpus(target);
    for input in &corpus {
        try_one(target, check, input);
    }
    let mut rng = Rng::new(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0u64;
    while Instant::now() < end {
        for _ in 0..64 {
            let mut input = corpus[rng.below(corpus.len() as u64) as usize].clone();
            for _ in 0..=rng.below(4) {
                mutate(&mut input, &corpus, &mut rng);
            }
            try_one(target, check, &input);
            runs += 1;
        }
    }
    println!("{target}: {runs} inputs");
    assert!(runs > 0);
}

/// The seeds of a target, in a stable order.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder).expect("a corpus").map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!corpus.is_empty(), "{} is empty", folder.display());
    corpus
}

fn try_one(target: &str, check: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
        let (_, path) = tempfile::Builder::new().prefix(&format!("fuzz-{target}-")).tempfile().unwrap().keep().unwrap();
        fs::write(&path, input).unwrap();
        eprintln!("{target}: the input is in {}", path.display());
        resume_unwind(panic);
    }
}

/// One change: a bit, a number, a piece taken out, doubled, or from another seed.
fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, i64::MAX as u64, u64::MAX];
    let at = rng.below(input.len() as u64 + 1) as usize;
    let length = (rng.below(32) as usize).min(input.len() - at);
    match rng.below(6) {
        0 if at < input.len() => input[at] ^= 1 << rng.below(8),
        1 => {
            let number = NUMBERS[rng.below(NUMBERS.len() as u64) as usize].to_be_bytes();
            let width = [1, 2, 4, 8][rng.below(4) as usize];
            for (to, from) in input[at..].iter_mut().zip(&number[8 - width..]) {
                *to = *from;
            }
        }
        2 => drop(input.drain(at..at + length)),
        3 => {
            let piece = input[at..at + length].to_vec();
            input.splice(at..at, piece);
        }
        4 => {
            let other = &corpus[rng.below(corpus.len() as u64) as usize];
            let from = rng.below(other.len() as u64 + 1) as usize;
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let mut piece = vec![0; rng.below(16) as usize];
            rng.fill(&mut piece);
            input.splice(at..at, piece);
        }
    }
    input.truncate(MAX_INPUT);
}
