//! Metrics of the service for Prometheus. `docs/operations.md` has the same list; a test compares.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::{Activity, Observer};

/// Names and values.
type Labels = Vec<(&'static str, &'static str)>;

/// The first upper bound of the histogram of compiles, in seconds; each further bound is twice the one before.
const SHORTEST_COMPILE: f64 = 0.05;
/// Number of bounds: up to seven minutes.
const COMPILE_BUCKETS: u16 = 14;

/// The service's metrics, and its readiness.
pub(super) struct Metrics {
    registry: Mutex<Registry>,
    ready: AtomicBool,
    hits: Family<Labels, Counter>,
    misses: Family<Labels, Counter>,
    compiles: Family<Labels, Counter>,
    compile_failures: Family<Labels, Counter>,
    compile_seconds: Family<Labels, Histogram>,
    compiled_bytes: Family<Labels, Counter>,
    cache_failures: Family<Labels, Counter>,
    pub(super) image_failures: Counter,
    pub(super) events: Counter,
    pub(super) lists: Counter,
    pub(super) queue: Gauge,
    pub(super) connected: Gauge,
}

impl Metrics {
    /// Makes metrics at zero, also for engines without any activity yet.
    pub(super) fn new<'a>(engines: impl Iterator<Item = &'static str> + 'a) -> Self {
        let this = Self {
            registry: Mutex::default(),
            ready: AtomicBool::new(false),
            hits: Family::default(),
            misses: Family::default(),
            compiles: Family::default(),
            compile_failures: Family::default(),
            compile_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(SHORTEST_COMPILE, 2.0, COMPILE_BUCKETS))
            }),
            compiled_bytes: Family::default(),
            cache_failures: Family::default(),
            image_failures: Counter::default(),
            events: Counter::default(),
            lists: Counter::default(),
            queue: Gauge::default(),
            connected: Gauge::default(),
        };
        this.register();
        for engine in engines {
            let labels = of(engine);
            for family in
                [&this.hits, &this.compiles, &this.compile_failures, &this.compiled_bytes, &this.cache_failures]
            {
                drop(family.get_or_create(&labels));
            }
            drop(this.compile_seconds.get_or_create(&labels));
        }
        this
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = registry.sub_registry_with_prefix("prewasi");
        registry.register("hits", "Layers whose native code was there", self.hits.clone());
        registry.register("misses", "Layers without usable native code, by reason", self.misses.clone());
        registry.register("compiles", "Layers compiled", self.compiles.clone());
        registry.register("compile_failures", "Compiles that failed", self.compile_failures.clone());
        registry.register("compile_seconds", "Wall-clock time of compiles", self.compile_seconds.clone());
        registry.register("compiled_bytes", "Native code made", self.compiled_bytes.clone());
        registry.register("cache_failures", "Times the content store failed", self.cache_failures.clone());
        registry.register("image_failures", "Images that could not be made ready", self.image_failures.clone());
        registry.register("image_events", "Image events heard of", self.events.clone());
        registry.register("lists", "Times all images were listed", self.lists.clone());
        registry.register("queue_length", "Images that wait or are worked on", self.queue.clone());
        registry.register("containerd_connected", "Whether containerd is heard, 1 or 0", self.connected.clone());
    }

    /// Records that all images that existed at the start have been listed.
    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Returns whether all images that existed at the start have been listed.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Writes all metrics in Prometheus's text format.
    ///
    /// # Errors
    /// A value cannot be written as text.
    pub(super) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

impl Observer for Metrics {
    fn observe(&self, engine: &'static str, activity: Activity) {
        let labels = of(engine);
        match activity {
            Activity::Hit => drop(self.hits.get_or_create(&labels).inc()),
            Activity::Miss(miss) => {
                let labels = vec![("engine", engine), ("reason", miss.word())];
                self.misses.get_or_create(&labels).inc();
            }
            Activity::Compiled { seconds, bytes } => {
                self.compiles.get_or_create(&labels).inc();
                self.compile_seconds.get_or_create(&labels).observe(seconds);
                self.compiled_bytes.get_or_create(&labels).inc_by(bytes);
            }
            Activity::CompileFailed => drop(self.compile_failures.get_or_create(&labels).inc()),
            Activity::CacheFailed => drop(self.cache_failures.get_or_create(&labels).inc()),
        }
    }
}

fn of(engine: &'static str) -> Labels {
    vec![("engine", engine)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::Miss;

    /// The text has every metric, with zero for engines without any activity.
    #[test]
    fn everything_is_written() {
        let metrics = Metrics::new(["wasmtime"].into_iter());
        assert!(metrics.text().unwrap().contains("prewasi_hits_total{engine=\"wasmtime\"} 0\n"));
        metrics.observe("wasmtime", Activity::Miss(Miss::Dangling));
        metrics.observe("wasmtime", Activity::Compiled { seconds: 0.07, bytes: 100 });
        metrics.queue.set(3);
        let text = metrics.text().unwrap();
        for line in [
            "prewasi_misses_total{engine=\"wasmtime\",reason=\"dangling\"} 1",
            "prewasi_compiles_total{engine=\"wasmtime\"} 1",
            "prewasi_compile_seconds_count{engine=\"wasmtime\"} 1",
            "prewasi_compile_seconds_bucket{le=\"0.05\",engine=\"wasmtime\"} 0",
            "prewasi_compile_seconds_bucket{le=\"0.1\",engine=\"wasmtime\"} 1",
            "prewasi_compiled_bytes_total{engine=\"wasmtime\"} 100",
            "prewasi_queue_length 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    /// The documentation for operators names exactly these metrics.
    #[test]
    fn figures_are_documented() {
        let metrics = Metrics::new(["wasmtime"].into_iter());
        // A series of a reason exists only after its first event.
        metrics.observe("wasmtime", Activity::Miss(Miss::Absent));
        let text = metrics.text().unwrap();
        let mut exist: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let page = include_str!("../../../docs/operations.md");
        let mut told: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `prewasi_")?.split('`').next()).collect();
        exist.sort_unstable();
        told.sort_unstable();
        let told: Vec<String> =
            told.into_iter().map(|name| format!("prewasi_{}", name.trim_end_matches("_total"))).collect();
        assert_eq!(told, exist);
    }
}
