//! The control connection of a VMA of ours: hello, then questions and answers, and what follows when there are none.

use std::sync::Arc;

use super::live::{Live, lock};
use super::{Event, Inner, Peer};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;
use crate::tunnels::hello::{Agreed, HELLO_PORT, Hello, Message, PROBE, SPEAK, agree};
use crate::tunnels::limits;
use crate::tunnels::probe::{Heard, Lines, converse, say};
use crate::tunnels::stream::{ReadHalf, TunnelStream, WriteHalf};

/// Speaks with a VMA until the stream ends; cuts the connection when the VMA answers no more.
pub(super) async fn talk(server: Arc<Inner>, live: Arc<Live>, peer: Peer, stream: TunnelStream, end: CancellationToken) {
    let (read, mut write) = stream.split();
    let mut lines = Lines::new(read);
    let talking = async {
        let agreed = match introduce(&server, &live, &peer, &mut lines, &mut write).await {
            Ok(agreed) => agreed,
            Err(why) => return server.saw(&Event::HelloRefused { peer: peer.clone(), why: why.to_string() }),
        };
        let probing = agreed.features.contains(PROBE).then_some(server.probing);
        let heard = |heard| match heard {
            Heard::Answer(probed) => *lock(&live.probed) = probed,
            Heard::Missed(probed) => {
                *lock(&live.probed) = probed;
                server.saw(&Event::Unanswered { peer: peer.clone(), account: live.account() });
            }
            Heard::Question => {}
        };
        // A stream that ends in order, or with its connection, is no reason to cut anything.
        if let Err(why) = converse(&mut lines, &mut write, probing, heard).await
            && why.kind() != ErrorKind::Unreachable
        {
            live.give_up(&server, why.to_string());
        }
    };
    tokio::select! {
        () = end.cancelled() => {}
        () = talking => {}
    }
}

/// Hello from both sides; an older connection of the same VMA process gives way.
async fn introduce(server: &Inner, live: &Arc<Live>, peer: &Peer, lines: &mut Lines<ReadHalf>, write: &mut WriteHalf) -> Result<Agreed> {
    let fail = |kind, message: &'static str| Error::new(kind, SPEAK, message);
    let first = clock::within(limits::HELLO_TIME, lines.next()).await;
    let message = first.ok_or_else(|| fail(ErrorKind::Timeout, "the VMA says no hello"))??;
    let theirs =
        message.and_then(|message| message.hello).ok_or_else(|| fail(ErrorKind::Protocol, "the VMA's first words are no hello"))?;
    let mut ours = Hello::new(server.speaks.clone());
    ours.vma = Some(peer.vma.name.clone());
    ours.reverse_port = peer.vma.reverse_port;
    ours.ports = Some(server.ports.iter().copied().filter(|port| *port != HELLO_PORT).collect());
    say(write, &Message::hello(ours), limits::HELLO_TIME).await?;
    let agent = theirs.agent();
    let agreed = agree(&server.speaks, &theirs.speaks).map_err(|e| e.with("agent", &agent))?;
    if let Some(instance) = theirs.instance {
        if live.instance.set(instance.clone()).is_err() {
            return Err(fail(ErrorKind::Protocol, "the VMA says hello twice on one connection"));
        }
        server.give_way(live, &peer.vma.name, &instance);
    }
    server.saw(&Event::Hello { peer: peer.clone(), agreed: agreed.clone(), agent });
    Ok(agreed)
}

impl Inner {
    /// Older control connections of the same process of the same VMA end: it would not come anew if it had not left them.
    fn give_way(&self, newest: &Arc<Live>, vma: &str, instance: &str) {
        for old in self.live(|peer| peer.vma.name == vma) {
            if !Arc::ptr_eq(&old, newest) && old.instance.get().is_some_and(|i| i == instance) && !old.control.is_cut() {
                old.give_way(self);
            }
        }
    }

    /// Makes room for one more connection of `vma`: the one that has been silent for longest is cut, if a living peer could not be so
    /// silent. Says whether there is room now.
    pub(super) fn make_room(&self, vma: &str) -> bool {
        let silent = self.live(|peer| peer.vma.name == vma).into_iter().filter(|live| !live.control.is_cut());
        let stalest = silent.max_by_key(|live| live.control.silence()).filter(|live| live.control.silence() >= self.stale);
        if let Some(live) = &stalest {
            live.give_way(self);
        }
        stalest.is_some()
    }
}
