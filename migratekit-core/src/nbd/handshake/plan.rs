//! What a client wants of a handshake, and what its machine wants of the driver.

/// What the client wants of the server.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The name of the export.
    pub export: String,
    /// What for.
    pub purpose: Purpose,
    /// How much of the protocol to use.
    pub style: Style,
    /// Whether to ask for TLS, and to fail without it.
    pub tls: bool,
    /// Meta contexts to select, by their full names.
    pub contexts: Vec<String>,
    /// For each entry one LIST_META_CONTEXT with these queries (none: list all).
    pub list_contexts: Vec<Vec<String>>,
}

/// What the handshake ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Transmission.
    #[default]
    Open,
    /// The list of exports; then the client leaves.
    List,
}

/// How much of the protocol to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// All options.
    #[default]
    Full,
    /// EXPORT_NAME alone, for servers that hang up on an option they do not know.
    ExportNameOnly,
}

/// What to do after the bytes of a [`Step`] were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Read [`super::client::Machine::wants`] bytes and feed them.
    More,
    /// Wrap the stream in TLS (nothing may have been read ahead), then call [`super::client::Machine::tls_started`].
    StartTls,
    /// The handshake is over: take [`super::client::Machine::finish`].
    Done,
}

/// What one call of the machine wants done.
#[derive(Debug)]
pub struct Step {
    /// Bytes to send first; may be empty.
    pub send: Vec<u8>,
    /// What comes then.
    pub then: Then,
}
