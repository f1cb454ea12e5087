//! Helpers of all tests: prepare a text, start a guest, check how it ended.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use prewasi_engines::{Engine as _, Wasm};
use tempfile::NamedTempFile;

/// Lists functions as trials, each under its own name.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            let module = module_path!().rsplit("::").next().unwrap();
            vec![$(libtest_mimic::Trial::test(format!("{module}::{}", stringify!($name)), || { $name(); Ok(()) })),*]
        }
    };
}
pub(crate) use trials;

/// Writes an artifact to a file from which a guest can start.
pub(crate) fn store(artifact: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), artifact).unwrap();
    file
}

/// Translates text and stores the engine's input: native code, or the wasm itself.
pub(crate) fn artifact(text: &str) -> NamedTempFile {
    let (engine, wasm) = (crate::engine(), Wasm::new(wat::parse_str(text).unwrap()).unwrap());
    if engine.compiles() { store(&engine.compile(&wasm).unwrap()) } else { store(wasm.bytes()) }
}

/// Returns the command that runs an artifact; arguments for `guest::main` follow.
pub(crate) fn guest(artifact: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("run-guest").arg(artifact).stdin(Stdio::null());
    command
}

/// Runs an artifact with these options.
pub(crate) fn run(artifact: &NamedTempFile, options: &[&str]) -> Ended {
    Ended::from(guest(artifact.path()).args(options).output().unwrap())
}

/// The end of a guest.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Waits for a process that must end by itself, and says so when it does not.
pub(crate) fn wait_for_end(mut child: Child, limit: Duration) -> Ended {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut ended = Ended { code: status.code(), stdout: String::new(), stderr: String::new() };
            child.stdout.take().unwrap().read_to_string(&mut ended.stdout).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut ended.stderr).unwrap();
            return ended;
        }
        if start.elapsed() > limit {
            child.kill().unwrap();
            panic!("waited {limit:?} for the guest to end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
