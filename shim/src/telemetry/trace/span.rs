//! The daemon's spans of a container: one for its life, and one for each call as its child.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Traces;
use super::context::{Context, SpanId, SpanParent, TraceId, random};

/// An ended span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) trace: TraceId,
    pub(crate) id: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) state: String,
    /// Start time, in nanoseconds since 1970.
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: Vec<(String, String)>,
    /// The error of a failed operation.
    pub(crate) error: Option<String>,
}

/// The trace of a container, or nothing if it is not traced.
#[derive(Clone, Default)]
pub(crate) struct Trace(Option<Arc<Life>>);

struct Life {
    traces: Traces,
    context: Context,
    parent: Option<SpanId>,
    begun: u64,
    ended: AtomicBool,
    attributes: Mutex<Vec<(String, String)>>,
}

/// A call in progress.
pub(crate) struct Call {
    trace: Trace,
    name: &'static str,
    id: SpanId,
    parent: Option<SpanId>,
    begun: u64,
}

impl Trace {
    /// Starts the trace of a container, as a child of the caller's span if there is one.
    pub(super) fn begin(traces: Traces, above: Option<Context>, attributes: Vec<(String, String)>) -> Self {
        let Some(sampler) = traces.sampler() else { return Self::default() };
        let trace = above.as_ref().map_or_else(random, |above| above.trace);
        let sampled = match &above {
            Some(above) if sampler.parent => above.sampled,
            _ => is_kept(trace, sampler.ratio),
        };
        let state = above.as_ref().map_or_else(String::new, |above| above.state.clone());
        let context = Context { trace, span: random(), sampled, state };
        let (parent, begun) = (above.map(|above| above.span), now());
        let (ended, attributes) = (AtomicBool::new(false), Mutex::new(attributes));
        Self(Some(Arc::new(Life { traces, context, parent, begun, ended, attributes })))
    }

    /// Starts the span of a call. The caller may have a span of the same trace.
    pub(crate) fn call(&self, name: &'static str, above: Option<Context>) -> Call {
        let life = self.0.as_ref();
        let above = life.and_then(|life| above.filter(|above| above.trace == life.context.trace));
        let own = life.map(|life| life.context.span);
        let id = if life.is_some() { random() } else { SpanId::default() };
        let begun = if life.is_some() { now() } else { 0 };
        Call { trace: self.clone(), name, id, parent: above.map(|above| above.span).or(own), begun }
    }

    /// Adds an attribute that is known only after the container has been made.
    pub(crate) fn learn(&self, name: &str, value: &str) {
        if let Some(life) = &self.0 {
            life.attributes().push((name.to_owned(), value.to_owned()));
        }
    }

    /// Ends the span of the container; only the first call has an effect.
    pub(crate) fn end(&self, status: Option<u32>, error: Option<String>) {
        let Some(life) = self.0.as_ref().filter(|life| !life.ended.swap(true, Ordering::Relaxed)) else { return };
        if let Some(status) = status {
            life.attributes().push(("status".to_owned(), status.to_string()));
        }
        life.add("container", life.context.span, life.parent, life.begun, error);
    }
}

impl Call {
    /// Returns the parent for a helper's spans.
    pub(crate) fn origin(&self) -> Option<SpanParent> {
        let life = self.trace.0.as_ref()?;
        Some(SpanParent { container: life.context.clone(), call: self.id })
    }

    /// Ends the span of the call.
    pub(crate) fn end(self, error: Option<String>) {
        if let Some(life) = &self.trace.0 {
            life.add(self.name, self.id, self.parent, self.begun, error);
        }
    }
}

impl Life {
    fn attributes(&self) -> std::sync::MutexGuard<'_, Vec<(String, String)>> {
        self.attributes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, name: &str, id: SpanId, parent: Option<SpanId>, begun: u64, error: Option<String>) {
        if !self.context.sampled {
            return;
        }
        let span = Span {
            name: name.to_owned(),
            trace: self.context.trace,
            id,
            parent,
            state: self.context.state.clone(),
            begun,
            ended: now(),
            attributes: self.attributes().clone(),
            error,
        };
        self.traces.keep(vec![span]);
        self.traces.wake();
    }
}

/// Returns the current time, in nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns whether a trace is in the sampled fraction: all samplers that use the trace id decide alike.
fn is_kept(trace: TraceId, ratio: f64) -> bool {
    let mut low = [0; 8];
    low.copy_from_slice(&trace[8..]);
    // 63 bits of the id, as a fraction of the maximum.
    ((u64::from_be_bytes(low) >> 1) as f64) < ratio * (1_u64 << 63) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All traces, none, or those with ids below the fraction are sampled.
    #[test]
    fn ratios() {
        let (low, high) = ([0; 16], [0xff; 16]);
        assert!(is_kept(low, 1.0) && is_kept(low, 0.1) && !is_kept(low, 0.0));
        assert!(!is_kept(high, 0.9) && !is_kept(high, 0.0));
    }
}
