//! Errors of nodes.

use std::io;
use std::path::PathBuf;

/// The reason why an operation on a node failed.
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
        /// The system's error.
        source: io::Error,
    },
    /// A program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// A program failed.
    #[error("cannot {action}: {reason}")]
    Failed {
        /// The operation, as a verb.
        action: &'static str,
        /// The program's output.
        reason: String,
    },
    /// A node does not respond.
    #[error("cannot reach the node in {seconds} s; the end of its console:\n{console}")]
    Silent {
        /// The time limit that has passed.
        seconds: u64,
        /// The last lines of its console.
        console: String,
    },
    /// No node was booted by hand.
    #[error("cannot find a node that was booted by hand; `make node` boots one")]
    NoNode,
    /// containerd answers with an error, or cannot be reached.
    #[error("cannot {action}: {reason}")]
    Containerd {
        /// The operation, as a verb.
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
