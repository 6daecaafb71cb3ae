//! One control connection, from the login to its end.

use std::sync::Arc;
use std::time::Duration;

use super::{Forward, Inner, RefusedForward, Standing, TunnelState};
use crate::clock::{self, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;
use crate::tunnels::client::Link;
use crate::tunnels::hello::{Agreed, HELLO_PORT, Hello, Message, PROBE, SPEAK, agree};
use crate::tunnels::limits;
use crate::tunnels::probe::{Heard, Lines, Probed, converse, given_up, say};
use crate::tunnels::stream::{ReadHalf, WriteHalf};

/// How long one that was cut may take to end: its task has only to see that.
const END_TIME: Duration = Duration::from_secs(5);

/// Cuts a connection whose tunnel leaves it, however that comes.
struct CutOnDrop(Arc<Link>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// The stream of the hello, and what was said at its beginning.
struct Talk {
    lines: Lines<ReadHalf>,
    write: WriteHalf,
    hello: Hello,
    agreed: Agreed,
}

impl Inner {
    /// Makes a connection and keeps it to its end; says why it ended, or was not made, and for how long the tunnel stood.
    pub(super) async fn connection(&self) -> (Error, Option<Duration>) {
        let link = match self.client.connect().await {
            Ok(link) => CutOnDrop(Arc::new(link)),
            Err(why) => return (why, None),
        };
        let mut stood = None;
        let why = match self.stand(&link.0, &mut stood).await {
            // Whoever sees it first: the stream ends with its connection, which knows why.
            Ok(()) => self.lost(&link.0, "the server ended the conversation", None).await,
            Err(why) if why.kind() == ErrorKind::Unreachable => self.lost(&link.0, "the connection to the server broke", Some(why)).await,
            Err(why) => why,
        };
        let (age, silence, channels) = link.0.account();
        let (read, written) = link.0.moved();
        let why = why
            .with("connected_for_s", age.as_secs())
            .with("silent_for_s", silence.as_secs())
            .with("bytes_in", read)
            .with("bytes_out", written)
            .with("channels", channels);
        link.0.cut();
        let _ = clock::within(END_TIME, link.0.ended()).await;
        (why, stood.map(|since: clock::Instant| since.elapsed()))
    }

    /// Why a connection that broke did so.
    async fn lost(&self, link: &Link, otherwise: &str, why: Option<Error>) -> Error {
        let options = self.client.options();
        let message = clock::within(END_TIME, link.ended()).await.flatten().unwrap_or_else(|| otherwise.to_owned());
        let error =
            Error::new(ErrorKind::Unreachable, "keep the tunnel up", message).with("host", &options.host).with("port", options.port);
        match why {
            Some(why) => error.with_source(why),
            None => error,
        }
    }

    /// Hello, forwards, first answers; then the connection's life.
    async fn stand(&self, link: &Arc<Link>, stood: &mut Option<clock::Instant>) -> Result<()> {
        let talk = self.introduce(link).await?;
        let hello = talk.as_ref().map(|talk| &talk.hello);
        let (reverse_port, mut refused) = self.listen(link, hello).await?;
        refused.extend(self.look_at_locals(link, hello).await?);
        let standing = Standing {
            since: Timestamp::now(),
            agreed: talk.as_ref().map(|talk| talk.agreed.clone()),
            server: hello.map(Hello::agent),
            vma: hello.and_then(|hello| hello.vma.clone()),
            reverse_port,
            refused,
        };
        let mut stands = || {
            *stood = Some(clock::now());
            self.set_link(Some(Arc::clone(link)));
            self.says(TunnelState::Connected(Arc::new(Standing { since: Timestamp::now(), ..standing.clone() })));
        };
        match talk {
            Some(talk) if talk.agreed.features.contains(PROBE) => self.converse(talk, stands).await,
            // The stream of the hello stays open as long as the connection, for what the other side may have to say.
            talk => {
                link.ping(limits::HELLO_TIME).await?;
                stands();
                let end = self.ping(link, standing).await;
                drop(talk);
                end
            }
        }
    }

    /// Says hello. `None`: the server is a foreign one.
    async fn introduce(&self, link: &Link) -> Result<Option<Talk>> {
        let fail = |kind, message: &'static str| Error::new(kind, SPEAK, message);
        let stream = match link.open(HELLO_PORT).await {
            Err(e) if e.kind() == ErrorKind::Denied => return Ok(None),
            stream => stream?,
        };
        let (read, mut write) = stream.split();
        let mut ours = Hello::new(self.options.speaks.clone());
        ours.instance = Some(self.instance.clone());
        say(&mut write, &Message::hello(ours), limits::HELLO_TIME).await?;
        let mut lines = Lines::new(read);
        let first = clock::within(limits::HELLO_TIME, lines.next()).await;
        let message = first.ok_or_else(|| fail(ErrorKind::Timeout, "the server says no hello"))??;
        let hello = message.and_then(|message| message.hello);
        let hello = hello.ok_or_else(|| fail(ErrorKind::Protocol, "the server's first words are no hello"))?;
        let agreed = agree(&self.options.speaks, &hello.speaks).map_err(|e| e.with("server", hello.agent()))?;
        Ok(Some(Talk { lines, write, hello, agreed }))
    }

    /// Has the server listen for us; says at which port, or what was refused.
    async fn listen(&self, link: &Link, hello: Option<&Hello>) -> Result<(Option<u16>, Vec<RefusedForward>)> {
        let Some(reverse) = &self.options.reverse else { return Ok((None, Vec::new())) };
        let port = reverse.port.or_else(|| hello.and_then(|hello| hello.reverse_port));
        let refused = |why: String| (None, vec![RefusedForward { forward: Forward::Reverse { port }, why }]);
        let Some(port) = port else {
            let why = match hello {
                Some(_) => "the server gives this VMA no port of its own",
                None => "the server is a foreign one and tells no port; name one",
            };
            return Ok(refused(why.to_owned()));
        };
        match link.listen(port, Arc::clone(&reverse.handler)).await {
            Ok(()) => Ok((Some(port), Vec::new())),
            Err(why) if why.kind() == ErrorKind::Denied => Ok(refused(why.message().to_owned())),
            Err(why) => Err(why),
        }
    }

    /// Which of the local forwards lead nowhere. A server of ours tells its ports; a foreign one is asked for each.
    async fn look_at_locals(&self, link: &Link, hello: Option<&Hello>) -> Result<Vec<RefusedForward>> {
        let told = hello.and_then(|hello| hello.ports.as_ref());
        let mut refused = Vec::new();
        for local in &self.options.locals {
            let why = match told {
                Some(ports) if ports.contains(&local.port) => continue,
                Some(_) => "nothing is served at this port of the server".to_owned(),
                None => match link.open(local.port).await {
                    Ok(_) => continue,
                    Err(why) if why.kind() == ErrorKind::Denied => why.message().to_owned(),
                    Err(why) => return Err(why),
                },
            };
            refused.push(RefusedForward { forward: Forward::Local { listen: local.listen, port: local.port }, why });
        }
        Ok(refused)
    }

    /// Asks and answers to the end of the connection. The tunnel stands when each side has answered once.
    async fn converse(&self, mut talk: Talk, mut stands: impl FnMut()) -> Result<()> {
        let (mut answered, mut asked, standing) = (false, false, CancellationToken::new());
        let heard = |heard| {
            match heard {
                Heard::Answer(_) => answered = true,
                Heard::Question => asked = true,
                Heard::Missed(probed) => tracing::warn!(?probed, "the server did not answer in time"),
            }
            if answered && asked && !standing.is_cancelled() {
                standing.cancel();
                stands();
            }
        };
        let late = async {
            if clock::within(limits::HELLO_TIME, standing.cancelled()).await.is_some() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            end = converse(&mut talk.lines, &mut talk.write, Some(self.options.probing), heard) => end,
            () = late => Err(Error::new(ErrorKind::Timeout, SPEAK, "one of the two directions does not answer")),
        }
    }

    /// The same for a server that knows no questions of ours: by the requests of SSH itself. Such a server does not know either that this
    /// tunnel is the one which had its port before: it holds it until it has seen the old connection's end, so it is asked again.
    async fn ping(&self, link: &Arc<Link>, mut standing: Standing) -> Result<()> {
        let (probing, mut probed) = (self.options.probing, Probed::default());
        loop {
            tokio::select! {
                _ = link.ended() => return Ok(()),
                () = clock::sleep(probing.interval) => {}
            }
            let refused = standing.refused.iter().position(|r| matches!(r.forward, Forward::Reverse { port: Some(_) }));
            if let Some(refused) = refused
                && let (Some(port), _) = self.listen(link, None).await?
            {
                standing.refused.remove(refused);
                standing.reverse_port = Some(port);
                self.says(TunnelState::Connected(Arc::new(standing.clone())));
            }
            let (began, answer) = (clock::now(), link.ping(probing.deadline).await);
            probed.asked += 1;
            match answer {
                Ok(()) => probed = Probed { answered: probed.answered + 1, missed: 0, last_took: Some(began.elapsed()), ..probed },
                Err(why) if why.kind() == ErrorKind::Timeout => {
                    probed.missed += 1;
                    tracing::warn!(?probed, "the server did not answer in time");
                    if probed.missed >= probing.failures {
                        return Err(given_up(probed));
                    }
                }
                Err(why) => return Err(why),
            }
        }
    }
}
