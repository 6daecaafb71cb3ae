//! What a peer may ask for, and who: the whole rule of "no way in", as a function without I/O.
//!
//! A VMA may open streams to the ports that the server serves, on the server's own loopback address, and may listen at one port: the
//! one that is its own. Everything else an SSH client can ask for is refused, each with its reason.

use std::fmt;

use super::Vma;

/// The names and addresses by which a peer may call the server's own loopback.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "::1"];

/// What an authenticated peer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish<'a> {
    /// A session channel, on which shell, exec, terminal, X11, agent, environment and subsystems are asked for.
    Session,
    /// One of those, on a channel that is no session.
    Program(&'a str),
    /// A stream to a port (`-L`).
    Stream {
        /// The host as the peer names it.
        host: &'a str,
        /// The port.
        port: u32,
    },
    /// To listen at a port of ours (`-R`).
    Listen {
        /// The address as the peer names it.
        address: &'a str,
        /// The port; 0 is any.
        port: u32,
    },
    /// To listen at, or to reach, a Unix socket.
    UnixSocket,
    /// A channel that only a server opens.
    Reverse,
    /// An X11 channel.
    X11,
}

/// The answer to a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: this port.
    Port(u16),
    /// No.
    Refused(Refusal),
}

/// Why a wish is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No programs run here.
    NoSessions,
    /// The host is not this one.
    ForeignHost,
    /// Nothing is served at the port.
    UnknownPort,
    /// The port is not the VMA's own.
    ForeignPort,
    /// Not the loopback address.
    OpenListener,
    /// No Unix sockets.
    NoUnixSockets,
    /// Only a server opens such channels.
    WrongWay,
    /// No X11.
    NoX11,
    /// The connection has as many channels as it may.
    TooManyChannels,
    /// Somebody else listens at the port.
    PortTaken,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoSessions => "no session is given: no shell, no command, no terminal, no subsystem",
            Refusal::ForeignHost => "only the server's own loopback address can be reached",
            Refusal::UnknownPort => "nothing is served at this port",
            Refusal::ForeignPort => "this port is not the one of this VMA",
            Refusal::OpenListener => "a port can be held at the loopback address only",
            Refusal::NoUnixSockets => "no Unix sockets are forwarded",
            Refusal::WrongWay => "such a channel is opened by the server only",
            Refusal::NoX11 => "no X11 is forwarded",
            Refusal::TooManyChannels => "the connection has as many channels as it may",
            Refusal::PortTaken => "another VMA or another program listens at this port already",
        })
    }
}

/// Judges a wish of `vma`; `served` are the ports with a handler.
#[must_use]
pub fn judge(wish: &Wish<'_>, vma: &Vma, served: &[u16]) -> Verdict {
    let loopback = |name: &str| LOOPBACK.contains(&name);
    match wish {
        Wish::Session | Wish::Program(_) => Verdict::Refused(Refusal::NoSessions),
        Wish::UnixSocket => Verdict::Refused(Refusal::NoUnixSockets),
        Wish::Reverse => Verdict::Refused(Refusal::WrongWay),
        Wish::X11 => Verdict::Refused(Refusal::NoX11),
        Wish::Stream { host, .. } if !loopback(host) => Verdict::Refused(Refusal::ForeignHost),
        Wish::Stream { port, .. } => match served.iter().find(|p| u32::from(**p) == *port) {
            Some(port) => Verdict::Port(*port),
            None => Verdict::Refused(Refusal::UnknownPort),
        },
        Wish::Listen { address, .. } if !loopback(address) => Verdict::Refused(Refusal::OpenListener),
        Wish::Listen { port, .. } => match vma.reverse_port {
            Some(own) if u32::from(own) == *port => Verdict::Port(own),
            _ => Verdict::Refused(Refusal::ForeignPort),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vma(reverse_port: Option<u16>) -> Vma {
        Vma { name: "vma-1".to_owned(), reverse_port }
    }

    fn host() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("127.0.0.1".to_owned()),
            Just("localhost".to_owned()),
            Just("::1".to_owned()),
            Just(String::new()),
            Just("0.0.0.0".to_owned()),
            Just("*".to_owned()),
            Just("127.0.0.1\0".to_owned()),
            Just("LOCALHOST".to_owned()),
            "[a-z0-9.:]{1,15}",
        ]
    }

    proptest! {
        #[test]
        fn a_stream_is_given_to_a_served_port_of_the_loopback_and_to_nothing_else(
            host in host(), port in any::<u32>(), served in prop::collection::vec(any::<u16>(), 0..4), pick in any::<bool>(),
        ) {
            let port = served.first().filter(|_| pick).map_or(port, |p| u32::from(*p));
            let verdict = judge(&Wish::Stream { host: &host, port }, &vma(Some(9081)), &served);
            let right = matches!(host.as_str(), "127.0.0.1" | "localhost" | "::1") && served.iter().any(|p| u32::from(*p) == port);
            match verdict {
                Verdict::Port(given) => prop_assert!(right && u32::from(given) == port),
                Verdict::Refused(_) => prop_assert!(!right),
            }
        }

        #[test]
        fn a_vma_listens_at_its_own_port_and_at_no_other(
            address in host(), port in any::<u32>(), own in prop::option::of(1_u16..), pick in any::<bool>(), served in any::<u16>(),
        ) {
            let port = own.filter(|_| pick).map_or(port, u32::from);
            let verdict = judge(&Wish::Listen { address: &address, port }, &vma(own), &[served]);
            let right = matches!(address.as_str(), "127.0.0.1" | "localhost" | "::1") && own.is_some_and(|p| u32::from(p) == port);
            prop_assert_eq!(matches!(verdict, Verdict::Port(given) if u32::from(given) == port), right);
        }

        #[test]
        fn nothing_else_is_ever_given(served in prop::collection::vec(any::<u16>(), 0..4), own in prop::option::of(any::<u16>())) {
            for wish in [Wish::Session, Wish::Program("shell"), Wish::UnixSocket, Wish::Reverse, Wish::X11] {
                prop_assert!(matches!(judge(&wish, &vma(own), &served), Verdict::Refused(_)));
            }
        }
    }

    #[test]
    fn each_refusal_has_a_text_of_its_own() {
        use Refusal::*;
        let all =
            [NoSessions, ForeignHost, UnknownPort, ForeignPort, OpenListener, NoUnixSockets, WrongWay, NoX11, TooManyChannels, PortTaken];
        let texts: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), all.len());
    }
}
