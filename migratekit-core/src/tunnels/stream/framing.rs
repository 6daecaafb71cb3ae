//! What a write half keeps for its frames: the choice, the clock, and an account that it tells at its end.

use bytes::BytesMut;

use crate::clock::{self, Instant};
use crate::tunnels::compression::Compression;
use crate::tunnels::compression::choice::Choice;
use crate::tunnels::compression::frame::{HEADER, pack, store};

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Framing {
    choice: Choice,
    /// When something went out last.
    last: Instant,
    account: Account,
}

/// Bytes and frames so far.
#[derive(Debug, Default)]
struct Account {
    plain: u64,
    sent: u64,
    frames: u64,
    packed: u64,
}

impl Framing {
    pub(super) fn new(compression: Compression) -> Self {
        Framing { choice: Choice::new(compression), last: clock::now(), account: Account::default() }
    }

    /// Makes a frame of what was gathered behind the room for its header.
    pub(super) fn seal(&mut self, gathered: &mut BytesMut) {
        let plain = gathered.get(HEADER..).unwrap_or_default();
        let length = plain.len();
        let packed = self.choice.level(length).and_then(|level| {
            let began = clock::now();
            let packed = pack(plain, level);
            self.choice.tried(length, packed.as_ref().map(BytesMut::len), began.elapsed());
            packed
        });
        self.account.packed += u64::from(packed.is_some());
        match packed {
            Some(packed) => *gathered = packed,
            None => store(gathered),
        }
        self.account.frames += 1;
        self.account.plain = self.account.plain.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        self.account.sent = self.account.sent.saturating_add(u64::try_from(gathered.len()).unwrap_or(u64::MAX));
    }

    /// The session took so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        let now = clock::now();
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.last, now));
        self.choice.sent(bytes, passed);
    }
}

impl Drop for Framing {
    fn drop(&mut self) {
        let Account { plain, sent, frames, packed } = self.account;
        if packed > 0 {
            tracing::info!(plain, sent, frames, packed, "a stream of the tunnel was compressed");
        }
    }
}
