//! Reads the precompiler's journal: the compiles of this node, by all processes.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The journal of one runtime folder.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
}

/// A completed compile.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Compile {
    /// Digest of the wasm.
    pub source: String,
    /// Name of the engine.
    pub engine: String,
    /// Engine version and fingerprint.
    pub version: String,
    /// `ok` or `failed`.
    pub outcome: String,
    /// Time from the start of the worker until its output was sealed.
    pub seconds: f64,
    /// Peak resident memory of the worker, in bytes.
    pub peak_memory: u64,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Compile(Compile),
    CacheFailure {
        source: String,
    },
    #[serde(other)]
    Other,
}

impl Journal {
    /// Makes the reader for a runtime folder.
    pub fn new(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join("journal.jsonl") }
    }

    /// Returns every compile of one source so far.
    ///
    /// # Panics
    /// If a line is no JSON object with an event.
    pub fn compiles(&self, source: &str) -> Vec<Compile> {
        self.all().into_iter().filter(|compile| compile.source == source).collect()
    }

    /// Returns every compile so far, in the order of their ends.
    ///
    /// # Panics
    /// If a line is no JSON object with an event.
    pub fn all(&self) -> Vec<Compile> {
        let compile = |line| match line {
            Line::Compile(compile) => Some(compile),
            Line::CacheFailure { .. } | Line::Other => None,
        };
        self.lines().into_iter().filter_map(compile).collect()
    }

    /// Returns the number of failures of the cache for one source.
    ///
    /// # Panics
    /// If a line is no JSON object with an event.
    pub fn failures(&self, of: &str) -> usize {
        self.lines().iter().filter(|line| matches!(line, Line::CacheFailure { source } if source == of)).count()
    }

    fn lines(&self) -> Vec<Line> {
        let rotated = self.path.with_extension("jsonl.1");
        let text = [rotated, self.path.clone()].map(|path| fs::read_to_string(path).unwrap_or_default()).concat();
        let lines = text.lines().map(|line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("a line of the journal is malformed: {error}: {line}"))
        });
        lines.collect()
    }
}
