//! Compiling in a child process: the parent's side.
//!
//! The worker is this same binary, started with a hidden command. It gets only the wasm and an empty memfd as descriptors. Its output is
//! read only after its end, and sealed before it is trusted.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use prewasi_engines::{CompileError, Engine, Tuning};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;

use crate::worker::{self, Report};
use crate::{Settings, WorkerError};

/// Longest end of a worker's messages that is kept, in bytes. The report is the last line.
const MESSAGE_LIMIT: usize = 64 << 10;

/// Messages of Rust, the system, C++ and LLVM about a lack of memory.
const OUT_OF_MEMORY: [&str; 4] =
    ["memory allocation of", "Cannot allocate memory", "std::bad_alloc", "LLVM ERROR: out of memory"];

/// Memory that one thread of a compiler may need, out of the memory limit of a compile, in bytes. The number of threads is limited
/// accordingly.
const THREAD_MEMORY: u64 = 256 << 20;

/// The result of a compile.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The artifact, a sealed memfd.
    pub(crate) file: File,
    /// Length of the artifact in bytes.
    pub(crate) size: u64,
    /// Duration, wall clock.
    pub(crate) elapsed: Duration,
    /// Peak memory of the worker, in bytes.
    pub(crate) peak_memory: u64,
}

/// The reason why there is no artifact: the wasm is at fault, or the worker.
#[derive(Debug)]
pub(crate) enum CompileFailure {
    Refused(CompileError),
    Worker(WorkerError),
}

/// The input of a compile.
pub(crate) struct Input<'a> {
    /// The file with the wasm, read from offset 0.
    pub(crate) file: &'a File,
    /// The file is wasm text.
    pub(crate) text: bool,
}

/// Compiles in a worker on all cores. If that needs too much memory, compiles once more on one core, because each thread of a compiler has
/// memory of its own. The time limit is for both together. Dropping the future kills the worker.
pub(crate) async fn compile(
    settings: &Settings,
    engine: &dyn Engine,
    input: Input<'_>,
) -> Result<Compiled, CompileFailure> {
    let started = Instant::now();
    match compile_once(settings, engine, &input, started).await {
        Err(CompileFailure::Worker(WorkerError::OutOfMemory { .. })) if engine.compiles_in_parallel() => {
            tracing::info!("the compile needs too much memory on all cores; compiling on one");
            let serial = engine.tuned(&Tuning { serial: true, ..engine.tuning().clone() });
            let serial = serial
                .map_err(|error| CompileFailure::Refused(CompileError::Unsupported { reason: error.to_string() }))?;
            compile_once(settings, &*serial, &input, started).await
        }
        compiled => compiled,
    }
}

async fn compile_once(
    settings: &Settings,
    engine: &dyn Engine,
    input: &Input<'_>,
    started: Instant,
) -> Result<Compiled, CompileFailure> {
    let output = io("make the output of", rustix::fs::memfd_create("prewasi-artifact", flags()).map_err(Into::into))?;
    let mut worker = Worker::spawn(settings, engine, input, &output)?;
    let (status, messages) = worker.wait(settings.compile.timeout, started).await?;
    let report = report(settings, status, &messages)?;
    let peak_memory = match report {
        Report::Compiled { peak_memory } => peak_memory,
        Report::Refused(error) => return Err(CompileFailure::Refused(error)),
        Report::Io { reason } => return io("run", Err(std::io::Error::other(reason))),
    };
    let file = File::from(output);
    io("seal the output of", prewasi_cache::seal(&file))?;
    let size = io("measure the output of", file.metadata())?.len();
    Ok(Compiled { file, size, elapsed: started.elapsed(), peak_memory })
}

/// Returns how many threads a compile has: one for each core, if its memory suffices.
fn threads(settings: &Settings) -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    (settings.compile.memory / THREAD_MEMORY).clamp(1, cores)
}

fn flags() -> MemfdFlags {
    MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING
}

fn io<T>(action: &'static str, result: std::io::Result<T>) -> Result<T, CompileFailure> {
    result.map_err(|source| CompileFailure::Worker(WorkerError::Io { action, source }))
}

/// A running worker, killed and reaped when this is dropped.
struct Worker {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
    ended: bool,
}

impl Worker {
    fn spawn(
        settings: &Settings,
        engine: &dyn Engine,
        input: &Input<'_>,
        output: &OwnedFd,
    ) -> Result<Self, CompileFailure> {
        let mut command = Command::new(&settings.worker);
        command
            .arg(worker::SUBCOMMAND)
            .arg(engine.name())
            .args(["--memory", &settings.compile.memory.to_string()])
            .args(["--cpu-seconds", &settings.compile.cpu_time.as_secs().max(1).to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .args(input.text.then_some("--text"))
            .args(["--tuning", &engine.tuning().to_string()])
            .env_clear()
            .env("RAYON_NUM_THREADS", threads(settings).to_string())
            .current_dir("/")
            .stdin(io("give the wasm to", input.file.try_clone())?)
            .stdout(io("give an output to", output.try_clone())?)
            .stderr(Stdio::piped());
        let mut child = io("start", command.spawn())?;
        match pidfd(&child) {
            Ok(pidfd) => Ok(Self { child, pidfd, ended: false }),
            Err(source) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(CompileFailure::Worker(WorkerError::Io { action: "watch", source }))
            }
        }
    }

    /// Waits for the end of the worker, at most until `limit` after `started`. Returns its messages too. They are read while it runs,
    /// because a worker whose pipe is full does not end.
    async fn wait(&mut self, limit: Duration, started: Instant) -> Result<(ExitStatus, String), CompileFailure> {
        let stderr = self.child.stderr.take().map(|stderr| Receiver::from_owned_fd(stderr.into()));
        let stderr = io("read the messages of", stderr.transpose())?;
        let both = async { tokio::join!(self.pidfd.readable(), messages(stderr)) };
        match tokio::time::timeout(limit.saturating_sub(started.elapsed()), both).await {
            Ok((ready, messages)) => {
                io("wait for", ready.map(drop))?;
                self.ended = true;
                Ok((io("wait for", self.child.wait())?, messages))
            }
            Err(_) => Err(CompileFailure::Worker(WorkerError::Timeout { limit })),
        }
    }
}

/// Reads messages until nobody can write any more, and returns the end of them. A failed read is not worth an error.
async fn messages(stderr: Option<Receiver>) -> String {
    let mut kept = Vec::new();
    let mut part = [0; 4096];
    let Some(mut stderr) = stderr else { return String::new() };
    while let Ok(length @ 1..) = stderr.read(&mut part).await {
        kept.extend_from_slice(&part[..length]);
        kept.drain(..kept.len().saturating_sub(MESSAGE_LIMIT));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn pidfd(child: &Child) -> std::io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| std::io::Error::other("the worker has no process id"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: an `OwnedFd` refers to the same open descriptor as long as it lives.
    Ok(unsafe { AsyncFd::register(pidfd) }?)
}

/// Parses the worker's last line; without one, returns how the worker died.
fn report(settings: &Settings, status: ExitStatus, said: &str) -> Result<Report, CompileFailure> {
    let last = said.lines().next_back().unwrap_or_default();
    if status.code().is_some()
        && let Ok(report) = serde_json::from_str::<Report>(last)
        && matches!(report, Report::Compiled { .. }) == status.success()
    {
        return Ok(report);
    }
    let error = if OUT_OF_MEMORY.iter().any(|words| said.contains(words)) {
        WorkerError::OutOfMemory { limit: settings.compile.memory }
    } else if status.signal() == Some(Signal::XCPU.as_raw()) {
        WorkerError::CpuTime { limit: settings.compile.cpu_time }
    } else {
        WorkerError::Crash { status: status.to_string(), message: last.to_owned() }
    };
    Err(CompileFailure::Worker(error))
}
