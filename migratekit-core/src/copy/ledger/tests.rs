//! Tests of the core against a naive model, of its memory, and of the file against damage.

use std::io::Cursor;

use proptest::prelude::*;

use super::code;
use super::core::{Begun, Core};
use super::format::{self, Contents};
use super::inflight::Kind;
use super::{Commit, LedgerOptions};
use crate::units::{ByteRange, GIB, MIB, TIB};

const BITS: u32 = 12;
const BLOCK: usize = 1 << BITS;

fn range(from: usize, to: usize) -> ByteRange {
    ByteRange::between(from as u64, to as u64)
}

/// What is true of each 512-byte sector, by the letter of the title page.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Sector {
    /// Written by the current pass, completely, and no request touches it now or left it in doubt.
    good: bool,
    /// A flush that began later succeeded.
    flushed: bool,
    flushing: bool,
}

struct Naive {
    sectors: Vec<Sector>,
    /// Requests under way: sectors, whether they count.
    requests: Vec<(Begun, usize, usize, bool)>,
    /// Of each pass, the sectors it had proven when another began, and that nobody touched since: a pass may be come back to.
    left: [Vec<bool>; 3],
    pass: usize,
}

impl Naive {
    fn overlapping(&self, from: usize, to: usize) -> bool {
        self.requests.iter().any(|(_, f, t, _)| *f < to && from < *t)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin { from: usize, length: usize, void: bool },
    End { which: usize, ok: bool },
    BeginFlush,
    EndFlush { ok: bool },
    Pass { id: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..128_usize, 1..24_usize, prop::bool::weighted(0.1)).prop_map(|(from, length, void)| Step::Begin { from, length, void }),
        2 => (0..16_usize).prop_map(|b| Step::Begin { from: b * 8, length: 8, void: false }),
        7 => (0..8_usize, prop::bool::weighted(0.9)).prop_map(|(which, ok)| Step::End { which, ok }),
        2 => Just(Step::BeginFlush),
        2 => prop::bool::weighted(0.85).prop_map(|ok| Step::EndFlush { ok }),
        1 => (0..3_u8).prop_map(|id| Step::Pass { id }),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Proven of the current pass implies: every sector written by it, nothing under way or in doubt, and flushed.
    #[test]
    fn proven_is_never_said_without_reason(steps in steps(), tail in 1..8_usize) {
        let sectors = 15 * 8 + tail;
        let mut core = Core::new(sectors as u64 * 512, BITS);
        let mut serial = core.begin_pass("first");
        let mut naive = Naive { sectors: vec![Sector::default(); sectors], requests: Vec::new(), left: std::array::from_fn(|_| vec![false; sectors]), pass: 0 };
        let mut flushing = false;
        for step in steps {
            match step {
                Step::Begin { from, length, void } if from < sectors => {
                    let to = (from + length).min(sectors);
                    let begun = core.begin(range(from * 512, to * 512), if void { Kind::Void } else { Kind::Pass(serial) });
                    for request in &mut naive.requests {
                        request.3 &= !(void && request.1 < to && from < request.2);
                    }
                    let lost = naive.requests.iter().any(|(_, f, t, counts)| !counts && *f < to && from < *t);
                    naive.sectors[from..to].fill(Sector::default());
                    naive.left.iter_mut().for_each(|left| left[from..to].fill(false));
                    naive.requests.push((begun, from, to, !void && !lost));
                }
                Step::End { which, ok } if which < naive.requests.len() => {
                    let (begun, from, to, counts) = naive.requests.remove(which);
                    core.end(begun.ticket, ok);
                    let good = ok && counts;
                    for at in from..to {
                        // Another request that still touches the sector decides when it ends.
                        let good = good && !naive.overlapping(at, at + 1);
                        naive.sectors[at] = Sector { good, ..Sector::default() };
                    }
                }
                Step::BeginFlush if !flushing => {
                    flushing = true;
                    core.begin_flush();
                    naive.sectors.iter_mut().for_each(|s| s.flushing = s.good);
                }
                Step::EndFlush { ok } if flushing => {
                    flushing = false;
                    core.end_flush(ok);
                    for sector in &mut naive.sectors {
                        sector.flushed |= sector.flushing && ok;
                        sector.good &= ok || sector.flushed;
                        sector.flushing = false;
                    }
                    naive.requests.iter_mut().for_each(|r| r.3 &= ok);
                }
                Step::Pass { id } => {
                    let before = serial;
                    serial = core.begin_pass(["first", "second", "third"][usize::from(id)]);
                    if serial != before {
                        naive.left[naive.pass] = naive.sectors.iter().map(|s| s.good && s.flushed).collect();
                        naive.pass = usize::from(id);
                        for (sector, proven) in naive.sectors.iter_mut().zip(&naive.left[naive.pass]) {
                            *sector = Sector { good: *proven, flushed: *proven, flushing: false };
                        }
                        naive.requests.iter_mut().for_each(|r| r.3 = false);
                    }
                }
                _ => {}
            }
            let current = core.passes.current();
            for block in 0..core.map.blocks() {
                let state = core.map.get(block);
                let all = &naive.sectors[block as usize * 8..sectors.min(block as usize * 8 + 8)];
                let new = all.iter().any(|s| s.good || s.flushed);
                if new && code::slot(state).is_some() && code::slot(state) == current {
                    prop_assert!(all.iter().all(|s| s.good && s.flushed), "block {block}: {all:?}");
                }
            }
        }
    }
}

#[test]
fn a_request_under_way_keeps_its_blocks_from_being_proven() {
    let mut core = Core::new(16 * BLOCK as u64, BITS);
    let pass = Kind::Pass(core.begin_pass("p"));
    let whole = core.begin(range(0, BLOCK), pass);
    let part = core.begin(range(512, 1024), pass);
    core.end(whole.ticket, true);
    core.begin_flush();
    core.end_flush(true);
    assert_eq!(core.map.get(0), code::PARTIAL, "a part is still under way");
    core.end(part.ticket, true);
    core.begin_flush();
    let late = core.begin(range(0, 512), pass);
    core.end_flush(true);
    assert_eq!(core.map.get(0), code::PARTIAL, "a write began after the flush did");
    core.end(late.ticket, true);
    core.begin_flush();
    core.end_flush(true);
    assert_eq!(code::slot(core.map.get(0)), core.passes.current());
}

#[test]
fn sixteen_tebibytes_need_sixteen_mebibytes_at_most() {
    let mut worst = 0;
    for pattern in 0..4_u64 {
        let mut core = Core::new(16 * TIB, 20);
        // What earlier passes proved, so that regions are needed too.
        let pass = Kind::Pass(core.begin_pass("before"));
        let all = core.begin(ByteRange::whole(16 * TIB).unwrap(), pass);
        core.end(all.ticket, true);
        core.begin_flush();
        core.end_flush(true);
        let pass = Kind::Pass(core.begin_pass("now"));
        let mut rng = crate::testing::Rng::new(pattern);
        let blocks = 1_u64 << 24;
        for i in 0..if pattern == 0 { 2200 * 256 } else { 100_000 } {
            let block = match pattern {
                0 => i % 256 * 65_536 + i / 256 * 29,         // every page gets more runs than it can hold as runs
                1 => rng.below(blocks),                       // random blocks
                2 => i * 167 % blocks,                        // spread evenly
                _ => (i % 1024) * (blocks / 1024) + i / 1024, // a comb that fills up
            };
            // Half of them whole, half of them in many small parts.
            let start = block * MIB;
            let small = start + (i % 64) * 8192;
            let part = if i % 512 < 256 { ByteRange::between(start, start + MIB) } else { ByteRange::between(small, small + 4096) };
            let begun = core.begin(part, pass);
            core.end(begun.ticket, true);
            if i % 100_000 == 0 {
                core.begin_flush();
                core.end_flush(true);
                core.regions.release(core.next, core.durable, false);
                worst = worst.max(core.memory_bytes());
            }
        }
        worst = worst.max(core.memory_bytes());
    }
    assert!(worst <= 16 * MIB as usize, "{worst} bytes");
    assert!(worst > 8 * MIB as usize, "the worst pattern was not reached: {worst} bytes");
}

#[test]
fn two_written_ends_of_sixteen_tebibytes_need_next_to_nothing() {
    let mut core = Core::new(16 * TIB, 20);
    let pass = Kind::Pass(core.begin_pass("p"));
    for start in [0, 16 * TIB - GIB] {
        for piece in ByteRange::new(start, GIB).unwrap().pieces(256 * 1024) {
            let begun = core.begin(piece, pass);
            core.end(begun.ticket, true);
        }
    }
    core.begin_flush();
    core.end_flush(true);
    assert_eq!(code::slot(core.map.get((1 << 24) - 1)), core.passes.current());
    assert_eq!(core.map.get(1024), code::UNKNOWN);
    assert!(core.memory_bytes() < 64 * 1024, "{} bytes", core.memory_bytes());
}

fn sample() -> (Core, LedgerOptions, Vec<u8>) {
    let options = LedgerOptions { block_size: BLOCK as u32, ..LedgerOptions::new("volume-7", 100 * BLOCK as u64 - 512) };
    let mut core = Core::new(options.size, BITS);
    for (id, at) in [("one", 3), ("two", 40)] {
        let pass = Kind::Pass(core.begin_pass(id));
        let whole = core.begin(range(at * BLOCK, (at + 20) * BLOCK), pass);
        core.end(whole.ticket, true);
        core.begin_flush();
        core.end_flush(true);
        let part = core.begin(range(70 * BLOCK, 70 * BLOCK + 512), pass);
        core.end(part.ticket, true);
    }
    core.facts.epoch = 9;
    core.facts.commit = Some(Commit { pass: "one".to_owned(), first: [1; 32], last: [2; 32] });
    let mut bytes = Vec::new();
    format::write(&options.volume, || &core, &mut bytes).unwrap();
    (core, options, bytes)
}

fn read(bytes: &[u8], options: &LedgerOptions) -> Contents {
    format::read(&mut Cursor::new(bytes), options, options.block_size.trailing_zeros())
}

#[test]
fn a_file_comes_back_as_it_was() {
    let (core, options, bytes) = sample();
    let Contents::Whole { map, passes, facts } = read(&bytes, &options) else { panic!("not whole") };
    assert_eq!((&map, &passes, &facts), (&core.map, &core.passes, &core.facts));
    assert_eq!((map.get(3), map.get(40), map.get(70)), (code::proven(1, false), code::proven(2, false), code::PARTIAL));
}

#[test]
fn every_truncation_is_void() {
    let (_, options, bytes) = sample();
    for length in 0..bytes.len() {
        assert!(matches!(read(&bytes[..length], &options), Contents::Void { .. }), "{length} bytes");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(read(&longer, &options), Contents::Void { .. }));
}

#[test]
fn every_changed_byte_is_void_and_a_damaged_body_keeps_the_epoch() {
    let (_, options, mut bytes) = sample();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            bytes[at] ^= flip;
            match read(&bytes, &options) {
                Contents::Void { facts, .. } => {
                    assert!(facts.commit.is_none());
                    assert_eq!(facts.epoch, if at < 4064 { 0 } else { 9 }, "byte {at}");
                }
                Contents::Whole { .. } => panic!("byte {at} changed by {flip} went unseen"),
            }
            bytes[at] ^= flip;
        }
    }
}

#[test]
fn another_volume_size_block_size_or_generation_is_void_each_with_its_reason() {
    let (_, options, bytes) = sample();
    let mut reasons = std::collections::BTreeSet::new();
    let others = [
        LedgerOptions { volume: "volume-8".to_owned(), ..options.clone() },
        LedgerOptions { size: options.size + 512, ..options.clone() },
        LedgerOptions { block_size: options.block_size * 2, ..options.clone() },
        LedgerOptions { generation: Some(4), ..options.clone() },
    ];
    for other in &others {
        let Contents::Void { why, .. } = read(&bytes, other) else { panic!("{other:?} was believed") };
        assert!(reasons.insert(why));
    }
    assert!(matches!(read(&bytes, &LedgerOptions { generation: Some(0), ..options }), Contents::Whole { .. }));
}

#[test]
fn dense_pages_survive_the_file() {
    let options = LedgerOptions { block_size: 512, ..LedgerOptions::new("v", 512 * 70_000) };
    let mut core = Core::new(options.size, 9);
    let pass = Kind::Pass(core.begin_pass("p"));
    for block in (0..70_000).step_by(2) {
        let begun = core.begin(range(block * 512, block * 512 + 512), pass);
        core.end(begun.ticket, true);
    }
    core.begin_flush();
    core.end_flush(true);
    let mut bytes = Vec::new();
    format::write("v", || &core, &mut bytes).unwrap();
    let Contents::Whole { map, .. } = read(&bytes, &options) else { panic!("not whole") };
    for block in 0..70_000 {
        assert_eq!(map.get(block), core.map.get(block));
    }
}

#[test]
fn old_passes_lose_their_names_and_not_their_proof() {
    let mut core = Core::new(100 * BLOCK as u64, BITS);
    for number in 0..9_usize {
        let pass = Kind::Pass(core.begin_pass(&format!("pass-{number}")));
        let begun = core.begin(range(number * BLOCK, (number + 1) * BLOCK), pass);
        core.end(begun.ticket, true);
        core.begin_flush();
        core.end_flush(true);
    }
    assert_eq!(core.passes.slot_of("pass-3"), None);
    for number in 0..9_u64 {
        let expected = core.passes.slot_of(&format!("pass-{number}")).unwrap_or(code::OLDER);
        assert_eq!(code::slot(core.map.get(number)), Some(expected), "pass {number}");
    }
}
