//! What two ends of ours tell each other at the beginning of a control connection, without I/O.
//!
//! ```text
//!  VMA ── opens a stream to port 0 of the OMA, which no real service has ──▶ OMA
//!      ── {"hello":{"version":1,"least":1,"features":["probe"],"instance":"..","agent":"migratekit 0.1"}} ──▶
//!      ◀── {"hello":{"version":1,"least":1,"features":["probe"],"agent":"..","vma":"site-1","reverse_port":9081,"ports":[8082,10809]}} ──
//!      ◀── {"probe":1} ──▶   {"answer":1}     either side, for as long as the connection lives
//! ```
//!
//! One line of JSON is one message. What a side does not know, it passes over: a message, a field, a feature. `version` is the newest
//! protocol that a side speaks, `least` the oldest: the newest that both speak is spoken, so N and N-1 work together as long as N still
//! knows N-1. Where there is none, both say which side has to be updated. A server without this stream is a foreign one (OpenSSH): then
//! nothing is agreed, and the port for the way back must be given.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The port of the stream on which the two ends speak with each other. No service can have it.
pub const HELLO_PORT: u16 = 0;

/// The newest version of the protocol that this program speaks.
pub const VERSION: u32 = 1;
/// The oldest version it still speaks.
pub const LEAST_VERSION: u32 = 1;
/// The feature: each side asks the other again and again whether it lives, and answers.
pub const PROBE: &str = "probe";

/// The longest line, in bytes. A hello of ours has some hundred.
pub(super) const MAX_LINE: usize = 8 * 1024;
/// The longest word of a peer that is repeated in logs and rows, in characters.
const MAX_WORD: usize = 100;

/// What a side speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialect {
    /// The newest version.
    pub version: u32,
    /// The oldest version.
    pub least: u32,
    /// What it can do besides.
    #[serde(default)]
    pub features: BTreeSet<String>,
}

impl Default for Dialect {
    /// That of this program.
    fn default() -> Self {
        Dialect { version: VERSION, least: LEAST_VERSION, features: BTreeSet::from([PROBE.to_owned()]) }
    }
}

/// How a side introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    #[serde(flatten)]
    pub(super) speaks: Dialect,
    /// The program and its release.
    #[serde(default)]
    pub(super) agent: String,
    /// VMA: the same for all its connections until it is started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    /// OMA: the name by which it knows the VMA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vma: Option<String>,
    /// OMA: the port at which the VMA listens there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reverse_port: Option<u16>,
    /// OMA: the ports that can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ports: Option<BTreeSet<u16>>,
}

impl Hello {
    pub(super) fn new(speaks: Dialect) -> Self {
        let agent = format!("migratekit {}", env!("CARGO_PKG_VERSION"));
        Hello { speaks, agent, instance: None, vma: None, reverse_port: None, ports: None }
    }

    /// A word of the peer, fit for a log.
    pub(super) fn agent(&self) -> String {
        self.agent.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect()
    }
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hello: Option<Hello>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) probe: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<u64>,
}

impl Message {
    pub(super) fn hello(hello: Hello) -> Self {
        Message { hello: Some(hello), ..Message::default() }
    }

    pub(super) fn probe(number: u64) -> Self {
        Message { probe: Some(number), ..Message::default() }
    }

    pub(super) fn answer(number: u64) -> Self {
        Message { answer: Some(number), ..Message::default() }
    }

    /// As it is sent.
    pub(super) fn line(&self) -> Result<Vec<u8>> {
        let fail = |e| Error::new(ErrorKind::Internal, SPEAK, "a message cannot be written").with_source(e);
        let mut line = serde_json::to_vec(self).map_err(fail)?;
        line.push(b'\n');
        Ok(line)
    }

    /// Reads a line.
    pub(super) fn read(line: &[u8]) -> Result<Self> {
        serde_json::from_slice(line)
            .map_err(|e| Error::new(ErrorKind::Protocol, SPEAK, "the other side says something that is no message").with_source(e))
    }
}

pub(super) const SPEAK: &str = "speak with the other side of the tunnel";

/// What both sides speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The version.
    pub version: u32,
    /// What both can do besides.
    pub features: BTreeSet<String>,
}

/// What `ours` and `theirs` have in common.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when that is nothing; the text says which side is to be updated.
pub fn agree(ours: &Dialect, theirs: &Dialect) -> Result<Agreed> {
    let version = ours.version.min(theirs.version);
    if version >= ours.least.max(theirs.least) {
        let features = ours.features.intersection(&theirs.features).cloned().collect();
        return Ok(Agreed { version, features });
    }
    let text = if ours.version < theirs.least {
        "the other side has become too new for this one: update MigrateKit on this side"
    } else {
        "the other side is too old for this one: update MigrateKit on the other side"
    };
    let range = |d: &Dialect| format!("{} to {}", d.least, d.version);
    Err(Error::new(ErrorKind::Unsupported, "agree upon a version of the tunnel", text)
        .with("this_side_speaks", range(ours))
        .with("other_side_speaks", range(theirs)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dialect(least: u32, version: u32, features: &[&str]) -> Dialect {
        Dialect { version, least, features: features.iter().map(|f| (*f).to_owned()).collect() }
    }

    #[test]
    fn neighbours_agree_upon_the_older_version_and_on_what_both_can() {
        let (n, before, after) = (dialect(2, 3, &["a", "b"]), dialect(1, 2, &["b", "c"]), dialect(3, 4, &["b"]));
        for other in [&before, &after] {
            let agreed = agree(&n, other).unwrap();
            assert_eq!(agreed, agree(other, &n).unwrap(), "both sides come to the same");
            assert_eq!((agreed.version, agreed.features), (n.version.min(other.version), BTreeSet::from(["b".to_owned()])));
        }
    }

    #[test]
    fn who_has_nothing_in_common_is_told_which_side_to_update() {
        let (old, new) = (dialect(1, 1, &[]), dialect(2, 3, &[]));
        let (here, there) = (agree(&old, &new).unwrap_err(), agree(&new, &old).unwrap_err());
        assert!(here.kind() == ErrorKind::Unsupported && here.message().ends_with("on this side"), "{here}");
        assert!(there.kind() == ErrorKind::Unsupported && there.message().ends_with("on the other side"), "{there}");
        assert_eq!((here.context_value("this_side_speaks"), here.context_value("other_side_speaks")), (Some("1 to 1"), Some("2 to 3")));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let later = br#"{"hello":{"version":7,"least":1,"features":["probe","warp"],"colour":"red","ports":[1]},"more":{"a":[]}}"#;
        let hello = Message::read(later).unwrap().hello.unwrap();
        assert_eq!(agree(&Dialect::default(), &hello.speaks).unwrap(), Agreed { version: 1, features: [PROBE.to_owned()].into() });
        assert_eq!(Message::read(br#"{"rekey_soon":true}"#).unwrap(), Message::default());
        let least = Message::read(br#"{"hello":{"version":1,"least":1}}"#).unwrap().hello.unwrap();
        assert!(least.speaks.features.is_empty() && least.reverse_port.is_none());
    }

    #[test]
    fn a_hello_reads_back_and_is_one_short_line() {
        let mut hello = Hello::new(Dialect::default());
        (hello.vma, hello.reverse_port, hello.ports) = (Some("site\n1".to_owned()), Some(9081), Some([8082, 10809].into()));
        let message = Message::hello(hello);
        let line = message.line().unwrap();
        assert!(line.len() < MAX_LINE && line.iter().filter(|b| **b == b'\n').count() == 1);
        assert_eq!(Message::read(&line).unwrap(), message);
    }

    proptest! {
        #[test]
        fn reading_never_panics(line in prop::collection::vec(any::<u8>(), 0..200), tail in "[\\[{\"hello:0-9,}\\]]{0,60}") {
            let _ = Message::read(&line);
            let _ = Message::read(tail.as_bytes());
        }

        #[test]
        fn both_sides_agree_or_neither_does(a in 0_u32..5, b in 0_u32..5, c in 0_u32..5, d in 0_u32..5) {
            let (one, two) = (dialect(a.min(b), a.max(b), &[]), dialect(c.min(d), c.max(d), &[]));
            let common = one.least.max(two.least) <= one.version.min(two.version);
            prop_assert_eq!(agree(&one, &two).ok(), agree(&two, &one).ok());
            prop_assert_eq!(agree(&one, &two).is_ok(), common);
        }
    }
}
