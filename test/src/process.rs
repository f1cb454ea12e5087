//! Runs programs with a time limit, and collects their output and their cost.

use std::fmt;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The result of a program.
#[derive(Debug)]
pub struct Output {
    command: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Time from the start to the end of the process.
    pub elapsed: Duration,
    /// Peak resident memory of the process, in bytes.
    pub peak_memory: u64,
}

impl Output {
    /// Returns the exit code; -1 if a signal ended the program.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Returns the output of a program that must succeed.
    ///
    /// # Panics
    /// If it failed, with its whole output.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "expected success of {self}");
        self
    }

    /// Returns the output of a program that must end with this exit code.
    ///
    /// # Panics
    /// If it ended with another code, with its whole output.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "expected exit code {code} of {self}");
        self
    }

    /// Asserts that standard error contains each of `parts`.
    ///
    /// # Panics
    /// If a part is missing, with the program's whole output.
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

/// Runs a program, waits for its end, and collects its output.
///
/// # Panics
/// If it cannot be started, or does not end within `limit` (it is killed then).
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    run_into(command.stdout(Stdio::piped()), limit)
}

/// Runs a program like [`run`], with the command's own standard output.
///
/// # Panics
/// As [`run`].
#[expect(clippy::zombie_processes, reason = "`reap` waits for it: only wait4 tells what a process has used")]
#[track_caller]
pub fn run_into(command: &mut Command, limit: Duration) -> Output {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    if !ends_within(&child, limit) {
        child.kill().and_then(|()| child.wait()).expect("a child can be killed");
        panic!("{command:?} had not ended after {:.0} s", limit.as_secs_f64());
    }
    let (status, peak_memory) = reap(&child).expect("a child can be waited for");
    let elapsed = start.elapsed();
    let text = |thread: Option<thread::JoinHandle<String>>| {
        thread.map(|thread| thread.join().expect("the reader does not panic")).unwrap_or_default()
    };
    Output { command: describe(command), status, stdout: text(stdout), stderr: text(stderr), elapsed, peak_memory }
}

/// Waits for the end of a child without reaping it; `false` if the time limit has passed.
fn ends_within(child: &Child, limit: Duration) -> bool {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child that was not waited for is there");
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("limits are short");
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("cannot wait for a child: {error}"),
        }
    }
}

/// Reaps a child and returns its peak resident memory, in bytes.
fn reap(child: &Child) -> io::Result<(ExitStatus, u64)> {
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers lead to variables that outlive the call.
    if unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a `rusage` contains only numbers, for which zeros are valid; the kernel has overwritten them.
    let usage = unsafe { usage.assume_init() };
    Ok((ExitStatus::from_raw(status), u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10))
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A part of the output is still useful.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
