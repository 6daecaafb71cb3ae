//! How the program is asked to end: Ctrl-C (SIGINT) cancels what runs, SIGTERM and SIGHUP stop it so that it can go on later; a second
//! signal of any kind leaves at once with code 130.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use migratekit_core::task::CancellationToken;

/// Asked to end, and how. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    token: CancellationToken,
    interrupted: Arc<AtomicBool>,
}

impl Ending {
    /// Ends with the first signal.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Whether it was Ctrl-C: what runs is not wanted any more. Otherwise only this process has to end.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Listens for signals until the program ends.
    pub(crate) async fn listen(self) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            return;
        };
        loop {
            let interrupted = tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => false,
                _ = hangup.recv() => false,
            };
            if self.token.is_cancelled() {
                std::process::exit(130);
            }
            if std::io::stderr().is_terminal() {
                eprintln!("stopping; once more leaves at once");
            }
            self.interrupted.store(interrupted, Ordering::SeqCst);
            self.token.cancel();
        }
    }
}
