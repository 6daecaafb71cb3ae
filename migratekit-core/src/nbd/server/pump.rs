//! The transmission phase of one connection, in one task.
//!
//! ```text
//!            ┌──────────── waits: requests in flight, bytes, output ◀───────────┐
//! socket ─▶ input ─▶ judge ─▶ (share of the budget, payload) ─▶ disk ─▶ outbox ─▶ socket
//!                      └──────────── refused ─────────────────────────▲
//! ```
//!
//! A request whose disk answers at once never leaves the stack; the others fly together ([`super::flying`]). Replies are gathered
//! while input is at hand, and written together. The task ends when the client said DISC or closed, when it was told to, or when
//! the peer broke the protocol or stood still; **in every case only after the last request under way has ended**, because who waits
//! for the end of a connection (a removal, a new epoch) must know that no byte of it is written any more.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::budget::{Budget, Share};
use super::config::Limits;
use super::flying::Flying;
use super::input::{Input, Next, poll_read};
use super::outbox::Outbox;
use super::registry::Record;
use super::reply::{Mark, Replies};
use super::session::{Order, Session, errno_of};
use super::work::{Awaited, Event, Signal, Ticket, Work};
use crate::block::Buffer;
use crate::clock::{self, Instant};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::limits::MAX_DRAIN;
use crate::nbd::stream::{ReadHalf, WriteHalf};
use crate::nbd::wire::{Request, command, command_flag, errno};

/// Where the reading of the stream stands.
enum Reading {
    /// Before a header.
    Header,
    /// A request waits until the connection holds fewer bytes.
    Held(Request, Order),
    /// A request waits for its share of the budget.
    Waiting(Request, Order),
    /// A payload comes in.
    Payload { request: Request, order: Order, buffer: Buffer, filled: usize, share: Share },
    /// The payload of a refused write is forgotten.
    Drain { left: usize, mark: Mark, errno: u32, text: &'static str },
    /// Nothing more is read.
    Ended,
}

/// Why reading stopped for now.
#[derive(PartialEq, Eq)]
enum Stop {
    /// The socket, the budget, or requests under way must move first.
    Blocked,
    /// The output must be written first.
    Full,
}

/// The engine of one connection.
pub(super) struct Pump<'a> {
    session: &'a Session,
    limits: &'a Limits,
    budget: &'a Budget,
    record: &'a Record,
    reader: ReadHalf,
    writer: WriteHalf,
    input: Input,
    reading: Reading,
    out: Outbox,
    replies: Replies,
    flying: Flying<Awaited<'a>>,
    /// Orders among what flies.
    orders: u32,
    events: Vec<Event>,
    draining: bool,
    /// The connection is given up: nothing is read or written any more.
    lost: Option<Result<()>>,
    moved: bool,
    last_move: Instant,
    pace: Pace,
    /// The pace when the clock was looked at, if others waited for bytes of this connection then.
    crowded_since: Option<(Instant, Pace)>,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// Bytes read and written.
    bytes: u64,
    /// How often all replies had left.
    emptied: u64,
    /// Requests begun.
    requests: u64,
}

/// Serves until the connection's end; see the [module documentation](self).
pub(super) async fn run(
    session: &Session,
    limits: &Limits,
    budget: &Budget,
    record: &Record,
    (reader, writer): (ReadHalf, WriteHalf),
) -> (Result<()>, WriteHalf) {
    let mut pump = Pump {
        session,
        limits,
        budget,
        record,
        reader,
        writer,
        input: Input::new(),
        reading: Reading::Header,
        out: Outbox::new(),
        replies: Replies { structured: session.structured },
        flying: Flying::new(),
        orders: 0,
        events: Vec::new(),
        draining: false,
        lost: None,
        moved: false,
        last_move: clock::now(),
        pace: Pace::default(),
        crowded_since: None,
    };
    pump.watch(Signal::Kill);
    pump.watch(Signal::Drain);
    pump.watch(Signal::Tick);
    let end = poll_fn(|cx| pump.poll(cx)).await;
    (end, pump.writer)
}

impl<'a> Pump<'a> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            self.take_events(cx);
            if self.lost.is_none() {
                self.exchange(cx);
            }
            if !self.flying.fresh() {
                break;
            }
        }
        if std::mem::take(&mut self.moved) {
            self.last_move = clock::now();
        }
        if self.orders > 0 {
            return Poll::Pending;
        }
        if let Some(end) = self.lost.take() {
            return Poll::Ready(end);
        }
        let idle = matches!(self.reading, Reading::Ended) || (self.draining && matches!(self.reading, Reading::Header));
        if idle && self.out.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Reads, begins and answers until nothing moves.
    fn exchange(&mut self, cx: &mut Context<'_>) {
        loop {
            let stop = self.poll_input(cx);
            let drained = self.poll_output(cx);
            // Replies that left may have freed what a held request waits for.
            let freed = matches!(&self.reading, Reading::Held(_, order) if !self.must_hold(self.session.weight(*order)));
            let written = drained && stop == Stop::Full;
            if !written && !freed {
                return;
            }
        }
    }

    /// Begins to wait for a signal.
    fn watch(&mut self, signal: Signal) {
        let record = self.record;
        let tick = self.limits.stall_time.min(self.limits.crowded_stall_time).min(self.limits.idle_time);
        self.flying.push(Awaited::Signal(Box::pin(async move {
            match signal {
                Signal::Kill => record.kill.cancelled().await,
                Signal::Drain => record.drain.cancelled().await,
                Signal::Tick => clock::sleep(tick).await,
            }
            signal
        })));
    }

    fn lose(&mut self, end: Result<()>) {
        if self.lost.is_none() {
            self.lost = Some(end);
            self.reading = Reading::Ended;
            self.out = Outbox::new();
        }
    }

    fn broke(&mut self, message: &'static str) {
        self.lose(Err(Error::new(ErrorKind::Protocol, "serve a connection", message).with("client", &self.record.peer)));
    }

    /// Handles what ended: orders, waits, signals.
    fn take_events(&mut self, cx: &mut Context<'_>) {
        let mut events = std::mem::take(&mut self.events);
        self.flying.poll(cx, |event| events.push(event));
        for event in events.drain(..) {
            match event {
                Event::Answered(ticket, answer) => {
                    self.orders -= 1;
                    self.finish(ticket, answer);
                }
                Event::Share(share) => match std::mem::replace(&mut self.reading, Reading::Header) {
                    Reading::Waiting(request, order) => self.with_share(request, order, share, cx),
                    other => self.reading = other,
                },
                Event::Signal(Signal::Kill) => self.lose(Ok(())),
                Event::Signal(Signal::Drain) => self.draining = true,
                Event::Signal(Signal::Tick) => {
                    self.look_at_the_clock();
                    self.watch(Signal::Tick);
                }
            }
        }
        self.events = events;
    }

    /// Closes a connection on which nothing moves.
    fn look_at_the_clock(&mut self) {
        let partial = matches!(self.reading, Reading::Payload { .. } | Reading::Drain { .. })
            || (matches!(self.reading, Reading::Header)
                && self.orders < self.limits.in_flight_requests
                && !self.input.buffered().is_empty());
        let owed = partial || !self.out.is_empty();
        let crowded = self.budget.crowded() && self.record.held() > 0;
        let (limit, message) = match (owed, self.orders) {
            (true, _) if crowded => (self.limits.crowded_stall_time, "the client stands still while others wait for the bytes it holds"),
            (true, _) => (self.limits.stall_time, "the client stands still in the middle of a message"),
            (false, 0) if matches!(self.reading, Reading::Header) => (self.limits.idle_time, "the client sent no request for too long"),
            _ => return,
        };
        if self.last_move.elapsed() >= limit {
            self.late(message);
        } else if self.creeps(crowded) {
            self.late("the client moves too few bytes of one message while others wait for those it holds");
        }
    }

    fn late(&mut self, message: &'static str) {
        self.lose(Err(Error::new(ErrorKind::Timeout, "serve a connection", message).with("client", &self.record.peer)));
    }

    /// Whether one and the same message has crept, for the time in which a connection may stand still while others wait.
    fn creeps(&mut self, crowded: bool) -> bool {
        if !crowded {
            self.crowded_since = None;
            return false;
        }
        let (since, then) = *self.crowded_since.get_or_insert((clock::now(), self.pace));
        if since.elapsed() < self.limits.crowded_stall_time {
            return false;
        }
        self.crowded_since = Some((clock::now(), self.pace));
        let same_payload = matches!(self.reading, Reading::Payload { .. }) && self.pace.requests == then.requests;
        let same_replies = !self.out.is_empty() && self.pace.emptied == then.emptied;
        (same_payload || same_replies) && self.pace.bytes - then.bytes < self.limits.crowded_least_bytes
    }

    /// Writes what is gathered; `false` when the socket takes no more now.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> bool {
        if self.out.is_empty() || self.lost.is_some() {
            return self.lost.is_none();
        }
        let before = self.out.len();
        match self.out.poll(&mut self.writer, cx) {
            Poll::Ready(Ok(moved)) => {
                self.moved |= moved;
                self.pace.bytes += u64::try_from(before - self.out.len()).unwrap_or(0);
                self.pace.emptied += u64::from(self.out.is_empty());
            }
            Poll::Ready(Err(e)) => self.lose(Err(Error::from_io("answer a client", e).with("client", &self.record.peer))),
            Poll::Pending => {}
        }
        self.lost.is_none() && self.out.is_empty()
    }

    /// Reads and begins requests until something must move first.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Stop {
        let batch = usize::try_from(self.limits.write_batch).unwrap_or(usize::MAX);
        loop {
            if self.out.len() >= batch {
                return Stop::Full;
            }
            let more = match &self.reading {
                Reading::Header if self.orders >= self.limits.in_flight_requests => false,
                Reading::Header => self.poll_header(cx),
                Reading::Payload { .. } => self.poll_payload(cx),
                Reading::Drain { .. } => self.poll_drain(cx),
                Reading::Held(_, order) if !self.must_hold(self.session.weight(*order)) => self.unhold(cx),
                Reading::Held(..) | Reading::Waiting(..) | Reading::Ended => false,
            };
            if !more {
                return Stop::Blocked;
            }
        }
    }

    fn poll_header(&mut self, cx: &mut Context<'_>) -> bool {
        match self.input.next() {
            Next::Request(request) => self.begin(request, cx),
            Next::Garbage => {
                self.broke("a request does not begin with its magic");
                false
            }
            Next::Short => match self.input.poll_fill(&mut self.reader, cx) {
                Poll::Pending => false,
                Poll::Ready(Ok(0)) if self.input.buffered().is_empty() => {
                    self.reading = Reading::Ended;
                    false
                }
                Poll::Ready(read) => self.was_read(read),
            },
        }
    }

    /// Counts what was read; `false` when the connection is lost.
    fn was_read(&mut self, read: std::io::Result<usize>) -> bool {
        let failure = match read {
            Ok(0) => std::io::ErrorKind::UnexpectedEof.into(),
            Ok(n) => {
                self.moved = true;
                self.pace.bytes += u64::try_from(n).unwrap_or(0);
                return true;
            }
            Err(e) => e,
        };
        self.lose(Err(Error::from_io("read from a client", failure).with("client", &self.record.peer)));
        false
    }

    /// Begins a request; `false` when reading must pause.
    fn begin(&mut self, request: Request, cx: &mut Context<'_>) -> bool {
        if request.command == command::DISC {
            self.reading = Reading::Ended;
            return false;
        }
        self.record.requests.fetch_add(1, Ordering::Relaxed);
        self.pace.requests += 1;
        let judged = if self.draining { Err((errno::ESHUTDOWN, "the server is shutting down")) } else { self.session.judge(&request) };
        match judged {
            Ok(order) => self.claim(request, order, cx),
            Err((errno, text)) => self.refuse(&request, errno, text),
        }
        self.lost.is_none()
    }

    fn refuse(&mut self, request: &Request, errno: u32, text: &'static str) {
        let mark = mark_of(request);
        if request.command != command::WRITE {
            self.replies.error(&mut self.out, mark, errno, text);
        } else if request.length > MAX_DRAIN {
            self.broke("a write is longer than anything this server reads");
        } else {
            self.reading = Reading::Drain { left: usize::try_from(request.length).unwrap_or(usize::MAX), mark, errno, text };
        }
    }

    /// Takes the bytes the request needs, or waits for them.
    fn claim(&mut self, request: Request, order: Order, cx: &mut Context<'_>) {
        let bytes = self.session.weight(order);
        if bytes == 0 {
            return self.with_share(request, order, Share::none(), cx);
        }
        if self.must_hold(bytes) {
            self.reading = Reading::Held(request, order);
            return;
        }
        match self.budget.take(bytes, &self.record.held) {
            Ok(share) => self.with_share(request, order, share, cx),
            Err(wait) => {
                self.flying.push(Awaited::Share(wait));
                self.reading = Reading::Waiting(request, order);
            }
        }
    }

    fn must_hold(&self, bytes: u32) -> bool {
        let held = self.record.held();
        held > 0 && held + u64::from(bytes) > self.limits.connection_bytes
    }

    fn unhold(&mut self, cx: &mut Context<'_>) -> bool {
        if let Reading::Held(request, order) = std::mem::replace(&mut self.reading, Reading::Header) {
            self.claim(request, order, cx);
        }
        true
    }

    /// Goes on with a request that has its share: reads the payload if there is one, else starts.
    fn with_share(&mut self, request: Request, order: Order, share: Share, cx: &mut Context<'_>) {
        self.reading = Reading::Header;
        if !matches!(order, Order::Write { .. }) {
            return self.start(&request, order, Bytes::new(), share, cx);
        }
        let length = usize::try_from(request.length).unwrap_or(usize::MAX);
        self.input.learn(length);
        let buffered = self.input.buffered();
        if let Some(payload) = buffered.get(..length) {
            let payload = Bytes::copy_from_slice(payload);
            self.input.consume(length);
            return self.start(&request, order, payload, share, cx);
        }
        let mut buffer = Buffer::take(length);
        let filled = buffered.len();
        if let Some(front) = buffer.get_mut(..filled) {
            front.copy_from_slice(buffered);
        }
        self.input.consume(filled);
        self.reading = Reading::Payload { request, order, buffer, filled, share };
    }

    fn poll_payload(&mut self, cx: &mut Context<'_>) -> bool {
        let Reading::Payload { buffer, filled, .. } = &mut self.reading else { return true };
        let rest = buffer.get_mut(*filled..).unwrap_or(&mut []);
        if !rest.is_empty() {
            match poll_read(&mut self.reader, rest, cx) {
                Poll::Pending => return false,
                Poll::Ready(read) => {
                    *filled += read.as_ref().map_or(0, |n| *n);
                    if *filled < buffer.len() || read.is_err() {
                        return self.was_read(read);
                    }
                    self.moved = true;
                }
            }
        }
        if let Reading::Payload { request, order, buffer, share, .. } = std::mem::replace(&mut self.reading, Reading::Header) {
            self.start(&request, order, buffer.freeze(), share, cx);
        }
        true
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> bool {
        let Reading::Drain { left, mark, errno, text } = &mut self.reading else { return true };
        let step = self.input.buffered().len().min(*left);
        self.input.consume(step);
        *left -= step;
        if *left == 0 {
            self.replies.error(&mut self.out, *mark, *errno, text);
            self.reading = Reading::Header;
            return true;
        }
        match self.input.poll_fill(&mut self.reader, cx) {
            Poll::Pending => false,
            Poll::Ready(read) => self.was_read(read),
        }
    }

    /// Gives an order to the disk, and answers if that is done at once.
    fn start(&mut self, request: &Request, order: Order, payload: Bytes, share: Share, cx: &mut Context<'_>) {
        match order {
            Order::Read { range, .. } => self.record.read.fetch_add(range.length(), Ordering::Relaxed),
            Order::Write { range, .. } => self.record.written.fetch_add(range.length(), Ordering::Relaxed),
            _ => 0,
        };
        let only_fast = request.command == command::WRITE_ZEROES && request.flags & command_flag::FAST_ZERO != 0;
        let ticket = Ticket { mark: mark_of(request), only_fast, share };
        let mut work = Work::start(self.session, order, payload);
        match work.poll(cx) {
            Poll::Ready(answer) => self.finish(ticket, answer),
            Poll::Pending => {
                self.orders += 1;
                self.flying.push(Awaited::Order(Some(ticket), work));
            }
        }
    }

    fn finish(&mut self, ticket: Ticket, answer: Result<super::reply::Answer>) {
        if self.lost.is_some() {
            return;
        }
        match answer {
            Ok(answer) => self.replies.answer(&mut self.out, ticket.mark, answer, ticket.share),
            Err(e) => {
                let errno = errno_of(&e, ticket.only_fast);
                tracing::debug!(client = %self.record.peer, error = %e, "a request failed");
                self.replies.error(&mut self.out, ticket.mark, errno, e.message());
            }
        }
    }
}

fn mark_of(request: &Request) -> Mark {
    Mark { cookie: request.cookie, offset: request.offset, command: request.command }
}
