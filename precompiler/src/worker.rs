//! The compile worker: a child process that turns hostile wasm into native code and can do nothing else.

use std::process::ExitCode;

use prewasi_engines::Engine;

/// Name of the hidden subcommand by which a binary becomes the worker.
pub const SUBCOMMAND: &str = "compile-worker";

/// Compiles standard input (a file) to standard output (a file).
pub fn main(engine: &dyn Engine) -> ExitCode {
    let _ = engine;
    ExitCode::FAILURE
}
