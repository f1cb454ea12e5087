//! Tracing spans of a container: they provide the fields of its log lines, and the spans of helpers for traces.
//!
//! All work for a container happens in the span that [`container`] makes; a helper makes it again from a [`Subject`]. Spans of the
//! library crates become spans of the trace in a helper that works for a traced call.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::field::{Empty, Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as LayerContext;
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::trace::{Span, SpanId, SpanParent, now, random};

/// Name of the span around all work for a container.
pub(crate) const CONTAINER: &str = "container";

/// Longest text of a span, in bytes. All spans of a helper must fit into a pipe, see [`crate::pod::helper`].
const TEXT_MAX: usize = 2 << 10;

/// The parent of this process's spans; set only in helpers.
static ORIGIN: Mutex<Option<SpanParent>> = Mutex::new(None);
/// Ended spans of this process.
static ENDED: Mutex<Vec<Span>> = Mutex::new(Vec::new());

/// Fields of a span as text, by their index in the span.
#[derive(Default)]
pub(crate) struct Fields(BTreeMap<usize, (&'static str, String)>);

/// A running span of the trace.
struct Begun {
    id: SpanId,
    at: u64,
}

/// Facts about a container that are known only after it has been made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Digest of the image's manifest.
    pub(crate) image: Option<String>,
    pub(crate) engine: Option<String>,
}

/// The fields of a container's span, as one process passes them to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subject {
    namespace: String,
    container: String,
    pod: String,
    about: About,
}

impl Subject {
    /// Reads the container's span from a span or its parents.
    pub(crate) fn of(span: &tracing::Span) -> Option<Self> {
        let mut fields = fields_of(span);
        let about = About::take(&mut fields);
        let mut take = |name| fields.remove(name);
        Some(Self { namespace: take("namespace")?, container: take("container")?, pod: take("pod")?, about })
    }

    /// Makes the span.
    pub(crate) fn span(&self) -> tracing::Span {
        let span = container(&self.namespace, &self.container, &self.pod);
        learn(&span, &self.about);
        span
    }
}

impl About {
    fn take(fields: &mut BTreeMap<&'static str, String>) -> Self {
        Self { image: fields.remove("image"), engine: fields.remove("engine") }
    }
}

/// Makes the span of a container. Warnings have its fields too, so it must be enabled whenever they are.
pub(crate) fn container(namespace: &str, id: &str, pod: &str) -> tracing::Span {
    tracing::error_span!("container", namespace, container = id, pod, image = Empty, engine = Empty)
}

/// Starts to record spans for a trace.
pub(crate) fn follow(origin: &SpanParent) {
    *ORIGIN.lock().unwrap_or_else(PoisonError::into_inner) = Some(origin.clone());
}

/// Returns the ended spans, and forgets them.
pub(crate) fn ended() -> Vec<Span> {
    std::mem::take(&mut *ENDED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns whether a span is recorded: the spans of containers, and in a traced daemon and its helpers all spans of prewasi.
pub(crate) fn is_noted(metadata: &Metadata<'_>, traced: bool) -> bool {
    let ours = metadata.is_span() && metadata.target().starts_with("prewasi");
    ours && (metadata.name() == CONTAINER || traced && *metadata.level() <= Level::INFO)
}

/// A tracing layer that records spans.
pub(crate) struct Observer;

impl Fields {
    /// Returns the fields with a value, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.values().map(|(name, value)| (*name, value.as_str()))
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.index(), (field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Observer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: LayerContext<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
        let followed = ORIGIN.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if followed && span.name() != CONTAINER {
            span.extensions_mut().insert(Begun { id: random(), at: now() });
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: LayerContext<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(fields);
        }
    }

    fn on_close(&self, id: Id, context: LayerContext<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Begun { id, at }) = span.extensions_mut().remove::<Begun>() else { return };
        let origin = ORIGIN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(origin) = origin.filter(|origin| origin.container.sampled) else { return };
        let above = span.scope().skip(1).find_map(|above| above.extensions().get::<Begun>().map(|begun| begun.id));
        let mut attributes = Vec::new();
        for span in span.scope().filter(|at| at.id() == span.id() || at.name() == CONTAINER) {
            let extensions = span.extensions();
            let fields = extensions.get::<Fields>().into_iter().flat_map(Fields::iter);
            attributes.extend(fields.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        for (_, value) in &mut attributes {
            value.truncate(value.floor_char_boundary(TEXT_MAX));
        }
        let error = attributes.iter().position(|(name, _)| name == "error").map(|at| attributes.remove(at).1);
        ENDED.lock().unwrap_or_else(PoisonError::into_inner).push(Span {
            name: span.name().to_owned(),
            trace: origin.container.trace,
            id,
            parent: Some(above.unwrap_or(origin.call)),
            state: origin.container.state.clone(),
            begun: at,
            ended: now(),
            attributes,
            error,
        });
    }
}

/// Reads the facts known so far about the container that a process works for.
pub(crate) fn about(span: &tracing::Span) -> About {
    About::take(&mut fields_of(span))
}

/// Reads the fields of the container's span from a span or its parents.
fn fields_of(span: &tracing::Span) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    span.with_subscriber(|(id, dispatch)| {
        let Some(registry) = dispatch.downcast_ref::<tracing_subscriber::Registry>() else { return };
        let Some(span) = registry.span(id) else { return };
        let Some(span) = span.scope().find(|at| at.name() == CONTAINER) else { return };
        let extensions = span.extensions();
        let fields = extensions.get::<Fields>().into_iter().flat_map(Fields::iter);
        found.extend(fields.map(|(name, value)| (name, value.to_owned())));
    });
    found
}

/// Records new facts about a container.
pub(crate) fn learn(span: &tracing::Span, about: &About) {
    if let Some(image) = &about.image {
        span.record("image", image.as_str());
    }
    if let Some(engine) = &about.engine {
        span.record("engine", engine.as_str());
    }
}
