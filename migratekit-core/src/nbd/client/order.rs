//! A request on its way through the client, with everything that is given back when it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::assembly::{Assembly, Expect, Outcome};
use super::durability::Durability;
use crate::error::{Error, Result};
use crate::nbd::handshake::facts::MetaContext;

/// One request: what to send, what to expect, whom to tell.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) command: u16,
    pub(crate) flags: u16,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    /// Of a WRITE; else empty.
    pub(crate) payload: Bytes,
    pub(crate) expect: Expect,
    pub(crate) assembly: Assembly,
    pub(crate) reply: Option<oneshot::Sender<Result<Outcome>>>,
    /// What it is called in errors.
    pub(crate) operation: &'static str,
    pub(crate) hold: Hold,
}

impl Order {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// The reply is complete. The error returned is a fault of the server against the protocol.
    pub(crate) fn complete(mut self, contexts: &[MetaContext]) -> Result<()> {
        let assembly = std::mem::replace(&mut self.assembly, Assembly::new(Expect::Done));
        match assembly.finish(contexts) {
            Ok(result) => {
                let result = result.map_err(|e| e.into_error(self.operation));
                self.answer(result);
                Ok(())
            }
            Err(fault) => {
                let offset = self.offset;
                self.answer(Err(copy_of(&fault)));
                Err(fault.with("offset", offset))
            }
        }
    }

    /// Tells the caller.
    pub(crate) fn answer(mut self, result: Result<Outcome>) {
        if result.is_ok() {
            self.hold.acknowledged();
        }
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result.map_err(|e| e.with("offset", self.offset)));
        }
    }

    /// Ready to be sent anew on another connection: what came of its reply is forgotten.
    pub(crate) fn renewed(mut self) -> Self {
        self.assembly = Assembly::new(self.expect);
        self
    }
}

/// What a request holds until it ends: its share of the bytes under way, its weight on a connection, its place in the account of
/// writes.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) load: Arc<AtomicU64>,
    pub(crate) weight: u64,
    pub(crate) write: Option<WriteAccount>,
}

/// The place of a write in the account of [`Durability`].
#[derive(Debug)]
pub(crate) struct WriteAccount {
    pub(crate) account: Arc<Mutex<Durability>>,
    pub(crate) connection: usize,
}

impl Hold {
    fn acknowledged(&mut self) {
        if let Some(write) = self.write.take() {
            write.account.lock().unwrap_or_else(PoisonError::into_inner).write_ends(write.connection, true);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.load.fetch_sub(self.weight, Ordering::Relaxed);
        if let Some(write) = self.write.take() {
            write.account.lock().unwrap_or_else(PoisonError::into_inner).write_ends(write.connection, false);
        }
    }
}

/// The same error once more, for the second of those who must hear it.
pub(crate) fn copy_of(error: &Error) -> Error {
    let message = match std::error::Error::source(error) {
        Some(source) => format!("{}: {source}", error.message()),
        None => error.message().to_owned(),
    };
    let mut copy = Error::new(error.kind(), error.operation(), message).with_retry(error.retry());
    for (key, value) in error.context() {
        copy = copy.with(key, value);
    }
    copy
}
