//! Running programs to their end, in bounded time, with everything they print.

use std::fmt;
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Output {
    command: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Returns the exit code; -1 if a signal ended the program.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Returns the output of a program that must have succeeded.
    ///
    /// # Panics
    /// If it did not, with everything it printed.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "expected success of {self}");
        self
    }

    /// Returns the output of a program that must have ended with this exit code.
    ///
    /// # Panics
    /// If it did not, with everything it printed.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "expected exit code {code} of {self}");
        self
    }

    /// Asserts that standard error contains each of `parts`.
    ///
    /// # Panics
    /// If one is missing, with everything the program printed.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "expected {part:?} on standard error of {self}");
        }
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})\n--- stdout\n{}--- stderr\n{}---", self.command, self.status, self.stdout, self.stderr)
    }
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started, or has not ended when `limit` has passed (it is killed then).
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if start.elapsed() > limit {
            child.kill().expect("a child can be killed");
            panic!("{command:?} had not ended after {:.0} s", limit.as_secs_f64());
        }
        thread::sleep(Duration::from_millis(5));
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().expect("the reader does not panic");
    Output { command: describe(command), status, stdout: text(stdout), stderr: text(stderr) }
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read until then is still worth showing.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
