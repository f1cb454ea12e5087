//! The WAMR engine, from wasm to exit code.
//!
//! As in the tests of wasmtime, each guest runs in a process of its own: this binary starts itself with `run-guest`, and is
//! then a small copy of what a shim does.

// A test that fails panics, and a guest process talks through its stderr.
#![allow(clippy::unwrap_used)]

#[path = "wamr/common.rs"]
mod common;
#[path = "wamr/folders.rs"]
mod folders;
#[path = "wamr/guest.rs"]
mod guest;
#[path = "wamr/limits.rs"]
mod limits;
#[path = "wamr/loading.rs"]
mod loading;
#[path = "wamr/modules.rs"]
mod modules;
#[path = "wamr/traps.rs"]
mod traps;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("run-guest") {
        return guest::main(args);
    }
    let mut trials = folders::trials();
    trials.extend(limits::trials());
    trials.extend(loading::trials());
    trials.extend(modules::trials());
    trials.extend(traps::trials());
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials).exit_code()
}
