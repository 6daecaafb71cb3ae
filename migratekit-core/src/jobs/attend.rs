//! Beside a step while it works: its progress is stored, its silence noticed, its panic caught. The step itself is never dropped.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::book::Book;
use super::context::Sign;
use super::lease::Stop;
use super::{Progress, Saga, StepSpec};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;

/// How often silence is looked for, at most; a step with a shorter time is looked at more often.
const LISTEN: Duration = Duration::from_secs(1);

/// How a step's work ended.
pub(super) enum End<T> {
    /// It returned.
    Returned(Result<T>),
    /// It was told to end, and did not within [`Pace::grace`](super::Pace). It is still there.
    Deaf,
}

/// Waits for `work`, which is polled until it returns or shows itself deaf.
pub(super) async fn attend<T>(
    book: Book<'_>,
    saga: &dyn Saga,
    step: &'static StepSpec,
    sign: &Sign,
    token: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> End<T> {
    let ended = CancellationToken::new();
    let mut work = pin!(caught(work));
    let mut beside = pin!(async {
        tokio::join!(store(book, saga, step, sign, &ended), listen(book, step, sign, token, &ended));
    });
    let mut deaf = pin!(async {
        token.cancelled().await;
        clock::sleep(book.desk.pace.grace).await;
    });
    let end = tokio::select! {
        biased;
        end = &mut work => End::Returned(end),
        () = &mut deaf => End::Deaf,
        () = &mut beside => End::Returned((&mut work).await),
    };
    ended.cancel();
    if let End::Returned(_) = end {
        beside.await;
        return end;
    }
    end
}

/// A panic in a saga's code is a failure of its job, not the runner's end.
pub(super) async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(polled) => polled,
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
            let said = said.unwrap_or_else(|| "without words".to_owned());
            Poll::Ready(Err(Error::new(ErrorKind::Internal, "run a saga", "its code panicked").with("panic", said)))
        }
    })
    .await
}

async fn store(book: Book<'_>, saga: &dyn Saga, step: &'static StepSpec, sign: &Sign, ended: &CancellationToken) {
    let mut stored = Progress::default();
    while ended.run_until_cancelled(clock::sleep(book.desk.pace.progress)).await.is_some() {
        let (progress, _) = sign.last();
        if progress != stored {
            match book.progress(saga, step, progress).await {
                Ok(()) => stored = progress,
                Err(error) => tracing::debug!(%error, "progress was not stored"),
            }
        }
    }
}

async fn listen(book: Book<'_>, step: &'static StepSpec, sign: &Sign, token: &CancellationToken, ended: &CancellationToken) {
    let period = LISTEN.min(step.quiet / 4);
    while ended.run_until_cancelled(clock::sleep(period)).await.is_some() {
        let (_, last) = sign.last();
        if !token.is_cancelled() && clock::now().saturating_duration_since(last) >= step.quiet {
            tracing::warn!(
                step_name = step.name,
                seconds = step.quiet.as_secs(),
                "the step made no progress for its time and is told to end"
            );
            book.grip.stop(Stop::Quiet);
            token.cancel();
        }
    }
}
