//! The two accounts of a channel, without I/O: what we may still send, and what we hold for a consumer.
//!
//! russh gives the peer its window back when a packet **arrives**, not when the consumer took it, so the window of SSH does not bound
//! what a stopped consumer makes us hold. Between two ends of ours a second window does: the sender spends [`Credit`], the receiver
//! gives it back as the consumer takes bytes (a message beside the data, see [`super::stream`]). Both sides count a packet as its
//! payload and [`PACKET_COST`].

use std::collections::VecDeque;

use bytes::Bytes;

use super::limits::{PACKET_COST, WINDOW};

/// What a packet of this payload counts for.
pub(super) fn cost(payload: usize) -> u64 {
    u64::try_from(payload).unwrap_or(u64::MAX).saturating_add(PACKET_COST)
}

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
            Credit::Left(left) => wanted.min(usize::try_from(left.saturating_sub(PACKET_COST)).unwrap_or(usize::MAX)),
        }
    }

    /// A payload was sent.
    pub(super) fn spend(&mut self, payload: usize) {
        if let Credit::Left(left) = self {
            *left = left.saturating_sub(cost(payload));
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
    parts: VecDeque<(Bytes, u64)>,
    /// What the parts count for.
    held: u64,
    /// What was taken and not given back to the sender yet.
    owed: u64,
}

/// The sender hears of what was taken when it is this much, in bytes: often enough that it never stands still on that account.
const GIVE_BACK: u64 = WINDOW as u64 / 4;

impl Inbox {
    /// Puts a payload in.
    pub(super) fn put(&mut self, payload: Bytes) {
        let cost = cost(payload.len());
        self.held = self.held.saturating_add(cost);
        self.parts.push_back((payload, cost));
    }

    /// What is held, as it counts.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Copies out as much as there is and `take` wants; gives how much that was.
    pub(super) fn take(&mut self, mut take: impl FnMut(&[u8]) -> usize) -> usize {
        let mut moved = 0;
        while let Some((part, cost)) = self.parts.front_mut() {
            let n = take(part).min(part.len());
            moved += n;
            if n < part.len() {
                let _ = part.split_to(n);
                break;
            }
            // The whole cost at the end of the packet: what is held is never counted too low.
            self.held = self.held.saturating_sub(*cost);
            self.owed = self.owed.saturating_add(*cost);
            self.parts.pop_front();
        }
        moved
    }

    /// What the sender should get back now: nothing until it is worth a message.
    pub(super) fn give_back(&mut self) -> Option<u32> {
        if self.owed < GIVE_BACK {
            return None;
        }
        let amount = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed -= u64::from(amount);
        Some(amount)
    }

    /// Forgets what is held: nobody will take it.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.held = 0;
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
        fn the_two_accounts_agree(steps in prop::collection::vec((1_usize..70_000, 0_usize..200_000), 1..200)) {
            let (mut credit, mut inbox) = (Credit::new(true), Inbox::default());
            let (mut sent, mut taken) = (0_usize, 0_usize);
            for (send, take) in steps {
                let n = credit.allows(send);
                if n > 0 {
                    credit.spend(n);
                    inbox.put((sent..sent + n).map(|i| (i % 251) as u8).collect::<Vec<_>>().into());
                    sent += n;
                }
                prop_assert!(inbox.held() <= u64::from(WINDOW));
                let mut left = take;
                taken += inbox.take(|part| {
                    let n = part.len().min(left);
                    left -= n;
                    n
                });
                if let Some(amount) = inbox.give_back() {
                    prop_assert!(credit.give(u64::from(amount)));
                }
            }
            let mut last = Vec::new();
            taken += inbox.take(|part| { last.extend_from_slice(part); part.len() });
            prop_assert_eq!(taken, sent);
            let expected: Vec<u8> = (sent - last.len()..sent).map(|i| (i % 251) as u8).collect();
            prop_assert_eq!(last, expected);
            inbox.give_back().map(|amount| credit.give(u64::from(amount)));
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
    fn tiny_packets_count_for_more_than_their_payload() {
        let (mut credit, mut packets) = (Credit::new(true), 0_u64);
        while credit.allows(1) == 1 {
            credit.spend(1);
            packets += 1;
        }
        assert!(packets <= u64::from(WINDOW) / PACKET_COST);
    }
}
