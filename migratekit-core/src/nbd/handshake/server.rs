//! The server's half of the handshake, as a state machine without I/O.
//!
//! ```text
//! greeting ─▶ client_flags ─▶ ┌─ header ─▶ option ─▶ Action ─┐ ─▶ transmission
//!                             └──────── replies ◀────────────┘
//! ```
//!
//! The driver reads bytes, hands them in, and does what the [`Action`] says; where an action needs an export the driver looks it
//! up and lets the machine write the answer. What was negotiated ([`Handshake::finish`]) is dropped by STARTTLS, as the protocol
//! demands: what was said in clear may have been said by somebody else.

use super::{InfoReply, InfoRequest, MetaQuery, encode_list_entry, encode_meta_context, text};
use crate::block::BlockInfo;
use crate::nbd::export::Export;
use crate::nbd::handshake::Malformed;
use crate::nbd::limits;
use crate::nbd::wire::{
    BASE_ALLOCATION, CLIENT_FIXED_NEWSTYLE, CLIENT_NO_ZEROES, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, LEDGER_CONTEXT, NBD_MAGIC,
    OPTION_LENGTH, OPTION_MAGIC, PASS_CONTEXT_PREFIX, decode_option, encode_option_reply, info, option, option_reply, transmission,
};

/// Whether connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// STARTTLS is refused.
    #[default]
    Off,
    /// The client may choose.
    Offered,
    /// Nothing but STARTTLS and ABORT is answered before TLS.
    Required,
}

/// The bounds of the handshake; see [`limits`] for the reasons.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// [`limits::MAX_OPTION`], in bytes.
    pub option: u32,
    /// [`limits::MAX_OPTIONS`].
    pub options: u32,
    /// [`limits::MAX_NAME`], in bytes.
    pub name: u32,
    /// [`limits::MAX_META_QUERIES`].
    pub meta_queries: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { option: limits::MAX_OPTION, options: limits::MAX_OPTIONS, name: limits::MAX_NAME, meta_queries: limits::MAX_META_QUERIES }
    }
}

/// What to do with the data of an option, known from its header.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// Read `length` bytes and hand them to [`Handshake::option`].
    Data {
        /// The option.
        code: u32,
        /// Bytes that follow.
        length: u32,
    },
    /// Read and forget `length` bytes, then send `reply`.
    Skip {
        /// Bytes that follow.
        length: u32,
        /// The refusal.
        reply: Vec<u8>,
    },
    /// Close the connection; the reason is for the log.
    Close(&'static str),
}

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this, and go on with the next option.
    Reply(Vec<u8>),
    /// Send this and close: the client said ABORT.
    End(Vec<u8>),
    /// Send this, then speak TLS, then go on with the next option.
    StartTls(Vec<u8>),
    /// Answer with [`Handshake::list`].
    List,
    /// Look the export up; answer with [`Handshake::info`] or [`Handshake::refuse`].
    Info {
        /// What is asked.
        request: InfoRequest,
        /// GO: a success enters transmission.
        go: bool,
    },
    /// Look the export up and answer with [`Handshake::export_name`], or close.
    ExportName(String),
    /// Look the export up; answer with [`Handshake::meta`] or [`Handshake::refuse`].
    Meta {
        /// What is asked.
        query: MetaQuery,
        /// SET, not LIST.
        set: bool,
    },
    /// Close the connection; the reason is for the log.
    Close(&'static str),
}

/// A metadata context the client selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`.
    Allocation,
    /// `migratekit:ledger`.
    Ledger,
    /// `migratekit:pass:ID`: the pass the connection's writes belong to.
    Pass(String),
}

impl Context {
    /// Its id in replies; fixed, since each is selected once at most.
    #[must_use]
    pub fn id(&self) -> u32 {
        match self {
            Context::Allocation => 1,
            Context::Ledger => 2,
            Context::Pass(_) => 3,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Context::Allocation => BASE_ALLOCATION.to_owned(),
            Context::Ledger => LEDGER_CONTEXT.to_owned(),
            Context::Pass(id) => format!("{PASS_CONTEXT_PREFIX}{id}"),
        }
    }
}

/// What the handshake must know of an export.
#[derive(Debug, Clone)]
pub struct Facts {
    /// As the client named it.
    pub name: String,
    /// A line for people.
    pub description: String,
    /// Size, block sizes, abilities.
    pub info: BlockInfo,
    /// The longest payload, in bytes.
    pub max_payload: u32,
    /// Whether there is a ledger, and so our own contexts.
    pub ledger: bool,
    /// The pass that wrote last.
    pub last_pass: Option<String>,
}

impl Facts {
    /// The facts of `export` under the name the client gave; `info` is that of the disk as this connection sees it.
    #[must_use]
    pub fn of(name: String, export: &dyn Export, info: BlockInfo, max_payload: u32) -> Self {
        let max_payload = max_payload.min(info.max_request);
        let ledger = export.has_ledger();
        Facts { name, description: export.description(), info, max_payload, ledger, last_pass: export.last_pass() }
    }

    /// The transmission flags.
    #[must_use]
    pub fn flags(&self, structured: bool) -> u16 {
        use transmission as t;
        let can = &self.info.can;
        let mut flags = t::HAS_FLAGS;
        for (on, flag) in [
            (can.flush, t::SEND_FLUSH),
            (can.fua, t::SEND_FUA),
            (can.multi_conn, t::CAN_MULTI_CONN),
            (can.cache, t::SEND_CACHE),
            (structured, t::SEND_DF),
            (self.info.read_only, t::READ_ONLY),
            (!self.info.read_only && can.discard, t::SEND_TRIM),
            (!self.info.read_only && can.zero, t::SEND_WRITE_ZEROES),
            (!self.info.read_only && can.zero && can.fast_zero, t::SEND_FAST_ZERO),
        ] {
            if on {
                flags |= flag;
            }
        }
        flags
    }
}

/// Why an export is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such export.
    Unknown,
    /// A rule forbids it.
    Policy,
    /// The server is going away.
    Shutdown,
    /// The host cannot do it now.
    Platform,
}

/// The result of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Structured replies.
    pub structured: bool,
    /// The selected contexts.
    pub contexts: Vec<Context>,
}

/// The machine. See the [module documentation](self).
#[derive(Debug)]
pub struct Handshake {
    bounds: Bounds,
    tls: TlsPolicy,
    encrypted: bool,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    selected: Option<(String, Vec<Context>)>,
    options: u32,
}

impl Handshake {
    /// At the beginning of a connection.
    #[must_use]
    pub fn new(bounds: Bounds, tls: TlsPolicy) -> Self {
        Handshake { bounds, tls, encrypted: false, fixed: false, no_zeroes: false, structured: false, selected: None, options: 0 }
    }

    /// The first bytes of the server.
    #[must_use]
    pub fn greeting() -> Vec<u8> {
        let mut out = Vec::with_capacity(18);
        out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        out
    }

    /// The client's flags; an error closes the connection.
    pub fn client_flags(&mut self, flags: u32) -> Result<(), &'static str> {
        if flags & !(CLIENT_FIXED_NEWSTYLE | CLIENT_NO_ZEROES) != 0 {
            return Err("the client sent unknown handshake flags");
        }
        self.fixed = flags & CLIENT_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & CLIENT_NO_ZEROES != 0;
        Ok(())
    }

    /// The header of an option.
    pub fn header(&mut self, bytes: &[u8; OPTION_LENGTH]) -> Header {
        let Some((code, length)) = decode_option(bytes) else {
            return Header::Close("an option does not begin with its magic");
        };
        self.options += 1;
        if self.options > self.bounds.options {
            return Header::Close("the client sent too many options");
        }
        if !self.fixed && code != option::EXPORT_NAME {
            return Header::Close("the client sent an option without having agreed to fixed newstyle");
        }
        if self.tls == TlsPolicy::Required && !self.encrypted && !matches!(code, option::STARTTLS | option::ABORT) {
            if code == option::EXPORT_NAME {
                return Header::Close("the client chose an export before TLS, which is required");
            }
            let reply = error(code, option_reply::ERR_TLS_REQD, "this server requires TLS");
            return Header::Skip { length, reply };
        }
        let most = if code == option::EXPORT_NAME { self.bounds.name } else { self.bounds.option };
        if length <= most {
            return Header::Data { code, length };
        }
        if code == option::EXPORT_NAME {
            return Header::Close("the client sent a name longer than the limit");
        }
        Header::Skip { length, reply: error(code, option_reply::ERR_TOO_BIG, "the option is longer than the limit") }
    }

    /// An option whose data was read.
    pub fn option(&mut self, code: u32, data: &[u8]) -> Action {
        let must_be_empty = matches!(code, option::LIST | option::STARTTLS | option::STRUCTURED_REPLY);
        if must_be_empty && !data.is_empty() {
            return Action::Reply(error(code, option_reply::ERR_INVALID, "this option takes no data"));
        }
        match code {
            option::EXPORT_NAME => match text(data) {
                Ok(name) => Action::ExportName(name),
                Err(why) => Action::Close(why.text()),
            },
            option::ABORT => Action::End(ack(code)),
            option::LIST => Action::List,
            option::STARTTLS => self.start_tls(),
            option::STRUCTURED_REPLY => {
                self.structured = true;
                Action::Reply(ack(code))
            }
            option::INFO | option::GO => match InfoRequest::decode(data, self.bounds.name) {
                Ok(request) => Action::Info { request, go: code == option::GO },
                Err(why) => Action::Reply(malformed(code, why)),
            },
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_query(code, data),
            _ => Action::Reply(error(code, option_reply::ERR_UNSUP, "this server does not know the option")),
        }
    }

    fn start_tls(&mut self) -> Action {
        let code = option::STARTTLS;
        if self.encrypted {
            return Action::Reply(error(code, option_reply::ERR_INVALID, "the connection is encrypted already"));
        }
        if self.tls == TlsPolicy::Off {
            return Action::Reply(error(code, option_reply::ERR_POLICY, "this server is not configured for TLS"));
        }
        self.encrypted = true;
        self.structured = false;
        self.selected = None;
        Action::StartTls(ack(code))
    }

    fn meta_query(&mut self, code: u32, data: &[u8]) -> Action {
        let set = code == option::SET_META_CONTEXT;
        if set {
            self.selected = None;
        }
        if !self.structured {
            return Action::Reply(error(code, option_reply::ERR_INVALID, "structured replies must be negotiated first"));
        }
        match MetaQuery::decode(data, self.bounds.name, self.bounds.meta_queries) {
            Ok(query) => Action::Meta { query, set },
            Err(why) => Action::Reply(malformed(code, why)),
        }
    }

    /// The answer to LIST.
    #[must_use]
    pub fn list(&self, names: &[String]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names {
            out.extend_from_slice(&encode_option_reply(option::LIST, option_reply::SERVER, &encode_list_entry(name)));
        }
        out.extend_from_slice(&ack(option::LIST));
        out
    }

    /// The answer to INFO or GO for an export that was found: the bytes, and whether it was accepted.
    #[must_use]
    pub fn info(&self, request: &InfoRequest, go: bool, facts: &Facts) -> (Vec<u8>, bool) {
        let code = if go { option::GO } else { option::INFO };
        let wants = |kind: u16| request.requests.contains(&kind);
        let mut out = Vec::new();
        let mut say = |reply: InfoReply| out.extend_from_slice(&encode_option_reply(code, option_reply::INFO, &reply.encode()));
        say(InfoReply::Export { size: facts.info.size, flags: facts.flags(self.structured) });
        say(InfoReply::BlockSize {
            minimum: facts.info.min_block.max(1),
            preferred: facts.info.preferred_block.max(1),
            maximum: facts.max_payload,
        });
        if wants(info::NAME) {
            say(InfoReply::Name(facts.name.clone()));
        }
        if wants(info::DESCRIPTION) {
            say(InfoReply::Description(facts.description.clone()));
        }
        if facts.info.min_block > 1 && !wants(info::BLOCK_SIZE) {
            let text = "this export has a minimum block size, which the client must ask for";
            out.extend_from_slice(&error(code, option_reply::ERR_BLOCK_SIZE_REQD, text));
            return (out, false);
        }
        out.extend_from_slice(&ack(code));
        (out, true)
    }

    /// The answer to EXPORT_NAME for an export that was found; `None`: close, this client cannot know the block size it must keep.
    #[must_use]
    pub fn export_name(&self, facts: &Facts) -> Option<Vec<u8>> {
        if facts.info.min_block > 512 {
            return None;
        }
        let mut out = Vec::with_capacity(134);
        out.extend_from_slice(&facts.info.size.to_be_bytes());
        out.extend_from_slice(&facts.flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        Some(out)
    }

    /// The answer to LIST_META_CONTEXT or SET_META_CONTEXT for an export that was found; SET remembers the selection.
    pub fn meta(&mut self, query: &MetaQuery, set: bool, facts: &Facts) -> Vec<u8> {
        let contexts = if set { selection(query, facts) } else { offers(query, facts) };
        let code = if set { option::SET_META_CONTEXT } else { option::LIST_META_CONTEXT };
        let mut out = Vec::new();
        for context in &contexts {
            let id = if set { context.id() } else { 0 };
            out.extend_from_slice(&encode_option_reply(code, option_reply::META_CONTEXT, &encode_meta_context(id, &context.name())));
        }
        out.extend_from_slice(&ack(code));
        if set {
            self.selected = Some((query.export.clone(), contexts));
        }
        out
    }

    /// The answer to INFO, GO or a meta context option for an export that is refused.
    #[must_use]
    pub fn refuse(&self, code: u32, refusal: Refusal, why: &str) -> Vec<u8> {
        let reply = match refusal {
            Refusal::Unknown => option_reply::ERR_UNKNOWN,
            Refusal::Policy => option_reply::ERR_POLICY,
            Refusal::Shutdown => option_reply::ERR_SHUTDOWN,
            Refusal::Platform => option_reply::ERR_PLATFORM,
        };
        error(code, reply, why)
    }

    /// What was negotiated, on entering transmission with the export `name`. Contexts selected for another name do not count.
    #[must_use]
    pub fn finish(self, name: &str) -> Negotiated {
        let contexts = match self.selected {
            Some((selected, contexts)) if selected == name => contexts,
            _ => Vec::new(),
        };
        Negotiated { structured: self.structured, contexts }
    }

    /// The pass selected for the export `name`, if any: it must be known before the export is opened.
    #[must_use]
    pub fn pass(&self, name: &str) -> Option<&str> {
        let (selected, contexts) = self.selected.as_ref()?;
        contexts.iter().find_map(|c| match c {
            Context::Pass(id) if selected == name => Some(id.as_str()),
            _ => None,
        })
    }
}

/// Whether `id` may name a pass: 1 to 64 of `[0-9a-zA-Z._-]`.
#[must_use]
pub fn is_pass_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The contexts SET selects: each kind once, in the order asked; unknown ones are ignored.
fn selection(query: &MetaQuery, facts: &Facts) -> Vec<Context> {
    let mut chosen: Vec<Context> = Vec::new();
    for asked in &query.queries {
        let context = match asked.as_str() {
            BASE_ALLOCATION => Context::Allocation,
            LEDGER_CONTEXT if facts.ledger => Context::Ledger,
            other => match other.strip_prefix(PASS_CONTEXT_PREFIX) {
                Some(id) if facts.ledger && is_pass_id(id) => Context::Pass(id.to_owned()),
                _ => continue,
            },
        };
        if chosen.iter().all(|c| c.id() != context.id()) {
            chosen.push(context);
        }
    }
    chosen
}

/// The contexts LIST shows: all without a query, else those a query names or whose namespace it names.
fn offers(query: &MetaQuery, facts: &Facts) -> Vec<Context> {
    let mut all = vec![Context::Allocation];
    if facts.ledger {
        all.push(Context::Ledger);
        all.extend(facts.last_pass.clone().filter(|id| is_pass_id(id)).map(Context::Pass));
    }
    let wanted = |name: &str| {
        query.queries.is_empty() || query.queries.iter().any(|q| q == name || (q.ends_with(':') && name.starts_with(q.as_str())))
    };
    all.retain(|c| wanted(&c.name()));
    all
}

fn ack(code: u32) -> Vec<u8> {
    encode_option_reply(code, option_reply::ACK, &[])
}

fn error(code: u32, reply: u32, text: &str) -> Vec<u8> {
    let text = text.get(..text.floor_char_boundary(1024)).unwrap_or("");
    encode_option_reply(code, reply, text.as_bytes())
}

fn malformed(code: u32, why: Malformed) -> Vec<u8> {
    match why {
        Malformed::Invalid(text) => error(code, option_reply::ERR_INVALID, text),
        Malformed::TooBig(text) => error(code, option_reply::ERR_TOO_BIG, text),
    }
}
