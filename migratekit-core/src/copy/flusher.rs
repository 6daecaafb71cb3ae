//! The one task that flushes a ledgered disk: for clients that ask, and by itself, so that the ledger interval is kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::export::Shared;
use crate::clock;
use crate::error::{Error, Result};
use crate::planted::planted;
use crate::task::CancellationToken;

/// Who waits for a flush.
type Answer = oneshot::Sender<Result<()>>;

pub(super) struct Flusher {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Answer>,
    token: CancellationToken,
}

impl Flusher {
    pub(super) fn new(shared: Arc<Shared>, requests: mpsc::Receiver<Answer>, token: CancellationToken) -> Self {
        Flusher { shared, requests, token }
    }

    /// Until cancelled, or the export is gone.
    pub(super) async fn run(mut self) {
        // When the interval ends, if something is not flushed or not saved.
        let mut due: Option<clock::Instant> = None;
        loop {
            let shared = Arc::clone(&self.shared);
            let interval = async {
                match due {
                    Some(at) => clock::sleep(at.saturating_duration_since(clock::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.token.cancelled() => return,
                request = self.requests.recv() => match request {
                    Some(first) => {
                        self.serve(first).await;
                        due = None;
                    }
                    None => return,
                },
                () = interval => {
                    self.by_itself().await;
                    due = None;
                }
                () = shared.wake.notified() => {
                    if shared.ledger.unflushed() >= shared.flush_at() || shared.room.is_short() {
                        self.by_itself().await;
                        due = None;
                    }
                }
            }
            if due.is_none() && (shared.ledger.unflushed() > 0 || shared.ledger.is_unsettled()) {
                due = Some(clock::now() + shared.options.interval_time);
            }
        }
    }

    /// The ledger interval. Failures are counted, and told to the views by their next flush.
    async fn by_itself(&self) {
        let done = match self.shared.ledger.unflushed() {
            0 if !self.shared.room.is_short() => self.shared.ledger.save(true).await,
            _ => self.round().await,
        };
        if let Err(e) = done {
            tracing::warn!(disk = self.shared.info.name, error = %e, "the ledger interval failed");
        }
    }

    /// One flush answers all who asked before it began.
    async fn serve(&mut self, first: Answer) {
        let mut waiting = vec![first];
        while let Ok(more) = self.requests.try_recv() {
            waiting.push(more);
        }
        let done = self.round().await;
        for answer in waiting {
            let told = match &done {
                Ok(()) => Ok(()),
                // The message goes to remote clients: what else is known stands in the context.
                Err(e) => Err(Error::new(e.kind(), "flush the disk", e.message().to_owned())
                    .with("disk", &self.shared.info.name)
                    .with("cause", e)),
            };
            // Who left does not want to know.
            let _ = answer.send(told);
        }
    }

    /// A flush, and the ledger that tells of it; then there is room for as much again.
    async fn round(&self) -> Result<()> {
        // Before the ledger is told, so that nothing is freed that it does not cover.
        let freed = self.shared.room.begin_flush();
        let done = self.flush_and_save().await;
        self.shared.room.end_flush(freed);
        done
    }

    async fn flush_and_save(&self) -> Result<()> {
        let ledger = &self.shared.ledger;
        ledger.begin_flush();
        if planted("ledger-before-flush") {
            ledger.end_flush(true);
            ledger.save(false).await?;
        }
        let flushed = match self.shared.disk() {
            Ok(_) if planted("no-flush") => Ok(()),
            Ok(disk) => disk.flush().await,
            Err(e) => Err(e),
        };
        if flushed.is_err() {
            // First nobody gets the old disk any more; then everything under way is void.
            self.shared.put_disk(None);
            self.shared.failures.fetch_add(1, Ordering::SeqCst);
        }
        ledger.end_flush(flushed.is_ok());
        match flushed {
            Ok(()) => ledger.save(false).await,
            Err(e) => {
                self.reopen().await;
                ledger.save(false).await?;
                Err(e)
            }
        }
    }

    /// The disk whose flush failed is not used again; in its place comes one that was opened now.
    async fn reopen(&self) {
        let Some(reopen) = &self.shared.options.reopen else { return };
        match reopen().await {
            Ok(disk) if disk.info().size == self.shared.info.size => self.shared.put_disk(Some(disk)),
            Ok(disk) => {
                tracing::error!(disk = self.shared.info.name, size = disk.info().size, "the disk has another size after a failed flush")
            }
            Err(e) => tracing::error!(disk = self.shared.info.name, error = %e, "the disk cannot be opened again after a failed flush"),
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.room.close();
    }
}
