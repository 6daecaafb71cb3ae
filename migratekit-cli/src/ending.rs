//! How the program is asked to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP cancel what runs; a second signal leaves at once with code 130.

use std::io::IsTerminal;

use migratekit_core::task::CancellationToken;

/// Asked to end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    token: CancellationToken,
}

impl Ending {
    /// Ends with the first signal.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
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
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if self.token.is_cancelled() {
                std::process::exit(130);
            }
            if std::io::stderr().is_terminal() {
                eprintln!("stopping; once more leaves at once");
            }
            self.token.cancel();
        }
    }
}
