//! Why a node cannot be had or used.

use std::io;
use std::path::PathBuf;

/// Says what could not be done about a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// A program that a node needs is not installed.
    #[error("there is no {0}; `test/setup node` installs what a node needs")]
    Missing(&'static str),
    /// A file cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// A program failed.
    #[error("cannot {action}: {reason}")]
    Failed {
        /// What it was to do.
        action: &'static str,
        /// What it printed.
        reason: String,
    },
    /// A node does not answer.
    #[error("cannot reach the node in {seconds} s; the end of its console:\n{console}")]
    Silent {
        /// How long was waited.
        seconds: u64,
        /// What it printed last.
        console: String,
    },
    /// No node was booted by hand.
    #[error("cannot find a node that was booted by hand; `make node` boots one")]
    NoNode,
    /// containerd answers with an error, or cannot be reached.
    #[error("cannot {action}: {reason}")]
    Containerd {
        /// What was asked for.
        action: &'static str,
        /// The answer.
        reason: String,
    },
}

impl NodeError {
    /// Makes an error of a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }
}
