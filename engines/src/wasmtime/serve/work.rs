//! Running guests: the resources that a request holds, and guests that continue after their answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::{Method, Uri};
use tokio::time::timeout;

use super::semaphore::Permit;
use super::ticker::Ticking;
use super::unanswered::reason;

/// Interval of the check whether guests have finished their work after the answer.
const POLL: Duration = Duration::from_millis(10);

/// A running guest; the future ends when its handler has returned.
pub(super) type Work = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>>;

/// The resources of a request, held as long as the guest works for it.
pub(super) struct Guard {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) _permit: Arc<Permit>,
    pub(super) _ticking: Ticking,
}

impl Guard {
    /// Writes to the container's standard error why a request failed; returns the reason.
    pub(super) fn failed(&self, error: &wasmtime::Error) -> String {
        let reason = reason(error);
        self.tell(&reason);
        reason
    }

    /// Writes a line about the request to the container's standard error.
    pub(super) fn tell(&self, reason: &str) {
        // The path comes from the client: unprintable characters are escaped.
        let path = self.uri.path().escape_debug();
        super::tell(&format!("error: {} {path}: {reason}", self.method));
    }
}

/// Guests that continue after their answers.
pub(super) struct Unfinished {
    number: AtomicUsize,
    /// Time limit of such a guest: the same as for its answer.
    limit: Duration,
}

impl Unfinished {
    /// Makes an empty set.
    pub(super) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { number: AtomicUsize::new(0), limit })
    }

    /// Lets a guest continue.
    pub(super) fn go_on(self: Arc<Self>, work: Work, guard: Guard) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.number.fetch_add(1, Ordering::SeqCst);
        runtime.spawn(async move {
            match timeout(self.limit, work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => drop(guard.failed(&error)),
                Err(_) => guard.tell(&format!("ended {:?} after its answer", self.limit)),
            }
            drop(guard);
            self.number.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Waits for all of them.
    pub(super) async fn finish(&self) {
        while self.number.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(POLL).await;
        }
    }
}
