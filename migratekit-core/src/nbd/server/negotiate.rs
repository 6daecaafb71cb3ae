//! The driver of the handshake: carries bytes between the socket and the pure machine, and looks exports up for it.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Inner;
use super::exports::{Denied, Exports};
use super::registry::Record;
use super::session::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::epoch::without_proof;
use crate::nbd::handshake::server::{Action, Facts, Handshake, Header, Refusal};
use crate::nbd::handshake::{InfoRequest, MetaQuery};
use crate::nbd::stream::{ReadHalf, WriteHalf};
use crate::nbd::tls;
use crate::nbd::wire::{OPTION_LENGTH, option};

/// A connection in its handshake.
pub(super) struct Negotiation<'a> {
    pub(super) server: &'a Inner,
    pub(super) record: &'a Arc<Record>,
    pub(super) reader: ReadHalf,
    pub(super) writer: WriteHalf,
    machine: Handshake,
}

impl<'a> Negotiation<'a> {
    pub(super) fn new(server: &'a Inner, record: &'a Arc<Record>, (reader, writer): (ReadHalf, WriteHalf)) -> Self {
        let machine = Handshake::new(server.config.limits.handshake, server.config.tls_policy());
        Negotiation { server, record, reader, writer, machine }
    }

    /// Negotiates until the client chose an export (then what it may do, and the stream), or left (`None`).
    pub(super) async fn run(mut self) -> Result<Option<(Session, (ReadHalf, WriteHalf))>> {
        self.send(&Handshake::greeting()).await?;
        let mut flags = [0; 4];
        if !self.read_or_end(&mut flags).await? {
            return Ok(None);
        }
        self.machine.client_flags(u32::from_be_bytes(flags)).map_err(|why| self.broke(why))?;
        let mut header = [0; OPTION_LENGTH];
        while self.read_or_end(&mut header).await? {
            let action = match self.machine.header(&header) {
                Header::Close(why) => return Err(self.broke(why)),
                Header::Skip { length, reply } => {
                    self.skip(length).await?;
                    Action::Reply(reply)
                }
                Header::Data { code, length } => {
                    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
                    self.reader.read_exact(&mut data).await.map_err(|e| self.lost(e))?;
                    self.machine.option(code, &data)
                }
            };
            match action {
                Action::Reply(bytes) => self.send(&bytes).await?,
                Action::End(bytes) => {
                    // A client that said ABORT may not wait for the answer.
                    let _ = self.send(&bytes).await;
                    return Ok(None);
                }
                Action::Close(why) => return Err(self.broke(why)),
                Action::StartTls(bytes) => self = self.start_tls(&bytes).await?,
                Action::List => {
                    let names = self.server.exports.shown_names(self.record).await;
                    self.send(&self.machine.list(&names)).await?;
                }
                Action::Meta { query, set } => self.meta(&query, set).await?,
                Action::Info { request, go } => {
                    if let Some(session) = self.info(&request, go).await? {
                        return Ok(Some((session.negotiated(self.machine, &request.name), (self.reader, self.writer))));
                    }
                }
                Action::ExportName(name) => {
                    let session = self.export_name(&name).await?;
                    return Ok(Some((session.negotiated(self.machine, &name), (self.reader, self.writer))));
                }
            }
        }
        Ok(None)
    }

    async fn start_tls(mut self, reply: &[u8]) -> Result<Self> {
        let Some(config) = self.server.config.tls.clone() else {
            return Err(self.broke("TLS is not configured"));
        };
        self.send(reply).await?;
        (self.reader, self.writer) = tls::accept(config, self.reader, self.writer)
            .await
            .map_err(|e| Error::from_io("begin TLS with a client", e).with("client", &self.record.peer))?;
        Ok(self)
    }

    async fn meta(&mut self, query: &MetaQuery, set: bool) -> Result<()> {
        let code = if set { option::SET_META_CONTEXT } else { option::LIST_META_CONTEXT };
        let reply = match facts(self.server, self.record, &query.export).await {
            Ok(facts) => self.machine.meta(query, set, &facts),
            Err((refusal, why)) => self.machine.refuse(code, refusal, &why),
        };
        self.send(&reply).await
    }

    /// Answers INFO and GO; a success of GO gives the session.
    async fn info(&mut self, request: &InfoRequest, go: bool) -> Result<Option<Opened>> {
        let code = if go { option::GO } else { option::INFO };
        let answer = match facts(self.server, self.record, &request.name).await {
            Ok(facts) => {
                let (bytes, accepted) = self.machine.info(request, go, &facts);
                if go && accepted {
                    admit(self.server, self.record, self.machine.pass(&facts.name), &facts).await.map(|o| (bytes, Some(o)))
                } else {
                    Ok((bytes, None))
                }
            }
            Err(denied) => Err(denied),
        };
        match answer {
            Ok((bytes, opened)) => {
                self.send(&bytes).await?;
                Ok(opened)
            }
            Err((refusal, why)) => {
                tracing::info!(client = %self.record.peer, export = %without_proof(&request.name), why, "an export is refused");
                self.send(&self.machine.refuse(code, refusal, &why)).await?;
                Ok(None)
            }
        }
    }

    /// Answers EXPORT_NAME, which has no way to say no but to close.
    async fn export_name(&mut self, name: &str) -> Result<Opened> {
        let denied = |(_, why): Denied| {
            Error::new(ErrorKind::Denied, "serve a connection", why).with("client", &self.record.peer).with("export", without_proof(name))
        };
        let facts = facts(self.server, self.record, name).await.map_err(denied)?;
        let Some(bytes) = self.machine.export_name(&facts) else {
            return Err(denied((Refusal::Policy, "a client that cannot learn the block size may not use it".to_owned())));
        };
        let opened = admit(self.server, self.record, self.machine.pass(name), &facts).await.map_err(denied)?;
        self.send(&bytes).await?;
        Ok(opened)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        sent.await.map_err(|e| self.lost(e))
    }

    /// Reads all of `space`; `false` when the client closed before its first byte.
    async fn read_or_end(&mut self, space: &mut [u8]) -> Result<bool> {
        let n = self.reader.read(space).await.map_err(|e| self.lost(e))?;
        if n == 0 {
            return Ok(false);
        }
        self.reader.read_exact(space.get_mut(n..).unwrap_or(&mut [])).await.map_err(|e| self.lost(e))?;
        Ok(true)
    }

    async fn skip(&mut self, length: u32) -> Result<()> {
        let mut rest = (&mut self.reader).take(u64::from(length));
        let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map_err(|e| self.lost(e))?;
        if skipped < u64::from(length) { Err(self.lost(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }

    fn lost(&self, e: io::Error) -> Error {
        Error::from_io("negotiate with a client", e).with("client", &self.record.peer)
    }

    fn broke(&self, why: &'static str) -> Error {
        Error::new(ErrorKind::Protocol, "negotiate with a client", why).with("client", &self.record.peer)
    }
}

/// What is told of an export.
async fn facts(server: &Inner, record: &Record, name: &str) -> Result<Facts, Denied> {
    if record.drain.is_cancelled() {
        return Err((Refusal::Shutdown, "the server is shutting down".to_owned()));
    }
    let found = server.exports.find(name, record).await?;
    Exports::facts(&found, server.config.limits.payload)
}

/// Opens an export for a connection; on a refusal the connection is bound to nothing.
async fn admit(server: &Inner, record: &Arc<Record>, pass: Option<&str>, facts: &Facts) -> Result<Opened, Denied> {
    let found = server.exports.find(&facts.name, record).await?;
    let admitted = server.exports.admit(&found, pass, record).await.inspect_err(|_| *record.binding() = None)?;
    Ok(Opened { admitted, facts: facts.clone(), extents: server.config.limits.status_extents })
}

/// An export opened for a connection, before what was negotiated is added.
struct Opened {
    admitted: super::exports::Admitted,
    facts: Facts,
    extents: u32,
}

impl Opened {
    fn negotiated(self, machine: Handshake, name: &str) -> Session {
        let negotiated = machine.finish(name);
        Session {
            disk: self.admitted.disk,
            info: self.facts.info,
            export: self.admitted.export,
            pass: self.admitted.pass,
            structured: negotiated.structured,
            contexts: negotiated.contexts,
            max_payload: self.facts.max_payload,
            max_extents: usize::try_from(self.extents).unwrap_or(usize::MAX),
        }
    }
}
