//! The wasmer engine, from wasm to exit code.
//!
//! A guest runs on the stdio of its process, and its process is made by a fork. Both need a process of their own for each
//! guest: this binary starts itself with `run-guest`, and is then a small copy of what a shim does.

// A test that fails panics, and a guest process talks through its stdout.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "wasmer/common.rs"]
mod common;
#[path = "wasmer/compiling.rs"]
mod compiling;
#[path = "wasmer/folders.rs"]
mod folders;
#[path = "wasmer/guest.rs"]
mod guest;
#[path = "wasmer/limits.rs"]
mod limits;
#[path = "wasmer/loading.rs"]
mod loading;
#[path = "wasmer/modules.rs"]
mod modules;
#[path = "wasmer/traps.rs"]
mod traps;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("run-guest") {
        return guest::main(args);
    }
    let mut trials = compiling::trials();
    trials.extend(folders::trials());
    trials.extend(limits::trials());
    trials.extend(loading::trials());
    trials.extend(modules::trials());
    trials.extend(traps::trials());
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials).exit_code()
}
