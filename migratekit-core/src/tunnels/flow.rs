//! The two accounts of a channel, without I/O: what we may still send, and what we hold for a consumer.
//!
//! russh gives the peer its window back when a packet **arrives**, not when the consumer took it, so the window of SSH does not bound
//! what a stopped consumer makes us hold. Between two ends of ours a second window does: the sender spends [`Credit`], the receiver
//! gives it back as the consumer takes bytes (a message beside the data, see [`super::channel`]). Bytes are counted and not packets,
//! which russh may divide on the way; an endless row of tiny packets holds no more memory than their bytes, since they are kept together.

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};

use super::limits::{PACKET, WINDOW};

/// What may still be sent on a channel.
#[derive(Debug)]
pub(super) enum Credit {
    /// The peer is one of ours: so much.
    Left(u64),
    /// A foreign peer: what its SSH window allows, and russh keeps that account.
    Foreign,
}

impl Credit {
    /// The account of a new channel.
    pub(super) fn new(own: bool) -> Self {
        if own { Credit::Left(u64::from(WINDOW)) } else { Credit::Foreign }
    }

    /// How long a payload may be sent now, at most `wanted`.
    pub(super) fn allows(&self, wanted: usize) -> usize {
        match self {
            Credit::Foreign => wanted,
            Credit::Left(left) => wanted.min(usize::try_from(*left).unwrap_or(usize::MAX)),
        }
    }

    /// A payload was sent.
    pub(super) fn spend(&mut self, payload: usize) {
        if let Credit::Left(left) = self {
            *left = left.saturating_sub(u64::try_from(payload).unwrap_or(u64::MAX));
        }
    }

    /// The peer gives some back; `false` when that is more than there ever was.
    pub(super) fn give(&mut self, amount: u64) -> bool {
        match self {
            Credit::Foreign => false,
            Credit::Left(left) => {
                *left = left.saturating_add(amount);
                *left <= u64::from(WINDOW)
            }
        }
    }
}

/// What arrived and was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    parts: VecDeque<BytesMut>,
    held: u64,
    /// What was taken and not given back to the sender yet.
    owed: u64,
}

/// The sender hears of what was taken when it is this much, in bytes: often enough that it never stands still on that account.
const GIVE_BACK: u64 = WINDOW as u64 / 4;

impl Inbox {
    /// Puts a payload in.
    pub(super) fn put(&mut self, payload: &[u8]) {
        self.held = self.held.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        match self.parts.back_mut() {
            Some(last) if last.len() + payload.len() <= PACKET as usize => last.extend_from_slice(payload),
            _ => self.parts.push_back(BytesMut::from(payload)),
        }
    }

    /// The bytes that are held.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Copies out as much as there is and `take` wants.
    pub(super) fn take(&mut self, mut take: impl FnMut(&[u8]) -> usize) {
        while let Some(part) = self.parts.front_mut() {
            let n = take(part).min(part.len());
            let moved = u64::try_from(n).unwrap_or(u64::MAX);
            self.held = self.held.saturating_sub(moved);
            self.owed = self.owed.saturating_add(moved);
            part.advance(n);
            if !part.is_empty() {
                return;
            }
            self.parts.pop_front();
        }
    }

    /// What the sender should get back now: nothing until it is worth a message.
    pub(super) fn give_back(&mut self) -> Option<u32> {
        if !self.owes() {
            return None;
        }
        let amount = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed -= u64::from(amount);
        Some(amount)
    }

    /// Whether [`Inbox::give_back`] has something to give.
    pub(super) fn owes(&self) -> bool {
        self.owed >= GIVE_BACK
    }

    /// Forgets what is held, which counts as taken: nobody will take it.
    pub(super) fn discard(&mut self) {
        self.parts.clear();
        self.owed = self.owed.saturating_add(std::mem::take(&mut self.held));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is sent and taken in whatever pieces: every byte arrives once and in order, the receiver never holds more than
        /// the window, no credit is made or lost, and a sender whose consumer goes on never stands still.
        #[test]
        fn the_two_accounts_agree(steps in prop::collection::vec((1_usize..70_000, 1_usize..70_000, 0_usize..200_000), 1..200)) {
            let (mut credit, mut inbox) = (Credit::new(true), Inbox::default());
            let (mut sent, mut taken) = (0_usize, 0_usize);
            for (send, divided, take) in steps {
                let n = credit.allows(send);
                if n > 0 {
                    credit.spend(n);
                    let payload: Vec<u8> = (sent..sent + n).map(|i| (i % 251) as u8).collect();
                    // As one packet, or as several: the sender does not know.
                    payload.chunks(divided).for_each(|part| inbox.put(part));
                    sent += n;
                }
                prop_assert!(inbox.held() <= u64::from(WINDOW));
                let mut left = take;
                inbox.take(|part| {
                    let n = part.len().min(left);
                    assert!(part[..n].iter().enumerate().all(|(i, b)| *b == ((taken + i) % 251) as u8), "out of order");
                    left -= n;
                    taken += n;
                    n
                });
                if let Some(amount) = inbox.give_back() {
                    prop_assert!(credit.give(u64::from(amount)));
                }
            }
            inbox.take(|part| { taken += part.len(); part.len() });
            prop_assert_eq!(taken, sent);
            if let Some(amount) = inbox.give_back() {
                prop_assert!(credit.give(u64::from(amount)));
            }
            prop_assert!(inbox.is_empty() && credit.allows(65_536) == 65_536, "an idle channel can send a packet: {:?}", credit);
        }
    }

    #[test]
    fn more_than_the_window_is_never_believed() {
        let mut credit = Credit::new(true);
        assert!(!credit.give(1));
        assert!(!Credit::new(false).give(1), "a foreign peer gives no credit");
    }

    #[test]
    fn tiny_packets_are_kept_together() {
        let mut inbox = Inbox::default();
        for _ in 0..WINDOW {
            inbox.put(&[1]);
        }
        let memory: usize = inbox.parts.iter().map(BytesMut::capacity).sum();
        assert!(inbox.parts.len() <= (WINDOW / PACKET) as usize + 1 && memory <= 2 * WINDOW as usize, "{memory}");
    }
}
