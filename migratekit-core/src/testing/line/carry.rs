//! One direction of one connection of a line.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Direction;
use crate::clock::{self, Instant};

/// The longest piece, in bytes.
const LONGEST: u32 = 256 * 1024;
/// The shortest piece that is asked for on a narrow line, in bytes.
const SHORTEST: u32 = 4 * 1024;
/// A narrow line takes pieces of so much of its time, and lets this much of it wait: as the buffer of a router.
const PIECE_TIME: Duration = Duration::from_millis(5);
/// See [`PIECE_TIME`].
const WAITING_TIME: Duration = Duration::from_millis(50);
/// Room that is worth a read, in bytes: a buffer with less is left behind.
const WORTH: usize = 32 * 1024;
/// Pieces shorter than this are not spoiled, in bytes: they are no disk's.
const SPOILED: usize = 4 * 1024;

/// The rate of a direction: when a narrow line is free again.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    free: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Pace { rate: rate.map(|rate| rate.max(1)), free: Mutex::new(None) }
    }

    /// The longest piece to take at once.
    fn piece(&self) -> u32 {
        let of_time = |rate: u64| u128::from(rate) * PIECE_TIME.as_micros() / 1_000_000;
        self.rate.map_or(LONGEST, |rate| u32::try_from(of_time(rate)).unwrap_or(LONGEST).clamp(SHORTEST, LONGEST))
    }

    /// How long nothing more should be given to it.
    fn full(&self, now: Instant) -> Duration {
        let free = *self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.map_or(Duration::ZERO, |free| free.saturating_duration_since(now).saturating_sub(WAITING_TIME))
    }

    /// When so many bytes, given now, have passed.
    fn passed(&self, bytes: usize, now: Instant) -> Instant {
        let Some(rate) = self.rate else { return now };
        let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let end = free.map_or(now, |free| free.max(now)) + time;
        *free = Some(end);
        end
    }
}

/// Bytes under way, and when they come out.
struct Piece {
    bytes: BytesMut,
    due: Instant,
    _room: OwnedSemaphorePermit,
}

/// Carries one direction to its end, which comes out as late as bytes do.
pub(super) async fn carry(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    direction: &Direction,
    delay: Duration,
    held: u32,
    swallowed: watch::Receiver<bool>,
) -> std::io::Result<()> {
    // The number of pieces is bounded by the room that each takes.
    let (pieces, under_way) = mpsc::unbounded_channel();
    let take = take(from, pieces, direction, delay, held, swallowed.clone());
    tokio::try_join!(take, give(to, under_way, swallowed)).map(|_| ())
}

/// The reader.
async fn take(
    mut from: OwnedReadHalf,
    pieces: mpsc::UnboundedSender<Piece>,
    direction: &Direction,
    delay: Duration,
    held: u32,
    mut swallowed: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let piece = direction.pace.piece();
    let room = Arc::new(Semaphore::new(held.max(piece) as usize));
    let mut buffer = BytesMut::new();
    loop {
        flows(&mut swallowed).await;
        let full = direction.pace.full(clock::now());
        if !full.is_zero() {
            clock::sleep(full).await;
            continue;
        }
        let closed = |_| std::io::Error::other("the line was closed");
        let mut taken = Arc::clone(&room).acquire_many_owned(piece).await.map_err(closed)?;
        if buffer.capacity() < WORTH.min(piece as usize) {
            buffer = BytesMut::with_capacity(LONGEST as usize);
        }
        let n = (&mut from).take(u64::from(piece)).read_buf(&mut buffer).await?;
        if n == 0 {
            // The writer ends when it has given the last piece; the end takes as long as they.
            clock::sleep(delay).await;
            return Ok(());
        }
        drop(taken.split((piece as usize).saturating_sub(n)));
        direction.passed.fetch_add(n as u64, Ordering::Relaxed);
        let mut bytes = buffer.split();
        let spoil = |left: u32| left.checked_sub(1);
        if n >= SPOILED
            && direction.spoil.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spoil).is_ok()
            && let Some(byte) = bytes.get_mut(n / 2)
        {
            *byte ^= 0x10;
        }
        let due = direction.pace.passed(n, clock::now()) + delay;
        if pieces.send(Piece { bytes, due, _room: taken }).is_err() {
            return Ok(());
        }
    }
}

/// The writer.
async fn give(
    mut to: OwnedWriteHalf,
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    mut swallowed: watch::Receiver<bool>,
) -> std::io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        let left = piece.due.saturating_duration_since(clock::now());
        if !left.is_zero() {
            clock::sleep(left).await;
        }
        flows(&mut swallowed).await;
        to.write_all(&piece.bytes).await?;
    }
    flows(&mut swallowed).await;
    to.shutdown().await
}

/// Waits while the connection is swallowed.
async fn flows(swallowed: &mut watch::Receiver<bool>) {
    let _ = swallowed.wait_for(|swallowed| !*swallowed).await;
}
