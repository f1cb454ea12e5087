//! The streams of a process: their description, and the test's side of them.

use std::fs::File;
use std::path::Path;

use crate::stdio::{self, Stream};

/// The description of a process's streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(super) stdin: bool,
    pub(super) terminal: bool,
    /// URI for both outputs instead of fifos.
    pub(super) output: Option<String>,
    /// URI of the standard input in the request, instead of a fifo.
    pub(super) input: Option<String>,
}

impl Wanted {
    /// Makes the fifos in a new folder. Also returns their names for a request.
    pub(crate) fn make(&self, folder: &Path) -> (Streams, String, String, String) {
        std::fs::create_dir(folder).expect("the namespace's folder is ours");
        let streams = Streams {
            stdin: self.stdin.then(|| stdio::input(&folder.join("stdin"))),
            stdout: Stream::open(folder.join("stdout")),
            stderr: Stream::open(folder.join("stderr")),
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let output = |stream: &Stream| self.output.clone().unwrap_or_else(|| text(stream.path()));
        let stdin = streams.stdin.as_ref().map(|_| text(&folder.join("stdin")));
        let stdin = self.input.clone().or(stdin).unwrap_or_default();
        let stderr = if self.terminal { String::new() } else { output(&streams.stderr) };
        let stdout = output(&streams.stdout);
        (streams, stdin, stdout, stderr)
    }
}

/// The test's side of a process's streams.
pub(crate) struct Streams {
    pub(super) stdin: Option<File>,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
}
