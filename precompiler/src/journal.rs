//! The journal: one JSON line for every compile and every failure of the cache, in the runtime folder.
//!
//! Shims, the service and the command line all append to the same file, each line with a single write. So the compiles of a node can be
//! counted although the processes that made them have ended. The journal is a convenience: no operation waits for it or fails because of
//! it. It is rotated at [`ROTATE_AT`] bytes.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Size in bytes at which the journal becomes `journal.jsonl.1` and a new one begins.
const ROTATE_AT: u64 = 1 << 20;

/// The journal of one runtime folder.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: PathBuf,
}

/// An event with a line in the journal.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// A compile worker ended.
    Compile {
        /// Digest of the wasm.
        source: &'a str,
        /// Name of the engine.
        engine: &'a str,
        /// Version of the engine, with its fingerprint.
        version: &'a str,
        /// `ok` or `failed`.
        outcome: &'static str,
        /// Duration, wall clock.
        seconds: f64,
        /// Peak memory of the worker, in bytes; 0 if unknown.
        peak_memory: u64,
    },
    /// The store failed, and a container was started (or an image prepared) without it.
    CacheFailure {
        /// Digest of the wasm whose artifact was looked up or stored.
        source: &'a str,
        /// The error with its whole chain of causes.
        error: String,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

impl Journal {
    pub(crate) fn new(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join("journal.jsonl") }
    }

    /// Appends a line; an error is logged at debug level and otherwise ignored.
    pub(crate) fn note(&self, event: &Event<'_>) {
        if let Err(error) = self.append(event) {
            tracing::debug!(path = %self.path.display(), %error, "cannot append to the journal");
        }
    }

    fn append(&self, event: &Event<'_>) -> std::io::Result<()> {
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::metadata(&self.path).is_ok_and(|meta| meta.len() > ROTATE_AT) {
            fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
        }
        let mut line = serde_json::to_vec(&Line { time: jiff::Timestamp::now().to_string(), event })?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        file.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line is one JSON object with the event's name and a time.
    #[test]
    fn appends_lines() {
        let dir = tempfile::tempdir().expect("temp dir");
        let journal = Journal::new(&dir.path().join("new"));
        for error in ["first", "second"] {
            journal.note(&Event::CacheFailure { source: "sha256:00", error: error.to_owned() });
        }
        let text = fs::read_to_string(dir.path().join("new/journal.jsonl")).expect("journal");
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("json")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["event"], "cache_failure");
        assert_eq!(lines[1]["error"], "second");
        assert!(lines[0]["time"].is_string());
    }

    /// A large journal is renamed once, and the new one begins with the new line.
    #[test]
    fn rotates() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("journal.jsonl");
        fs::write(&path, vec![b'x'; ROTATE_AT as usize + 1]).expect("write");
        Journal::new(dir.path()).note(&Event::CacheFailure { source: "s", error: "e".into() });
        assert!(fs::read_to_string(&path).expect("read").starts_with('{'));
        assert!(dir.path().join("journal.jsonl.1").exists());
    }
}
