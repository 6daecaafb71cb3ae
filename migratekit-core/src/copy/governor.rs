//! How many movers work at once, chosen by measurement. Pure: rates in, numbers out.
//!
//! On a fast local path few movers are best: their buffers stay in the processor's cache, and the servers at both ends do less
//! work for each byte. On a path with latency many are needed to keep it full. Which of the two it is shows in the rate: the
//! governor begins with few, tries more now and then, and keeps more only when the rate rises by more than noise.
//!
//! ```text
//!            rate measured over one step
//!  Holding ── every HOLD_STEPS ──▶ Trying(more) ── rate rose ──▶ Trying(even more) ..
//!     ▲                               │ it did not
//!     └───────── back to before ◀─────┘
//! ```

/// A try is kept when it raises the rate by this many percent; less is noise.
const WORTH_PERCENT: u64 = 12;
/// Steps between two tries after one that did not help. It doubles up to [`LONGEST_HOLD`].
const HOLD_STEPS: u32 = 4;
/// The longest pause between tries, in steps.
const LONGEST_HOLD: u32 = 64;

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Governor {
    movers: usize,
    most: usize,
    state: State,
    hold: u32,
    /// See [`Governor::rising`].
    rising: bool,
}

#[derive(Debug)]
enum State {
    /// Measure for this many more steps; sum of rates and number of steps so far.
    Holding { left: u32, sum: u64, steps: u32 },
    /// More movers than before; `settled` after one step that is not counted.
    Trying { before: usize, rate_before: u64, settled: bool },
}

impl Governor {
    /// Begins with `first` movers, never more than `most`.
    pub(crate) fn new(first: usize, most: usize) -> Self {
        let most = most.max(1);
        let movers = first.clamp(1, most);
        Governor { movers, most, state: State::Holding { left: 1, sum: 0, steps: 0 }, hold: HOLD_STEPS, rising: false }
    }

    /// Doubles at first, until a try does not help: a long path is to be full soon.
    pub(crate) fn rising(self) -> Self {
        Governor { rising: true, ..self }
    }

    /// How many movers should work now.
    pub(crate) fn movers(&self) -> usize {
        self.movers
    }

    /// One step passed, in which `bytes` moved.
    pub(crate) fn step(&mut self, bytes: u64) {
        match &mut self.state {
            State::Holding { left, sum, steps } => {
                *sum = sum.saturating_add(bytes);
                *steps += 1;
                *left = left.saturating_sub(1);
                if *left == 0 {
                    let rate = *sum / u64::from(*steps).max(1);
                    self.try_more(rate);
                }
            }
            State::Trying { settled, .. } if !*settled => *settled = true,
            State::Trying { before, rate_before, .. } => {
                let (before, rate_before) = (*before, *rate_before);
                if bytes.saturating_mul(100) > rate_before.saturating_mul(100 + WORTH_PERCENT) {
                    self.hold = HOLD_STEPS;
                    self.try_more(bytes);
                } else {
                    self.movers = before;
                    self.rising = false;
                    self.state = State::Holding { left: self.hold, sum: 0, steps: 0 };
                    self.hold = (self.hold * 2).min(LONGEST_HOLD);
                }
            }
        }
    }

    fn try_more(&mut self, rate: u64) {
        let before = self.movers;
        let more = if self.rising { before } else { before.div_ceil(2) };
        self.movers = (before + more).min(self.most);
        self.state = if self.movers == before || rate == 0 {
            self.movers = before;
            State::Holding { left: self.hold, sum: 0, steps: 0 }
        } else {
            State::Trying { before, rate_before: rate, settled: false }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `steps` steps on a path whose rate is `rate(movers)`; tells the movers at the end.
    fn settle(governor: &mut Governor, steps: u32, rate: impl Fn(usize) -> u64) -> usize {
        for _ in 0..steps {
            let moved = rate(governor.movers());
            governor.step(moved);
        }
        governor.movers()
    }

    #[test]
    fn a_path_with_latency_is_filled() {
        let mut governor = Governor::new(4, 64);
        // 100 requests fill the path.
        assert!(settle(&mut governor, 60, |movers| movers.min(100) as u64 * 1000) >= 63);
    }

    #[test]
    fn a_long_path_is_filled_by_doubling_and_a_full_one_is_left_alone() {
        let mut governor = Governor::new(16, 112).rising();
        // A step that begins, then two for each of 16, 32, 64.
        assert_eq!(settle(&mut governor, 7, |movers| movers as u64 * 1000), 112);
        let mut governor = Governor::new(16, 112).rising();
        settle(&mut governor, 3, |_| 1000);
        assert_eq!(governor.movers(), 16, "the first try did not help");
    }

    #[test]
    fn a_path_that_is_full_keeps_few() {
        let mut governor = Governor::new(4, 64);
        let mut at_few = 0;
        for _ in 0..200 {
            governor.step(1_000_000);
            at_few += u32::from(governor.movers() == 4);
        }
        assert!(at_few > 180, "{at_few} of 200 steps");
    }

    #[test]
    fn it_stays_within_its_bounds() {
        assert_eq!(Governor::new(0, 0).movers(), 1);
        let mut governor = Governor::new(9, 5);
        assert_eq!(settle(&mut governor, 50, |m| m as u64 * 10), 5);
        assert_eq!(settle(&mut governor, 50, |_| 0), 5);
    }
}
