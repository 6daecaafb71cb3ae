//! One connection in transmission: a half that sends orders, a half that takes replies, a watch for stalls.
//!
//! The three run as one task. Whichever ends first ends the connection; what was not acknowledged comes back to the caller, to be
//! sent again. Orders belong to the connection from the moment they leave the queue, so dropping a caller's future never leaves
//! half a frame on the wire.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;

use super::assembly::Want;
use super::inflight::InFlight;
use super::order::Order;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::handshake::facts::{MetaContext, Negotiated};
use crate::nbd::stream::{ReadHalf, WriteHalf};
use crate::nbd::wire::{self, ReplyHeader, Request, command};
use crate::task::CancellationToken;

const OPERATION: &str = "speak with the NBD server";

/// Orders sent with one system call at most.
const BATCH: usize = 64;
/// Bytes read ahead of a reply's payload: enough for many small replies at once, little to copy of a large one.
const READ_AHEAD: usize = 4096;
/// How often a stall time is looked at.
const LOOKS_PER_STALL: u32 = 8;

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client was closed, and the server told.
    Closed,
    /// It broke.
    Broken(Error),
}

/// What both halves share.
pub(super) struct Shared {
    table: Mutex<InFlight<Order>>,
    /// Rises with every run of bytes that moves.
    progress: AtomicU64,
    /// Whether bytes wait to be taken by the server.
    sending: AtomicBool,
    /// Whether a message of the server is half read; its request is then on loan from the table.
    receiving: AtomicBool,
    structured: bool,
    contexts: Vec<MetaContext>,
}

impl Shared {
    pub(super) fn new(facts: &Negotiated) -> Self {
        Shared {
            table: Mutex::default(),
            progress: AtomicU64::new(0),
            sending: AtomicBool::new(false),
            receiving: AtomicBool::new(false),
            structured: facts.structured,
            contexts: facts.contexts.clone(),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, InFlight<Order>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves `queue` over a connection whose handshake is done, beginning with `resend`, until it breaks or `token` is cancelled.
/// Returns also the orders that were not acknowledged.
pub(crate) async fn serve(
    halves: (ReadHalf, WriteHalf),
    facts: &Negotiated,
    stall: Duration,
    queue: &mut UnboundedReceiver<Order>,
    resend: Vec<Order>,
    token: &CancellationToken,
) -> (End, Vec<Order>) {
    let shared = Shared::new(facts);
    let mut reader = Reader::new(halves.0);
    let mut writer = Writer { stream: halves.1, batch: resend, headers: Vec::new(), parts: Vec::new() };
    let end = tokio::select! {
        biased;
        fault = reader.run(&shared) => End::Broken(fault),
        end = writer.run(&shared, queue, token) => end,
        fault = watch(&shared, stall) => End::Broken(fault),
    };
    let mut left = shared.table().drain();
    left.extend(reader.current.take().map(|(_, order)| order));
    left.append(&mut writer.batch);
    (end, left)
}

/// Ends when no byte moved for `stall` although one should have.
async fn watch(shared: &Shared, stall: Duration) -> Error {
    let mut seen = 0;
    let mut quiet = 0;
    loop {
        clock::sleep(stall / LOOKS_PER_STALL).await;
        let progress = shared.progress.load(Ordering::Relaxed);
        let half = shared.sending.load(Ordering::Relaxed) || shared.receiving.load(Ordering::Relaxed);
        let owed = half || shared.table().len() > 0;
        quiet = if owed && progress == seen { quiet + 1 } else { 0 };
        seen = progress;
        if quiet >= LOOKS_PER_STALL {
            return Error::new(ErrorKind::Timeout, OPERATION, "the server owes replies, and no byte moved within the deadline")
                .with("deadline-seconds", stall.as_secs_f64());
        }
    }
}

struct Writer {
    stream: WriteHalf,
    /// Orders taken from the queue, not yet in the table.
    batch: Vec<Order>,
    headers: Vec<u8>,
    /// Runs of `headers`, each followed by a payload.
    parts: Vec<(usize, Bytes)>,
}

impl Writer {
    async fn run(&mut self, shared: &Shared, queue: &mut UnboundedReceiver<Order>, token: &CancellationToken) -> End {
        loop {
            if self.batch.is_empty() {
                tokio::select! {
                    biased;
                    n = queue.recv_many(&mut self.batch, BATCH) => if n == 0 { return self.farewell().await },
                    () = token.cancelled() => return self.farewell().await,
                }
            }
            if let Err(fault) = self.encode(shared) {
                return End::Broken(fault);
            }
            shared.sending.store(true, Ordering::Relaxed);
            let sent = self.send(shared).await;
            shared.sending.store(false, Ordering::Relaxed);
            // An idle connection holds no payloads that are answered long since.
            self.parts.clear();
            if let Err(e) = sent {
                return End::Broken(Error::from_io(OPERATION, e));
            }
        }
    }

    /// Moves the batch into the table and writes its headers.
    fn encode(&mut self, shared: &Shared) -> Result<()> {
        self.headers.clear();
        self.parts.clear();
        let mut table = shared.table();
        for order in self.batch.drain(..) {
            if order.is_abandoned() {
                continue;
            }
            let mut request = Request { flags: order.flags, command: order.command, cookie: 0, offset: order.offset, length: order.length };
            let payload = order.payload.clone();
            request.cookie = table.add(order)?;
            self.headers.extend_from_slice(&request.encode());
            if !payload.is_empty() {
                self.parts.push((self.headers.len(), payload));
            }
        }
        Ok(())
    }

    async fn send(&mut self, shared: &Shared) -> io::Result<()> {
        let mut slices = Vec::with_capacity(self.parts.len() * 2 + 1);
        let mut from = 0;
        for (to, payload) in &self.parts {
            slices.push(IoSlice::new(self.headers.get(from..*to).unwrap_or(&[])));
            slices.push(IoSlice::new(payload));
            from = *to;
        }
        let rest = self.headers.get(from..).unwrap_or(&[]);
        if !rest.is_empty() {
            slices.push(IoSlice::new(rest));
        }
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let n = self.stream.write_vectored(slices).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            shared.moved();
            IoSlice::advance_slices(&mut slices, n);
        }
        self.stream.flush().await
    }

    /// Tells the server that the client leaves. It answers nothing; whether it hears us is no matter.
    async fn farewell(&mut self) -> End {
        let request = Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 };
        let goodbye = async {
            self.stream.write_all(&request.encode()).await?;
            self.stream.flush().await?;
            self.stream.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        End::Closed
    }
}

pub(super) struct Reader {
    stream: ReadHalf,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The order whose payload is being read, and its cookie.
    current: Option<(u64, Order)>,
}

impl Reader {
    pub(super) fn new(stream: ReadHalf) -> Self {
        Reader { stream, buffer: vec![0; READ_AHEAD], start: 0, end: 0, current: None }
    }

    pub(super) async fn run(&mut self, shared: &Shared) -> Error {
        loop {
            if let Err(fault) = self.message(shared).await {
                return fault;
            }
        }
    }

    /// Takes one simple reply or one chunk.
    async fn message(&mut self, shared: &Shared) -> Result<()> {
        self.need(shared, 4, true).await?;
        let magic = wire::Reader::new(self.ready()).u32().unwrap_or_default();
        let length = ReplyHeader::length_of(magic)
            .ok_or_else(|| Error::new(ErrorKind::Protocol, OPERATION, "a reply does not begin with a magic number of replies"))?;
        self.need(shared, length, false).await?;
        let header = ReplyHeader::decode(self.ready())
            .ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "a complete reply header cannot be read"))?;
        self.start += length;
        let (cookie, last) = match header {
            ReplyHeader::Simple { cookie, .. } => (cookie, true),
            ReplyHeader::Chunk { cookie, flags, .. } => (cookie, flags & wire::chunk::FLAG_DONE != 0),
        };
        if matches!(header, ReplyHeader::Chunk { .. }) && !shared.structured {
            return Err(Error::new(ErrorKind::Protocol, OPERATION, "the server sends a structured reply, which was not agreed"));
        }
        shared.receiving.store(true, Ordering::Relaxed);
        let order = shared.table().take(cookie, last)?;
        let (_, order) = self.current.insert((cookie, order));
        let mut want = match header {
            ReplyHeader::Simple { error, .. } => order.assembly.simple(error, shared.structured)?,
            ReplyHeader::Chunk { kind, length, .. } => order.assembly.chunk(kind, length)?,
        };
        loop {
            want = match want {
                Want::Nothing => break,
                Want::Head(n) => self.head(shared, n).await?,
                Want::Data { at, length } => {
                    self.payload(shared, at, length).await?;
                    break;
                }
            };
        }
        shared.receiving.store(false, Ordering::Relaxed);
        match self.current.take() {
            Some((_, order)) if last => order.complete(&shared.contexts),
            Some((cookie, order)) => {
                shared.table().put_back(cookie, order);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What was read ahead.
    fn ready(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or(&[])
    }

    /// Reads ahead until `n` bytes (at most [`READ_AHEAD`]) are there.
    async fn need(&mut self, shared: &Shared, n: usize, at_boundary: bool) -> Result<()> {
        while self.end - self.start < n {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            let space = self.buffer.get_mut(self.end..).unwrap_or(&mut []);
            let got = self.stream.read(space).await.map_err(|e| Error::from_io(OPERATION, e))?;
            if got == 0 {
                let message = if at_boundary && self.end == 0 {
                    "the server closed the connection"
                } else {
                    "the server closed the connection in the middle of a reply"
                };
                return Err(Error::new(ErrorKind::Unreachable, OPERATION, message));
            }
            shared.moved();
            self.end += got;
        }
        Ok(())
    }

    /// Gives the order the next `n` bytes as the head of its chunk.
    async fn head(&mut self, shared: &Shared, n: usize) -> Result<Want> {
        if n <= READ_AHEAD {
            self.need(shared, n, false).await?;
            let bytes = self.buffer.get(self.start..self.start + n).unwrap_or(&[]);
            self.start += n;
            return self.current.as_mut().map_or(Ok(Want::Nothing), |(_, order)| order.assembly.head(bytes));
        }
        let mut bytes = vec![0; n];
        take(&mut self.start, self.end, &self.buffer, &mut self.stream, shared, &mut bytes).await?;
        self.current.as_mut().map_or(Ok(Want::Nothing), |(_, order)| order.assembly.head(&bytes))
    }

    /// Reads a run of the order's buffer straight from the stream.
    async fn payload(&mut self, shared: &Shared, at: usize, length: usize) -> Result<()> {
        let Some((_, order)) = self.current.as_mut() else { return Ok(()) };
        let space = order.assembly.space(at, length)?;
        take(&mut self.start, self.end, &self.buffer, &mut self.stream, shared, space).await
    }
}

/// Fills `space`: first from what was read ahead, then from the stream.
async fn take(start: &mut usize, end: usize, buffer: &[u8], stream: &mut ReadHalf, shared: &Shared, space: &mut [u8]) -> Result<()> {
    let ahead = (end - *start).min(space.len());
    let (head, mut rest) = space.split_at_mut(ahead);
    head.copy_from_slice(buffer.get(*start..*start + ahead).unwrap_or(&[]));
    *start += ahead;
    while !rest.is_empty() {
        let n = stream.read(rest).await.map_err(|e| Error::from_io(OPERATION, e))?;
        if n == 0 {
            return Err(Error::new(ErrorKind::Unreachable, OPERATION, "the server closed the connection in the middle of a payload"));
        }
        shared.moved();
        rest = rest.get_mut(n..).unwrap_or_default();
    }
    Ok(())
}
