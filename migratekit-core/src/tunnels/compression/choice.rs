//! Whether the next frame is packed. Pure: times and lengths in, a yes or no out.
//!
//! ```text
//!  the pace          bytes the stream carries in a second, over the last span
//!  the data          how much of a frame is left when it is packed
//!  the processor     how long that took
//!
//!  pack   <=>   pace x MARGIN  <  bytes the processor saves in the same time
//! ```
//!
//! What does not shrink is tried again ever more rarely, up to one frame in [`LONGEST_SKIP`]; so is a stream that is too fast.
//!
//! The pace is not only the link's: a slow source makes it small too, and then packing is of no use, and of little cost: the processor is busy with
//! it for less than one part in [`MARGIN`] of the time. Whether the sender waits cannot be seen here: what NBD has under way fits into the sockets.

use std::time::Duration;

use super::Compression;

/// The pace is measured over so long.
const SPAN: Duration = Duration::from_millis(200);
/// The processor must save so many times what the stream carries: other streams share it, and a processor that is busy makes the pace small too.
const MARGIN: f64 = 8.0;
/// Above this rate of one stream no processor of ours saves enough, in bytes a second: nothing is even tried.
const TOO_FAST: f64 = 128e6;
/// Below this rate of one stream there is time for a better level, in bytes a second.
const SLOW: f64 = 16e6;
/// The level of zstd otherwise.
const LEVEL: i32 = 1;
/// The better level.
const BETTER: i32 = 3;
/// Shorter frames are not worth a try, in bytes: requests and answers without data.
const SHORTEST: usize = 2048;
/// The most frames between two tries: 2 MiB.
const LONGEST_SKIP: u32 = 32;
/// What is known of data and processor moves by one part in so many with each try.
const MEMORY: f64 = 8.0;

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Choice {
    kind: Compression,
    /// Bytes and time in the span that is being measured.
    span: (usize, Duration),
    /// Bytes a second that the stream carried in the last span.
    pace: Option<f64>,
    /// Bytes saved by the processor in a second, as far as that was tried.
    saves: Option<f64>,
    skip: u32,
    next_skip: u32,
}

impl Choice {
    pub(crate) fn new(kind: Compression) -> Self {
        Choice { kind, span: (0, Duration::ZERO), pace: None, saves: None, skip: 0, next_skip: 1 }
    }

    /// By which level the next frame, of so many bytes, should be tried to pack.
    pub(crate) fn level(&mut self, length: usize) -> Option<i32> {
        if length < SHORTEST || self.kind == Compression::Off {
            return None;
        }
        let always = self.kind == Compression::Always;
        let pace = match self.pace {
            None if always => 0.0,
            None => return None,
            Some(pace) if pace > TOO_FAST && !always => return None,
            Some(pace) => pace,
        };
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(if pace < SLOW { BETTER } else { LEVEL })
    }

    /// A frame of `plain` bytes was tried: `packed` is its length then, if it is worth it.
    pub(crate) fn tried(&mut self, plain: usize, packed: Option<usize>, took: Duration) {
        let saved = plain.saturating_sub(packed.unwrap_or(plain));
        let now = bytes(saved) / took.as_secs_f64().max(1e-9);
        if packed.is_none() {
            return self.rest();
        }
        let saves = self.saves.map_or(now, |known| known + (now - known) / MEMORY);
        self.saves = Some(saves);
        let pays = self.pace.is_none_or(|pace| pace * MARGIN < saves);
        if pays || self.kind == Compression::Always {
            self.next_skip = 1;
        } else {
            self.rest();
        }
    }

    /// It was in vain: the next frames are not tried.
    fn rest(&mut self) {
        self.skip = self.next_skip;
        self.next_skip = (self.next_skip * 2).min(LONGEST_SKIP);
    }

    /// So many bytes went out; `passed` since the last time.
    pub(crate) fn sent(&mut self, sent: usize, passed: Duration) {
        self.span = (self.span.0 + sent, self.span.1 + passed);
        let (sent, passed) = self.span;
        if passed >= SPAN {
            self.pace = Some(bytes(sent) / passed.as_secs_f64());
            self.span = (0, Duration::ZERO);
        }
    }
}

fn bytes(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnels::compression::frame::MAX_FRAME;

    /// A sender that always has more, over a link of so many bytes a second, with a processor that packs so many, and data of which
    /// `left` is left. Tells frames packed, frames tried, seconds.
    fn run(choice: &mut Choice, frames: usize, link: f64, processor: f64, left: f64) -> (usize, usize, f64) {
        let (mut packed, mut tried, mut seconds) = (0, 0, 0.0);
        for _ in 0..frames {
            let (mut length, mut passed) = (MAX_FRAME as f64, 0.0);
            if choice.level(MAX_FRAME).is_some() {
                tried += 1;
                passed = length / processor;
                let shrunk = (left < 0.875).then_some((length * left) as usize);
                choice.tried(MAX_FRAME, shrunk, Duration::from_secs_f64(passed));
                if let Some(shrunk) = shrunk {
                    packed += 1;
                    length = shrunk as f64;
                }
            }
            passed += length / link;
            seconds += passed;
            choice.sent(length as usize, Duration::from_secs_f64(passed));
        }
        (packed, tried, seconds)
    }

    #[test]
    fn a_slow_link_packs_text_and_is_as_much_faster() {
        for link in [0.1e6, 1.25e6, 12.5e6, 25e6] {
            let (packed, ..) = run(&mut Choice::new(Compression::Auto), 1000, link, 400e6, 0.4);
            assert!(packed > 900, "{link}: {packed}");
            let (_, _, off) = run(&mut Choice::new(Compression::Off), 1000, link, 400e6, 0.4);
            let (_, _, on) = run(&mut Choice::new(Compression::Auto), 1000, link, 400e6, 0.4);
            assert!(on < off * 0.6, "{link}: {on} against {off}");
        }
    }

    #[test]
    fn a_fast_link_packs_nothing_and_a_middling_one_hardly_tries() {
        assert_eq!(run(&mut Choice::new(Compression::Auto), 10_000, 400e6, 400e6, 0.4).1, 0);
        let (_, tried, _) = run(&mut Choice::new(Compression::Auto), 10_000, 100e6, 400e6, 0.4);
        assert!(tried < 400, "{tried}");
    }

    #[test]
    fn noise_is_hardly_tried_and_text_after_it_is_found() {
        let mut choice = Choice::new(Compression::Auto);
        let (packed, tried, _) = run(&mut choice, 10_000, 2.5e6, 400e6, 1.0);
        assert!(packed == 0 && tried < 400, "{tried}");
        let (packed, ..) = run(&mut choice, 1000, 2.5e6, 400e6, 0.4);
        assert!(packed > 900, "{packed}");
    }

    #[test]
    fn always_and_off_mean_what_they_say() {
        let (packed, ..) = run(&mut Choice::new(Compression::Always), 1000, 4e9, 400e6, 0.4);
        assert_eq!(packed, 1000);
        let (packed, tried, _) = run(&mut Choice::new(Compression::Off), 1000, 1e6, 400e6, 0.4);
        assert_eq!((packed, tried), (0, 0));
        assert!(Choice::new(Compression::Always).level(100).is_none(), "answers without data are left alone");
    }
}
