//! The wasmtime engine, from wasm to exit code.
//!
//! A guest runs on the stdio of its process, and its process is made by a fork. Both need a process of their own for each
//! guest: this binary starts itself with `run-guest`, and is then a small copy of what a shim does.

// A test that fails panics, and a guest process talks through its stdout.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "wasmtime/common.rs"]
mod common;
#[path = "wasmtime/compiling.rs"]
mod compiling;
#[path = "wasmtime/components.rs"]
mod components;
#[path = "wasmtime/folders.rs"]
mod folders;
#[path = "wasmtime/guest.rs"]
mod guest;
#[path = "wasmtime/limits.rs"]
mod limits;
#[path = "wasmtime/loading.rs"]
mod loading;
#[cfg(feature = "cross")]
#[path = "wasmtime/machines.rs"]
mod machines;
#[path = "wasmtime/modules.rs"]
mod modules;
#[path = "wasmtime/traps.rs"]
mod traps;
#[path = "wasmtime/tuning.rs"]
mod tuning;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("run-guest") {
        return guest::main(args);
    }
    let mut trials = compiling::trials();
    trials.extend(components::trials());
    trials.extend(folders::trials());
    trials.extend(limits::trials());
    trials.extend(loading::trials());
    #[cfg(feature = "cross")]
    trials.extend(machines::trials());
    trials.extend(modules::trials());
    trials.extend(traps::trials());
    trials.extend(tuning::trials());
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials).exit_code()
}
