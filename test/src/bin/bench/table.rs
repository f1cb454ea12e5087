//! Samples, tables of them, and the document with the tables.

use std::fs;
use std::path::Path;
use std::time::Duration;

const BEGIN: &str = "<!-- make bench writes from here -->";
const END: &str = "<!-- to here -->";

/// The measured values of one subject, sorted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a time, in milliseconds.
    pub(crate) fn add_time(&mut self, sample: Duration) {
        self.add(sample.as_secs_f64() * 1000.0);
    }

    /// Adds an amount of memory, in MiB.
    pub(crate) fn add_bytes(&mut self, sample: u64) {
        self.add(sample as f64 / f64::from(1 << 20));
    }

    /// Adds a number.
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_unstable_by(f64::total_cmp);
    }

    /// Returns whether there are no samples.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the median.
    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }

    /// Returns the percentile `percent`.
    fn at(&self, percent: usize) -> f64 {
        self.0.get((self.0.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default()
    }
}

/// A target for a measurement.
pub(crate) struct Target {
    measured: f64,
    limit: f64,
    unit: &'static str,
    of: &'static str,
    /// Whether the target is a minimum instead of a maximum.
    least: bool,
}

impl Target {
    /// `measured` shall be at most `factor` times `base`.
    pub(crate) fn factor(measured: f64, base: f64, factor: f64, of: &'static str) -> Self {
        Self { measured: measured / base, limit: factor, unit: "×", of, least: false }
    }

    /// `measured` shall be at least `factor` times `base`.
    pub(crate) fn at_least(measured: f64, base: f64, factor: f64, of: &'static str) -> Self {
        Self { least: true, ..Self::factor(measured, base, factor, of) }
    }

    /// `measured` shall be at most `limit` above `base`.
    pub(crate) fn above(measured: f64, base: f64, limit: f64, unit: &'static str, of: &'static str) -> Self {
        Self { measured: measured - base, limit, unit, of, least: false }
    }

    /// `measured` shall be at most `limit`.
    pub(crate) fn limit(measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { measured, limit, unit, of: "", least: false }
    }

    fn text(&self) -> String {
        let Self { measured, limit, unit, of, least } = self;
        // Compared as printed, so that "1.30 ≤ 1.3: not met" cannot appear.
        let decimals = if *unit == "×" { 2 } else { 1 };
        let rounded: f64 = format!("{measured:.decimals$}").parse().unwrap_or(f64::NAN);
        let (sign, met) = if *least { ("≥", rounded >= *limit) } else { ("≤", rounded <= *limit) };
        let verdict = if met { "met" } else { "not met" };
        format!("{sign} {limit} {unit}{of}: {measured:.decimals$} {unit}, {verdict}")
    }
}

/// A table of samples in one unit.
pub(crate) struct Table(String);

impl Table {
    /// Makes an empty table.
    pub(crate) fn new(unit: &str) -> Self {
        Self(format!("| what | median, {unit} | 10 % to 90 %, {unit} | samples | target |\n|---|---|---|---|---|\n"))
    }

    /// Adds a row: name, median, tenth and ninetieth percentile, number of samples, and the target.
    pub(crate) fn row(&mut self, name: &str, samples: &Samples, target: Option<Target>) {
        let [median, low, high] = [50, 10, 90].map(|percent| number(samples.at(percent)));
        let target = target.map(|target| target.text()).unwrap_or_default();
        self.0 += &format!("| {name} | {median} | {low} to {high} | {} | {target} |\n", samples.0.len());
    }

    /// Returns the table as Markdown.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// Writes a number with a precision that suits people.
fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Describes the machine and the date, without which a measurement means nothing.
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

/// A section of the document.
pub(crate) struct Section {
    /// Its heading, which identifies it.
    title: &'static str,
    /// Its content, as Markdown.
    text: String,
}

impl Section {
    /// Makes a section: subject, method, place and date of the measurements, and the tables.
    pub(crate) fn new(title: &'static str, intro: &str, tables: &[Table]) -> Self {
        let tables: Vec<&str> = tables.iter().map(Table::text).collect();
        Self { title, text: format!("{intro}\n\n{}.\n\n{}", machine(), tables.join("\n")) }
    }

    /// Returns the section with its heading.
    pub(crate) fn markdown(&self) -> String {
        format!("## {}\n\n{}", self.title, self.text)
    }
}

/// Puts a section between the two marks of a document. It replaces the one with the same heading, or comes last.
pub(crate) fn replace(path: &Path, section: &Section) -> std::io::Result<()> {
    let mut text = fs::read_to_string(path)?;
    let marks = text.find(BEGIN).map(|at| at + BEGIN.len()).zip(text.find(END));
    let (begin, end) = marks.ok_or_else(|| std::io::Error::other(format!("{} has no marks", path.display())))?;
    let mut all: Vec<String> =
        text[begin..end].split("\n## ").skip(1).map(|old| format!("## {}", old.trim_end())).collect();
    let heading = format!("## {}\n", section.title);
    let new = section.markdown().trim_end().to_owned();
    match all.iter_mut().find(|old| old.starts_with(&heading)) {
        Some(old) => *old = new,
        None => all.push(new),
    }
    text.replace_range(begin..end, &format!("\n\n{}\n\n", all.join("\n\n")));
    fs::write(path, text)
}
