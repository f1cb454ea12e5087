//! Waits with a time limit, whose failure names the condition and the time.

use std::time::{Duration, Instant};

/// Time between two polls: too short for a person to notice, and long compared to a poll.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `probe` yields a value.
///
/// # Panics
/// After `limit`, with the condition `what` and the result of the last poll.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let seen = match probe().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        let waited = start.elapsed();
        assert!(waited < limit, "waited {:.1} s for {what}; at last: {seen}", waited.as_secs_f64());
        tokio::time::sleep(INTERVAL).await;
    }
}
