//! Buffers that are used again: the bytes of one request on their way.
//!
//! A fresh buffer costs page faults and zeroing, which at disk speed is a main cost; so buffers go back to a pool when the last
//! [`Bytes`] made of them is dropped. The pool keeps at most `POOL_BYTES`.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// What the pool keeps for later at most, in bytes.
pub(super) const POOL_BYTES: usize = 16 * 1024 * 1024;

/// Smaller buffers are not pooled: the allocator is good at them.
const SMALLEST_POOLED: usize = 16 * 1024;

/// Longer buffers are not kept by a thread, in bytes: they do not fit in a processor's cache.
const LARGEST_WARM: usize = 1024 * 1024;

static POOL: Mutex<Pool> = Mutex::new(Pool { kept: Vec::new(), bytes: 0 });

thread_local! {
    /// The buffer this thread gave back last: it is still in this processor's cache, which those of the pool may not be.
    static WARM: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

struct Pool {
    kept: Vec<Vec<u8>>,
    bytes: usize,
}

/// A buffer of a fixed length, exclusively owned, then frozen into [`Bytes`].
#[derive(Debug)]
pub struct Buffer {
    data: Vec<u8>,
    length: usize,
}

impl Buffer {
    /// A buffer of `length` bytes. Its content is **not** defined (it may be of an earlier use): fill all of it.
    #[must_use]
    pub fn take(length: usize) -> Self {
        let capacity = length.next_power_of_two().max(1);
        if capacity >= SMALLEST_POOLED {
            match WARM.take() {
                Some(data) if data.len() == capacity => return Buffer { data, length },
                other => WARM.set(other),
            }
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = pool.kept.iter().rposition(|b| b.len() == capacity) {
                let data = pool.kept.swap_remove(at);
                pool.bytes -= data.len();
                return Buffer { data, length };
            }
        }
        Buffer { data: vec![0; if capacity >= SMALLEST_POOLED { capacity } else { length }], length }
    }

    /// Read-only, shared, and returned to the pool when the last clone is gone.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        if self.data.len() >= SMALLEST_POOLED { Bytes::from_owner(self) } else { Bytes::from(self.into_vec()) }
    }

    fn into_vec(mut self) -> Vec<u8> {
        let mut data = std::mem::take(&mut self.data);
        data.truncate(self.length);
        data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.len() >= SMALLEST_POOLED && data.len().is_power_of_two() {
            let data = if data.len() <= LARGEST_WARM { WARM.replace(Some(data)) } else { Some(data) };
            let Some(data) = data else { return };
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.bytes + data.len() <= POOL_BYTES {
                pool.bytes += data.len();
                pool.kept.push(data);
            }
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.data.get(..self.length).unwrap_or(&[])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.data.get_mut(..self.length).unwrap_or(&mut [])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_and_comes_back() {
        for length in [1, 5, 4096, 100_000, 1 << 20] {
            let mut b = Buffer::take(length);
            assert_eq!(b.len(), length);
            b.fill(7);
            let frozen = b.freeze();
            assert_eq!(frozen.len(), length);
            assert!(frozen.iter().all(|x| *x == 7));
        }
    }
}
