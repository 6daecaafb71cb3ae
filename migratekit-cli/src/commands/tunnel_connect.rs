//! `migratekit tunnel connect`: the VMA's side of the tunnel, kept up until it is ended.
//!
//! Its states are its output: a line for each, or an object for each. What the server says no to at the first time ends it with that
//! error, so that a wrong key or a refused forward is seen by who typed it; after it has stood once, it goes on whatever happens. The file of its
//! key is read at each login: a rotation (`vma rotate-key`) costs it one reconnect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use migratekit_core::task::CancellationToken;
use migratekit_core::tunnels::standing::RefusedForward;
use migratekit_core::tunnels::{
    API_PORT, ClientOptions, LocalForward, LocalService, LoginKey, Reverse, Standing, Tunnel, TunnelOptions, TunnelState, Way,
};
use migratekit_core::{Error, ErrorKind, Result};
use serde_json::json;

use crate::args::{Global, Output, TunnelConnectArgs};
use crate::output;

const CONNECT: &str = "keep a tunnel up";

pub(crate) async fn run(global: &Global, args: TunnelConnectArgs, cancel: CancellationToken) -> Result<()> {
    let (host, port) = server(&args.to)?;
    let print = args.host_key_fingerprint.parse().map_err(|e: Error| e.with("option", "--host-key-fingerprint"))?;
    let mut client = ClientOptions::new(host, port, LoginKey::read(&args.key).await?, print);
    client.user = args.user;
    client.compression = args.compression.into();
    let mut options = TunnelOptions::new(client);
    options.locals = args.local.iter().map(|text| local(text)).collect::<Result<_>>()?;
    options.reverse = args.reverse.as_deref().map(reverse).transpose()?;
    let tunnel = Tunnel::start(options, &cancel).await?;
    let end = follow(global, &tunnel, &args.to, &cancel).await;
    tunnel.close().await?;
    end?;
    say(global, &json!({ "state": "stopped" }), || "stopped".to_owned())
}

/// Says each state, until the end or the first no.
async fn follow(global: &Global, tunnel: &Tunnel, to: &str, cancel: &CancellationToken) -> Result<()> {
    for (listen, forward) in tunnel.locals().iter().zip(&tunnel.options().locals) {
        let port = forward.port;
        say(global, &json!({ "state": "listening", "listen": listen, "port": port }), || {
            format!("listening on {listen} for port {port} of the server")
        })?;
    }
    let (mut state, mut stood) = (tunnel.state(), false);
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            TunnelState::Connecting { attempt } => {
                say(global, &json!({ "state": "connecting", "to": to, "attempt": attempt }), || format!("connecting to {to}"))?;
            }
            TunnelState::Connected(standing) => {
                ready(global, &standing)?;
                if let (false, Some(refused)) = (stood, standing.refused.first()) {
                    return Err(denied(refused));
                }
                stood = true;
            }
            TunnelState::Disconnected { since, why, retry_in } => {
                let again = retry_in.as_millis();
                let line = json!({ "state": "disconnected", "since": since, "kind": why.kind().code(), "why": why.to_string(), "retry_in_ms": again });
                say(global, &line, || format!("disconnected: {why}; again in {:.1} s", retry_in.as_secs_f64()))?;
                if !stood && !matches!(why.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) {
                    return Err(copy(&why));
                }
            }
            _ => return Ok(()),
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = state.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn ready(global: &Global, standing: &Standing) -> Result<()> {
    let refused: Vec<_> = standing.refused.iter().map(|r| json!({ "forward": r.forward.to_string(), "why": r.why })).collect();
    let agreed = standing.agreed.as_ref();
    let line = json!({
        "state": "ready",
        "since": standing.since,
        "server": standing.server,
        "vma": standing.vma,
        "version": agreed.map(|a| a.version),
        "features": agreed.map(|a| &a.features),
        "reverse_port": standing.reverse_port,
        "refused": refused,
    });
    for r in &standing.refused {
        eprintln!("refused: {}: {}", r.forward, r.why);
    }
    say(global, &line, || {
        let name = standing.vma.as_ref().map(|vma| format!(" as {vma}")).unwrap_or_default();
        let back = standing.reverse_port.map(|port| format!(", reached at port {port} of the server")).unwrap_or_default();
        format!("ready{name}{back}")
    })
}

fn denied(refused: &RefusedForward) -> Error {
    Error::new(ErrorKind::Denied, CONNECT, refused.why.clone()).with("forward", refused.forward)
}

/// An error that others hold too.
fn copy(error: &Error) -> Error {
    let again = Error::new(error.kind(), error.operation(), error.message().to_owned());
    error.context().fold(again, |again, (key, value)| again.with(key, value))
}

fn say(global: &Global, object: &serde_json::Value, line: impl FnOnce() -> String) -> Result<()> {
    match global.output {
        Output::Json => output::json_line(object),
        Output::Table => output::line(&line()),
    }
}

/// Reads `HOST:PORT`, or `[ADDRESS]:PORT`.
fn server(text: &str) -> Result<(String, u16)> {
    let refuse = || Error::new(ErrorKind::InvalidInput, CONNECT, "write the server as HOST:PORT").with("to", text);
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(refuse)?;
    if host.is_empty() { Err(refuse()) } else { Ok((host.to_owned(), port)) }
}

const LOCAL_FORM: &str = "write it as [ADDRESS:]PORT:127.0.0.1:PORT: where to listen here, and a port of the server's loopback";
const REVERSE_FORM: &str = "write it as [127.0.0.1:PORT:]ADDRESS:PORT: a port of the server's loopback, and the service here";

/// Reads a forward to the server.
fn local(text: &str) -> Result<LocalForward> {
    let refuse = || Error::new(ErrorKind::InvalidInput, "read a forward", LOCAL_FORM).with("-L", text);
    let parts = parts(text);
    let (listen, to) = match parts.as_slice() {
        [port, host, to] => (address("127.0.0.1", port), service(host, to)),
        [host, port, to_host, to] => (address(host, port), service(to_host, to)),
        _ => return Err(refuse()),
    };
    let (listen, port) = (listen.ok_or_else(refuse)?, to.filter(|to| to.ip().is_loopback()).ok_or_else(refuse)?.port());
    // What is not known to be small has a connection of its own.
    let way = if port == API_PORT { Way::Control } else { Way::OwnConnection };
    Ok(LocalForward { listen, port, way })
}

/// Reads a forward from the server.
fn reverse(text: &str) -> Result<Reverse> {
    let refuse = || Error::new(ErrorKind::InvalidInput, "read a forward", REVERSE_FORM).with("-R", text);
    let parts = parts(text);
    let (at, to) = match parts.as_slice() {
        [host, port] => (None, service(host, port)),
        [at, host, port] => (Some(service("127.0.0.1", at)), service(host, port)),
        [at_host, at, host, port] => (Some(service(at_host, at)), service(host, port)),
        _ => return Err(refuse()),
    };
    let port = at.map(|at| at.filter(|at| at.ip().is_loopback()).map(|at| at.port()).ok_or_else(refuse)).transpose()?;
    Ok(Reverse { port, handler: LocalService(to.ok_or_else(refuse)?).reverse() })
}

/// The parts between the colons, but for those within brackets.
fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut inside) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            ':' if !inside => parts.push(String::new()),
            c => parts.last_mut().into_iter().for_each(|part| part.push(c)),
        }
    }
    parts
}

fn address(host: &str, port: &str) -> Option<SocketAddr> {
    let ip = if host == "localhost" { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { host.parse().ok()? };
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

/// An address with a port that something can have.
fn service(host: &str, port: &str) -> Option<SocketAddr> {
    address(host, port).filter(|address| address.port() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_ssh_writes_them() {
        let forward = |text: &str| local(text).map(|f| (f.listen.to_string(), f.port, f.way)).unwrap();
        assert_eq!(forward("127.0.0.1:10808:127.0.0.1:10809"), ("127.0.0.1:10808".to_owned(), 10809, Way::OwnConnection));
        assert_eq!(forward("10882:localhost:8082"), ("127.0.0.1:10882".to_owned(), 8082, Way::Control));
        assert_eq!(forward("[::1]:0:[::1]:10809"), ("[::1]:0".to_owned(), 10809, Way::OwnConnection));
        let port = |text: &str| reverse(text).unwrap().port;
        assert_eq!(
            (port("127.0.0.1:9081:127.0.0.1:8081"), port("9081:127.0.0.1:8081"), port("127.0.0.1:8081")),
            (Some(9081), Some(9081), None)
        );
        for bad in ["", "1", "1:2", "x:127.0.0.1:1", "1:192.0.2.1:2", "1:127.0.0.1:0", "1:127.0.0.1:70000", "a:1:127.0.0.1:2", "1:2:3:4:5"]
        {
            let error = local(bad).err().unwrap();
            assert_eq!((error.kind(), error.context_value("-L")), (ErrorKind::InvalidInput, Some(bad)));
        }
        for bad in ["", "8081", "0.0.0.0:9081:127.0.0.1:8081", "9081:127.0.0.1:0", "0:127.0.0.1:8081", "a:b:c:d:e"] {
            assert_eq!(reverse(bad).err().unwrap().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn a_server_has_a_host_and_a_port() {
        assert_eq!(server("oma.example:443").unwrap(), ("oma.example".to_owned(), 443));
        assert_eq!(server("[::1]:443").unwrap(), ("::1".to_owned(), 443));
        for bad in ["", "oma", "oma:", ":443", "oma:0", "oma:70000"] {
            assert_eq!(server(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
