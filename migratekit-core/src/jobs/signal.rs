//! The signals by which a process is asked to end: its jobs are then laid down in good order.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

/// Listens from its making on, so that no signal in between ends the process.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to listen for SIGTERM, SIGHUP and SIGINT.
    pub fn listen() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|e| Error::from_io("listen for signals", e));
        Ok(StopSignals {
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    /// Waits for one, and names it. [`Runner::stop`](super::Runner::stop) is what follows.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
