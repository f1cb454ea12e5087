//! Samples, what is told of them, and the document that tells it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

const BEGIN: &str = "<!-- make bench writes from here -->";
const END: &str = "<!-- to here -->";

/// What was measured of one thing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a measurement.
    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
        self.0.sort_unstable();
    }

    /// Returns the middle one.
    pub(crate) fn median(&self) -> Duration {
        self.at(50)
    }

    /// Returns the one that so many per cent are not above.
    fn at(&self, percent: usize) -> Duration {
        self.0.get((self.0.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default()
    }

    /// Writes a row: name, median, tenth and ninetieth percentile, number of samples.
    pub(crate) fn row(&self, name: &str) -> String {
        let [median, low, high] = [50, 10, 90].map(|percent| milliseconds(self.at(percent)));
        format!("| {name} | {median} | {low} to {high} | {} |\n", self.0.len())
    }
}

/// Writes milliseconds as a person reads them.
pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.0}", duration.as_secs_f64() * 1000.0)
}

/// Describes the machine and the day, without which no figure means anything.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field(&read("/proc/cpuinfo"), "model name");
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    format!("{day}, {model}, {cores} cores, {} GiB, Linux {}", memory >> 20, kernel.trim())
}

/// Replaces what stands between the two marks of a document; a document without them gets them at its end.
pub(crate) fn replace(path: &Path, tables: &str) -> std::io::Result<()> {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    let range = text.find(BEGIN).zip(text.find(END));
    let new = format!("{BEGIN}\n\n{tables}\n");
    match range {
        Some((begin, end)) => text.replace_range(begin..end, &new),
        None => {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{new}{END}\n");
        }
    }
    fs::write(path, text)
}
