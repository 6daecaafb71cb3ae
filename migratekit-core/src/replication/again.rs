//! Faults of the way pass: what was asked is asked again, a bounded number of times, with growing pauses.

use std::time::Duration;

use crate::block::BoxFuture;
use crate::clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::task::CancellationToken;

/// How often a question is asked at most: with the usual hint of a second that is half a minute, as long as a service takes to restart.
const ATTEMPTS: u32 = 10;

/// The first pause; it doubles. An error's own hint may ask for more.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: a source's own hint may ask for more, but a step must be able to end.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Asks until there is an answer, or an error whose hint says that asking again cannot help. When the attempts are used up the error says
/// so by its hint ([`Retry::Exhausted`]).
pub(super) async fn again<'a, T>(cancel: &CancellationToken, mut ask: impl FnMut() -> BoxFuture<'a, Result<T>>) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Retry::After(hint) = error.retry() else { return Err(error) };
        if attempt == ATTEMPTS {
            return Err(error.with_retry(Retry::Exhausted).with("attempts", attempt));
        }
        tracing::warn!(%error, attempt, "a platform did not answer; it is asked again");
        let wait = pause.max(hint).min(LONGEST_PAUSE);
        if cancel.run_until_cancelled(clock::sleep(wait)).await.is_none() {
            return Err(error);
        }
        pause *= 2;
    }
    Err(Error::new(ErrorKind::Internal, "ask a platform again", "the attempts have no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(kinds: &[ErrorKind]) -> (u32, Result<()>) {
        let mut count = 0_usize;
        let answer = again(&CancellationToken::new(), || {
            let kind = kinds.get(count).copied();
            count += 1;
            Box::pin(async move { kind.map_or(Ok(()), |kind| Err(Error::new(kind, "ask", "no"))) })
        })
        .await;
        (count as u32, answer)
    }

    #[tokio::test(start_paused = true)]
    async fn faults_of_the_way_are_survived_and_judgements_are_not_questioned() {
        assert!(matches!(asked(&[ErrorKind::Unreachable, ErrorKind::Timeout]).await, (3, Ok(()))));
        assert!(matches!(asked(&[ErrorKind::InvalidInput]).await, (1, Err(_))));
        let (count, end) = asked(&[ErrorKind::Unreachable; 20]).await;
        assert_eq!((count, end.unwrap_err().retry()), (ATTEMPTS, Retry::Exhausted));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_cancelled_does_not_wait() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let mut asked = 0;
        let end: Result<()> = again(&cancel, || {
            asked += 1;
            Box::pin(async { Err(Error::new(ErrorKind::Unreachable, "ask", "no")) })
        })
        .await;
        assert!(end.is_err() && asked == 1);
    }
}
