//! The file of a ledger: bytes out, bytes in. Nothing in it is believed before all of it was read and its checksum is right.
//!
//! ```text
//!     0  magic, version, block size, size, generation, epoch, passes, volume, commit, seal; zeros
//!  4032  BLAKE3 of the bytes before (so that the epoch survives a damaged body)
//!  4064  "a ledger's body follows here...." or anything else: no body, all unknown
//!  4096  one record for each page of 64 Ki blocks: 0 CODE | 1 COUNT (START CODE).. | 2 (32 KiB, four bits a block)
//!   end  BLAKE3 of all bytes before
//! ```
//!
//! Numbers are big-endian. Numbers of states are those of `code`; only unknown, partial and proven occur.

use std::io::{self, Read, Write};

use super::code::{self, PARTIAL, UNKNOWN};
use super::core::{Core, Facts};
use super::pages::{BlockMap, DENSE_BYTES, MOST_RUNS, PAGE_BLOCKS, Page, Run};
use super::passes::Passes;
use super::{Commit, LedgerOptions};
use crate::nbd::wire::Reader as Fields;

const MAGIC: &[u8; 8] = b"MKLEDGER";
const VERSION: u16 = 1;
const HASHED: usize = 4032;
const HEADER: usize = 4096;
/// Where the mark of a body stands.
pub(super) const BODY_MARK_AT: u64 = 4064;
/// The mark of a body.
pub(super) const BODY_MARK: &[u8; 32] = b"a ledger's body follows here....";
/// The longest name of a volume, in bytes.
pub(super) const MAX_VOLUME: usize = 1024;

/// Writes through, and sums up what was written.
struct Hashing<'a> {
    to: &'a mut dyn Write,
    hash: blake3::Hasher,
}

impl Hashing<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }
}

/// Writes a snapshot. `lock` gives the core for a moment; it is not held while bytes go out. Passes and facts must not change
/// meanwhile; blocks may (see the module's title page).
pub(super) fn write<'a, G: std::ops::Deref<Target = Core>>(volume: &str, lock: impl Fn() -> G + 'a, to: &mut dyn Write) -> io::Result<()> {
    let mut out = Hashing { to, hash: blake3::Hasher::new() };
    let (header, pages) = {
        let core = lock();
        (header(volume, &core), core.map.pages())
    };
    out.put(&header)?;
    let mut record = Vec::new();
    for page in 0..pages {
        record.clear();
        encode_page(&lock(), page, &mut record);
        out.put(&record)?;
    }
    let hash = out.hash.finalize();
    out.to.write_all(hash.as_bytes())
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn header(volume: &str, core: &Core) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&core.block_bits.to_be_bytes());
    out.extend_from_slice(&core.size.to_be_bytes());
    out.extend_from_slice(&core.facts.generation.to_be_bytes());
    out.extend_from_slice(&core.facts.epoch.to_be_bytes());
    text(&mut out, volume);
    out.push(core.passes.current().unwrap_or(0));
    out.push(u8::try_from(core.passes.ids.len()).unwrap_or(0));
    for id in &core.passes.ids {
        text(&mut out, id);
    }
    out.push(u8::from(core.facts.commit.is_some()));
    if let Some(commit) = &core.facts.commit {
        text(&mut out, &commit.pass);
        out.extend_from_slice(&commit.first);
        out.extend_from_slice(&commit.last);
    }
    // An empty text: none. So a head that ends before it has none.
    text(&mut out, core.facts.seal.as_deref().unwrap_or_default());
    out.resize(HASHED, 0);
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out.extend_from_slice(BODY_MARK);
    out
}

/// The runs of what a snapshot may say of a page, neighbours merged.
fn claims(core: &Core, page: usize, mut visit: impl FnMut(u64, u8)) {
    let base = u64::try_from(page).unwrap_or(0) * PAGE_BLOCKS;
    let mut last = None;
    core.map.for_runs(base, base + PAGE_BLOCKS, |start, end, state| {
        let mut at = start;
        while at < end {
            let claim = core.claim(state, core.regions.is_masked(at));
            if last != Some(claim) {
                visit(at - base, claim);
                last = Some(claim);
            }
            at = if core.regions.is_empty() { end } else { core.regions.end_of(at).min(end) };
        }
    });
}

fn encode_page(core: &Core, page: usize, out: &mut Vec<u8>) {
    let mut runs = 0_usize;
    out.extend_from_slice(&[1, 0, 0]);
    claims(core, page, |start, claim| {
        runs += 1;
        if runs <= MOST_RUNS {
            out.extend_from_slice(&u16::try_from(start).unwrap_or(0).to_be_bytes());
            out.push(claim);
        }
    });
    if runs > MOST_RUNS {
        let mut dense = vec![0; DENSE_BYTES];
        let mut open: Option<(u64, u8)> = None;
        claims(core, page, |start, claim| {
            if let Some((from, code)) = open {
                super::pages::set_dense(&mut dense, from, start, code);
            }
            open = Some((start, claim));
        });
        if let Some((from, code)) = open {
            super::pages::set_dense(&mut dense, from, PAGE_BLOCKS, code);
        }
        out.clear();
        out.push(2);
        out.extend_from_slice(&dense);
    } else if let ([_, _, _, _, _, code], 1) = (out.as_slice(), runs) {
        *out = vec![0, *code];
    } else if let Some(count) = out.get_mut(1..3) {
        count.copy_from_slice(&u16::try_from(runs).unwrap_or(0).to_be_bytes());
    }
}

/// What a file said.
#[derive(Debug)]
pub(super) enum Contents {
    /// All of it is right, and speaks of this volume.
    Whole { map: BlockMap, passes: Passes, facts: Facts },
    /// Nothing of its blocks may be believed. `facts`: what survives (never a commit).
    Void { why: &'static str, facts: Facts },
}

/// Reads a file. An error of the device is a reason too.
pub(super) fn read(from: &mut dyn Read, options: &LedgerOptions, block_bits: u32) -> Contents {
    let void = |why| Contents::Void { why, facts: Facts::default() };
    let mut head = vec![0; HEADER];
    if from.read_exact(&mut head).is_err() {
        return void("the ledger file is truncated or cannot be read");
    }
    let (hashed, rest) = head.split_at_checked(HASHED).unwrap_or((&[], &[]));
    let (hash, mark) = rest.split_at_checked(32).unwrap_or((&[], &[]));
    let Some(header) = (blake3::hash(hashed).as_bytes() == hash).then(|| Header::parse(hashed)).flatten() else {
        return void("the head of the ledger file is damaged, or of another version");
    };
    let facts = Facts { generation: header.generation, epoch: header.epoch, commit: header.commit, seal: header.seal };
    let void = |why| Contents::Void { why, facts: Facts { commit: None, seal: None, ..facts.clone() } };
    if header.volume != options.volume {
        // Another volume's epoch is none of ours.
        return Contents::Void { why: "the ledger file speaks of another volume", facts: Facts::default() };
    }
    if options.generation.is_some_and(|g| g != facts.generation) {
        return void("the ledger file is of another generation of the volume");
    }
    if header.size != options.size {
        return void("the ledger file speaks of another size of the volume");
    }
    if header.block_bits != block_bits {
        return void("the ledger file has another block size");
    }
    if mark != BODY_MARK {
        return void("the ledger file was voided when it could not be written");
    }
    let mut body = Body { from, hash: blake3::Hasher::new() };
    body.hash.update(&head);
    match body.parse(options.size.div_ceil(1 << block_bits), header.passes.ids.len(), header.passes.current().is_some()) {
        Some(map) => Contents::Whole { map, passes: header.passes, facts },
        None => void("the body of the ledger file is truncated or damaged"),
    }
}

struct Header {
    block_bits: u32,
    size: u64,
    generation: u64,
    epoch: u64,
    volume: String,
    passes: Passes,
    commit: Option<Commit>,
    seal: Option<String>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut f = Fields::new(bytes);
        (f.take(MAGIC.len())? == MAGIC && f.u16()? == VERSION).then_some(())?;
        let (block_bits, size, generation, epoch) = (f.u32()?, f.u64()?, f.u64()?, f.u64()?);
        let volume = read_text(&mut f)?;
        let (current, count) = (byte(&mut f)?, byte(&mut f)?);
        let ids = (0..count).map(|_| read_text(&mut f)).collect::<Option<Vec<_>>>()?;
        let passes = Passes::from_parts(ids, (current > 0).then_some(current))?;
        let commit = match byte(&mut f)? {
            0 => None,
            _ => Some(Commit { pass: read_text(&mut f)?, first: f.take(32)?.try_into().ok()?, last: f.take(32)?.try_into().ok()? }),
        };
        let seal = Some(read_text(&mut f)?).filter(|s| !s.is_empty());
        Some(Header { block_bits, size, generation, epoch, volume, passes, commit, seal })
    }
}

fn byte(f: &mut Fields<'_>) -> Option<u8> {
    f.take(1)?.first().copied()
}

fn read_text(f: &mut Fields<'_>) -> Option<String> {
    let length = usize::from(f.u16()?);
    String::from_utf8(f.take(length)?.to_vec()).ok()
}

struct Body<'a> {
    from: &'a mut dyn Read,
    hash: blake3::Hasher,
}

impl Body<'_> {
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).ok()?;
        self.hash.update(&bytes);
        Some(bytes)
    }

    fn parse(mut self, blocks: u64, passes: usize, current: bool) -> Option<BlockMap> {
        let mut map = BlockMap::new(blocks);
        let valid = |state: u8| match code::slot(state) {
            Some(slot) => usize::from(slot) <= passes,
            None => state == UNKNOWN || (state == PARTIAL && current),
        };
        for number in 0..map.pages() {
            let page = match self.take(1)?.first()? {
                0 => Page::Uniform(self.take(1)?.first().copied().filter(|c| valid(*c))?),
                1 => self.runs(valid)?,
                2 => {
                    let bytes = self.take(DENSE_BYTES)?;
                    bytes.iter().all(|b| valid(b & 15) && valid(b >> 4)).then_some(())?;
                    Page::Dense(bytes.into_boxed_slice())
                }
                _ => return None,
            };
            map.put_page(number, page);
        }
        let mut hash = [0; 32];
        self.from.read_exact(&mut hash).ok()?;
        let ended = matches!(self.from.read(&mut [0]), Ok(0));
        (ended && *self.hash.finalize().as_bytes() == hash).then_some(map)
    }

    fn runs(&mut self, valid: impl Fn(u8) -> bool) -> Option<Page> {
        let count = usize::from(Fields::new(&self.take(2)?).u16()?);
        let bytes = self.take(count * 3)?;
        let mut f = Fields::new(&bytes);
        let mut runs: Vec<Run> = Vec::with_capacity(count);
        for _ in 0..count {
            let run = Run::new(f.u16()?, byte(&mut f)?);
            let follows = runs.last().map_or(run.start() == 0, |l| l.start() < run.start() && l.code() != run.code());
            (follows && valid(run.code())).then_some(())?;
            runs.push(run);
        }
        (2..=MOST_RUNS).contains(&runs.len()).then_some(Page::Runs(runs))
    }
}
