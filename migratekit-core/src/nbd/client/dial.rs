//! From an address to a connection that is ready for requests: socket, handshake, TLS, and the way back to plainer forms of the
//! handshake for servers that hang up on options.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::options::{Dialer, Timeouts};
use super::tls::Tls;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::handshake::client::{Machine, Plan, Style, Then};
use crate::nbd::handshake::facts::Negotiated;
use crate::nbd::stream::{ByteStream, ReadHalf, WriteHalf, split_any};
use crate::nbd::uri::{Endpoint, Uri};

const OPERATION: &str = "connect to the NBD server";

/// Where connections come from.
pub(crate) enum Origin {
    /// An address; can be dialled again.
    Uri(Uri, Option<Tls>),
    /// Somebody who makes streams; can be asked again.
    Dialer(Dialer),
    /// One stream; when it breaks there is no other.
    Once(Mutex<Option<Box<dyn ByteStream>>>),
}

/// A connection after its handshake.
pub(crate) struct Opened {
    pub(crate) halves: (ReadHalf, WriteHalf),
    pub(crate) facts: Negotiated,
    /// The style that succeeded; later connections begin with it.
    pub(crate) style: Style,
    /// The shortest time from a question of the handshake to its answer.
    pub(crate) round_trip: Duration,
}

impl Origin {
    /// A new connection. `plan.style` falls back to EXPORT_NAME alone where the server hangs up on an option.
    pub(crate) async fn open(&self, mut plan: Plan, timeouts: Timeouts) -> Result<Opened> {
        plan.tls = matches!(self, Origin::Uri(_, Some(_)));
        match self.attempt(plan.clone(), timeouts).await {
            Err((e, true)) if plan.style == Style::Full && !matches!(self, Origin::Once(_)) => {
                plan.style = Style::ExportNameOnly;
                // Where the plainest form fails too, the server is simply gone, or has no such export: that is the better error.
                self.attempt(plan, timeouts).await.map_err(|(second, _)| second.with("first-attempt", e.message()))
            }
            other => other.map_err(|(e, _)| e),
        }
    }

    /// Another connection to an export that is open, in the style in which it was opened: who hangs up now does so for other reasons than an
    /// option, and the plainest form would lead to an export without its contexts.
    pub(crate) async fn again(&self, mut plan: Plan, timeouts: Timeouts) -> Result<Opened> {
        plan.tls = matches!(self, Origin::Uri(_, Some(_)));
        self.attempt(plan, timeouts).await.map_err(|(e, _)| e)
    }

    /// One attempt. The flag of an error: whether the server hung up where it may have disliked an option.
    async fn attempt(&self, plan: Plan, timeouts: Timeouts) -> Result<Opened, (Error, bool)> {
        let style = plan.style;
        let mut machine = Machine::new(plan);
        let mut round_trip = Duration::MAX;
        let halves = match self {
            Origin::Uri(uri, tls) => match &uri.endpoint {
                Endpoint::Tcp { host, port } => {
                    let connect = TcpStream::connect((host.as_str(), *port));
                    let stream = limited(timeouts.connect, "connect", connect).await.map_err(plain)?.map_err(|e| {
                        let named = e.raw_os_error().is_none();
                        let e = Error::from_io(OPERATION, e).with("host", host).with("port", port);
                        plain(if named {
                            Error::new(ErrorKind::NotFound, OPERATION, "the host name is not known").with("host", host).with_source(e)
                        } else {
                            e
                        })
                    })?;
                    let _ = stream.set_nodelay(true);
                    shake(stream, tls.as_ref(), &mut machine, timeouts, &mut round_trip).await?
                }
                Endpoint::Unix(path) => {
                    let stream = limited(timeouts.connect, "connect", UnixStream::connect(path))
                        .await
                        .map_err(plain)?
                        .map_err(|e| plain(Error::from_io(OPERATION, e).with("socket", path.display())))?;
                    shake(stream, tls.as_ref(), &mut machine, timeouts, &mut round_trip).await?
                }
            },
            Origin::Dialer(dialer) => {
                let stream = limited(timeouts.connect, "connect", dialer.dial()).await.map_err(plain)?.map_err(plain)?;
                over(stream, &mut machine, timeouts, &mut round_trip).await?
            }
            Origin::Once(place) => {
                let stream = place.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = stream.ok_or_else(|| {
                    plain(Error::new(ErrorKind::Unreachable, OPERATION, "the one stream of this client broke, and it cannot make another"))
                })?;
                over(stream, &mut machine, timeouts, &mut round_trip).await?
            }
        };
        let round_trip = if round_trip == Duration::MAX { Duration::ZERO } else { round_trip };
        Ok(Opened { halves, facts: machine.finish(), style, round_trip })
    }

    /// Whether a second connection can be made.
    pub(crate) fn can_repeat(&self) -> bool {
        !matches!(self, Origin::Once(_))
    }
}

fn plain(e: Error) -> (Error, bool) {
    (e, false)
}

async fn limited<T>(time: Duration, what: &'static str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(time, work).await.map_err(|_| {
        let message = match what {
            "connect" => "the connection was not made within the deadline",
            _ => "the server did not finish the handshake within the deadline",
        };
        Error::new(ErrorKind::Timeout, OPERATION, message).with("deadline-seconds", time.as_secs_f64())
    })
}

/// The handshake over two halves, without TLS.
async fn over(
    stream: Box<dyn ByteStream>,
    machine: &mut Machine,
    timeouts: Timeouts,
    round_trip: &mut Duration,
) -> Result<(ReadHalf, WriteHalf), (Error, bool)> {
    let (mut r, mut w) = stream.split();
    limited(timeouts.handshake, "handshake", drive(&mut r, &mut w, machine, Vec::new(), round_trip)).await.map_err(plain)??;
    Ok((r, w))
}

/// The handshake over a socket, with TLS where the plan has it.
async fn shake<S>(
    stream: S,
    tls: Option<&Tls>,
    machine: &mut Machine,
    timeouts: Timeouts,
    round_trip: &mut Duration,
) -> Result<(ReadHalf, WriteHalf), (Error, bool)>
where
    S: AsyncRead + AsyncWrite + ByteStream + Unpin + 'static,
{
    let work = async {
        let mut stream = stream;
        let then = {
            let (mut r, mut w) = tokio::io::split(&mut stream);
            drive(&mut r, &mut w, machine, Vec::new(), round_trip).await?
        };
        let (Then::StartTls, Some(tls)) = (then, tls) else {
            return Ok(Box::new(stream).split());
        };
        let secured = tokio_rustls::TlsConnector::from(tls.config.clone()).connect(tls.name.clone(), stream).await;
        let secured = secured.map_err(|e| plain(tls_error(e)))?;
        let (mut r, mut w) = split_any(secured).split();
        let first = machine.tls_started().map_err(plain)?;
        drive(&mut r, &mut w, machine, first.send, round_trip).await?;
        Ok((r, w))
    };
    limited(timeouts.handshake, "handshake", work).await.map_err(plain)?
}

/// Why TLS did not come about.
fn tls_error(e: std::io::Error) -> Error {
    let cause = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. },
        )) => Error::new(ErrorKind::Denied, OPERATION, "the server's certificate bears another name").with_source(e),
        Some(rustls::Error::InvalidCertificate(_)) => {
            Error::new(ErrorKind::Denied, OPERATION, "the server's certificate is not trusted").with_source(e)
        }
        Some(rustls::Error::AlertReceived(_)) => {
            Error::new(ErrorKind::Denied, OPERATION, "the server refuses the TLS connection (it may want a client certificate)")
                .with_source(e)
        }
        Some(_) => Error::new(ErrorKind::Protocol, OPERATION, "the TLS handshake failed").with_source(e),
        None => Error::new(ErrorKind::Unreachable, OPERATION, "the connection broke during the TLS handshake").with_source(e),
    }
}

/// Runs the machine until it is done or wants TLS. `round_trip` becomes the shortest wait for an answer.
async fn drive<R, W>(r: &mut R, w: &mut W, machine: &mut Machine, first: Vec<u8>, round_trip: &mut Duration) -> Result<Then, (Error, bool)>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut send = first;
    let mut bytes = Vec::new();
    loop {
        if !send.is_empty() {
            let sent = async {
                w.write_all(&send).await?;
                w.flush().await
            };
            sent.await.map_err(|e| hung_up(machine, e))?;
        }
        let asked = clock::now();
        bytes.resize(machine.wants(), 0);
        r.read_exact(&mut bytes).await.map_err(|e| hung_up(machine, e))?;
        if !send.is_empty() {
            *round_trip = (*round_trip).min(asked.elapsed());
        }
        let step = machine.feed(&bytes).map_err(plain)?;
        send = step.send;
        if step.then != Then::More {
            if !send.is_empty() {
                let _ = w.write_all(&send).await;
                let _ = w.flush().await;
            }
            return Ok(step.then);
        }
    }
}

/// The error for a stream that ended during the handshake, and whether the server may have ended it over an option.
fn hung_up(machine: &Machine, e: std::io::Error) -> (Error, bool) {
    use std::io::ErrorKind as E;
    // A server that closes with our bytes unread makes a reset of it.
    let closed = matches!(e.kind(), E::UnexpectedEof | E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe);
    let of_tls = e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    let error = match () {
        () if closed => machine.closed(),
        // With TLS 1.3 the server refuses a client's certificate after the client thinks that TLS is done.
        () if of_tls => tls_error(e),
        () => Error::from_io(OPERATION, e),
    };
    (error, closed && machine.may_dislike_options())
}
