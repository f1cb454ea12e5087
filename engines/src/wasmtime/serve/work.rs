//! Guests at work: what a request holds meanwhile, and what becomes of a guest that goes on after its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::{Method, Uri};
use tokio::time::timeout;

use super::semaphore::Permit;
use super::ticker::Ticking;
use super::unanswered::reason;

/// How often to look whether guests have finished what they do after their answers.
const POLL: Duration = Duration::from_millis(10);

/// A guest at work; ends when its handler has returned.
pub(super) type Work = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>>;

/// What a request holds for as long as the guest works for it.
pub(super) struct Guard {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) _permit: Arc<Permit>,
    pub(super) _ticking: Ticking,
}

impl Guard {
    /// Tells on the container's standard error why a request failed; returns the reason.
    pub(super) fn failed(&self, error: &wasmtime::Error) -> String {
        let reason = reason(error);
        self.tell(&reason);
        reason
    }

    /// Tells it as the request's.
    pub(super) fn tell(&self, reason: &str) {
        // The path is a stranger's word: what cannot be printed is escaped.
        let path = self.uri.path().escape_debug();
        super::tell(&format!("error: {} {path}: {reason}", self.method));
    }
}

/// Guests that go on after their answers.
pub(super) struct Unfinished {
    number: AtomicUsize,
    /// How long one may take: as long as it could have taken for its answer.
    limit: Duration,
}

impl Unfinished {
    /// Has none yet.
    pub(super) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { number: AtomicUsize::new(0), limit })
    }

    /// Lets a guest go on.
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
