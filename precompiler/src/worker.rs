//! The compile worker: a child process that turns hostile wasm into native code and can do nothing else.
//!
//! Standard input is the wasm (a file), standard output the artifact (a file), standard error the report: one line of JSON, the last
//! line. The worker enters its sandbox before it reads the first byte of wasm. It dies with the process that started it.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use clap::Parser;
use prewasi_engines::{CompileError, Engine, Tuning, Wasm};
use serde::{Deserialize, Serialize};

mod sandbox;

use self::sandbox::SandboxLimits;

/// Name of the hidden subcommand by which a binary becomes the worker.
pub const SUBCOMMAND: &str = "compile-worker";

/// The arguments of a worker. Only [`crate::compile`] writes this command line.
#[derive(Debug, Parser)]
#[command(name = SUBCOMMAND, hide = true)]
pub(crate) struct WorkerArgs {
    /// Name of the engine.
    pub(crate) engine: String,
    /// Most memory, bytes.
    #[arg(long)]
    pub(crate) memory: u64,
    /// Most processor time, seconds.
    #[arg(long)]
    pub(crate) cpu_seconds: u64,
    /// Process id of the parent, without which there is no point in going on.
    #[arg(long)]
    pub(crate) parent: i32,
    /// The input is wasm text.
    #[arg(long)]
    pub(crate) text: bool,
    /// How to compile.
    #[arg(long, default_value = "")]
    pub(crate) tuning: Tuning,
}

/// The worker's last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The artifact has been written.
    Compiled {
        /// Peak memory, in bytes.
        peak_memory: u64,
    },
    /// The wasm cannot be compiled.
    Refused(CompileError),
    /// A system call failed.
    Io { reason: String },
}

/// Runs the worker if the command line asks for it; `args` is the whole command line, the program's name first.
pub fn main(engines: &[&dyn Engine], args: &[OsString]) -> ExitCode {
    let report = match WorkerArgs::try_parse_from(&args[1..]) {
        Ok(args) => match work(engines, &args) {
            Report::Refused(error) => Report::Refused(error.cut()),
            report => report,
        },
        Err(error) => Report::Io { reason: error.to_string() },
    };
    let compiled = matches!(report, Report::Compiled { .. });
    if let Ok(mut line) = serde_json::to_vec(&report) {
        line.push(b'\n');
        // If this fails, there is no way to report it.
        let _ = std::io::stderr().write_all(&line);
    }
    if compiled { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(engines: &[&dyn Engine], args: &WorkerArgs) -> Report {
    let Some(&engine) = engines.iter().find(|engine| engine.name() == args.engine) else {
        return Report::Io { reason: format!("this binary has no engine {}", args.engine) };
    };
    let engine = match engine.tuned(&args.tuning) {
        Ok(engine) => engine,
        Err(error) => return Report::Refused(CompileError::Unsupported { reason: error.to_string() }),
    };
    let limits = SandboxLimits { memory: args.memory, cpu_seconds: args.cpu_seconds, files: engine.writes_files() };
    match sandbox::enter(limits, args.parent).and_then(|()| read(std::io::stdin().as_fd())) {
        Ok(bytes) => compile(&*engine, bytes, args.text),
        Err(error) => Report::Io { reason: error.to_string() },
    }
}

fn compile(engine: &dyn Engine, bytes: Vec<u8>, text: bool) -> Report {
    let wasm = match if text { Wasm::from_text(&bytes) } else { Wasm::new(bytes) } {
        Ok(wasm) => wasm,
        Err(error) => return Report::Refused(CompileError::Invalid { reason: error.to_string() }),
    };
    match engine.compile(&wasm) {
        Ok(artifact) => match write(std::io::stdout().as_fd(), &artifact) {
            Ok(()) => Report::Compiled { peak_memory: peak_memory() },
            Err(error) => Report::Io { reason: error.to_string() },
        },
        Err(error) => Report::Refused(error),
    }
}

fn read(input: BorrowedFd<'_>) -> std::io::Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(input)?.st_size).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; size];
    let mut read = 0;
    while read < size {
        match rustix::io::pread(input, &mut bytes[read..], read as u64)? {
            0 => return Err(std::io::Error::other(format!("the wasm ends at {read} of {size} bytes"))),
            length => read += length,
        }
    }
    Ok(bytes)
}

fn write(output: BorrowedFd<'_>, mut artifact: &[u8]) -> std::io::Result<()> {
    while !artifact.is_empty() {
        artifact = &artifact[rustix::io::write(output, artifact)?..];
    }
    Ok(())
}

/// Returns the peak resident memory of this process, in bytes; 0 if the kernel does not report it.
fn peak_memory() -> u64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    usage.ok().and_then(|usage| u64::try_from(usage.max_rss()).ok()).map_or(0, |kib| kib << 10)
}
