//! The one public error of the library.
//!
//! An [`Error`] answers, for a program: *what kind* ([`ErrorKind`], a stable text code), *may I try again* ([`Retry`]); and for a
//! person: *which operation*, on *which thing* (context pairs such as `source`, `offset`, `export`), *why* (the message and the
//! chain of sources). What to do next is the frontend's to say: it maps each kind to a hint, and a test there walks
//! [`ErrorKind::ALL`].
//!
//! Inside a module, small private error enums may be used; they become an [`Error`] at the module's border. Messages name the
//! cause, so that two causes never share a text; they never contain secrets.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $code:literal,)*) => {
        /// What kind of failure this is. The text code ([`ErrorKind::code`]) is stable and part of the API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[$doc])* $name,)* }

        impl ErrorKind {
            /// Every kind, in order; frontends test their tables against it.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$name,)*];

            /// The stable text code, in `snake_case`.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(ErrorKind::$name => $code,)* }
            }
        }
    };
}

kinds! {
    /// The request makes no sense as given: a malformed URI, a range outside the disk, source and target the same.
    InvalidInput => "invalid_input",
    /// The named thing does not exist: a file, an export, a host name.
    NotFound => "not_found",
    /// The thing exists already, or stands in the way.
    AlreadyExists => "already_exists",
    /// Somebody else holds it: a lock, a connected writer.
    Busy => "busy",
    /// Not allowed: permissions, authentication, TLS required or refused, certificate not trusted.
    Denied => "denied",
    /// The peer or the host cannot do this.
    Unsupported => "unsupported",
    /// The target must not be written.
    ReadOnly => "read_only",
    /// The target is full, or smaller than the source.
    NoSpace => "no_space",
    /// The peer cannot be reached, or the connection broke.
    Unreachable => "unreachable",
    /// No progress within the stated deadline.
    Timeout => "timeout",
    /// The caller asked for the end.
    Cancelled => "cancelled",
    /// The peer broke the protocol.
    Protocol => "protocol",
    /// The device or file reported an error.
    Io => "io",
    /// Bytes that must be equal differ, or a record contradicts the bytes.
    Mismatch => "mismatch",
    /// The thing changed its size or identity while it was used.
    Changed => "changed",
    /// A newer epoch holds the right to write.
    Fenced => "fenced",
    /// A tool that is needed is not installed.
    MissingTool => "missing_tool",
    /// A secret stays sealed: another key sealed it, it was damaged, or it was made for another place.
    Sealed => "sealed",
    /// A volume has not the content that was committed to it: another volume, or written by somebody else.
    ForeignContent => "foreign_content",
    /// A fault of this program.
    Internal => "internal",
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Whether trying the same again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The same request will fail the same way.
    Never,
    /// It may succeed after about this long.
    After(Duration),
    /// It might have helped, and was tried as often as allowed.
    Exhausted,
}

/// The error of this library; see the [module documentation](self).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retry: Retry,
    operation: &'static str,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation` (a verb phrase: `"open file"`), with the cause in words.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let retry = match kind {
            ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Busy => Retry::After(Duration::from_secs(1)),
            _ => Retry::Never,
        };
        Error(Box::new(Inner { kind, retry, operation, message: message.into(), context: Vec::new(), source: None }))
    }

    /// An error made from one of the operating system; the kind follows from its code.
    #[must_use]
    pub fn from_io(operation: &'static str, source: io::Error) -> Self {
        let (kind, message) = classify(&source);
        Error::new(kind, operation, message).with_source(source)
    }

    /// Adds a context pair; the first value of a key wins, so the place nearest to the fault is believed.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        if !self.0.context.iter().any(|(k, _)| *k == key) {
            self.0.context.push((key, value.to_string()));
        }
        self
    }

    /// Sets the source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Sets the retry hint.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The operation that failed.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The cause in words, without operation and context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The context pairs, nearest to the fault first.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(k, v)| (*k, v.as_str()))
    }

    /// The value of one context key.
    #[must_use]
    pub fn context_value(&self, key: &str) -> Option<&str> {
        self.context().find(|(k, _)| *k == key).map(|(_, v)| v)
    }
}

/// Kind and words for an error of the operating system.
fn classify(source: &io::Error) -> (ErrorKind, &'static str) {
    use io::ErrorKind as E;
    match source.kind() {
        E::NotFound => (ErrorKind::NotFound, "it does not exist"),
        E::PermissionDenied => (ErrorKind::Denied, "the operating system denies access"),
        E::AlreadyExists => (ErrorKind::AlreadyExists, "it exists already"),
        E::StorageFull => (ErrorKind::NoSpace, "no space left on the device"),
        E::QuotaExceeded => (ErrorKind::NoSpace, "the quota is used up"),
        E::FileTooLarge => (ErrorKind::NoSpace, "the file system cannot hold a file of this size"),
        E::ReadOnlyFilesystem => (ErrorKind::ReadOnly, "the file system is read-only"),
        E::ResourceBusy => (ErrorKind::Busy, "the device is in use"),
        E::ConnectionRefused => (ErrorKind::Unreachable, "nobody listens at this address"),
        E::ConnectionReset => (ErrorKind::Unreachable, "the peer reset the connection"),
        E::ConnectionAborted => (ErrorKind::Unreachable, "the connection was aborted"),
        E::BrokenPipe => (ErrorKind::Unreachable, "the peer closed the connection"),
        E::NotConnected => (ErrorKind::Unreachable, "the connection is gone"),
        E::UnexpectedEof => (ErrorKind::Unreachable, "the peer closed the connection in the middle of a message"),
        E::HostUnreachable => (ErrorKind::Unreachable, "no route to the host"),
        E::NetworkUnreachable => (ErrorKind::Unreachable, "no route to the network"),
        E::AddrInUse => (ErrorKind::Busy, "the address is in use"),
        E::AddrNotAvailable => (ErrorKind::InvalidInput, "this host has no such address"),
        E::TimedOut => (ErrorKind::Timeout, "the operating system gave up waiting"),
        E::InvalidInput => (ErrorKind::InvalidInput, "the operating system refuses the argument"),
        E::IsADirectory => (ErrorKind::InvalidInput, "it is a directory"),
        E::NotADirectory => (ErrorKind::InvalidInput, "a part of the path is not a directory"),
        E::NotSeekable => (ErrorKind::InvalidInput, "it cannot be read at an offset (a pipe or a terminal)"),
        E::Unsupported => (ErrorKind::Unsupported, "the operating system does not support this"),
        E::OutOfMemory => (ErrorKind::NoSpace, "out of memory"),
        _ => (ErrorKind::Io, "input/output error"),
    }
}

impl fmt::Display for Error {
    /// `cannot OPERATION (KEY VALUE, ..): MESSAGE: SOURCE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.0.operation)?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key} {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        write!(f, ": {}", self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_operation_context_and_cause() {
        let e = Error::from_io("open file", io::Error::from(io::ErrorKind::NotFound)).with("path", "/x").with("path", "/y");
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert_eq!(e.to_string(), "cannot open file (path /x): it does not exist: entity not found");
    }

    #[test]
    fn codes_are_unique() {
        let codes: std::collections::BTreeSet<_> = ErrorKind::ALL.iter().map(|k| k.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }
}
