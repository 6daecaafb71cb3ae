//! Whether the other side lives: asked again and again, on the stream of the hello.
//!
//! `Probes` is the rule, without I/O: a question every [`Probing::interval`], an answer within [`Probing::deadline`], and after
//! [`Probing::failures`] questions in a row without one the connection is given up. `converse` drives it on a stream and answers the
//! other side's questions.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::hello::{MAX_LINE, Message, SPEAK};
use super::limits;
use crate::clock::{self, Instant};
use crate::error::{Error, ErrorKind, Result};

/// When the other side is asked, and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probing {
    /// Between two questions.
    pub interval: Duration,
    /// For an answer; at most the interval counts.
    pub deadline: Duration,
    /// So many without an answer in a row are too many.
    pub failures: u32,
}

impl Default for Probing {
    fn default() -> Self {
        Probing { interval: limits::PROBE, deadline: limits::PROBE_ANSWER, failures: limits::PROBE_FAILURES }
    }
}

/// What came of the questions so far: for the log when a connection is given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Probed {
    /// Questions asked.
    pub asked: u64,
    /// Answers that came in time.
    pub answered: u64,
    /// Questions without an answer since the last answer.
    pub missed: u32,
    /// How long the last answer took.
    pub last_took: Option<Duration>,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this.
    Ask(u64),
    /// Nothing until then.
    Wait(Instant),
    /// An answer did not come in time.
    Missed,
    /// That was one too many.
    GiveUp,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Probes {
    probing: Probing,
    due: Instant,
    open: Option<(u64, Instant)>,
    probed: Probed,
}

impl Probes {
    /// The first question is due at once.
    pub(super) fn new(probing: Probing, now: Instant) -> Self {
        let deadline = probing.deadline.min(probing.interval);
        Probes { probing: Probing { deadline, ..probing }, due: now, open: None, probed: Probed::default() }
    }

    /// What is to be done at `now`.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let Some((_, asked)) = self.open {
            let end = asked + self.probing.deadline;
            if now < end {
                return Step::Wait(end);
            }
            self.open = None;
            self.probed.missed = self.probed.missed.saturating_add(1);
            return if self.probed.missed >= self.probing.failures { Step::GiveUp } else { Step::Missed };
        }
        if now < self.due {
            return Step::Wait(self.due);
        }
        self.probed.asked += 1;
        self.open = Some((self.probed.asked, now));
        self.due = now + self.probing.interval;
        Step::Ask(self.probed.asked)
    }

    /// An answer came; one to an older question, or to none, is no answer.
    pub(super) fn answered(&mut self, number: u64, now: Instant) -> bool {
        match self.open {
            Some((asked, at)) if asked == number => {
                self.open = None;
                self.probed.answered += 1;
                self.probed.missed = 0;
                self.probed.last_took = Some(now.saturating_duration_since(at));
                true
            }
            _ => false,
        }
    }

    pub(super) fn probed(&self) -> Probed {
        self.probed
    }
}

/// Lines from a stream; a line that is begun is kept when nobody waits any more.
pub(super) struct Lines<R> {
    read: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(read: R) -> Self {
        Lines { read, buffer: BytesMut::new() }
    }

    /// The next message; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Message::read(&line).map(Some);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Error::new(ErrorKind::Protocol, SPEAK, "the other side's line has no end"));
            }
            if self.read.read_buf(&mut self.buffer).await.map_err(broke)? == 0 {
                return Ok(None);
            }
        }
    }
}

fn broke(e: io::Error) -> Error {
    Error::new(ErrorKind::Unreachable, SPEAK, "the connection broke").with_source(e)
}

/// Says something, within `time`.
pub(super) async fn say<W: AsyncWrite + Unpin>(write: &mut W, message: &Message, time: Duration) -> Result<()> {
    let line = message.line()?;
    let saying = async {
        write.write_all(&line).await?;
        write.flush().await
    };
    let late = || Error::new(ErrorKind::Timeout, SPEAK, "the other side takes no message");
    clock::within(time, saying).await.ok_or_else(late)?.map_err(broke)
}

/// What happens in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The other side answered.
    Answer(Probed),
    /// The other side asked, and was answered.
    Question,
    /// An answer did not come.
    Missed(Probed),
}

/// Asks and answers until the stream ends (`Ok`), breaks, or the other side is given up ([`ErrorKind::Timeout`], with what is known).
/// Asks nothing where `probing` is `None`.
pub(super) async fn converse<R, W>(
    lines: &mut Lines<R>,
    write: &mut W,
    probing: Option<Probing>,
    mut heard: impl FnMut(Heard),
) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let time = probing.unwrap_or_default().deadline;
    let mut probes = probing.map(|probing| Probes::new(probing, clock::now()));
    loop {
        let until = match probes.as_mut().map(|probes| probes.step(clock::now())) {
            None => None,
            Some(Step::Wait(until)) => Some(until),
            Some(Step::Ask(number)) => {
                say(write, &Message::probe(number), time).await?;
                continue;
            }
            Some(Step::Missed) => {
                heard(Heard::Missed(probes.as_ref().map(Probes::probed).unwrap_or_default()));
                continue;
            }
            Some(Step::GiveUp) => {
                let probed = probes.as_ref().map(Probes::probed).unwrap_or_default();
                heard(Heard::Missed(probed));
                return Err(given_up(probed));
            }
        };
        let message = tokio::select! {
            message = lines.next() => message?,
            () = wait(until) => continue,
        };
        let Some(message) = message else { return Ok(()) };
        if let Some(number) = message.probe {
            say(write, &Message::answer(number), time).await?;
            heard(Heard::Question);
        }
        if let (Some(number), Some(probes)) = (message.answer, &mut probes)
            && probes.answered(number, clock::now())
        {
            heard(Heard::Answer(probes.probed()));
        }
    }
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => clock::sleep(until.saturating_duration_since(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// The end of a connection whose other side does not answer.
pub(super) fn given_up(probed: Probed) -> Error {
    let error =
        Error::new(ErrorKind::Timeout, "ask whether the other side of the tunnel lives", "it did not answer several times in a row")
            .with("missed", probed.missed)
            .with("asked", probed.asked)
            .with("answered", probed.answered);
    match probed.last_took {
        Some(took) => error.with("last_answer_took_ms", took.as_millis()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Probing = Probing { interval: Duration::from_secs(60), deadline: Duration::from_secs(15), failures: 3 };

    #[tokio::test(start_paused = true)]
    async fn three_questions_without_an_answer_are_too_many_and_an_answer_begins_anew() {
        let begin = clock::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut probes = Probes::new(RULE, begin);
        assert_eq!((probes.step(begin), probes.step(at(1))), (Step::Ask(1), Step::Wait(at(15))));
        assert!(!probes.answered(7, at(2)) && probes.answered(1, at(3)) && !probes.answered(1, at(3)));
        assert_eq!(probes.probed().last_took, Some(Duration::from_secs(3)));
        assert_eq!(probes.step(at(3)), Step::Wait(at(60)));
        for (number, now) in [(2, 60), (3, 120)] {
            assert_eq!((probes.step(at(now)), probes.step(at(now + 15))), (Step::Ask(number), Step::Missed));
        }
        assert!(!probes.answered(3, at(136)), "too late");
        assert_eq!(probes.step(at(180)), Step::Ask(4));
        assert!(probes.answered(4, at(181)));
        assert_eq!(probes.probed().missed, 0);
        for now in [240, 300] {
            assert!(matches!(probes.step(at(now)), Step::Ask(_)));
            assert_eq!(probes.step(at(now + 15)), Step::Missed);
        }
        assert!(matches!(probes.step(at(360)), Step::Ask(_)));
        assert_eq!(probes.step(at(375)), Step::GiveUp);
    }

    proptest! {
        /// However the time passes: who never answers is given up after the third deadline, within failures x interval + deadline.
        #[test]
        fn who_is_silent_is_given_up_in_time(steps in prop::collection::vec(1_u64..5_000, 200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let begin = runtime.block_on(async { clock::now() });
            let (mut probes, mut now, mut missed) = (Probes::new(RULE, begin), begin, 0);
            for step in steps {
                match probes.step(now) {
                    Step::Missed => missed += 1,
                    Step::GiveUp => {
                        prop_assert_eq!(missed, 2);
                        prop_assert!(now - begin <= RULE.interval * 3 + RULE.deadline + Duration::from_secs(30));
                        return Ok(());
                    }
                    Step::Wait(until) => prop_assert!(until > now),
                    Step::Ask(_) => {}
                }
                now += Duration::from_millis(step);
            }
            prop_assert!(now - begin < Duration::from_secs(1000));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_sides_ask_and_answer_and_a_dumb_one_is_given_up() {
        let (here, there) = tokio::io::duplex(4096);
        let (read, mut write) = tokio::io::split(here);
        let other = async {
            let (read, mut write) = tokio::io::split(there);
            let (mut lines, mut asked) = (Lines::new(read), 0);
            // Answers the first three, then only listens.
            while let Ok(Some(message)) = lines.next().await {
                if let Some(number) = message.probe {
                    asked += 1;
                    if asked <= 3 {
                        say(&mut write, &Message::answer(number), RULE.deadline).await.unwrap();
                        say(&mut write, &Message::probe(number), RULE.deadline).await.unwrap();
                    }
                }
            }
            asked
        };
        let mut all = Vec::new();
        let ours = async {
            let end = converse(&mut Lines::new(read), &mut write, Some(RULE), |heard| all.push(heard)).await;
            write.shutdown().await.unwrap();
            end
        };
        let (end, asked) = tokio::join!(ours, other);
        let end = end.unwrap_err();
        assert_eq!((end.kind(), end.context_value("missed"), end.context_value("answered")), (ErrorKind::Timeout, Some("3"), Some("3")));
        assert_eq!(asked, 6);
        assert_eq!(all.iter().filter(|heard| **heard == Heard::Question).count(), 3);
        assert_eq!(all.iter().filter(|heard| matches!(heard, Heard::Missed(_))).count(), 3);
    }

    #[tokio::test]
    async fn a_line_without_end_and_a_line_that_is_none_are_refused() {
        for (text, says) in [(vec![b'x'; MAX_LINE + 2], "no end"), (b"GET / HTTP/1.1\n".to_vec(), "no message")] {
            let mut lines = Lines::new(text.as_slice());
            let error = lines.next().await.unwrap_err();
            assert!(error.kind() == ErrorKind::Protocol && error.message().contains(says), "{error}");
        }
        assert_eq!(Lines::new(&b"{\"probe\":1}\n{\"pr"[..]).next().await.unwrap(), Some(Message::probe(1)));
        assert_eq!(Lines::new(&b""[..]).next().await.unwrap(), None);
    }
}
