//! Pauses between attempts while a store is busy or starting. The pauses are jittered, so that waiters do not return at the same moment.
//!
//! Only an unavailable store is asked again, and only for [`PATIENCE`]. Every call that is retried here must be idempotent.

use std::error::Error as _;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tonic::{Code, Status};

/// Sum of the pauses between the attempts of one call. A restart of containerd takes less.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the pauses between attempts: doubling, jittered, [`PATIENCE`] in total.
pub(crate) fn pauses() -> impl backon::Backoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_total_delay(Some(PATIENCE))
        .without_max_times()
        .with_jitter()
        .build()
}

/// Returns whether a status means that no server could answer: the server reports it, or the connection broke. A status from the server has
/// no source. A status that this side made of a broken connection has one, with any code.
pub(crate) fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses end by themselves, within the promised patience (each pause may exceed it by its own jitter).
    #[test]
    fn ends() {
        let all: Vec<Duration> = pauses().collect();
        assert!(all.len() > 8, "{all:?}");
        assert!(all.iter().sum::<Duration>() <= PATIENCE + Duration::from_secs(2), "{all:?}");
    }

    /// A refusal is not retried; an unavailable server and a broken connection are.
    #[test]
    fn tells_refusal_from_absence() {
        assert!(is_unavailable(&Status::unavailable("starting")));
        assert!(is_unavailable(&Status::from_error("connection reset".into())));
        assert!(!is_unavailable(&Status::not_found("blob")));
        assert!(!is_unavailable(&Status::unknown("failed")));
    }
}
