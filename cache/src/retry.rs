//! Waiting for a store that is busy or starting, without all who wait coming back at the same moment.
//!
//! Only what is unavailable is tried again, and only for [`PATIENCE`]. Everything that passes through here may be
//! done twice.

use std::error::Error as _;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tonic::{Code, Status};

/// How long in all is waited between the attempts of one call. A restarting containerd is back within it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pauses between attempts: doubling, jittered, [`PATIENCE`] in all.
pub(crate) fn pauses() -> impl backon::Backoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_total_delay(Some(PATIENCE))
        .without_max_times()
        .with_jitter()
        .build()
}

/// Says whether an answer means that nobody could answer: the server said so, or the connection broke. What a server
/// says has no source; what this side makes of a broken connection has, under whatever code.
pub(crate) fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses end by themselves, within the patience that is promised (each may exceed it by its own jitter).
    #[test]
    fn ends() {
        let all: Vec<Duration> = pauses().collect();
        assert!(all.len() > 8, "{all:?}");
        assert!(all.iter().sum::<Duration>() <= PATIENCE + Duration::from_secs(2), "{all:?}");
    }

    /// A refusal is no reason to ask again; an unavailable server and a broken connection are.
    #[test]
    fn tells_refusal_from_absence() {
        assert!(is_unavailable(&Status::unavailable("starting")));
        assert!(is_unavailable(&Status::from_error("connection reset".into())));
        assert!(!is_unavailable(&Status::not_found("blob")));
        assert!(!is_unavailable(&Status::unknown("failed")));
    }
}
