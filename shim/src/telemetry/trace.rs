//! Traces of containers, for an OpenTelemetry collector.
//!
//! The daemon keeps spans that have ended as plain data. A helper sends them: no connection, and no memory for one, stays in the daemon,
//! and nobody waits for a collector. Spans that the collector does not take in time are lost, and the daemon reports that once. Without the
//! variables that ask for traces the daemon does nothing of this.
//!
//! The messages are those of `opentelemetry-proto`, and tonic sends them. The exporter of `opentelemetry-otlp` is not used: it keeps a
//! connection and a runtime, or a thread, in the process that makes the spans. Here that is the daemon, which has one thread and is forked.

mod config;
mod context;
mod export;
mod span;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(crate) use config::{Config, wipe_headers};
pub(crate) use context::{Context, SpanId, SpanParent, random};
pub(crate) use export::Export;
pub(crate) use span::{Span, Trace, now};

use self::config::Sampler;

/// Maximum number of spans that wait while a collector hangs; a container has about ten.
const SPANS_MAX: usize = 512;

/// All traces of a daemon; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Traces(Option<Arc<Inner>>);

struct Inner {
    config: Config,
    waiting: Mutex<Vec<Span>>,
    wake: Notify,
    /// Number of spans that are neither sent nor lost yet, including those being sent.
    open: watch::Sender<usize>,
    told: AtomicBool,
}

impl Traces {
    /// Collects traces, if there is a configuration.
    pub(crate) fn new(config: Option<Config>) -> Self {
        Self(config.map(|config| {
            Arc::new(Inner {
                config,
                waiting: Mutex::default(),
                wake: Notify::new(),
                open: watch::Sender::new(0),
                told: AtomicBool::new(false),
            })
        }))
    }

    /// Starts the trace of a container.
    pub(crate) fn begin(&self, above: Option<Context>, attributes: &[(&str, &str)]) -> Trace {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        match &self.0 {
            Some(_) => Trace::begin(self.clone(), above, attributes.iter().map(owned).collect()),
            None => Trace::default(),
        }
    }

    /// Keeps spans until the next export. Beyond the limit the oldest are dropped.
    pub(crate) fn keep(&self, spans: Vec<Span>) {
        let Some(inner) = self.0.as_ref().filter(|_| !spans.is_empty()) else { return };
        let mut waiting = inner.waiting();
        let added = spans.len();
        waiting.extend(spans);
        let surplus = waiting.len().saturating_sub(SPANS_MAX);
        waiting.drain(..surplus);
        drop(waiting);
        inner.open.send_modify(|open| *open = *open + added - surplus);
        if surplus > 0 {
            inner.tell("they are not taken fast enough");
        }
    }

    /// Starts an export of all kept spans.
    pub(crate) fn wake(&self) {
        if let Some(inner) = &self.0 {
            inner.wake.notify_one();
        }
    }

    /// Waits until spans are due, and returns them; `None` if traces are disabled. The caller sends them and then calls [`Self::sent`].
    pub(crate) async fn due(&self) -> Option<Export> {
        let inner = self.0.as_ref()?;
        loop {
            inner.wake.notified().await;
            let spans = std::mem::take(&mut *inner.waiting());
            if !spans.is_empty() {
                return Some(Export { config: inner.config.clone(), spans });
            }
        }
    }

    /// Records that `count` spans have been handled; `lost` is the reason if they did not arrive.
    pub(crate) fn sent(&self, count: usize, lost: Option<&str>) {
        let Some(inner) = &self.0 else { return };
        if let Some(reason) = lost {
            inner.tell(reason);
        }
        inner.open.send_modify(|open| *open -= count);
    }

    /// Waits until all spans have been sent, at most until `deadline`.
    pub(crate) async fn flush(&self, deadline: Instant) {
        let Some(inner) = &self.0 else { return };
        inner.wake.notify_one();
        let mut open = inner.open.subscribe();
        // Spans that have not been sent by then are lost.
        let _ = tokio::time::timeout_at(deadline, open.wait_for(|open| *open == 0)).await;
    }

    fn sampler(&self) -> Option<Sampler> {
        self.0.as_ref().map(|inner| inner.config.sampler)
    }
}

impl Inner {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Span>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, reason: &str) {
        if self.told.swap(true, Ordering::Relaxed) {
            tracing::debug!(reason, "spans are lost");
        } else {
            let endpoint = self.config.endpoint.to_string();
            tracing::warn!(endpoint, reason, "spans are lost; later losses are not logged");
        }
    }
}
