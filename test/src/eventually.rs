//! Bounded waits that say what they waited for, and for how long.

use std::time::{Duration, Instant};

/// Time between two looks: short beside anything a person notices, long beside a look.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `probe` yields a value.
///
/// # Panics
/// When `limit` has passed, with `what` was waited for and what the last look saw.
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
