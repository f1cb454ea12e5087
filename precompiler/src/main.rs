//! `prewasi`, the administrator's program.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "wasmtime")]
    let engine = prewasi_engines::Wasmtime::new();
    prewasi_precompiler::cli::main(
        &[
            #[cfg(feature = "wasmtime")]
            &engine,
        ],
        &args,
    )
}
