//! The client's side of the handshake, pure.
//!
//! ```text
//! greeting -> [STARTTLS] -> STRUCTURED_REPLY -> SET_META_CONTEXT -> LIST_META_CONTEXT.. -> GO ---------------> done
//!     |                                                                                  \-> INFO -> EXPORT_NAME -> done (no GO)
//!     |-> EXPORT_NAME -> done          (server without fixed newstyle, or Style::ExportNameOnly)
//!     \-> [STARTTLS] -> LIST -> ABORT  (Purpose::List)
//! ```
//!
//! The driver reads exactly [`Machine::wants`] bytes, gives them to [`Machine::feed`], sends what that returns, and goes on until
//! it says [`Then::Done`]. Whatever the server sends, the machine holds a bounded number of bounded replies. Each fault of a server
//! has its own text; [`Machine::closed`] names the step at which a server hung up.

use std::collections::VecDeque;

use super::facts::{BlockSizes, ListedExport, MetaContext, Negotiated};
pub use super::plan::{Plan, Purpose, Step, Style, Then};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::limits::{MAX_LIST, MAX_OPTION_REPLY};
use crate::nbd::wire::{self, Reader, info, option, option_reply as reply, transmission};
use crate::units::MAX_OFFSET;

/// Second magic of a server of the old style, which has no options ("Oldstyle negotiation").
const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Information replies to one GO or INFO; the protocol knows four types.
const MAX_INFO_REPLIES: u32 = 64;
/// Meta contexts in the reply to one option (qemu lists each dirty bitmap).
const MAX_META_REPLIES: u32 = 1024;
/// Zeros after the reply to EXPORT_NAME, unless NO_ZEROES was agreed.
const EXPORT_PADDING: usize = 124;

pub(super) const OPERATION: &str = "agree with the NBD server";

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Magic,
    Flags,
    ReplyHeader,
    ReplyData { kind: u32, length: u32 },
    Tls,
    ExportReply,
    Done,
}

/// One option to send, in the order of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    StartTls,
    Structured,
    SetMeta,
    ListMeta(Vec<String>),
    Go,
    Info,
    List,
}

impl Ask {
    fn code(&self) -> u32 {
        match self {
            Ask::StartTls => option::STARTTLS,
            Ask::Structured => option::STRUCTURED_REPLY,
            Ask::SetMeta => option::SET_META_CONTEXT,
            Ask::ListMeta(_) => option::LIST_META_CONTEXT,
            Ask::Go => option::GO,
            Ask::Info => option::INFO,
            Ask::List => option::LIST,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Ask::StartTls => "STARTTLS",
            Ask::Structured => "STRUCTURED_REPLY",
            Ask::SetMeta => "SET_META_CONTEXT",
            Ask::ListMeta(_) => "LIST_META_CONTEXT",
            Ask::Go => "GO",
            Ask::Info => "INFO",
            Ask::List => "LIST",
        }
    }

    fn most_replies(&self) -> u32 {
        match self {
            Ask::List => MAX_LIST + 1,
            Ask::SetMeta | Ask::ListMeta(_) => MAX_META_REPLIES,
            _ => MAX_INFO_REPLIES,
        }
    }
}

/// The machine; see the [module documentation](self).
#[derive(Debug)]
pub struct Machine {
    plan: Plan,
    state: State,
    queue: VecDeque<Ask>,
    current: Option<Ask>,
    replies: u32,
    no_zeroes: bool,
    size_known: bool,
    facts: Negotiated,
}

impl Machine {
    /// At the beginning: the server speaks first.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut queue = VecDeque::new();
        if plan.tls {
            queue.push_back(Ask::StartTls);
        }
        if plan.purpose == Purpose::List {
            queue.push_back(Ask::List);
        } else if plan.style == Style::Full {
            queue.push_back(Ask::Structured);
            if !plan.contexts.is_empty() {
                queue.push_back(Ask::SetMeta);
            }
            queue.extend(plan.list_contexts.iter().cloned().map(Ask::ListMeta));
            queue.push_back(Ask::Go);
        }
        Machine {
            plan,
            state: State::Magic,
            queue,
            current: None,
            replies: 0,
            no_zeroes: false,
            size_known: false,
            facts: Negotiated::default(),
        }
    }

    /// How many bytes [`Machine::feed`] needs next; 0 when it needs none.
    #[must_use]
    pub fn wants(&self) -> usize {
        match &self.state {
            State::Magic => 16,
            State::Flags => 2,
            State::ReplyHeader => wire::OPTION_REPLY_LENGTH,
            State::ReplyData { length, .. } => usize::try_from(*length).unwrap_or(usize::MAX),
            State::ExportReply => 10 + if self.no_zeroes { 0 } else { EXPORT_PADDING },
            State::Tls | State::Done => 0,
        }
    }

    /// Takes exactly [`Machine::wants`] bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Step> {
        if bytes.len() != self.wants() {
            return Err(Error::new(ErrorKind::Internal, OPERATION, "the handshake was fed a wrong number of bytes"));
        }
        let mut r = Reader::new(bytes);
        match self.state.clone() {
            State::Magic => self.magic(&mut r),
            State::Flags => self.greeting(r.u16().unwrap_or_default()),
            State::ReplyHeader => self.reply_header(bytes),
            State::ReplyData { kind, .. } => self.reply(kind, bytes),
            State::ExportReply => self.export_reply(&mut r),
            State::Tls | State::Done => Err(Error::new(ErrorKind::Internal, OPERATION, "the handshake was fed after its end")),
        }
    }

    /// TLS is up: the handshake goes on inside it.
    pub fn tls_started(&mut self) -> Result<Step> {
        self.facts.tls = true;
        self.next()
    }

    /// What was agreed. Only after [`Then::Done`].
    #[must_use]
    pub fn finish(self) -> Negotiated {
        self.facts
    }

    /// The error for a server that hung up now.
    #[must_use]
    pub fn closed(&self) -> Error {
        let refuse = |kind, message: &'static str| Error::new(kind, OPERATION, message);
        match (&self.state, &self.current) {
            (State::Magic, _) => refuse(ErrorKind::Unreachable, "the server closed the connection before its greeting"),
            (State::Flags, _) => refuse(ErrorKind::Unreachable, "the server closed the connection in the middle of its greeting"),
            (State::ExportReply, _) => refuse(
                ErrorKind::NotFound,
                "the server closed the connection when asked for the export: it has none of this name, or refuses it",
            ),
            (State::ReplyData { .. }, Some(ask)) => {
                refuse(ErrorKind::Unreachable, "the server closed the connection in the middle of an option reply")
                    .with("option", ask.name())
            }
            (_, Some(ask)) => {
                refuse(ErrorKind::Unreachable, "the server closed the connection instead of answering an option").with("option", ask.name())
            }
            (_, None) => refuse(ErrorKind::Unreachable, "the server closed the connection between two options"),
        }
    }

    /// Whether a server that hung up now may have done so because of an option it does not know.
    #[must_use]
    pub fn may_dislike_options(&self) -> bool {
        self.current.is_some() && self.plan.purpose == Purpose::Open && !self.plan.tls && self.facts.size == 0 && !self.size_known
    }

    fn magic(&mut self, r: &mut Reader<'_>) -> Result<Step> {
        if r.u64() != Some(wire::NBD_MAGIC) {
            return Err(broken("the server does not speak NBD: its first bytes are not NBDMAGIC"));
        }
        match r.u64() {
            Some(wire::OPTION_MAGIC) => {
                self.state = State::Flags;
                Ok(Step { send: Vec::new(), then: Then::More })
            }
            Some(OLDSTYLE_MAGIC) => {
                Err(Error::new(ErrorKind::Unsupported, OPERATION, "the server speaks the oldstyle handshake, which is not supported"))
            }
            _ => Err(broken("the server's greeting is of no known style")),
        }
    }

    fn greeting(&mut self, flags: u16) -> Result<Step> {
        let fixed = flags & wire::FLAG_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & wire::FLAG_NO_ZEROES != 0;
        self.facts.fixed_newstyle = fixed;
        let mut answer = 0;
        if fixed {
            answer |= wire::CLIENT_FIXED_NEWSTYLE;
        } else if self.plan.tls {
            return Err(Error::new(ErrorKind::Denied, OPERATION, "TLS is required, and the server is too old to offer it"));
        } else if self.plan.purpose == Purpose::List {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the server is too old to list its exports"));
        } else {
            self.queue.clear();
        }
        if self.no_zeroes {
            answer |= wire::CLIENT_NO_ZEROES;
        }
        let mut step = self.next()?;
        step.send.splice(0..0, answer.to_be_bytes());
        Ok(step)
    }

    /// Sends the next option of the queue, or EXPORT_NAME when the queue is empty.
    fn next(&mut self) -> Result<Step> {
        self.replies = 0;
        self.current = self.queue.pop_front();
        let send = match &self.current {
            None => {
                self.state = State::ExportReply;
                wire::encode_option(option::EXPORT_NAME, self.plan.export.as_bytes())
            }
            Some(ask) => {
                self.state = State::ReplyHeader;
                wire::encode_option(ask.code(), &self.option_data(ask)?)
            }
        };
        Ok(Step { send, then: Then::More })
    }

    fn option_data(&self, ask: &Ask) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        let string = |data: &mut Vec<u8>, text: &str| -> Result<()> {
            let length = u32::try_from(text.len())
                .ok()
                .filter(|n| *n <= crate::nbd::limits::MAX_NAME)
                .ok_or_else(|| Error::new(ErrorKind::InvalidInput, OPERATION, "a name is longer than 4096 bytes"))?;
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(text.as_bytes());
            Ok(())
        };
        match ask {
            Ask::StartTls | Ask::Structured | Ask::List => {}
            Ask::SetMeta | Ask::ListMeta(_) => {
                let queries = if let Ask::ListMeta(queries) = ask { queries } else { &self.plan.contexts };
                string(&mut data, &self.plan.export)?;
                data.extend_from_slice(&u32::try_from(queries.len()).unwrap_or(u32::MAX).to_be_bytes());
                for query in queries {
                    string(&mut data, query)?;
                }
            }
            Ask::Go | Ask::Info => {
                string(&mut data, &self.plan.export)?;
                let wanted = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
                data.extend_from_slice(&3_u16.to_be_bytes());
                data.extend(wanted.iter().flat_map(|i| i.to_be_bytes()));
            }
        }
        Ok(data)
    }

    fn reply_header(&mut self, bytes: &[u8]) -> Result<Step> {
        let header: &[u8; wire::OPTION_REPLY_LENGTH] = bytes.try_into().map_err(|_| broken("an option reply is cut off"))?;
        let (option, kind, length) =
            wire::decode_option_reply(header).ok_or_else(|| broken("an option reply does not begin with its magic number"))?;
        let Some(ask) = &self.current else {
            return Err(broken("the server answers an option that was not sent"));
        };
        if option != ask.code() {
            return Err(broken("the server answers another option than the one sent").with("option", ask.name()));
        }
        if length > MAX_OPTION_REPLY {
            return Err(broken("an option reply is longer than the client accepts").with("option", ask.name()).with("length", length));
        }
        self.replies += 1;
        if self.replies > ask.most_replies() {
            return Err(broken("the server does not end its answer to an option").with("option", ask.name()));
        }
        if length == 0 {
            return self.reply(kind, &[]);
        }
        self.state = State::ReplyData { kind, length };
        Ok(Step { send: Vec::new(), then: Then::More })
    }

    /// One whole reply to the current option.
    fn reply(&mut self, kind: u32, data: &[u8]) -> Result<Step> {
        self.state = State::ReplyHeader;
        let Some(ask) = self.current.clone() else {
            return Err(broken("the server answers an option that was not sent"));
        };
        if kind & reply::ERROR_BIT != 0 {
            return self.refused(&ask, kind, data);
        }
        match (&ask, kind) {
            (_, reply::ACK) => return self.acknowledged(&ask),
            (Ask::SetMeta, reply::META_CONTEXT) => self.selected(data)?,
            (Ask::ListMeta(_), reply::META_CONTEXT) => {
                let context = MetaContext::decode(data)?;
                if !self.facts.offered_contexts.contains(&context.name) {
                    self.facts.offered_contexts.push(context.name);
                }
            }
            (Ask::Go | Ask::Info, reply::INFO) => self.information(data)?,
            (Ask::List, reply::SERVER) => self.facts.exports.push(ListedExport::decode(data)?),
            _ => {
                return Err(broken("a reply to an option has a type that does not belong to it")
                    .with("option", ask.name())
                    .with("type", kind));
            }
        }
        Ok(Step { send: Vec::new(), then: Then::More })
    }

    fn acknowledged(&mut self, ask: &Ask) -> Result<Step> {
        match ask {
            Ask::StartTls => {
                self.state = State::Tls;
                self.current = None;
                return Ok(Step { send: Vec::new(), then: Then::StartTls });
            }
            Ask::Structured => self.facts.structured = true,
            Ask::Go => {
                if !self.size_known {
                    return Err(broken("the server accepts the export without telling its size"));
                }
                self.facts.by_go = true;
                return Ok(self.done(Vec::new()));
            }
            Ask::List => return Ok(self.done(wire::encode_option(option::ABORT, &[]))),
            Ask::SetMeta | Ask::ListMeta(_) | Ask::Info => {}
        }
        self.next()
    }

    fn done(&mut self, send: Vec<u8>) -> Step {
        self.state = State::Done;
        self.current = None;
        Step { send, then: Then::Done }
    }

    /// An error reply: some end the handshake, some only say that the server lacks a thing.
    fn refused(&mut self, ask: &Ask, kind: u32, data: &[u8]) -> Result<Step> {
        let fail = |kind, message: &'static str| {
            let e = Error::new(kind, OPERATION, message).with("option", ask.name());
            Err(if data.is_empty() { e } else { e.with("server-says", super::facts::text_of(data)) })
        };
        match (ask, kind) {
            (Ask::StartTls, reply::ERR_SHUTDOWN) | (_, reply::ERR_SHUTDOWN) => fail(ErrorKind::Unreachable, "the server is shutting down"),
            (Ask::StartTls, _) => fail(ErrorKind::Denied, "TLS is required, and the server does not offer it"),
            (_, reply::ERR_TLS_REQD) => fail(ErrorKind::Denied, "the server requires TLS for this: use nbds://"),
            (Ask::Structured, _) => {
                self.queue.retain(|a| !matches!(a, Ask::SetMeta | Ask::ListMeta(_)));
                self.next()
            }
            (Ask::SetMeta, _) => {
                self.facts.contexts.clear();
                self.next()
            }
            (Ask::ListMeta(_), _) => self.next(),
            (Ask::Go, reply::ERR_UNSUP) => {
                self.queue.push_back(Ask::Info);
                self.next()
            }
            (Ask::Info, reply::ERR_UNSUP) => self.next(),
            (Ask::Go | Ask::Info, reply::ERR_UNKNOWN) => fail(ErrorKind::NotFound, "the server has no export of this name"),
            // So our own server begins (`server::exports`) when the epoch in the name is over.
            (Ask::Go | Ask::Info, reply::ERR_POLICY) if data.starts_with(b"fenced:") => {
                fail(ErrorKind::Fenced, "a newer epoch has the right to write this export")
            }
            (Ask::Go | Ask::Info, reply::ERR_POLICY) => fail(ErrorKind::Denied, "the server does not allow this client to open the export"),
            (Ask::Go | Ask::Info, reply::ERR_BLOCK_SIZE_REQD) => {
                fail(ErrorKind::Protocol, "the server asks for block size negotiation, which was requested")
            }
            (Ask::List, reply::ERR_UNSUP | reply::ERR_POLICY) => fail(ErrorKind::Denied, "the server does not list its exports"),
            (_, reply::ERR_INVALID) => fail(ErrorKind::Protocol, "the server calls an option invalid"),
            (_, reply::ERR_TOO_BIG) => fail(ErrorKind::InvalidInput, "the server finds the request too long"),
            (_, reply::ERR_PLATFORM) => fail(ErrorKind::Unsupported, "the server's platform does not support this"),
            _ => fail(ErrorKind::Protocol, "the server refuses an option with an unknown error").map_err(|e: Error| e.with("type", kind)),
        }
    }

    fn selected(&mut self, data: &[u8]) -> Result<()> {
        let context = MetaContext::decode(data)?;
        if !self.plan.contexts.contains(&context.name) {
            return Err(broken("the server selects a meta context that was not asked for").with("context", &context.name));
        }
        if self.facts.contexts.iter().any(|c| c.id == context.id || c.name == context.name) {
            return Err(broken("the server selects a meta context twice").with("context", &context.name));
        }
        self.facts.contexts.push(context);
        Ok(())
    }

    fn information(&mut self, data: &[u8]) -> Result<()> {
        let mut r = Reader::new(data);
        match r.u16() {
            Some(info::EXPORT) => match (r.u64(), r.u16(), r.rest()) {
                (Some(size), Some(flags), []) => self.export(size, flags),
                _ => Err(broken("the information on the export has a wrong length")),
            },
            Some(info::BLOCK_SIZE) => {
                self.facts.block_sizes = Some(BlockSizes::decode(r.rest())?);
                Ok(())
            }
            Some(info::NAME) => {
                let name = super::facts::text_of(r.rest());
                self.facts.canonical_name = Some(crate::nbd::epoch::without_proof(&name).into_owned());
                Ok(())
            }
            Some(info::DESCRIPTION) => {
                self.facts.description = Some(super::facts::text_of(r.rest()));
                Ok(())
            }
            Some(_) => Ok(()), // "the client SHOULD ignore information types it does not understand"
            None => Err(broken("an information reply lacks its type")),
        }
    }

    fn export(&mut self, size: u64, flags: u16) -> Result<()> {
        if size > MAX_OFFSET {
            return Err(broken("the server tells a size beyond 2^63-1").with("size", size));
        }
        self.size_known = true;
        self.facts.size = size;
        self.facts.flags = if flags & transmission::HAS_FLAGS == 0 { 0 } else { flags };
        Ok(())
    }

    fn export_reply(&mut self, r: &mut Reader<'_>) -> Result<Step> {
        let (size, flags) = (r.u64().unwrap_or_default(), r.u16().unwrap_or_default());
        self.export(size, flags)?;
        Ok(self.done(Vec::new()))
    }
}

pub(super) fn broken(message: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, OPERATION, message)
}
