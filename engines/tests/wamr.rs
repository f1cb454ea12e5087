//! The WAMR engine, from wasm to exit code, in the way of the tests of wasmtime.

// A test that fails panics, and a guest process talks through its stdout.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "wamr/features.rs"]
mod features;
#[path = "wamr/folders.rs"]
mod folders;
#[path = "wasi/folders.rs"]
mod folders_of_wasi;
#[path = "wamr/limits.rs"]
mod limits;
#[path = "wamr/loading.rs"]
mod loading;
#[path = "shared/mod.rs"]
mod shared;
#[path = "wamr/traps.rs"]
mod traps;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use prewasi_engines::Wamr;
use shared::{common, guest};

/// Makes the engine under test.
fn engine() -> Wamr {
    Wamr::new()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("run-guest") {
        return guest::main(args);
    }
    let mut trials: Vec<Trial> = shared::trials();
    trials.extend(features::trials());
    trials.extend(folders::trials());
    trials.extend(folders_of_wasi::trials());
    trials.extend(limits::trials());
    trials.extend(loading::trials());
    trials.extend(traps::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
