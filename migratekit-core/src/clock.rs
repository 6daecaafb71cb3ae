//! Time: the only place that reads a clock. Durations come from the monotonic clock (which tests may pause).

use std::time::Duration;
pub use tokio::time::Instant;

/// Now, on the monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Waits.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}
