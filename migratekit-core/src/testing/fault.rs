//! A disk that fails as told, and the same way for the same seed.
//!
//! A [`Fault`] says on which operation, when, and what happens. All faults are looked at for each request; the first that applies
//! is done. Requests of one kind are counted from 1 in the order in which they start.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{Operation, Rng};
use crate::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Extent, Persist, ZeroMode};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// On this request of its kind, counted from 1.
    Nth(u64),
    /// On every request of its kind from this one on, counted from 1.
    From(u64),
    /// On so many of a hundred, by the seed.
    Percent(u64),
    /// On every request that touches a byte of this range.
    Touching(ByteRange),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The request fails, and nothing is done.
    Fail(ErrorKind),
    /// All is done, and then the request fails (an answer that was lost).
    FailAfter(ErrorKind),
    /// It takes so much longer.
    Delay(Duration),
    /// It never ends (until it is dropped), and nothing is done.
    Hang,
    /// Part of a write (by the seed; for other requests nothing) is done, then it fails.
    Torn(ErrorKind),
    /// One bit (by the seed) of what is read or written is wrong, and nobody says so. Other requests are not harmed.
    FlipBit,
    /// A write, zero, discard or flush is said to be done and is not. Other requests are not harmed.
    Lie,
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// On which requests.
    pub on: Operation,
    /// On which of them.
    pub when: When,
    /// What happens.
    pub effect: Effect,
}

/// A disk with faults. See the [module documentation](self).
#[derive(Debug)]
pub struct Faulty<D> {
    disk: D,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    faults: Vec<Fault>,
    counts: [u64; 6],
    injected: u64,
}

/// A fault that applies to a request, with a number from the seed for its details.
#[derive(Debug, Clone, Copy)]
struct Hit {
    effect: Effect,
    number: u64,
}

impl<D: BlockRead> Faulty<D> {
    /// `disk` with these faults.
    #[must_use]
    pub fn new(disk: D, seed: u64, faults: Vec<Fault>) -> Self {
        Faulty { disk, state: Mutex::new(State { rng: Rng::new(seed), faults, counts: [0; 6], injected: 0 }) }
    }

    /// Other faults from now on; the counts go on.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.state().faults = faults;
    }

    /// How many faults have happened.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hit(&self, on: Operation, range: ByteRange) -> Option<Hit> {
        let state = &mut *self.state();
        let place = match on {
            Operation::Read => 0,
            Operation::Extents => 1,
            Operation::Write => 2,
            Operation::Zero => 3,
            Operation::Discard => 4,
            Operation::Flush => 5,
        };
        let count = state.counts.get_mut(place)?;
        *count += 1;
        for fault in state.faults.iter().filter(|f| f.on == on) {
            let applies = match fault.when {
                When::Nth(n) => *count == n,
                When::From(n) => *count >= n,
                When::Percent(percent) => state.rng.chance(percent),
                When::Touching(part) => !part.intersection(range).is_empty(),
            };
            if applies {
                state.injected += 1;
                return Some(Hit { effect: fault.effect, number: state.rng.next_u64() });
            }
        }
        None
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, range: ByteRange) -> Error {
        Error::new(kind, operation, "a fault was injected").with("disk", &self.disk.info().name).with("offset", range.offset())
    }

    /// Does `work` with the effects that are alike for all requests; `hit` is what was found for it.
    async fn run<T>(&self, hit: Option<Hit>, operation: &'static str, range: ByteRange, work: BoxFuture<'_, Result<T>>) -> Result<T> {
        match hit.map(|h| h.effect) {
            Some(Effect::Fail(kind) | Effect::Torn(kind)) => Err(self.error(kind, operation, range)),
            Some(Effect::FailAfter(kind)) => {
                work.await?;
                Err(self.error(kind, operation, range))
            }
            Some(Effect::Delay(time)) => {
                clock::sleep(time).await;
                work.await
            }
            Some(Effect::Hang) => std::future::pending().await,
            Some(Effect::FlipBit | Effect::Lie) | None => work.await,
        }
    }
}

fn flip(data: &Bytes, number: u64) -> Bytes {
    let mut wrong = data.to_vec();
    let bits = u64::try_from(wrong.len()).unwrap_or(1).saturating_mul(8).max(1);
    let bit = number % bits;
    if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| wrong.get_mut(at)) {
        *byte ^= 1 << (bit % 8);
    }
    wrong.into()
}

impl<D: BlockRead> BlockRead for Faulty<D> {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            let hit = self.hit(Operation::Read, range);
            let bytes = self.run(hit, "read", range, self.disk.read(range)).await?;
            Ok(match hit {
                Some(Hit { effect: Effect::FlipBit, number }) => flip(&bytes, number),
                _ => bytes,
            })
        })
    }

    fn extents(&self, range: ByteRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let hit = self.hit(Operation::Extents, range);
            self.run(hit, "ask for extents", range, self.disk.extents(range)).await
        })
    }
}

impl<D: BlockWrite> BlockWrite for Faulty<D> {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let range = ByteRange::between(offset, offset.saturating_add(length));
            let hit = self.hit(Operation::Write, range);
            let data = match hit {
                Some(Hit { effect: Effect::Lie, .. }) => return Ok(()),
                Some(Hit { effect: Effect::FlipBit, number }) => flip(&data, number),
                Some(Hit { effect: Effect::Torn(_), number }) => {
                    let block = u64::from(self.info().min_block).max(1);
                    let part = number.checked_rem(length).unwrap_or(0) / block * block;
                    let part = data.slice(..usize::try_from(part).unwrap_or(0));
                    if !part.is_empty() {
                        self.disk.write(offset, part, persist).await?;
                    }
                    data
                }
                _ => data,
            };
            self.run(hit, "write", range, self.disk.write(offset, data, persist)).await
        })
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let hit = self.hit(Operation::Zero, range);
            if let Some(Hit { effect: Effect::Lie, .. }) = hit {
                return Ok(());
            }
            self.run(hit, "zero", range, self.disk.zero(range, mode, persist)).await
        })
    }

    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let hit = self.hit(Operation::Discard, range);
            if let Some(Hit { effect: Effect::Lie, .. }) = hit {
                return Ok(());
            }
            self.run(hit, "discard", range, self.disk.discard(range, persist)).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let nothing = ByteRange::between(0, 0);
            let hit = self.hit(Operation::Flush, nothing);
            if let Some(Hit { effect: Effect::Lie, .. }) = hit {
                return Ok(());
            }
            self.run(hit, "flush", nothing, self.disk.flush()).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDisk;

    fn faulty(seed: u64, on: Operation, when: When, effect: Effect) -> Faulty<MemoryDisk> {
        Faulty::new(MemoryDisk::new("m", 1000), seed, vec![Fault { on, when, effect }])
    }

    fn r(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    #[tokio::test]
    async fn each_effect_does_what_it_says() {
        let ones = Bytes::from(vec![1; 100]);
        let disk = faulty(1, Operation::Write, When::Nth(2), Effect::Fail(ErrorKind::NoSpace));
        let mut kinds = Vec::new();
        for _ in 0..3 {
            kinds.push(disk.write(0, ones.clone(), Persist::Cached).await.err().map(|e| e.kind()));
        }
        assert_eq!((kinds, disk.injected()), (vec![None, Some(ErrorKind::NoSpace), None], 1));

        let disk = faulty(2, Operation::Write, When::From(1), Effect::Torn(ErrorKind::Io));
        disk.write(0, ones.clone(), Persist::Cached).await.unwrap_err();
        let written = disk.read(r(0, 100)).await.unwrap().iter().filter(|b| **b == 1).count();
        assert!(written > 0 && written < 100, "{written}");

        let disk = faulty(3, Operation::Write, When::Touching(r(500, 1)), Effect::FailAfter(ErrorKind::Unreachable));
        disk.write(0, ones.clone(), Persist::Cached).await.unwrap();
        disk.write(450, ones.clone(), Persist::Cached).await.unwrap_err();
        assert_eq!(disk.read(r(450, 100)).await.unwrap(), ones);

        let disk = faulty(4, Operation::Read, When::Nth(1), Effect::FlipBit);
        let wrong: u32 = disk.read(r(0, 1000)).await.unwrap().iter().map(|b| b.count_ones()).sum();
        assert_eq!((wrong, disk.read(r(0, 1)).await.unwrap()[0]), (1, 0));

        let disk = faulty(5, Operation::Write, When::Nth(1), Effect::Lie);
        disk.write(0, ones, Persist::Cached).await.unwrap();
        assert!(disk.read(r(0, 100)).await.unwrap().iter().all(|b| *b == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_ends_only_by_dropping_and_a_delay_by_itself() {
        let disk = faulty(1, Operation::Flush, When::Nth(1), Effect::Hang);
        tokio::select! {
            _ = disk.flush() => panic!("it ended"),
            () = clock::sleep(Duration::from_secs(1000)) => {}
        }
        disk.set_faults(vec![Fault { on: Operation::Flush, when: When::From(1), effect: Effect::Delay(Duration::from_secs(9)) }]);
        let before = clock::now();
        disk.flush().await.unwrap();
        assert_eq!(clock::now() - before, Duration::from_secs(9));
    }

    #[tokio::test]
    async fn a_seed_decides() {
        let pattern = |seed| async move {
            let disk = faulty(seed, Operation::Read, When::Percent(30), Effect::Fail(ErrorKind::Io));
            let mut failed = Vec::new();
            for _ in 0..200 {
                failed.push(disk.read(r(0, 1)).await.is_err());
            }
            failed
        };
        let (a, b, c) = (pattern(7).await, pattern(7).await, pattern(8).await);
        assert_eq!(a, b);
        assert_ne!(a, c);
        let count = a.iter().filter(|f| **f).count();
        assert!((30..=90).contains(&count), "{count}");
    }
}
